"""What a user sees of a run: terminal, notebook, figures. All of it can be redrawn from the run's files."""
