"""Validate: typed rows to rows with the fields' values and all reasons against them.

A row without reasons is valid. Nothing is dropped: a row with reasons goes to quarantine, with
its text and its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyspark.errors import AnalysisException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import ConfigError, DataRefused
from jobs.etl.identity import Survey, identified, surveyed
from jobs.etl.images import image_reason
from jobs.etl.ingest import (
    DS,
    RAW,
    REASONS,
    SOURCE_FILE,
    UNDATED,
    ds_from_path,
    find_files,
    raw_lines,
    read_source,
)
from jobs.etl.names import ORDINAL
from jobs.etl.reasons import apart, joined, pattern_reasons
from schemas.dataset import Column, Dataset, Join, Source
from schemas.field import (
    Carried,
    Categorical,
    CategoricalList,
    Field,
    Image,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Timestamp,
    Weight,
)

LABEL_ABSENT = "label_absent"
_BASE = "__base_{}"


def dated_rows(
    spark: SparkSession,
    dataset: Dataset,
    sources: Mapping[str, str],
    dates: Sequence[str],
    with_label: bool = True,
    lines: DataFrame | None = None,
) -> DataFrame:
    """The row source's typed rows of the dates, and those whose date cannot be read (`undated`).

    Args:
        lines: the lines to take instead of all that the files have.

    Raises:
        DataRefused: no file, or another header than the declared one.
    """
    path = sources[dataset.rows]
    files = find_files(spark, path, dates) if lines is None else ()
    rows = read_source(spark, dataset.row_source, files, dataset.key, with_label, lines)
    if dataset.ds is not None:
        day = F.coalesce(F.date_format(F.expr(dataset.ds), "yyyy-MM-dd"), F.lit(UNDATED))
    else:
        day = _day_of_path(path, dataset, dates)
    rows = rows.withColumn(DS, day)
    return rows.where(F.col(DS).isin(*dates, UNDATED))


def _day_of_path(path: str, dataset: Dataset, dates: Sequence[str]) -> SparkColumn:
    if "{ds}" not in path:
        raise ConfigError(
            f"neither declaration {dataset.name!r} nor etl.sources.{dataset.rows} says the date",
            remedy="give the declaration a `ds`, or put {ds} into the path",
        )
    if len(dates) == 1:
        # All the files found are this date's.
        return F.lit(dates[0])
    return F.coalesce(ds_from_path(path), F.lit(UNDATED))


def survey(
    spark: SparkSession, dataset: Dataset, sources: Mapping[str, str], dates: Sequence[str]
) -> Survey:
    """Counts the raw rows of the dates, apart from all that follows, and finds repetitions.

    Raises:
        DataRefused: see `dated_rows`.
    """
    text = dataset.row_source.format in ("csv", "json")
    if dataset.ds is not None or dataset.key or not text:
        rows = dated_rows(spark, dataset, sources, dates)
    else:
        # Neither needs the lines parsed.
        rows = dated_lines(spark, dataset, sources, dates)
    return surveyed(rows, dataset, [*dates, UNDATED])


def dated_lines(
    spark: SparkSession, dataset: Dataset, sources: Mapping[str, str], dates: Sequence[str]
) -> DataFrame:
    """The row source's lines of the dates, not yet parsed, where the path says the date."""
    path = sources[dataset.rows]
    lines = raw_lines(spark, dataset.row_source, find_files(spark, path, dates))
    rows = lines.withColumn(DS, _day_of_path(path, dataset, dates))
    return rows.where(F.col(DS).isin(*dates, UNDATED))


def checked_rows(
    spark: SparkSession,
    dataset: Dataset,
    sources: Mapping[str, str],
    dates: Sequence[str],
    with_label: bool,
    found: Survey | None = None,
    lines: DataFrame | None = None,
) -> DataFrame:
    """The rows of the dates with their fields' values and the reasons against them.

    Args:
        sources: path of each source of the declaration.
        dates: as YYYY-MM-DD.
        found: of these dates, where it was made before.
        with_label: False in scoring: rules of label columns do not apply, labels are null.
        lines: the lines to take instead of all that the files have; repetitions all or none, but
            where they have their ordinals.

    Returns:
        `ds`, `row_id`, the key columns, one column a field (before encoding), `reasons`, `raw`,
        `source_file`.

    Raises:
        DataRefused: see `dated_rows`; or a parent has malformed rows or repeats a join key.
        ConfigError: an expression of the declaration cannot be resolved.
    """
    rows = dated_rows(spark, dataset, sources, dates, with_label, lines)
    for join in dataset.joins:
        files = find_files(spark, sources[join.source], dates)
        source = dataset.source(join.source)
        rows = _with_parent(rows, read_source(spark, source, files), source, join)
    try:
        judged = _judged(rows, dataset, with_label)
        return identified(judged, dataset, found or survey(spark, dataset, sources, dates))
    except AnalysisException as error:
        message = str(error).split("SQLSTATE")[0].splitlines()[0]
        raise ConfigError(f"declaration {dataset.name!r}: {message}") from error


def _with_parent(rows: DataFrame, parent: DataFrame, source: Source, join: Join) -> DataFrame:
    """Adds the parent's columns as one struct, null where there is no parent."""
    _refuse_bad_parent(parent, join)
    packed = parent.select(
        F.struct(*source.column_names).alias(join.source),
        *[F.col(theirs).alias(f"__on_{i}") for i, (_, theirs) in enumerate(join.on)],
    )
    on = [F.expr(ours) == F.col(f"__on_{i}") for i, (ours, _) in enumerate(join.on)]
    return rows.join(packed, on, "left").drop(*[f"__on_{i}" for i in range(len(on))])


def _refuse_bad_parent(parent: DataFrame, join: Join) -> None:
    key = [theirs for _, theirs in join.on]
    groups = parent.groupBy(*key).agg(
        F.count(F.lit(1)).alias("rows"),
        F.sum((F.col(REASONS) != "").cast("int")).alias("bad"),
        F.min(F.when(F.col(REASONS) != "", F.col(RAW))).alias("line"),
    )
    repeated = F.col("rows") > 1
    for name in key:
        repeated = repeated & F.col(name).isNotNull()
    found = groups.agg(
        F.sum("bad").alias("bad"),
        F.min("line").alias("line"),
        F.sum(repeated.cast("int")).alias("repeated"),
        F.min(F.when(repeated, F.concat_ws(", ", *key))).alias("example"),
    ).first()
    assert found is not None
    if found["bad"]:
        raise DataRefused(
            f"source {join.source!r} has {found['bad']} malformed rows, one is: {found['line']}",
            "rows that parse as declared, since parents have no quarantine",
            "correct the file, or the source's columns in the declaration",
        )
    if found["repeated"]:
        raise DataRefused(
            f"source {join.source!r}: {found['repeated']} keys ({', '.join(key)}) stand in more "
            f"than one row, one is ({found['example']})",
            "one row a key, since the join must not multiply rows",
            "make the parent unique before it lands",
        )


def _judged(rows: DataFrame, dataset: Dataset, with_label: bool) -> DataFrame:
    """Adds the fields' values and the reasons, as one text."""
    columns = [c for c in dataset.row_source.columns if with_label or not c.of_label]
    bases = {
        _BASE.format(f.name): F.expr(f.expr or f.name)
        for f in dataset.of_kind(Numeric)
        if f.transforms
    }
    values = {f.name: _value(f, with_label) for f in dataset.fields}
    first = rows.select(
        DS,
        RAW,
        apart(F.col(SOURCE_FILE)).alias(SOURCE_FILE),
        *[F.col(name).alias(f"__key_{name}") for name in dataset.key],
        joined([*_column_reasons(columns), *_parent_reasons(dataset)], F.col(REASONS)).alias(
            REASONS
        ),
        *[value.alias(name) for name, value in {**values, **bases}.items()],
        *[name for name in (ORDINAL,) if name in rows.columns],
    )
    reasons = joined(_field_reasons(dataset, with_label), F.col(REASONS))
    judged = first.withColumns({REASONS: reasons, SOURCE_FILE: apart(F.col(SOURCE_FILE))})
    judged = judged.drop(*bases)
    for name in dataset.key:
        judged = judged.withColumnRenamed(f"__key_{name}", name)
    return judged


def _parent_reasons(dataset: Dataset) -> list[SparkColumn]:
    return [
        F.when(F.col(join.source).isNull(), F.lit(f"no_parent:{join.source}"))
        for join in dataset.joins
        if join.required
    ]


def _column_reasons(columns: Sequence[Column]) -> Iterator[SparkColumn]:
    for column in columns:
        value = F.col(column.name)
        if column.min is not None:
            yield F.when(value < column.min, F.lit(f"below_min:{column.name}"))
        if column.max is not None:
            yield F.when(value > column.max, F.lit(f"above_max:{column.name}"))
        if column.allowed is not None:
            yield F.when(~value.isin(*column.allowed), F.lit(f"not_allowed:{column.name}"))
    yield from pattern_reasons(columns)


def _value(f: Field, with_label: bool) -> SparkColumn:
    match f:
        case Numeric() | Weight():
            return F.expr(f.sql).cast("float")
        case Label():
            return (F.expr(f.sql) if with_label else F.lit(None)).cast("float")
        case Categorical():
            return F.expr(f.sql)
        case Carried():
            return F.expr(f.sql).cast(f.type)
        case Timestamp():
            return F.expr(f.sql).cast("timestamp")
        case NumericList() | CategoricalList():
            values = F.coalesce(F.expr(f.sql), F.array())
            return F.slice(values, 1, f.max_length) if f.too_long == "keep_first" else values
        case Tensor():
            return F.expr(f.sql).cast("array<float>")
        case _:
            return F.expr(f.sql).cast("binary")


def _field_reasons(dataset: Dataset, with_label: bool) -> Iterator[SparkColumn]:
    yield F.when(F.col(DS) == UNDATED, F.lit(UNDATED))
    for f in dataset.fields:
        value = F.col(f.name)
        match f:
            case Numeric():
                lost = _not_finite(value)
                if f.transforms:
                    lost = lost | (value.isNull() & F.col(_BASE.format(f.name)).isNotNull())
                yield F.when(lost, F.lit(f"not_finite:{f.name}"))
            case Weight():
                bad = value.isNull() | _not_finite(value) | (value <= 0)
                yield F.when(bad, F.lit(f"weight:{f.name}"))
            case Label() if with_label:
                yield F.when(value.isNull(), F.lit(LABEL_ABSENT))
                yield F.when(_not_finite(value), F.lit(f"not_finite:{f.name}"))
                if f.task == "multiclass":
                    known = (value >= 0) & (value < f.classes) & (value == F.floor(value))
                    yield F.when(~known, F.lit(f"no_class:{f.name}"))
            case Tensor():
                size = 1
                for length in f.shape:
                    size *= length
                whole = (F.size(value) == size) & ~F.exists(value, lambda x: x.isNull())
                yield F.when(value.isNull() | ~whole, F.lit(f"shape:{f.name}"))
            case NumericList():
                yield from _list_reasons(f)
                yield F.when(F.exists(value, lambda x: x.isNull()), F.lit(f"null_element:{f.name}"))
                yield F.when(F.exists(value, _not_finite), F.lit(f"not_finite:{f.name}"))
            case CategoricalList():
                yield from _list_reasons(f)
            case Image():
                yield image_reason(f)


def _list_reasons(f: NumericList | CategoricalList) -> Iterator[SparkColumn]:
    yield F.when(F.size(f.name) > f.max_length, F.lit(f"too_long:{f.name}"))


def _not_finite(value: SparkColumn) -> SparkColumn:
    return F.isnan(value) | (F.abs(value) == float("inf"))
