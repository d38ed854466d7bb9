"""A server on a Slurm node of its own: refused where nobody could reach it, told what to do through files."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from r1kit.pipeline import slurm as jobs
from r1kit.serving.server import check_reachable
from r1kit.settings import SettingsError
from r1kit.settings.machine import MachineSettings

from ..serving.conftest import machine
from .conftest import processes_of, replace_command

# What a stage does, without the notebook: serve, wait, ask for a restart, stop.
STAGE = """
import json, os, pathlib, sys, time, urllib.request
from r1kit.serving.server import ask_restart
from r1kit.serving.server import serve
from r1kit.settings.machine import MachineSettings
folder = pathlib.Path(sys.argv[1])
machine = MachineSettings.model_validate_json((folder / "machine.json").read_text())
server = serve(folder / "server", machine, folder / "model")
server.wait_ready()
before = server.state
environment = pathlib.Path(f"/proc/{before['keeper']}/environ").read_bytes().decode().split("\\0")
found = {"here": os.environ["SLURMD_NODENAME"], "line": server.line(), "urls": server.urls}
found["there"] = next(text.partition("=")[2] for text in environment if text.startswith("SLURMD_NODENAME="))
found["health"] = urllib.request.urlopen(server.urls[0] + "/health", timeout=10).status
ask_restart(server.folder, "is silent", before["pids"])
while server.state["pids"] == before["pids"]:
    time.sleep(0.1)
server.wait_ready()
found["same keeper"] = server.state["keeper"] == before["keeper"]
found["same processes"] = server.state["pids"] == before["pids"]
server.stop()
found["state"] = server.state["state"]
(folder / "found.json").write_text(json.dumps(found))
"""


def reachable(folder: str, **server: object) -> MachineSettings:
    made = machine(host="0.0.0.0", **server)
    return made.model_copy(update={"weight_sync": made.weight_sync.model_copy(update={"folder": folder})})


def test_a_server_that_only_its_own_node_reaches_is_refused_with_both_keys():
    with pytest.raises(SettingsError) as refused:
        check_reachable(machine())
    for part in ("server.host", "127.0.0.1", "0.0.0.0", "weight_sync.folder", "all nodes share"):
        assert part in str(refused.value)
    check_reachable(reachable("/shared/weights"))


def test_weights_that_go_from_gpu_to_gpu_need_no_folder():
    made = machine(host="0.0.0.0")
    check_reachable(
        made.model_copy(update={"weight_sync": made.weight_sync.model_copy(update={"transport": "nccl"})})
    )


def test_no_script_is_written_for_a_server_that_could_not_be_reached(tmp_path):
    from r1kit.runs.folder import Run
    from r1kit.settings import load_profile
    from r1kit.settings.machine import Site

    settings = load_profile("cpu-cluster")
    with pytest.raises(SettingsError, match=r"server\.host"):
        jobs.render(Run("a-run", tmp_path), settings, ["04_grpo"], Site(server_nodes=1))
    assert "04_grpo" in jobs.render(Run("a-run", tmp_path), settings, ["04_grpo"], Site())


@pytest.mark.slow
@pytest.mark.slurm
def test_a_server_serves_from_its_own_node_starts_again_and_ends(slurm, site, tmp_path):
    from r1kit.pipeline.open_run import new_run
    from r1kit.settings.machine import load_site

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2"}')
    (tmp_path / "machine.json").write_text(
        reachable(str(tmp_path / "weights"), restart=True).model_dump_json()
    )
    site.write_text(site.read_text() + "server_nodes: 1\n")
    run, settings = new_run("cpu-tiny", {})
    script = jobs.render(run, settings, ["04_grpo"], load_site(str(site)))
    job = jobs.submit(run, replace_command(script, shlex.join([sys.executable, "-c", STAGE, str(tmp_path)])))
    log = jobs.folder(run) / "job.log"
    slurm.wait(lambda: not jobs.state(job), lambda: f"the end:\n{log.read_text()}", 120)
    assert jobs.outcome(run) == (0, ""), log.read_text()
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["here"], found["there"]) == ("n1", "n2")
    assert found["line"] == "server ready on n2"
    assert found["health"] == 200
    assert found["same keeper"]
    assert not found["same processes"]
    assert found["state"] == "stopped"
    assert processes_of(tmp_path) == []
