"""`millstream init`: a first declaration and settings for a user's own file. See `job.py`."""
