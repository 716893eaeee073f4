"""State: what fitting knows as of a date, immutable and named by the digest of its content.

A state is a small JSON, `<lake>/<dataset>/states/<digest>/state.json`: statistics of the numeric
fields and, for each categorical field, how far the dataset's append-only id log reaches. The
entries themselves stay in the id log (one table a data set), so a night adds no copy of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property, partial
from itertools import islice
from typing import Any

from jobs.base.errors import DataRefused
from jobs.base.quantiles import Buckets, quantiles
from jobs.lake.lake import Lake
from jobs.stores.files import read_json, write_json
from schemas.field import Numeric, WithIds

# States that are in memory together.
_AT_ONCE = 8


@dataclass(frozen=True)
class NumericStats:
    """Of a numeric field's finite values in train rows, after its stateless transforms.

    `buckets` has their counts as `jobs.base.quantiles` cuts values into buckets.
    """

    count: int
    nulls: int
    mean: float
    std: float
    min: float
    max: float
    buckets: Buckets = ()

    def quantiles(self, *fractions: float) -> tuple[float, ...]:
        """Values below which the fractions of the rows lie, right to half a bucket; all NaN
        where there was no value."""
        if not self.count:
            return (math.nan,) * len(fractions)
        return quantiles(self.buckets, fractions, self.min, self.max)

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> NumericStats:
        return cls(**{**tree, "buckets": tuple((b, n) for b, n in tree["buckets"])})


@dataclass(frozen=True)
class Vocabulary:
    """How much of a field's id log a state knows.

    Attributes:
        entries: number of values with an id.
        rows: rows of an embedding table: the highest id, or the last OOV bucket's, plus 1.
        content: sum mod 2^64 over the entries of a 64-bit hash of (value, id).
    """

    entries: int
    rows: int
    content: int


@dataclass(frozen=True)
class State:
    """What fitting knows as of `ds`.

    Attributes:
        ds, id_log_version: where the entries are: those of that version with from_ds <= ds. Not
            content: another place with the same entries is the same state.
        declaration: digest of the data set's declaration.
        generation: of the id log; ids of different generations have nothing in common.
        numeric: statistics by field name.
        vocabulary: reach of the id log by the fields' `log_name`.
    """

    ds: str
    id_log_version: int
    declaration: str
    generation: int
    numeric: dict[str, NumericStats]
    vocabulary: dict[str, Vocabulary]

    @cached_property
    def digest(self) -> str:
        """Of the content, which leaves out where the entries are."""
        content = self.tree()
        del content["ds"], content["id_log_version"]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def tree(self) -> dict[str, Any]:
        """As JSON values. `asdict` would copy each count of each bucket."""
        tree = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("numeric", "vocabulary"):
            tree[name] = {key: vars(part) for key, part in tree[name].items()}
        return tree

    def table_rows(self, fields: Iterable[WithIds]) -> tuple[int, ...]:
        """Rows of each field's embedding table, in the fields' order."""
        return tuple(self.vocabulary[f.log_name].rows for f in fields)

    def means_and_stds(self, fields: Iterable[Numeric]) -> tuple[list[float], list[float]]:
        """Mean and deviation of each field, in the fields' order; deviations not 0."""
        stats = [self.numeric[f.name] for f in fields]
        return [s.mean for s in stats], [s.std if s.std > 0 else 1.0 for s in stats]


def state_folder(lake: Lake, digest: str) -> str:
    return lake.folder("states", digest)


def save_states(lake: Lake, states: Iterable[State]) -> dict[str, str]:
    """Writes states, some at a time; writing the same ones again changes nothing.

    Returns:
        Their digests by date.
    """
    digests: dict[str, str] = {}
    left = iter(states)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        while some := list(islice(left, _AT_ONCE)):
            different = {state.digest: state for state in some}.values()
            list(threads.map(partial(save_state, lake), different))
            digests |= {state.ds: state.digest for state in some}
    return digests


def save_state(lake: Lake, state: State) -> None:
    """Writes the state; writing the same one again changes nothing."""
    write_json(f"{state_folder(lake, state.digest)}/state.json", state.tree())


def load_state(lake: Lake, digest: str) -> State:
    """Reads a state and checks that its content has the digest it is named by.

    Raises:
        DataRefused: it is missing, or its content is another.
    """
    url = f"{state_folder(lake, digest)}/state.json"
    try:
        state = _parse(read_json(url))
    except FileNotFoundError as error:
        raise DataRefused(f"no state {digest} at {url}") from error
    if state.digest != digest:
        raise DataRefused(f"{url} holds content with digest {state.digest}", f"digest {digest}")
    return state


def _parse(tree: dict[str, Any]) -> State:
    return State(
        ds=tree["ds"],
        id_log_version=tree["id_log_version"],
        declaration=tree["declaration"],
        generation=tree["generation"],
        numeric={name: NumericStats.parse(stats) for name, stats in tree["numeric"].items()},
        vocabulary={name: Vocabulary(**part) for name, part in tree["vocabulary"].items()},
    )


def empty_stats(nulls: int) -> NumericStats:
    """Of a field that had no value in any train row."""
    return NumericStats(count=0, nulls=nulls, mean=0.0, std=0.0, min=0.0, max=0.0)
