"""What was served beside what the champion was trained on, and beside the batch scores.

Of the table `served`: drift by field, against the train rows that the champion's state was made of;
and the score of each served row beside the prediction of the same key by the same version.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.etl.fit.expect import Bins, bins_of_rows, bins_until, stability_index
from jobs.etl.fit.history import CountHistory
from jobs.evaluate.predict.predict import SCORE
from jobs.evaluate.predict.predictions import MODEL_VERSION
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.rows.base.arrays import without_dictionaries
from jobs.rows.base.names import DS, RAW
from jobs.rows.judge.resident import ResidentEngine
from jobs.serve.live import looked_up, parent_files, refuse_bad_parents
from jobs.serve.request.errors import RequestError
from jobs.serve.request.rows import raw_rows
from jobs.settings.settings import Settings
from schemas.dataset import Dataset

TOLERANCE = 1e-6
# As the stability index is commonly read.
_SOME, _MUCH = 0.1, 0.2
_NAMED = 10
_SERVED = "__served"


@dataclass(frozen=True)
class Agreement:
    """Served scores beside the predictions of the same keys.

    Attributes:
        equal: pairs that differ by at most `TOLERANCE`.
        of_other_version: keys that another version of the model scored.
        different: key, served score and prediction of the others.
    """

    equal: int = 0
    of_other_version: int = 0
    different: list[tuple[str, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class ServedReport:
    """
    Attributes:
        rows, refused: of the table; rows without a score.
        unread: rows that cannot be judged again, by why.
        drift: stability index by field, the largest first.
        agreement: None where the declaration has no key.
    """

    model_version: str
    rows: int
    refused: int
    unread: Mapping[str, int]
    drift: Mapping[str, float]
    agreement: Agreement | None

    def text(self) -> str:
        """A short table."""
        lines = [
            f"served: {self.rows:,} rows, {self.refused:,} of them refused; beside the train rows "
            f"of model version {self.model_version}"
        ]
        lines += [f"  {count:,} rows are left out: {why}" for why, count in self.unread.items()]
        width = max(map(len, self.drift), default=0)
        lines += [f"  {name:<{width}}  {x:8.4f}{_word(x)}" for name, x in self.drift.items()]
        if (found := self.agreement) is not None:
            lines.append(
                f"batch scores of the same keys: {found.equal:,} equal, {len(found.different):,} "
                f"different, {found.of_other_version:,} by another version"
            )
            for key, served, predicted in found.different[:_NAMED]:
                lines.append(f"  {key}: served {served:.6g}, predicted {predicted:.6g}")
            if (more := len(found.different) - _NAMED) > 0:
                lines.append(f"  and {more:,} more")
        return "\n".join(lines)


def _word(index: float) -> str:
    return "  much drift" if index > _MUCH else "  some drift" if index > _SOME else ""


def report_served(settings: Settings, spark: SparkSession, dates: Sequence[str]) -> ServedReport:
    """
    Args:
        dates: on which rows were served; none: all.

    Raises:
        DataRefused: no rows were kept, or there is no champion.
    """
    dataset = settings.dataset()
    lake = Lake(settings.lake_url, dataset.name)
    champion = Registry(settings, lake).resolve("champion")
    served = _served(lake, dates)
    valid, unread = _judged_again(settings, dataset, served)
    return ServedReport(
        model_version=champion.version,
        rows=served.num_rows,
        refused=served[SCORE].null_count,
        unread=unread,
        drift=_drift(spark, lake, dataset, champion, valid),
        agreement=_agreement(lake, dataset, served, valid) if dataset.key else None,
    )


def _served(lake: Lake, dates: Sequence[str]) -> pa.Table:
    table = lake.table("served")
    rows = table.read_arrow() if table.exists() else None
    if rows is not None and dates:
        rows = rows.filter(pc.is_in(rows[DS], value_set=pa.array(dates)))
    if rows is None or not rows.num_rows:
        raise DataRefused(
            "no served rows were kept" + (f" on {dates[0]}..{dates[-1]}" if dates else ""),
            remedy="set serve.log_fraction, and let clients ask",
        )
    return rows


def _judged_again(
    settings: Settings, dataset: Dataset, served: pa.Table
) -> tuple[pa.Table, dict[str, int]]:
    """The valid rows with their fields' values and places; why others could not be read."""
    refuse_bad_parents(settings)
    files = parent_files(settings)
    parents = {name: looked_up(dataset, name, of) for name, of in files.items()}
    engine = ResidentEngine(dataset, (), parents, None, False)
    groups: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for place, text in enumerate(served[RAW].to_pylist()):
        row = json.loads(text)
        groups[tuple(sorted(row))].append((place, row))
    tables: list[pa.Table] = []
    unread: dict[str, int] = {}
    for names, rows in groups.items():
        columns = {name: [row[name] for _, row in rows] for name in names}
        try:
            judged = engine.judge(raw_rows(dataset, columns, set(parents)).table)
        except RequestError as error:
            unread[str(error)] = unread.get(str(error), 0) + len(rows)
            continue
        places = pa.array([rows[n][0] for n in judged.valid_places.tolist()], pa.int64())
        tables.append(judged.valid.append_column(_SERVED, places))
    if not tables:
        raise DataRefused(f"no served row can be judged: {next(iter(unread))}")
    return pa.concat_tables([without_dictionaries(table) for table in tables]), unread


def _drift(
    spark: SparkSession, lake: Lake, dataset: Dataset, champion: ModelVersion, valid: pa.Table
) -> dict[str, float]:
    state = load_state(lake, champion.tags["state_digest"])
    examples = lake.table("examples").commit_info(int(champion.tags["examples_version"]))
    contributions = examples["versions"]["contributions"]
    history = CountHistory.of(spark, lake.table("contributions"), contributions)
    before: Mapping[str, Bins] = bins_until(history, dataset, state.ds)
    now = bins_of_rows(valid, dataset)
    counted_as = {f.name: f.log_name for f in dataset.counted}
    counted_as |= {f.name: f.name for f in dataset.measured}
    numbers = {f.name for f in dataset.measured}
    found = {
        name: stability_index(before[counted], now[counted], name in numbers)
        for name, counted in counted_as.items()
        if before.get(counted) and now.get(counted)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _agreement(lake: Lake, dataset: Dataset, served: pa.Table, valid: pa.Table) -> Agreement:
    found = Agreement()
    table = lake.table("predictions")
    if not table.exists():
        return found
    # A key is one row's within a date, and where rows have a date of their own it is the same here.
    names = [*dataset.key, *([DS] if dataset.ds is not None else [])]
    predicted: dict[tuple[Any, ...], tuple[str, float]] = {
        tuple(row[name] for name in names): (row[MODEL_VERSION], row[SCORE])
        for row in table.read_arrow().select([*names, MODEL_VERSION, SCORE]).to_pylist()
    }
    equal = other = 0
    scores, versions = served[SCORE].to_pylist(), served[MODEL_VERSION].to_pylist()
    for row in valid.select([*names, _SERVED]).to_pylist():
        score, version = scores[row[_SERVED]], versions[row[_SERVED]]
        key = tuple(row[name] for name in names)
        if score is None or key not in predicted:
            continue
        batch_version, batch_score = predicted[key]
        if batch_version != version:
            other += 1
        elif abs(batch_score - score) <= TOLERANCE:
            equal += 1
        else:
            text = ", ".join(f"{name}={row[name]}" for name in names)
            found.different.append((text, score, batch_score))
    return Agreement(equal, other, found.different)
