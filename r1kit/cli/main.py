"""The command line: puts the commands together and turns the user's mistakes into one message."""

from __future__ import annotations

import sys

import typer

from r1kit.cli import bench, data, evaluate, machine, run

app = typer.Typer(
    help="See DeepSeek-R1's training happen: data, SFT, rollouts, GRPO, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    run.run,
    run.status,
    machine.serve,
    evaluate.eval_,
    evaluate.compare,
    machine.doctor,
    machine.plan,
):
    app.command()(command)
app.add_typer(bench.benchmarks, name="bench")
app.add_typer(data.data, name="data")
app.add_typer(run.jobs, name="slurm")


def main() -> None:
    """Run `r1kit`. A mistake of the user is one message and exit code 2, never a traceback."""
    try:
        app()
    except ValueError as error:
        if not hasattr(error, "exit_code"):
            raise
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
