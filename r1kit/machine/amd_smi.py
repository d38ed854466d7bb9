"""AMD GPUs through `amd-smi … --json`, or in-process through its library where that can be imported.

amd-smi replaces rocm-smi, which AMD only maintains. Its JSON changed between releases, so both known shapes
are read: a bare list, and `{"gpu_data": [...]}` (metric since ROCm 7, static since AMD SMI 26.2.1). A number
is `{"value": 239, "unit": "W"}`, or the text "N/A". What it calls MB are MiB: 294,896 of them are the 288 GiB
of an MI350X.

The command's exit code says nothing: a stale /usr/local/bin/amd-smi prints "Invalid platform" and exits with
0. So /opt/rocm comes first, and an answer that is no JSON disqualifies the program.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1kit.machine.gpus import Gpu, GpuProcess, GpuToolError, Source

SECONDS = 30.0  # a healthy command takes one or two; a hung driver takes for ever
UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
SAMPLED = ("--usage", "--power", "--temperature", "--mem-usage")


def candidates(opt: Path = Path("/opt")) -> list[str]:
    """Programs to try, ROCm's own before whatever PATH finds."""
    installed = [opt / "rocm/bin/amd-smi", *sorted(opt.glob("rocm-*/bin/amd-smi"), reverse=True)]
    found = [str(program) for program in installed if program.exists()]
    on_path = shutil.which("amd-smi")
    return list(dict.fromkeys([*found, *([on_path] if on_path else [])]))


def ask(program: str, *arguments: str) -> Any:
    """What `program ARGUMENTS --json` says.

    Raises:
        GpuToolError: it cannot be run, takes longer than 30 s, or prints something that is not JSON.
    """
    command = [program, *arguments, "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuToolError(f"{program}: {error}") from error
    return parse(done.stdout, program)


def parse(text: str, program: str = "amd-smi") -> Any:
    """The JSON in what amd-smi printed, warnings before it left out.

    Raises:
        GpuToolError: there is none.
    """
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    try:
        return json.loads(text[min(starts) :]) if starts else json.loads(text)
    except json.JSONDecodeError:
        said = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        raise GpuToolError(f"{program} printed no JSON but {said[:80]!r}") from None


def entries(answer: Any) -> list[dict[str, Any]]:
    """The GPUs of an answer in either shape."""
    if isinstance(answer, dict):
        answer = answer.get("gpu_data", [])
    return [entry for entry in answer if isinstance(entry, dict) and isinstance(entry.get("gpu"), int)]


def number(entry: Any, *path: str) -> float | None:
    """The number at `path`; None for "N/A" and for what is not there."""
    for key in path:
        entry = entry.get(key) if isinstance(entry, dict) else None
    value = entry.get("value") if isinstance(entry, dict) else entry
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def size(entry: Any, *path: str) -> int | None:
    """Bytes at `path`, whatever unit they stand in."""
    value = number(entry, *path)
    for key in path:
        entry = entry.get(key) if isinstance(entry, dict) else None
    unit = str(entry.get("unit", "B")).upper() if isinstance(entry, dict) else "B"
    return None if value is None else int(value * UNITS.get(unit.replace("IB", "B"), 1))


def first(entry: dict[str, Any], *paths: tuple[str, ...]) -> float | None:
    """The first of several places that holds a number."""
    return next((value for path in paths if (value := number(entry, *path)) is not None), None)


def gpus(metric: Any) -> list[Gpu]:
    """The GPUs of `amd-smi metric --json`."""
    return [
        Gpu(
            index=entry["gpu"],
            utilisation=number(entry, "usage", "gfx_activity"),
            memory_used=size(entry, "mem_usage", "used_vram"),
            memory_total=size(entry, "mem_usage", "total_vram"),
            power=first(entry, ("power", "socket_power"), ("power", "average_socket_power")),
            temperature=first(entry, ("temperature", "hotspot"), ("temperature", "edge")),
        )
        for entry in entries(metric)
    ]


def named(found: Iterable[Gpu], static: Any) -> list[Gpu]:
    """The same GPUs with name and power limit from `amd-smi static --json`."""
    by_index = {entry["gpu"]: entry for entry in entries(static)}
    limits = (("limit", "ppt0", "socket_power_limit"), ("limit", "socket_power"), ("limit", "max_power"))
    return [
        replace(
            gpu,
            name=(by_index.get(gpu.index, {}).get("asic") or {}).get("market_name"),
            power_limit=first(by_index.get(gpu.index, {}), *limits),
        )
        for gpu in found
    ]


def processes(answer: Any) -> list[GpuProcess]:
    """Who holds memory, from `amd-smi process --json`; an idle GPU has a sentence in the list's place."""
    found = []
    for entry in entries(answer):
        for item in entry.get("process_list") or []:
            information = item.get("process_info") if isinstance(item, dict) else None
            if isinstance(information, dict) and isinstance(information.get("pid"), int):
                memory = size(information, "memory_usage", "vram_mem")
                found.append(GpuProcess(information["pid"], entry["gpu"], memory))
    return found


def versions(static: Any, version: Any) -> dict[str, str]:
    """Kernel driver and ROCm, from `static` and `version`."""
    driver = next((entry["driver"].get("version") for entry in entries(static) if entry.get("driver")), None)
    version = version[0] if isinstance(version, list) and version else version
    rocm = version.get("rocm_version") if isinstance(version, dict) else None
    known = {"driver": driver, "ROCm": rocm}
    return {name: value for name, value in known.items() if isinstance(value, str) and value != "N/A"}


def source(programs: list[str] | None = None) -> Source:
    """A working amd-smi, read through its library where Python can import it (1 ms instead of a second).

    Raises:
        GpuToolError: no program gives JSON, with what each did.
    """
    complaints: list[str] = []
    for program in candidates() if programs is None else programs:
        try:
            ask(program, "static")
        except GpuToolError as error:
            complaints.append(str(error))
            continue
        return through(program, tuple(complaints))
    raise GpuToolError("; ".join(complaints) or "there is an AMD GPU, but no amd-smi (part of ROCm)")


def through(program: str, complaints: tuple[str, ...] = ()) -> Source:
    """The source that asks `program`."""
    from r1kit.machine import amdsmi_library

    def read() -> list[Gpu]:
        return gpus(ask(program, "metric", *SAMPLED))

    fast = amdsmi_library.reader()
    return Source(
        name=f"{program}, sampled through its Python library" if fast else program,
        vendor="AMD",
        read=fast or read,
        describe=lambda: named(read(), ask(program, "static")),
        processes=lambda: processes(ask(program, "process")),
        versions=lambda: versions(ask(program, "static"), ask(program, "version")),
        complaints=complaints,
    )
