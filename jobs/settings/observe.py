"""The section `observe` of the settings."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from jobs.settings.section import Section, VariableName


class ObserveSettings(Section):
    """What others watch runs by. An observer that fails is named once and never fails a run.

    Of URLs with a secret only the name of the environment variable stands here.
    """

    json_log: str | None = Field(None, description="file that log lines are appended to, as JSON")
    prometheus_folder: str | None = Field(
        None, description="of node_exporter's textfile collector; a few files for each stage"
    )
    pushgateway_url: str | None = Field(None, description="as in http://host:9091")
    pushgateway_url_env: VariableName | None = Field(
        None, description="name of the environment variable that holds that URL"
    )
    lineage_file: str | None = Field(
        None, description="file that OpenLineage events are appended to, as JSON lines"
    )
    lineage_url: str | None = Field(
        None,
        description="OpenLineage events are posted to, as in http://host:5000/api/v1/lineage; "
        "with OPENLINEAGE_API_KEY of the environment, where there is one",
    )
    lineage_url_env: VariableName | None = Field(
        None, description="name of the environment variable that holds that URL"
    )
    lineage_namespace: str = Field("millstream", description="of jobs in OpenLineage events")
    webhook_url: str | None = Field(
        None, description="told of failures and promotions, by a POST of a small JSON"
    )
    webhook_url_env: VariableName | None = Field(
        None, description="name of the environment variable that holds the webhook's URL"
    )
    timeout_s: float = Field(5.0, gt=0, description="longest wait for one observer at one event")

    @field_validator("pushgateway_url", "lineage_url", "webhook_url")
    @classmethod
    def _is_http_without_secret(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://none")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("give a URL http://... or https://...")
        if "@" in parts.netloc:
            raise ValueError("a user or password is no setting; see the *_env settings")
        if parts.query:
            raise ValueError("a query may hold a secret; see the *_env settings")
        return url

    @field_validator("json_log", "prometheus_folder", "lineage_file")
    @classmethod
    def _is_local(cls, path: str | None) -> str | None:
        if path is not None and ("://" in path or not path.strip()):
            raise ValueError("give a path of the driver's file system")
        return path
