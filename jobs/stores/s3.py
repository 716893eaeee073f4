"""S3 and what speaks like it."""

from __future__ import annotations

import os
from typing import Any

from jobs.stores.store import ObjectStore


class S3Store(ObjectStore):
    """Guarded by conditional writes (If-None-Match, If-Match), which S3 and its kin have."""

    def read_tagged(self, path: str) -> tuple[bytes | None, str]:
        try:
            # The tag first: should the file change in between, the write fails.
            tag = self.fs.info(path, refresh=True)["ETag"]
            return self.fs.cat_file(path), tag
        except FileNotFoundError:
            return None, ""

    def create(self, path: str, content: bytes) -> bool:
        return self._put(path, content, IfNoneMatch="*")

    def replace(self, path: str, content: bytes, tag: str) -> bool:
        return self._put(path, content, IfMatch=tag)

    def _put(self, path: str, content: bytes, **condition: Any) -> bool:
        bucket, key, _ = self.fs.split_path(path)
        try:
            self.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
        except OSError as error:
            # Also when it was done, its answer lost, and the client's second try refused.
            if not _is_conflict(error):
                raise
            return self.read_tagged(path)[0] == content
        return True


def _is_conflict(error: OSError) -> bool:
    answer = getattr(error.__cause__, "response", {})
    codes = ("PreconditionFailed", "ConditionalRequestConflict")
    return answer.get("Error", {}).get("Code") in codes


def delta_options() -> dict[str, str]:
    """What delta-rs must be told besides the environment; it refuses plain HTTP by itself."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    return {"allow_http": "true"} if endpoint.startswith("http://") else {}
