"""Scores of encoded rows by Spark's tasks, and the table of predictions."""
