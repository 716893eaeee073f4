"""The section `observe`: no secrets in it, and results do not follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.observe.runs import settings_of


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"webhook_url": "https://user:pass@host/x"}, "a user or password is no setting"),
        ({"lineage_url": "https://host/x?token=abc"}, "a query may hold a secret"),
        ({"pushgateway_url": "host:9091"}, "give a URL"),
        ({"lineage_url": "ftp://host/x"}, "give a URL"),
        ({"json_log": "s3://bucket/log"}, "give a path"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_used_is_refused(wrong: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=named):
        settings_of(tmp_path, **wrong)


def test_results_do_not_follow_from_who_observes(tmp_path: Path) -> None:
    watched = settings_of(tmp_path, json_log="night.jsonl", timeout_s=9)
    assert watched.digest() == settings_of(tmp_path).digest()
