"""`python -m r1kit` is the command line."""

from r1kit.cli.main import main

if __name__ == "__main__":
    main()
