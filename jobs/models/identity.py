"""What makes a saved model the one that it is: its name, sizes, source and tensors.

The registry keeps it, and the model's folder is named by it. It is compared before anything that a
card names is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobs.base.code import digest_of
from jobs.base.errors import DataRefused
from jobs.settings.objects import source_of


@dataclass(frozen=True)
class Identity:
    """The parts of a model's card that decide its scores, and those of what is trained from it.

    Attributes:
        model: its name, or the reference to its class.
        spec: digest of what it is built from.
        source: of a model of the user's own, see `source_of`; else empty.
        weights, moments: digests of the tensors; empty where there are none.
    """

    model: str
    spec: str
    source: str
    weights: str
    moments: str

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Identity:
        """The identity that `model.json` tells of."""
        spec = json.dumps(card.get("spec"), sort_keys=True)
        texts = (card.get(name, "") for name in ("source", "weights_digest", "moments_digest"))
        return cls(card.get("model", ""), digest_of(spec), *texts)

    @classmethod
    def of_text(cls, text: str) -> Identity:
        return cls(**json.loads(text))

    def as_text(self) -> str:
        """JSON; the same text for the same identity."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        return digest_of(self.as_text())


def refuse_changed_card(card: Mapping[str, Any], known: Identity, folder_url: str) -> None:
    """Refuses a card that is not the registered one.

    Raises:
        DataRefused: names the parts that differ.
    """
    found, expected = asdict(Identity.of_card(card)), asdict(known)
    changed = [name for name in found if found[name] != expected[name]]
    if changed:
        raise DataRefused(
            f"model.json in {folder_url} was changed: {', '.join(changed)}",
            "; ".join(f"{name} {expected[name] or 'none'}" for name in changed)
            + ", as it was registered",
            "restore the model's folder, or use another version",
        )


def refuse_changed_source(card: Mapping[str, Any], folder_url: str) -> None:
    """Refuses a model of the user's own whose source is not that which was trained.

    Raises:
        DataRefused: it is another now.
        ConfigError: it is not to be found.
    """
    trained = card.get("source")
    if not trained:
        return
    now = source_of(card["model"], card.get("base", "."))
    if now != trained:
        raise DataRefused(
            f"the source of model {card['model']!r} in {folder_url} was changed: it is {now}",
            f"{trained}, which was trained",
            "bring that source back, or train a model with the new one; train.warm_start takes "
            "the weights along",
        )
