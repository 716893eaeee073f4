"""The steps of a night. The command line needs their names, and loads nothing else of the room."""

STEPS = ("etl", "train", "evaluate", "gate", "score", "report")
