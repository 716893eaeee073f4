"""Raw rows to judged rows in files of a run, each row once, with all that later steps count."""
