"""Stages and pipelines: `open_stage` of the notebooks, the papermill engine, headless runs, Slurm."""
