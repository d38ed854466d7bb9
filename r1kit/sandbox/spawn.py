"""Starting a process with exactly the descriptors, environment and process group it should have.

`subprocess` would do, but numbers descriptors as it likes; with fixed numbers a sandbox's command line never
changes and can be written down once.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from r1kit.sandbox.linux import end_with_parent

STATUS = 7  # where bubblewrap, or a start that failed, reports
_SPARE = 32  # descriptors are moved up here first, so that none is overwritten before it is moved
_MOST = 256  # a broker has fewer than that


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Mapping[int, int],
    *,
    folder: str = "/",
    prepare: Callable[[], None] = lambda: None,
    status_survives: bool = False,
) -> int:
    """Start `command` in a group of its own, with only `descriptors` (its number: ours), until we end.

    prepare: called in the new process when nothing but closing other descriptors is left to do. An error
    before the program has replaced us is written to descriptor STATUS, which the program itself gets only if
    `status_survives`.
    Only for a process without other threads.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        moved = {target: fcntl.fcntl(source, fcntl.F_DUPFD, _SPARE) for target, source in descriptors.items()}
        for target, source in moved.items():
            os.dup2(source, target, inheritable=target != STATUS or status_survives)
        os.setpgid(0, 0)  # not a session: by the broker's, what it left behind is found if it is lost
        end_with_parent(parent)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python ignores or handles them
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        prepare()
        last = max(descriptors)
        for unused in set(range(last)) - set(descriptors):
            os.closerange(unused, unused + 1)
        os.closerange(last + 1, _MOST)
        os.execve(command[0], list(command), dict(environment))
    except BaseException as error:
        os.write(STATUS, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(127)
