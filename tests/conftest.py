"""Where tests run side by side (`-n 2`), each process has a folder of its own for temporary files.

Some tests look there for what a program left behind, and must not find what another test is using.
"""

import os
import shutil
import signal
import tempfile
from pathlib import Path


def open_folder(path):
    path.mkdir(exist_ok=True)
    path.chmod(0o1777)  # some tests are another user's
    os.environ["TMPDIR"] = str(path)
    return path


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # behind an &: programs under test would too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        tempfile.tempdir = str(open_folder(Path(os.environ["TMPDIR"]) / worker))
    elif config.getoption("numprocesses", None):  # this process starts the others, and keeps /tmp
        config.temporary_folders = open_folder(Path(tempfile.mkdtemp(prefix="tests-")))


def pytest_unconfigure(config):
    if folder := getattr(config, "temporary_folders", None):
        shutil.rmtree(folder, ignore_errors=True)
