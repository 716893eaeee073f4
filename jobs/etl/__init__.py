"""Raw files of some dates become examples, in one commit a pass: `job.py` is the recipe."""
