"""One JSON to one URL. Whoever calls keeps the deadline of the whole: `jobs.base.bounded`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit


def address(url: str | None, environment: str | None) -> str:
    """The URL that the settings have, or that they name a variable of the environment for.

    Raises:
        OSError: there is no such variable, or it holds none. What it holds is not in it.
    """
    found = url or os.environ.get(environment or "", "")
    if not found:
        raise OSError(f"the environment has no variable {environment}")
    if not _is_url(found):
        raise OSError(f"the environment's {environment} holds no URL http://... or https://...")
    return found


def _is_url(text: str) -> bool:
    """What is none Python would name in full, with the secret in it."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    whole = text.isascii() and text.isprintable() and " " not in text
    return whole and parts.scheme in ("http", "https") and bool(parts.hostname)


def without_user(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL as it is asked for, and its user and password, which go into a header."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    host = parts.netloc.rpartition("@")[2]
    user, password = unquote(parts.username), unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=host)), (user, password)


def post_json(
    url: str, value: Any, timeout_s: float, headers: Mapping[str, str] | None = None
) -> None:
    """Posts the value; a user and password in the URL become Basic authentication.

    Raises:
        OSError: nobody answered within `timeout_s`, or not with a 2xx; the URL is not in it,
            which may hold a secret.
    """
    url, user = without_user(url)
    basic = {}
    if user is not None:
        basic["Authorization"] = f"Basic {b64encode(':'.join(user).encode()).decode()}"
    request = urllib.request.Request(
        url,
        json.dumps(value, default=str).encode(),
        {"Content-Type": "application/json", **basic, **(headers or {})},
        method="POST",
    )
    try:
        with _opener.open(request, timeout=timeout_s):
            pass
    except urllib.error.HTTPError as error:
        raise OSError(f"the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(f"no answer: {error.reason}") from None
    except TimeoutError:
        # After the connection; its own text says nothing.
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET that tells nobody anything; so it is an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)
