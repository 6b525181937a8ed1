"""What was asked: facts of every query, and the files they are written to."""
