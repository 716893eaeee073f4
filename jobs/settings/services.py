"""The sections `mlflow` and `spark` of the settings."""

from __future__ import annotations

from pydantic import Field

from jobs.settings.section import Section


class MlflowSettings(Section):
    """`tracking_uri` empty means SQLite inside the lake."""

    tracking_uri: str = Field("", description="of an MLflow server")
    experiment: str = Field("", description="its name; the data set's when empty")


class SparkSettings(Section):
    """The session that `millstream` starts; spark-submit brings its own properties."""

    properties_file: str | None = Field(None, description="Spark properties, name and value a line")
