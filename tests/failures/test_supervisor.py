"""The supervisor leaves no child behind, with Linux's own ways and without them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from r1kit.runs import status
from tests.failures.conftest import OBEDIENT, wait_for

pytestmark = [pytest.mark.failures, pytest.mark.slow]
EVERYWHERE = pytest.mark.parametrize("portable", [False, True], ids=["linux", "portable"])
ALL = 6  # guard, worker, trainer, own session, nohup, daemon


def end_of(job):
    return status.read(job.folder)["job"]


@EVERYWHERE
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_most_stubborn_tree(job, supervise, number, code, portable):
    supervisor = supervise("stubborn", portable=portable)
    job.wait_until_up(ALL)
    supervisor.send_signal(number)
    print("gone after", job.wait_until_gone())
    assert supervisor.wait() == code
    end = end_of(job)
    assert (end["ended_by"], end["clean"], end["returncode"]) == (signal.Signals(number).name, True, code)
    assert end["state"] == "interrupted"
    assert end["peak_rss_bytes"] > 1_000_000


@EVERYWHERE
def test_the_tree_ends_when_its_owner_is_killed(job, supervise, portable):
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    supervise("stubborn", "--owner", str(owner.pid), portable=portable)
    job.wait_until_up(ALL)
    owner.kill()  # and stays a zombie until the next line but one: dead all the same
    print("gone after", job.wait_until_gone())
    owner.wait()
    assert end_of(job)["ended_by"] == "owner died"
    assert status.read(job.folder)["state"] == "interrupted"


@EVERYWHERE
def test_an_owner_that_is_dead_already_starts_nothing_that_stays(job, supervise, portable):
    owner = subprocess.Popen([sys.executable, "-c", ""])
    owner.wait()
    assert supervise("stubborn", "--owner", str(owner.pid), portable=portable).wait(timeout=20) == 143
    job.wait_until_gone()
    assert end_of(job)["ended_by"] == "owner died"


@EVERYWHERE
@pytest.mark.parametrize("victim", ["guard", "worker"])
def test_the_tree_ends_when_a_half_of_its_supervisor_is_killed(job, supervise, victim, portable):
    guard = supervise("stubborn", portable=portable)
    job.wait_until_up(ALL)
    worker = psutil.Process(guard.pid).children()[0].pid
    os.kill(guard.pid if victim == "guard" else worker, signal.SIGKILL)
    print("gone after", job.wait_until_gone())
    assert end_of(job)["ended_by"] == "supervisor killed"
    assert end_of(job)["clean"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_with_both_halves_killed_the_trainer_still_hears_sigterm(job, supervise):
    guard = supervise("obedient")
    job.wait_until_up()
    worker = psutil.Process(guard.pid).children()[0].pid
    os.kill(guard.pid, signal.SIGSTOP)  # so that neither has the time to act for the other
    os.kill(worker, signal.SIGKILL)
    os.kill(guard.pid, signal.SIGKILL)
    job.wait_until_gone()
    assert (job.folder / "saved").exists()


@EVERYWHERE
def test_a_timeout_ends_the_tree_with_exit_code_4(job, supervise, portable):
    supervisor = supervise("stubborn", "--timeout", "1", portable=portable)
    assert supervisor.wait(timeout=20) == 4
    job.wait_until_gone()
    assert (end_of(job)["ended_by"], end_of(job)["state"]) == ("timeout", "failed")


@EVERYWHERE
def test_what_a_finished_job_leaves_running_is_ended(job, supervise, portable):
    (job.folder.parent / "modules" / "leaves.py").write_text(
        "import subprocess, sys\n"
        "code = 'import time; time.sleep(600)'\n"
        "subprocess.Popen([sys.executable, '-c', code, sys.argv[1]], start_new_session=True)\n"
    )
    assert supervise("leaves", portable=portable).wait(timeout=20) == 0
    assert job.processes() == []
    assert (end_of(job)["state"], end_of(job)["clean"], end_of(job)["ended_by"]) == ("completed", True, None)


def test_a_trainer_has_the_grace_to_save_its_checkpoint(job, supervise):
    supervisor = supervise("obedient", "--grace", "10")
    job.wait_until_up()
    supervisor.terminate()
    took = job.wait_until_gone()
    assert (job.folder / "saved").exists()
    assert took < 5  # it did not wait for the grace to pass


def test_a_job_starts_when_the_one_before_it_in_its_folder_has_saved(job, supervise):
    """Incident: a notebook killed and resumed at once had two trainers write the same checkpoints."""
    modules = job.folder.parent / "modules"
    (modules / "obedient.py").write_text(OBEDIENT.replace("sleep(0.3)", "sleep(1)"))
    (modules / "heir.py").write_text(
        "import pathlib, sys\nfolder = pathlib.Path(sys.argv[1]).parent\n"
        "(folder / 'came').write_text(str((folder / 'saved').exists()))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    supervise("obedient", "--owner", str(owner.pid), "--grace", "10")
    job.wait_until_up()
    heir = supervise("heir", "--grace", "10")
    log = str(job.folder / "train.log")
    wait_for(lambda: log in [file.path for file in psutil.Process(heir.pid).open_files()], "it is there")
    owner.kill()
    assert heir.wait(timeout=20) == 0
    owner.wait()
    assert (job.folder / "came").read_text() == "True"
    assert end_of(job)["state"] == "completed"


def test_a_stopped_trainer_is_woken_up_to_end(job, supervise):
    supervisor = supervise("obedient", "--grace", "10")
    job.wait_until_up()
    trainer = psutil.Process(supervisor.pid).children(recursive=True)[-1]
    trainer.suspend()
    supervisor.terminate()
    job.wait_until_gone()
    assert (job.folder / "saved").exists()


def test_the_supervisor_outlives_its_own_output(job, supervise):
    supervisor = supervise("stubborn", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    supervisor.stdout.close()
    supervisor.stderr.close()
    job.wait_until_up(ALL)
    supervisor.terminate()
    job.wait_until_gone()
    assert "up" in (job.folder / "train.log").read_text()
    assert end_of(job)["returncode"] == 143


def test_a_command_that_does_not_exist_fails_with_its_name(job):
    command = [
        sys.executable,
        "-m",
        "r1kit.runs.supervise",
        "--folder",
        str(job.folder),
        "--",
        "no-such-thing",
    ]
    assert subprocess.run(command, timeout=20).returncode == 1
    assert "cannot start no-such-thing" in end_of(job)["message"]


def test_the_notebooks_own_state_is_left_to_the_notebook(job, supervise):
    (job.folder.parent / "modules" / "brief.py").write_text("")
    status.update(job.folder, state="running", pid=os.getpid(), message="cell 3")
    assert supervise("brief", "--owner", str(os.getpid())).wait(timeout=20) == 0
    found = status.read(job.folder)
    assert (found["state"], found["message"]) == ("running", "cell 3")
    assert found["job"]["state"] == "completed"
