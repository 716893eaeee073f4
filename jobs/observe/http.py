"""One JSON to one URL. Whoever calls keeps the deadline of the whole: `jobs.observe.run.within`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any


def post_json(
    url: str, value: Any, timeout_s: float, headers: Mapping[str, str] | None = None
) -> None:
    """Posts the value.

    Raises:
        OSError: nobody answered within `timeout_s`, or not with a 2xx; the URL is not in it,
            which may hold a secret.
    """
    request = urllib.request.Request(
        url,
        json.dumps(value, default=str).encode(),
        {"Content-Type": "application/json", **(headers or {})},
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
