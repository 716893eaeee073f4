"""The steps of a night. The command line needs their names, and loads nothing else of the room."""

# On the weekdays of `nightly.tune_on` a night has this step, too, before its report.
SEARCH = "tune"

STEPS = ("etl", "train", "evaluate", "gate", "score", "report")
