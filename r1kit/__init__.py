"""r1kit: reproduce the training of DeepSeek-R1 in notebooks."""

__version__ = "0.1.0"
