"""JupyterLab with settings of its own in headless Chromium, and a trainer whose crank the test turns.

Tests wait for what a reader would see in the page. All but Chromium itself comes from requirements/test.txt;
`make browser` installs Chromium.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.failures.conftest import Watched, wait_for

CHROMIUM = Path("/usr/bin/chromium")
SECONDS = 60.0  # bound of every wait; the longest takes about 6 on two idle cores
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}

# GRPO's rows, one a step, but no further than the number in the file `go`; saves on SIGTERM, as ours do.
STAND_IN = """
import json, math, os, signal, sys, time
folder, total, step = os.path.dirname(sys.argv[1]), 40, 0
def allowed():
    try:
        return int(open(os.path.join(folder, "go")).read() or 0)
    except FileNotFoundError:
        return 0
def save(*_):
    checkpoint = os.path.join(folder, "checkpoints", f"checkpoint-{step}")
    os.makedirs(checkpoint)
    open(os.path.join(checkpoint, "complete.json"), "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
with open(os.path.join(folder, "metrics.jsonl"), "a", buffering=1) as log:
    while step < total:
        while allowed() <= step:
            time.sleep(0.02)
        step += 1
        share = 1 - math.exp(-step / 15)
        row = dict(step=step, total_steps=total, seconds=step / 2, seconds_left=(total - step) / 2, loss=0.01)
        row |= {"reward": 1.5 * share, "reward_std": 0.2, "rewards/accuracy_reward/mean": share}
        row |= {"rewards/format_reward/mean": share / 2, "completions/mean_length": 90 - 30 * share}
        row |= {"entropy": 1 - share / 2, "frac_reward_zero_std": share / 2, "grad_norm": 1 + share}
        log.write(json.dumps(row) + "\\n")
"""

# Lab says "idle" before its kernel answers, and silently drops a Run All that comes in between.
READY = """async () => {
    const {context, sessionContext} = window.jupyterapp.shell.currentWidget;
    await context.ready;
    await sessionContext.ready;
    const kernel = sessionContext.session.kernel;
    await kernel.info;
    const ready = () => kernel.connectionStatus === 'connected' && kernel.status === 'idle';
    while (!ready()) await new Promise(resolve => setTimeout(resolve, 50));
}"""


class Training(Watched):
    """A job folder for the stand-in trainer, the processes that carry its path, and the crank."""

    def let_it_reach(self, step: int) -> None:
        (self.folder / "go").write_text(str(step))

    @property
    def checkpoints(self) -> list[str]:
        """Names of the complete checkpoints."""
        return [path.parent.name for path in self.folder.glob("checkpoints/*/complete.json")]

    @property
    def cells(self) -> list[str]:
        """What a notebook's cells do with such a job."""
        start = "from r1kit.runs.launch import launch\n\n"
        start += f"job = launch('stand_in', {str(self.folder)!r}, accelerate=False, grace=5)"
        return [f"import r1kit\n{start}", "await r1kit.watch(job)", "print('the cell after it')"]


@dataclass
class Lab:
    """A running JupyterLab: its address, its notebook folder, and where r1kit's runs go."""

    address: str
    token: str
    folder: Path
    runs: Path

    def write(self, name: str, cells: list[str]) -> Path:
        content = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": KERNEL})
        nbformat.write(content, self.folder / name)
        return self.folder / name


class Notebook:
    """A notebook open in a page of Lab, its kernel ready."""

    def __init__(self, page, lab: Lab, file: Path) -> None:
        self.page, self.file = page, file
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        # "reset": an empty workspace, or the notebooks of earlier tests would open, too
        address = f"{lab.address}/lab/tree/{file.name}?reset&token={lab.token}"
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", state="attached")
        page.evaluate(READY)

    def menu(self, *path: str) -> None:
        """Click through a menu: `menu("Run", "Run All Cells")`."""
        for name in path:
            labels = self.page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel")
            labels.filter(has_text=re.compile(f"^{name}$")).first.click()

    def wait_until(self, condition: str, what: str) -> None:
        """Until a JavaScript expression holds in the page; else fails, and leaves a screenshot."""
        from playwright.sync_api import TimeoutError

        try:
            self.page.wait_for_function(condition)
        except TimeoutError:
            picture = self.file.with_suffix(".png")
            self.page.screenshot(path=picture)
            pytest.fail(f"not seen: {what}. The page as it was: {picture}. Its errors: {self.errors}")

    def wait_for_status(self, text: str) -> None:
        """Until the dashboard's status line holds the text."""
        there = f"document.querySelector('.r1-dash .r1-status')?.innerText.includes({json.dumps(text)})"
        self.wait_until(there, f"'{text}' in the status line")

    def wait_for_end(self, text: str) -> None:
        """Until the static picture has taken the widgets' place, with the text in its one visible line."""
        said = f"document.querySelector('.r1-mirror[open] summary')?.innerText.includes({json.dumps(text)})"
        hidden = "document.querySelector('.r1-dash .r1-status').getClientRects().length === 0"
        self.wait_until(f"{said} && {hidden}", f"'{text}' as the end")

    def wait_for_output(self, text: str) -> None:
        """Until some cell's output holds the text."""
        outputs = "[...document.querySelectorAll('.jp-OutputArea-output')]"
        there = f"{outputs}.some(output => output.innerText.includes({json.dumps(text)}))"
        self.wait_until(there, f"'{text}' in an output")

    def saved(self) -> nbformat.NotebookNode:
        """The notebook's file, after Lab has saved it."""
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.file, as_version=4)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Not of the session: while it is there, asyncio.run works nowhere else."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: requirements/test.txt")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: as root, `make browser` installs it")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]  # root, in a container
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = chromium.new_context(viewport={"width": 1400, "height": 1100})
        context.set_default_timeout(SECONDS * 1000)
        yield context
        chromium.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory, browser):
    """JupyterLab on a free port that reads and writes no settings but its own."""
    home = tmp_path_factory.mktemp("lab")
    lab = Lab("", secrets.token_hex(8), home / "notebooks", home / "runs")
    for folder in (lab.folder, home / "modules"):
        folder.mkdir()
    (home / "modules" / "stand_in.py").write_text(STAND_IN)
    # All cells in the page, also those out of sight; no news pop-up in the way of a click.
    _settings(home, "notebook-extension/tracker", {"windowingMode": "none"})
    _settings(home, "apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab.address = f"http://127.0.0.1:{port}"
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": lab.folder,
        "IdentityProvider.token": lab.token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    own = {"R1KIT_RUNS": lab.runs, "PYTHONPATH": home / "modules", "HF_HUB_OFFLINE": 1}
    own |= {f"JUPYTER_{kind}_DIR": home / kind for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{kind}_DIR": home / kind for kind in ("SETTINGS", "WORKSPACES")}
    own |= {"IPYTHONDIR": home / "ipython", "MPLCONFIGDIR": home / "matplotlib"}
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env=os.environ | {name: str(value) for name, value in own.items()},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: _answers(server, lab, home / "lab.log"), "JupyterLab answers", SECONDS)
        yield lab
    finally:
        _end(server)


@pytest.fixture
def open_notebook(browser, lab):
    """Open a notebook of the lab's folder; its kernel ends with the test."""
    opened = []

    def open_(file: Path) -> Notebook:
        opened.append(browser.new_page())
        return Notebook(opened[-1], lab, file)

    yield open_
    for page in opened:
        page.evaluate("window.jupyterapp.shell.currentWidget?.context.sessionContext.shutdown()")
        page.close()


@pytest.fixture
def training(tmp_path):
    """A job folder; whatever of its job survives the test is killed."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "resolved.yaml").write_text("profile: none\n")
    training = Training(folder)
    yield training
    for process in training.processes():
        with contextlib.suppress(psutil.Error):
            process.kill()


def _settings(home: Path, plugin: str, values: dict) -> None:
    path = home / "SETTINGS" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _answers(server: subprocess.Popen, lab: Lab, log: Path) -> bool:
    if server.poll() is not None:
        pytest.fail(f"JupyterLab ended with {server.returncode}:\n{log.read_text()[-3000:]}")
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{lab.address}/api/status?token={lab.token}", timeout=5).close()
        return True
    return False


def _end(server: subprocess.Popen) -> None:
    """SIGTERM, on which Jupyter ends its kernels, and they their jobs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
