"""`status.json` of a stage or job folder: the current state, readable while the work continues.

Fields: `state` (running | completed | failed | interrupted), `message`, `pid`, `started` and `updated` (unix
seconds), and `job`, written by the supervisor: `state`, `pid`, `returncode`, `ended_by`, `clean`, `seconds`,
`peak_rss_bytes`, `command`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from r1kit.runs import processes
from r1kit.runs.files import folder_lock, read_json, write_json_atomic

STATES = ("running", "completed", "failed", "interrupted")


def update(folder: str | Path, *, durable: bool = True, **fields: Any) -> dict[str, Any]:
    """Merge `fields` into the folder's status.json and return the result.

    `state="running"` starts anew: `pid` becomes this process's, `started` now and `message` empty unless
    given. Notebook and supervisor write to the same file, so the merge happens under a lock on the folder.

    Raises:
        ValueError: a `state` that is not one of STATES.
    """
    if fields.get("state", "running") not in STATES:
        raise ValueError(f"state is {fields['state']!r}; it must be one of {', '.join(STATES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    with folder_lock(folder):
        status = read_json(folder / "status.json", {})
        if fields.get("state") == "running":
            status.update(pid=os.getpid(), started=now, message="")
        status.update(fields)
        status["updated"] = now
        write_json_atomic(folder / "status.json", status, durable=durable)
    return status


def read(folder: str | Path) -> dict[str, Any]:
    """Return the folder's status, {} if there is none.

    A status that says `running` although its process is gone (power cut, kill -9 of all processes) is
    returned as `interrupted` with a message; the file is not changed.
    """
    status = read_json(Path(folder) / "status.json", {})
    if status.get("state") == "running" and not processes.alive(status.get("pid")):
        status = status | {"state": "interrupted", "message": f"process {status.get('pid')} is gone"}
    job = status.get("job") or {}
    if job.get("state") == "running" and not processes.alive(job.get("pid")):
        status["job"] = job | {"state": "interrupted", "ended_by": "supervisor killed"}
    return status
