"""One process of a training on several nodes, started by `srun` (r1kit.runs.nodes): learns its rank from
Slurm, takes accelerate's settings from accelerate.yaml, and becomes the training program.

`accelerate launch` would do the same through torch's elastic agent, which kills trainers 30 s after a signal,
and cannot start CPU processes on several machines at all (accelerate 1.15 wants mpirun there).
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

# What torch's launcher tells its workers, and where Slurm says it.
FROM_SLURM = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "GROUP_RANK": "SLURM_NODEID",
}
# What accelerate says of one machine, and Slurm knows for all of them.
NOT_OURS = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


def main(arguments: list[str] | None = None) -> None:
    """`rank MODULE JOB/resolved.yaml`: runs the module as `__main__`; its exit code is this process's."""
    module, *rest = sys.argv[1:] if arguments is None else arguments
    folder = Path(rest[0]).resolve().parent
    os.environ.update({name: os.environ[source] for name, source in FROM_SLURM.items()})
    os.environ["LOCAL_WORLD_SIZE"] = str(int(os.environ["SLURM_NTASKS"]) // int(os.environ["SLURM_NNODES"]))
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    os.environ.update(accelerate_environment(folder / "accelerate.yaml"))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def accelerate_environment(config: Path) -> dict[str, str]:
    """The variables by which `accelerate launch` hands accelerate.yaml to its processes.

    They come from accelerate's own functions, asked about one machine: rank and address are Slurm's to say.
    """
    from accelerate.commands import launch
    from accelerate.utils import launch as prepare

    parser = launch.launch_command_parser()
    args = parser.parse_args(
        ["--config_file", str(config), "--num_machines", "1", "--main_process_port", "0", "none.py"]
    )
    args, defaults, precision_from_file = launch._validate_launch_command(args)
    if args.use_deepspeed:
        fields = [*defaults.deepspeed_config, *(["mixed_precision"] if precision_from_file else [])]
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        _, found = prepare.prepare_deepspeed_cmd_env(args)
    elif args.multi_gpu or args.use_fsdp:
        found = prepare.prepare_multi_gpu_env(args)
    else:
        _, found = prepare.prepare_simple_launcher_cmd_env(args)
    return {
        name: value for name, value in found.items() if os.environ.get(name) != value and name not in NOT_OURS
    }


if __name__ == "__main__":
    main()
