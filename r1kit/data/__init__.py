"""The training data: the embedded world of story problems, and real datasets prepared to look like it."""
