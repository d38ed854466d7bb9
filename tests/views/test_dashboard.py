"""The live dashboard: with a job made of an asyncio event, and headlessly in a notebook."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from r1kit.runs import jsonl
from r1kit.runs.launch import JobFailed, launch
from r1kit.views import dashboard


class FakeJob:
    """A job that runs until `code` is set."""

    detached = False

    def __init__(self, folder):
        self.folder, self.code, self.stopped = folder, None, threading.Event()

    def poll(self):
        return self.code

    async def finished(self):
        while self.code is None:
            await asyncio.sleep(0.01)
        if self.code:
            raise JobFailed(self.code, "The training ran out of <memory>", self.log_tail())

    def stop(self):
        time.sleep(0.2)  # as the real one, it waits for the end of the processes
        self.stopped.set()
        self.code = 143
        return 143

    def log_tail(self, n=20):
        return "step 1\n<b>Traceback</b>"


class Screen:
    """Stands in for the notebook: keeps what was displayed."""

    def __init__(self):
        self.shown, self.updates = [], []

    def display(self, thing, display_id=None):
        self.shown.append(thing)
        return self

    def update(self, thing):
        self.updates.append(thing.data)

    @property
    def box(self):
        return self.shown[0]

    @property
    def status(self):
        return self.box.children[0].value

    @property
    def button(self):
        return self.box.children[1].children[1]

    @property
    def mirror(self):
        return self.updates[-1]


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr("IPython.display.display", screen.display)
    monkeypatch.setattr(dashboard, "TICK", 0.02)
    return screen


@pytest.fixture
def job(tmp_path):
    return FakeJob(tmp_path)


def log(job, *steps):
    for step in steps:
        jsonl.append(
            job.folder / "metrics.jsonl",
            {"step": step, "total_steps": 10, "loss": 1 / step, "seconds": step, "seconds_left": 10 - step},
        )


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_it_follows_the_metrics_until_the_job_ends_and_leaves_a_static_picture(screen, job):
    async def scenario():
        watching = asyncio.ensure_future(dashboard.watch(job, title="02_sft"))
        await until(lambda: screen.shown)
        log(job, 2, 5)
        await until(lambda: "step 5/10" in screen.status)
        assert {"r1-dash"} <= set(screen.box._dom_classes)
        assert "r1-status" in screen.box.children[0]._dom_classes
        await until(lambda: screen.box.children[2].value)
        assert bytes(screen.box.children[2].value).startswith(b"\x89PNG")
        bar = screen.box.children[1].children[0]
        assert (bar.value, bar.max) == (5, 10)
        log(job, 10)
        job.code = 0
        return await watching

    assert asyncio.run(scenario()) is None  # or a cell that ends with it would print all rows
    assert "completed in 0:10" in screen.status
    assert "open>" in screen.mirror
    assert 'src="data:image/png;base64,' in screen.mirror
    assert 'alt="Loss from 0.5 at step 2 to 0.1 at step 10."' in screen.mirror
    assert screen.button.layout.display == "none"


def test_the_stop_button_stops_the_job_while_the_view_goes_on(screen, job):
    async def scenario():
        watching = asyncio.ensure_future(dashboard.watch(job))
        await until(lambda: screen.shown)
        screen.button.click()
        screen.button.click()  # impatience starts no second stop
        assert "stopping" in screen.status
        assert screen.button.disabled
        assert not job.stopped.is_set()  # the click did not block
        await watching

    with pytest.raises(JobFailed) as caught:
        asyncio.run(scenario())
    assert caught.value.returncode == 143
    assert job.stopped.is_set()
    assert "stopped by you" in screen.status


def test_a_failed_job_raises_its_own_error_after_showing_the_escaped_log(screen, job):
    job.code = 3
    with pytest.raises(JobFailed, match="ran out of"):
        asyncio.run(dashboard.watch(job))
    assert "failed: The training ran out of &lt;memory&gt;" in screen.status
    assert "&lt;b&gt;Traceback&lt;/b&gt;" in screen.mirror
    assert "<b>Traceback" not in screen.mirror


def test_a_plot_that_cannot_be_drawn_does_not_end_the_watch(screen, job):
    def broken(rows):
        raise ZeroDivisionError("no <plot>")

    log(job, 10)
    job.code = 0
    asyncio.run(dashboard.watch(job, draw=broken))
    assert "completed" in screen.status
    assert "no plot: ZeroDivisionError: no &lt;plot&gt;" in screen.mirror


def test_an_error_of_the_view_itself_leaves_no_job_behind(screen, job, monkeypatch):
    monkeypatch.setattr(dashboard, "describe", lambda row: 1 / 0)
    log(job, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(dashboard.watch(job))
    assert job.stopped.is_set()


@pytest.mark.parametrize("detached", [False, True])
def test_an_interrupted_cell_stops_the_job_unless_it_is_detached(screen, job, detached):
    job.detached = detached

    async def scenario():
        watching = asyncio.ensure_future(dashboard.watch(job))
        await until(lambda: screen.shown)
        watching.cancel()
        await watching

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    assert job.stopped.is_set() != detached
    assert ("the job continues" if detached else "interrupted") in screen.status


def test_an_interrupted_cell_leaves_a_picture_of_all_steps(screen, job, monkeypatch):
    monkeypatch.setattr(dashboard, "DRAWING_SHARE", 1e-6)  # after the first, none is due while it runs

    async def scenario():
        watching = asyncio.ensure_future(dashboard.watch(job))
        log(job, 1, 2)
        await until(lambda: screen.shown and screen.box.children[2].value)
        log(job, 5)
        await until(lambda: "step 5/10" in screen.status)
        log(job, 6)
        watching.cancel()
        await watching

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    assert "at step 6." in screen.mirror


def test_the_parts_of_the_status_stand_apart_and_are_said_once_at_the_end(screen, job):
    log(job, 10)
    job.code = 0
    asyncio.run(dashboard.watch(job))
    assert "step 10/10 &nbsp; loss 0.100" in screen.mirror
    assert screen.box.children[0].layout.display == "none"  # the mirror says it


def test_drawing_takes_a_small_share_of_the_time(screen, job, monkeypatch):
    drawn = []

    def slow(rows):
        drawn.append(len(rows))
        time.sleep(0.05)
        return dashboard.default_figure(rows)

    async def scenario():
        watching = asyncio.ensure_future(dashboard.watch(job, draw=slow))
        for step in range(1, 11):
            log(job, step)
            await asyncio.sleep(0.03)
        job.code = 0
        await watching

    asyncio.run(scenario())
    assert len(drawn) <= 3
    assert drawn[-1] == 10  # the last picture shows everything


def test_the_mirror_is_rewritten_seldom_while_the_job_runs(screen, job, monkeypatch):
    async def scenario():
        watching = asyncio.ensure_future(dashboard.watch(job))
        await asyncio.sleep(0.4)
        job.code = 0
        await watching

    asyncio.run(scenario())
    assert len(screen.updates) <= 2


@pytest.mark.parametrize(("settings", "code"), [("{}", 0), ("no json", 1)])
def test_a_supervised_process_is_watched_to_its_end(screen, tmp_path, settings, code):
    """The program is json.tool on resolved.yaml: it ends with 0 for JSON and with 1 for anything else."""
    (tmp_path / "resolved.yaml").write_text(settings)
    job = launch("json.tool", tmp_path, accelerate=False, grace=2)
    jsonl.append(tmp_path / "metrics.jsonl", {"step": 1, "total_steps": 1, "loss": 0.5, "seconds": 3})
    if code == 0:
        asyncio.run(dashboard.watch(job))
        assert "completed in 0:03: step 1/1" in screen.status
        asyncio.run(dashboard.watch(tmp_path))  # from its files alone, after the fact
        return
    with pytest.raises(JobFailed) as caught:
        asyncio.run(dashboard.watch(job))
    assert caught.value.returncode == 1
    assert "failed" in screen.status
    assert "Expecting value" in screen.mirror


NOTEBOOK = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from views.test_dashboard import FakeJob, log
from r1kit.views.dashboard import watch
job = FakeJob(Path({folder!r}))
async def train():
    for step in range(1, 11):
        log(job, step)
        await asyncio.sleep(0.05)
    job.code = {code}
training = asyncio.ensure_future(train())
await watch(job, title="02_sft")
"""


def execute(tmp_path, code):
    source = NOTEBOOK.format(folder=str(tmp_path), code=code, tests=str(Path(__file__).parents[1]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook, NotebookClient(notebook, timeout=120)


@pytest.mark.slow
def test_a_headless_notebook_keeps_the_static_picture_in_its_output(tmp_path):
    notebook, client = execute(tmp_path, 0)
    client.execute()
    outputs = notebook.cells[0].outputs
    html = "".join(o.data.get("text/html", "") for o in outputs if "data" in o)
    assert 'class="r1-mirror" open' in html
    assert "data:image/png;base64," in html
    assert "completed in 0:10" in html
    assert any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
    assert [o.output_type for o in outputs] == ["display_data", "display_data"]
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]


@pytest.mark.slow
def test_a_headless_notebook_fails_when_the_job_fails_and_shows_the_log(tmp_path):
    notebook, client = execute(tmp_path, 1)
    with pytest.raises(CellExecutionError, match="JobFailed"):
        client.execute()
    html = "".join(o.data.get("text/html", "") for o in notebook.cells[0].outputs if "data" in o)
    assert "&lt;b&gt;Traceback" in html


@pytest.mark.slow
def test_interrupting_the_kernel_stops_the_job(tmp_path):
    """Jupyter's stop button sends SIGINT to the kernel; the cell is awaiting at that moment."""
    from jupyter_client.manager import start_new_kernel

    source = NOTEBOOK.format(folder=str(tmp_path), code="None", tests=str(Path(__file__).parents[1])).replace(
        "training =",
        "job.stop = lambda: (Path(job.folder, 'stopped').touch(), setattr(job, 'code', 143))\ntraining =",
    )
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        cell = client.execute(source)
        deadline = time.monotonic() + 60
        while not (tmp_path / "metrics.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != cell:
            pass  # answers to start_new_kernel's questions
        assert reply["content"]["status"] == "error"
        assert reply["content"]["ename"] in ("KeyboardInterrupt", "CancelledError")
        assert (tmp_path / "stopped").exists()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
