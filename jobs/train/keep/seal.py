"""The commit of a checkpoint: one small file, written last, that says what the others must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COMMIT = "commit.json"


class Damaged(Exception):
    """A checkpoint differs from what was written; the message says in which file and how."""


@dataclass(frozen=True)
class TablesSeal:
    """What a commit says of sharded tables.

    Attributes:
        after: name of the folder beside it, of the checkpoint that its rows change; None where it
            has all rows.
        depth: number of checkpoints that it follows.
        moment_ns: in the names of these files.
        parts: for each rank, the SHA-256 of the file that says what it wrote.
    """

    after: str | None
    depth: int
    moment_ns: int
    parts: tuple[str, ...]

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> TablesSeal:
        return cls(**{**tree, "parts": tuple(tree["parts"])})


def sealed(commit: Mapping[str, Any], identity: Mapping[str, Any]) -> bytes:
    """The content of `commit.json`: the commit as text, with its SHA-256."""
    body = json.dumps(commit, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    # Beside that text, for vacuum, which only needs the versions that checkpoints use.
    needed = {name: identity[name] for name in ("examples_version", "state_digest")}
    return json.dumps({"sha256": digest, "commit": body, **needed}).encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """The commit, from the content of `commit.json`.

    Raises:
        Damaged: it is torn, or its SHA-256 differs.
    """
    try:
        seal = json.loads(data)
        body = seal["commit"]
        digest = hashlib.sha256(body.encode()).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{COMMIT} is torn") from error
    if digest != seal.get("sha256"):
        raise Damaged(f"{COMMIT} has another checksum than it says")
    tree: dict[str, Any] = json.loads(body)
    return tree


def read_part(fs: Any, path: str, name: str) -> bytes:
    """A file of a checkpoint; raises Damaged where it is missing."""
    try:
        data: bytes = fs.cat_file(f"{path}/{name}")
    except FileNotFoundError as error:
        raise Damaged(f"{name} is missing") from error
    return data
