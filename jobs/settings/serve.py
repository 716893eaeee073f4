"""The section `serve` of the settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jobs.settings.section import Section, VariableName


class ServeSettings(Section):
    """The server of the champion: where it listens, how much it takes, whom it answers."""

    host: str = Field("127.0.0.1", description="address that both ports listen on")
    port: int = Field(8080, ge=0, le=65_535, description="of HTTP; 0 takes a free one")
    grpc_port: int | None = Field(8081, ge=0, le=65_535, description="of gRPC; empty: none")
    replicas: int = Field(1, ge=1, le=256, description="processes on the same ports")
    engine: Literal["torch", "onnx"] = Field("torch", description="what computes the scores")
    threads: int = Field(1, ge=1, description="of a replica's engine")

    batch_rows: int = Field(1_024, ge=1, description="most rows that are scored together")
    batch_delay_us: int = Field(
        0, ge=0, description="how long a row may wait for others while the engine is free"
    )
    block_rows: int = Field(
        64, ge=1, description="rows of each forward, padded: a score does not depend on the others"
    )
    queue_rows: int = Field(8_192, ge=1, description="rows that may wait; more are shed at once")
    deadline_ms: int = Field(2_000, ge=1, description="longest wait of a request for its answer")

    watch_s: float = Field(2.0, gt=0, description="how often the champion's alias is looked up")
    stall_s: float = Field(30.0, ge=2, description="a replica that is still so long is replaced")
    drain_s: float = Field(20.0, gt=0, description="longest time for requests under way at the end")

    parents: dict[str, str] = Field(
        {}, description="files of parents to look rows up in, by source; others come with the rows"
    )
    parents_refresh_s: float = Field(300.0, gt=0, description="how often those files are looked at")

    most_body_mb: int = Field(16, ge=1, description="of a request; a larger one is refused")
    most_rows: int = Field(4_096, ge=1, description="of a request")
    most_connections: int = Field(1_024, ge=1, description="at a time, of a replica")
    body_timeout_s: float = Field(
        10.0, gt=0, description="from a request's first byte to its last, and to read an answer"
    )
    token_env: VariableName | None = Field(
        None, description="environment variable with the bearer tokens, separated by spaces"
    )
    token_file: str | None = Field(None, description="file with bearer tokens, one a line")
    tls_cert_file: str | None = Field(None, description="certificate chain, PEM")
    tls_key_file: str | None = Field(None, description="its private key, PEM")
    tls_client_ca_file: str | None = Field(
        None, description="authorities whose certificates clients must show"
    )

    log_fraction: float = Field(
        0.0, ge=0, le=1, description="share of answered rows, by hash, kept in the table `served`"
    )
    log_queue_rows: int = Field(20_000, ge=1, description="waiting for that table; the oldest go")
    account_s: float = Field(60.0, gt=0, description="how often the ledger gets a replica's counts")

    @model_validator(mode="after")
    def _is_safe(self) -> ServeSettings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file needs tls_cert_file and tls_key_file")
        if self.port and self.port == self.grpc_port:
            raise ValueError(f"port and grpc_port are both {self.port}")
        if self.most_rows > self.queue_rows:
            raise ValueError(f"most_rows ({self.most_rows}) is above queue_rows, so never taken")
        open_to_all = self.host not in ("127.0.0.1", "::1", "localhost")
        if open_to_all and not (self.token_env or self.token_file or self.tls_client_ca_file):
            raise ValueError(
                f"host {self.host} is open to others: set token_env, token_file or "
                "tls_client_ca_file"
            )
        return self
