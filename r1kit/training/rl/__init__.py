"""Reinforcement learning: the GRPO trainer and what it asks, watches and talks to."""
