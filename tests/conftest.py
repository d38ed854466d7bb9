"""Where tests run side by side (`-n 2`), each process has a folder of its own for temporary files.

Some tests look there for what a program left behind, and must not find what another test is using.
"""

import os
import shutil
import tempfile


def pytest_configure(config):
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        folder = tempfile.mkdtemp(prefix=f"{worker}-")  # short: unix sockets lie there
        os.chmod(folder, 0o1777)  # some tests are another user's
        config.own_temporary_folder = tempfile.tempdir = os.environ["TMPDIR"] = folder


def pytest_unconfigure(config):
    if folder := getattr(config, "own_temporary_folder", None):
        shutil.rmtree(folder, ignore_errors=True)
