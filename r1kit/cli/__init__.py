"""The command line: parse, call, print. `main.py` puts the commands together."""
