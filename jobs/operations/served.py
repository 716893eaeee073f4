"""What was served beside what the champion was trained on, and beside the batch scores.

Of the table `served`: drift by field, against the train rows that the champion's state was made of;
and the score of each served row beside the prediction of the same key by the same version.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from jobs.base.errors import DataRefused
from jobs.base.workers import in_workers
from jobs.etl.fit.expect import Bins, bins_of_rows, bins_until, stability_index
from jobs.etl.fit.history import CountHistory
from jobs.evaluate.predict.predict import SCORE
from jobs.evaluate.predict.predictions import MODEL_VERSION, predictions_schema
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.rows.base.arrays import without_dictionaries
from jobs.rows.base.names import DS, RAW
from jobs.rows.judge.resident import ResidentEngine
from jobs.rows.read.files import RawFile
from jobs.serve.live import looked_up, parent_files, refuse_bad_parents
from jobs.serve.request.errors import RequestError
from jobs.serve.request.rows import raw_rows
from jobs.settings.settings import Settings
from schemas.dataset import Dataset
from schemas.source import spark_name

TOLERANCE = 1e-6
# As the stability index is commonly read.
_SOME, _MUCH = 0.1, 0.2
_NAMED = 10
_SERVED, _BY, _PREDICTED = "__served", "__by", "__predicted"
# What is read of the table.
_ROWS = StructType().add(DS, "string").add(RAW, "string").add(SCORE, "float")
_ROWS.add(MODEL_VERSION, "string")
_NAMES, _KINDS = ("field", "bin", "rows", "why"), ("string", "bigint", "bigint", "string")
_TYPES = (pa.string(), pa.int64(), pa.int64(), pa.string())


@dataclass(frozen=True)
class Agreement:
    """Served scores beside the predictions of the same keys.

    Attributes:
        equal: pairs that differ by at most `TOLERANCE`.
        of_other_version: keys that another version of the model scored.
        different: the others.
        named: key, served score and prediction of some of those.
    """

    equal: int = 0
    of_other_version: int = 0
    different: int = 0
    named: tuple[tuple[str, float, float], ...] = ()


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
                f"batch scores of the same keys: {found.equal:,} equal, {found.different:,} "
                f"different, {found.of_other_version:,} by another version"
            )
            for key, served, predicted in found.named:
                lines.append(f"  {key}: served {served:.6g}, predicted {predicted:.6g}")
            if (more := found.different - len(found.named)) > 0:
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
    refuse_bad_parents(settings)
    served = _served(spark, lake, dates)
    rows, refused = served.agg(F.count("*"), F.count_if(F.col(SCORE).isNull())).first() or (0, 0)
    if not rows:
        raise DataRefused(
            "no served rows were kept" + (f" on {dates[0]}..{dates[-1]}" if dates else ""),
            remedy="set serve.log_fraction, and let clients ask",
        )
    judging = _JudgedAgain(dataset, parent_files(settings))
    bins, unread = _counted(served, judging)
    if not bins and unread:
        raise DataRefused(f"no served row can be judged: {next(iter(unread))}")
    return ServedReport(
        model_version=champion.version,
        rows=rows,
        refused=refused,
        unread=unread,
        drift=_drift(spark, lake, dataset, champion, bins),
        agreement=_agreement(lake, served, judging) if dataset.key else None,
    )


def _served(spark: SparkSession, lake: Lake, dates: Sequence[str]) -> DataFrame:
    rows = lake.table("served").spark(spark, _ROWS)
    return rows.where(F.col(DS).isin(*dates)) if dates else rows


@dataclass(frozen=True)
class _JudgedAgain:
    """Judges served rows again, in Spark's tasks.

    Attributes:
        files: of parents that rows are looked up in, by source.
    """

    dataset: Dataset
    files: Mapping[str, Sequence[RawFile]]

    def valid(
        self, batches: Iterable[pa.RecordBatch], unread: Counter[str] | None = None
    ) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Valid rows with their fields' values, and the served rows that they are, in parts.

        Args:
            unread: counts rows that cannot be read, by why.
        """
        parents = {name: looked_up(self.dataset, name, of) for name, of in self.files.items()}
        engine = ResidentEngine(self.dataset, (), parents, None, False)
        for batch in batches:
            groups: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
            for place, text in enumerate(batch[RAW].to_pylist()):
                row = json.loads(text)
                groups[tuple(sorted(row))].append((place, row))
            for names, rows in groups.items():
                columns = {name: [row[name] for _, row in rows] for name in names}
                try:
                    judged = engine.judge(raw_rows(self.dataset, columns, set(parents)).table)
                except RequestError as error:
                    if unread is not None:
                        unread[str(error)] += len(rows)
                    continue
                places = pa.array([rows[n][0] for n in judged.valid_places.tolist()], pa.int64())
                own = pa.Table.from_batches([batch]).take(places)
                yield without_dictionaries(judged.valid), own

    def counted(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Rows by field and bin, and by why they cannot be read."""
        unread = Counter[str]()
        found: dict[str, Bins] = defaultdict(Counter)
        for valid, _ in self.valid(batches, unread):
            for name, bins in bins_of_rows(valid, self.dataset).items():
                found[name].update(bins)
        rows = [(name, bin_, count, "") for name in found for bin_, count in found[name].items()]
        rows += [("", 0, count, why) for why, count in unread.items()]
        columns = zip(*rows, strict=True) if rows else ([], [], [], [])
        yield pa.record_batch(
            [pa.array(c, t) for c, t in zip(columns, _TYPES, strict=True)], _NAMES
        )

    def keyed(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Keys of the valid rows, with the served score and version."""
        kinds = to_arrow_schema(self.keys)
        for valid, own in self.valid(batches):
            columns = [valid[name].cast(kinds.field(name).type) for name in self.names]
            yield from (
                pa.table([*columns, own[SCORE], own[MODEL_VERSION]], [*self.names, _SERVED, _BY])
                .combine_chunks()
                .to_batches()
            )

    @property
    def names(self) -> list[str]:
        """A key is one row's within a date, and where rows have a date of their own it is the same
        here."""
        return [*self.dataset.key, *([DS] if self.dataset.ds is not None else [])]

    @property
    def keys(self) -> StructType:
        schema = predictions_schema(self.dataset)
        return StructType([schema[name] for name in self.names])


def _counted(served: DataFrame, judging: _JudgedAgain) -> tuple[dict[str, Bins], dict[str, int]]:
    """Rows by field and bin; rows that cannot be read, by why."""
    kinds = ", ".join(f"{name} {kind}" for name, kind in zip(_NAMES, _KINDS, strict=True))
    found = in_workers(served, judging.counted, kinds).groupBy("field", "bin", "why")
    bins: dict[str, Bins] = defaultdict(Counter)
    unread: dict[str, int] = {}
    for row in found.agg(F.sum("rows").alias("rows")).collect():
        if row["why"]:
            unread[row["why"]] = row["rows"]
        else:
            bins[row["field"]][row["bin"]] = row["rows"]
    return dict(bins), dict(sorted(unread.items()))


def _drift(
    spark: SparkSession,
    lake: Lake,
    dataset: Dataset,
    champion: ModelVersion,
    now: Mapping[str, Bins],
) -> dict[str, float]:
    state = load_state(lake, champion.tags["state_digest"])
    examples = lake.table("examples").commit_info(int(champion.tags["examples_version"]))
    contributions = examples["versions"]["contributions"]
    history = CountHistory.of(spark, lake.table("contributions"), contributions)
    before: Mapping[str, Bins] = bins_until(history, dataset, state.ds)
    counted_as = {f.name: f.log_name for f in dataset.counted}
    counted_as |= {f.name: f.name for f in dataset.measured}
    numbers = {f.name for f in dataset.measured}
    found = {
        name: stability_index(before[counted], now[counted], name in numbers)
        for name, counted in counted_as.items()
        if before.get(counted) and now.get(counted)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _agreement(lake: Lake, served: DataFrame, judging: _JudgedAgain) -> Agreement:
    table, names = lake.table("predictions"), judging.names
    if not table.exists():
        return Agreement()
    own = StructType(judging.keys.fields).add(_SERVED, "float").add(_BY, "string")
    scored = in_workers(served.where(F.col(SCORE).isNotNull()), judging.keyed, own)
    predicted = table.spark(served.sparkSession, predictions_schema(judging.dataset))
    newest = F.max_by(F.struct(MODEL_VERSION, SCORE), DS).alias(_PREDICTED)
    columns = [spark_name(name) for name in names]
    pairs = scored.join(predicted.groupBy(*columns).agg(newest), names).select(
        *columns, _SERVED, _BY, f"{_PREDICTED}.*"
    )
    same = F.col(_BY) == F.col(MODEL_VERSION)
    near = F.abs(F.col(_SERVED) - F.col(SCORE)) <= TOLERANCE
    counts = pairs.agg(F.count_if(same & near), F.count_if(~same), F.count_if(same & ~near))
    equal, other, different = counts.first() or (0, 0, 0)
    named = pairs.where(same & ~near).orderBy(*columns).limit(_NAMED).collect() if different else []
    texts = (", ".join(f"{name}={row[name]}" for name in names) for row in named)
    scores = ((row[_SERVED], row[SCORE]) for row in named)
    some = tuple((text, *pair) for text, pair in zip(texts, scores, strict=True))
    return Agreement(equal, other, different, some)
