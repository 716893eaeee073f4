"""A small JSON to a URL when a run fails or a model is promoted."""

from __future__ import annotations

from typing import Any

from jobs.observe.event import Event
from jobs.observe.http import address, post_json

_MOST_CHARACTERS = 2_000


class Webhook:
    """Posts failures and promotions.

    A failure is told once, by the step that failed, not again by the night around it. A run that
    found another one at work did not fail.

    Args:
        url: where to.
        environment: the variable that holds the URL, when `url` is None.
    """

    name = "webhook"

    def __init__(self, url: str | None, environment: str | None, timeout_s: float) -> None:
        self._url, self._environment, self._timeout_s = url, environment, timeout_s

    def tell(self, event: Event) -> None:
        if event.kind == "promotion" or (event.kind == "fail" and not self._is_told(event)):
            url = address(self._url, self._environment)
            post_json(url, message_of(event), self._timeout_s)

    @staticmethod
    def _is_told(event: Event) -> bool:
        return event.told or event.is_locked


def message_of(event: Event) -> dict[str, Any]:
    """The JSON. `text` says all in words: chat services show it."""
    subject = event.subject
    version = event.versions.get("champion") or event.versions.get("model", "")
    what = "failure" if event.kind == "fail" else "promotion"
    about = " ".join(filter(None, (subject.dataset, subject.ds)))
    if what == "failure":
        text = f"{about}: {subject.stage} failed (exit {event.exit_code}): {event.message}"
    else:
        text = f"{about}: model version {version} is the champion"
    return {
        "what": what,
        "dataset": subject.dataset,
        "ds": subject.ds,
        "run": subject.run,
        "stage": subject.stage,
        "message": event.message[:_MOST_CHARACTERS],
        "exit_code": event.exit_code,
        "version": version,
        "time": event.time.isoformat(timespec="seconds"),
        "text": text[:_MOST_CHARACTERS],
    }
