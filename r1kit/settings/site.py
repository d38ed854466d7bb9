"""A site file: what a cluster wants to hear from a job, kept apart from the profiles because it is no setting
of a training.

`sites/<name>.yaml`, by name or path. Network cards need variables that differ from site to site (the GID
index most of all): they stand here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from r1kit.settings.errors import Problem, SettingsError, display_path, nearest_name
from r1kit.settings.overrides import settings_of
from r1kit.settings.strict import Positive, Settings
from r1kit.settings.validation import Source

SITE_ROOT = Path(__file__).resolve().parents[2] / "sites"
Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]


class Site(Settings):
    """What `r1kit run --on slurm` asks the cluster for."""

    partition: str | None = Field(default=None, description="Slurm's partition; null: the default one.")
    account: str | None = Field(default=None, description="Whom the hours are charged to.")
    time: str = Field(
        default="24:00:00",
        pattern=r"^(\d+-)?\d{1,2}(:\d{2}){0,2}$|^\d+$",
        description="Limit of one start of the job; a run that needs longer is requeued and goes on.",
    )
    server_nodes: int = Field(
        default=0, ge=0, description="Nodes for the vLLM servers, beside the trainer's num_machines."
    )
    gpus_per_node: Positive | None = Field(default=None, description="GPUs of a node; null asks for none.")
    cpus_per_node: Positive | None = Field(default=None, description="Cores of a node; null: all of them.")
    options: dict[str, Text | bool] = Field(
        default_factory=dict,
        description="Further options of sbatch by their long names, without dashes: {constraint: mi350x}.",
    )
    setup: list[str] = Field(
        default_factory=list, description="Lines of bash before everything else: module load rocm."
    )
    environment: dict[str, Text] = Field(
        default_factory=dict, description="Variables of every node: network cards, NCCL, RCCL."
    )
    requeues: int = Field(
        default=20, ge=0, description="How often a run is put back into the queue at its time limit."
    )


def load_site(name_or_path: str) -> Site:
    """The site of that name in sites/, or in that file; without a name one with every default.

    Raises:
        SettingsError: there is no such file, or something in it is wrong; all problems at once.
    """
    if not name_or_path:
        return Site()
    path = Path(name_or_path).expanduser()
    if "/" not in name_or_path and not path.suffix:
        path = SITE_ROOT / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in SITE_ROOT.glob("*.yaml"))
        raise SettingsError(
            [
                Problem(
                    name_or_path,
                    "site",
                    found="a folder" if path.is_dir() else "no such file or directory",
                    allowed=", ".join([*known, "or the path of a site file"]),
                    nearest=nearest_name(path.stem, known),
                    message=f"Sites are files in {display_path(SITE_ROOT)}.",
                )
            ]
        )
    site, problems = settings_of(Site, Source("site", display_path(path)), {}, path)
    if problems:
        raise SettingsError(problems, f"bad site file {display_path(path)}")
    return site
