"""Benchmarks that print ratios: ours and the alternative side by side, in one run."""
