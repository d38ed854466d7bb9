"""A real Slurm of two nodes on this machine: one controller, two slurmd, an own munge; all ended afterwards.

No systemd, no cgroups, no accounting, nothing outside its folder. Debian's build lets several slurmd run on
one host. Port numbers come from the system, so that two of these can run at once.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
MUNGE_FILES = ("key-file", "socket", "pid-file", "log-file", "seed-file")
SBIN = "/usr/sbin"
CONFIGURATION = """
ClusterName=r1test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
SlurmctldTimeout=60
SlurmdTimeout=60
KillWait=5
InactiveLimit=0
MinJobAge=60
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def missing() -> list[str]:
    """Slurm's programs that this machine lacks."""
    path = os.pathsep.join([os.environ.get("PATH", ""), SBIN])
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


class Cluster:
    """The daemons; `environment` has what programs need to talk to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        path = os.environ.get("PATH", os.defpath)
        if SBIN not in path.split(os.pathsep):
            self.environment["PATH"] = path + os.pathsep + SBIN
        self.daemons: list[psutil.Process] = []

    def start(self) -> None:
        """Start everything and wait until both nodes are idle."""
        (self.folder / "state").mkdir(parents=True)
        for node in ("n1", "n2"):
            (self.folder / "spool" / node).mkdir(parents=True)
        self._munge()
        user = pwd.getpwuid(os.getuid()).pw_name
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(host=host, user=user, folder=self.folder, ports=_free_ports(3))
        (self.folder / "slurm.conf").write_text(text)
        self._daemon("slurmctld.pid", "slurmctld", "-c")
        for node in ("n1", "n2"):
            self._daemon(f"slurmd.{node}.pid", "slurmd", "-N", node)
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%t %D") == "idle 2", "two idle nodes")

    def stop(self) -> None:
        """End jobs and daemons."""
        self.cancel_all()
        for process in reversed(self.daemons):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(self.daemons, timeout=10)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def cancel_all(self) -> None:
        """End all jobs, at once."""
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            user = pwd.getpwuid(os.getuid()).pw_name
            self.run("scancel", "--signal=KILL", "--full", "--user", user)
            self.run("scancel", "--user", user)
            self.wait(lambda: not self.run("squeue", "-h"), "an empty queue")

    def run(self, *command: str) -> str:
        """What a command prints, stripped."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout.strip()

    def wait(self, condition, what, seconds: float = 30.0) -> float:
        """Poll until `condition()`; seconds it took. `what` was waited for, as text or a function of it."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > seconds:
                what = what() if callable(what) else what
                raise AssertionError(f"not within {seconds} s: {what}\n{self.logs()}")
            time.sleep(0.1)
        return time.monotonic() - started

    def logs(self) -> str:
        """The end of every daemon's log."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def _munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {name: self.folder / f"munge.{name.partition('-')[0]}" for name in MUNGE_FILES}
        options = [f"--{name}={path}" for name, path in files.items()]
        self._daemon("munge.pid", "munged", "--force", "--num-threads=2", *options)

    def _daemon(self, pid_file: str, *command: str) -> None:
        self.run(*command)
        self.wait(lambda: _number(self.folder / pid_file), f"{command[0]} is up")
        self.daemons.append(psutil.Process(_number(self.folder / pid_file)))


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
