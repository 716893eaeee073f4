"""Secrets are taken out of what leaves the process."""

from __future__ import annotations

import os
import re

_USER_OF_URL = re.compile(r"(?<=://)[^/\s:@]+(?::[^/\s@]*)?@")
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|CREDENTIAL|WEBHOOK|_URI$|_DSN$", re.I
)
# A shorter value would be found in any text.
_SHORTEST = 8


def redacted(text: str) -> str:
    """The text without users and passwords of URLs, and without values of the environment's
    variables that are secrets by their names."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, f"[{name}]")
    return _USER_OF_URL.sub("[user]@", text)
