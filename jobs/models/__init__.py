"""The models, how one is built by its name (`build.py`), and models as files (`artifact.py`)."""
