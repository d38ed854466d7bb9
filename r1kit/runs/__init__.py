"""The run directory and what lives in it: files, manifest, metrics, status, results, supervised jobs.

Nothing here imports torch, transformers or pandas: a supervisor and `r1kit status` must start at once.
"""
