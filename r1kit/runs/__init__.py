"""The run directory and its files: manifest, metrics, status, results, and supervised jobs.

Nothing here imports torch, transformers or pandas: a supervisor and `r1kit status` must start at once.
"""
