"""Stages and their order, `open_stage`, the papermill engine, headless runs."""
