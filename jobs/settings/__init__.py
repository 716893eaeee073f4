"""One frozen tree of settings (`settings.py`), read from YAML and `--set` (`load.py`)."""
