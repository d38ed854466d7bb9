"""Stands in for vLLM where tests put its folder on PYTHONPATH."""
