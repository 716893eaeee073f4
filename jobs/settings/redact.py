"""Secrets are taken out of what leaves the process."""

from __future__ import annotations

import os
import re

# A user may be empty, and a password may have a slash or an @: rather too much is taken than too
# little, but nothing behind a quote, as the text may be JSON.
_USER_OF_URL = re.compile(r"""(?<=://)(?:[^/\s:@"]*:[^\s@"]*|[^/\s@"]*)@(?:[^/\s@"]*@)*""")
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|CREDENTIAL|WEBHOOK|_URI$|_DSN$", re.I
)
# Variables that settings name as secrets, whatever their names.
_named: set[str] = set()
# A shorter value would be found in any text.
_SHORTEST = 8


def keep_secret(variable: str) -> None:
    """From now on the value of a variable of the environment is taken out, too."""
    _named.add(variable)


def redacted(text: str) -> str:
    """The text without users and passwords of URLs, and without values of the environment's
    variables that are secrets by their names, or by the settings."""
    for name, value in os.environ.items():
        is_secret = name in _named or _SECRET_NAME.search(name)
        if is_secret and len(value) >= _SHORTEST and value in text:
            text = text.replace(value, f"[{name}]")
    return without_users(text)


def without_users(text: str) -> str:
    """The text without users and passwords of URLs."""
    return _USER_OF_URL.sub("[user]@", text)
