"""What a declaration says against itself."""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from schemas.expect import Drift, Nulls
from schemas.field import (
    Carried,
    CategoricalList,
    Label,
    NumericList,
    Weight,
    WithIds,
)
from schemas.fitting import misfits
from schemas.parts import Parts
from schemas.source import IMAGE_COLUMNS, NUMPY_OF_TYPE, Column, Join, Source
from schemas.stored import ROW_ID
from schemas.text import Replace

# Columns of the examples that Millstream itself adds; raw columns may be named so.
RESERVED = frozenset(
    {"ds", "split", "shard", ROW_ID, "raw", "source_file", "reasons", "score", "run_id"}
    | {"model_version", "predicted_class", "scores"}
)

# What names begin with that Millstream makes for itself, here and there.
_OF_THE_ENGINE = "__"

# What fields with one vocabulary have in common.
_OF_VOCABULARY = ("min_count", "max_size", "oov_buckets")


def _duplicates(names: Sequence[str]) -> list[str]:
    """Names that are there more than once: SQL does not tell upper from lower case."""
    alike = Counter(name.lower() for name in names)
    return sorted({name for name in names if alike[name.lower()] > 1})


def problems(dataset: Parts) -> Iterator[str]:
    """What contradicts itself, in words; nothing when the declaration is sound."""
    yield from misfits(dataset)
    if dataset.name.strip() in ("", ".", "..") or re.search(r"[/\\:\x00-\x1f]", dataset.name):
        yield f"name={dataset.name!r} is no name of a folder and of models; leave out / \\ and :"
    source_names = [source.name for source in dataset.sources]
    named = {"source": source_names, "field": [f.name for f in dataset.fields]}
    for what in (what for what, names in named.items() if not all(names)):
        yield f"a {what} has no name"
    if repeated := _duplicates(source_names):
        yield f"sources named twice: {', '.join(repeated)}"
    if dataset.rows not in source_names:
        yield f"rows={dataset.rows!r} is no source; the sources are {', '.join(source_names)}"
        return
    yield from _source_problems(dataset)
    columns = dataset.row_source.column_names
    for role, names in (("key", dataset.key), ("entity", dataset.entity)):
        for name in names:
            if name not in columns:
                yield f"{role} column {name!r} is not in source {dataset.rows!r}"
    if repeated := _duplicates([join.source for join in dataset.joins]):
        yield (
            f"two joins with {', '.join(repeated)}; declare the source twice, under two names, and "
            "give both the same path in etl.sources"
        )
    for join in dataset.joins:
        yield from _join_problems(dataset, join)
    yield from _field_problems(dataset)
    yield from _expectation_problems(dataset)


def _expectation_problems(dataset: Parts) -> Iterator[str]:
    names = [f.name for f in dataset.fields]
    fitted = {f.name for f in (*dataset.numeric, *dataset.of_kind(NumericList), *dataset.counted)}
    if repeated := _duplicates([expectation.name for expectation in dataset.expectations]):
        yield f"expectations named twice: {', '.join(repeated)}"
    for expectation in dataset.expectations:
        if isinstance(expectation, Nulls | Drift) and expectation.field not in names:
            yield f"expectation {expectation.name!r} names no field"
        elif isinstance(expectation, Drift) and expectation.field not in fitted:
            yield (
                f"expectation {expectation.name!r}: only numeric fields, and categorical ones with "
                "a vocabulary, have counts to drift from"
            )


def _source_problems(dataset: Parts) -> Iterator[str]:
    for source in dataset.sources:
        if repeated := _duplicates(source.column_names):
            yield f"source {source.name!r} has columns twice: {', '.join(repeated)}"
        if taken := [c for c in source.column_names if c.startswith(_OF_THE_ENGINE)]:
            yield (
                f"source {source.name!r} has columns that begin with two underscores, as only "
                f"Millstream's own do: {', '.join(taken)}; give them another name, and the file's "
                "as `header` or `path`"
            )
        if not all(source.column_names or ("",)):
            yield f"source {source.name!r} has no columns, or one without a name"
        for column in source.columns:
            for problem in _rule_problems(column):
                yield f"column {source.name}.{column.name} {problem}"
        if source.format == "images":
            yield from _image_source_problems(source)
            continue
        for column in source.columns:
            if column.type.strip().lower() not in NUMPY_OF_TYPE:
                known = ", ".join(NUMPY_OF_TYPE)
                place = f"{source.name}.{column.name}"
                yield f"column {place} has type {column.type!r}; known are {known}"
        yield from _layout_problems(source)


def _rule_problems(column: Column) -> Iterator[str]:
    for name, bound in (("min", column.min), ("max", column.max)):
        if bound is not None and math.isnan(bound):
            yield f"has {name}={bound!r}; bounds are numbers"
    if column.allowed is not None and not column.allowed:
        yield f"has allowed={column.allowed!r}; give a tuple of one value or more"
    if column.pattern is not None and (why := _why_no_regex(column.pattern)):
        yield f"has the pattern {column.pattern!r}, which RE2 refuses: {why}"


def _why_no_regex(pattern: str, by: str = "") -> str:
    """Why RE2 cannot find a pattern's matches and replace them; empty if it can."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        pc.replace_substring_regex(pa.array([""]), pattern, by)
    except pa.ArrowInvalid as error:
        return str(error)
    return ""


def _layout_problems(source: Source) -> Iterator[str]:
    """What the layout of a source's files says against itself."""
    ends = {"\0", "\r", "\n"}
    if not source.delimiter or {*source.delimiter} & {*ends, source.quote}:
        yield (
            f"source {source.name!r}: delimiter is {source.delimiter!r}; it must be a character or "
            "more, without the quote, zeros and ends of lines"
        )
    for name in ("quote", "escape", "comment"):
        value, any_script = getattr(source, name), name == "comment"
        if len(value) > 1 or value in ends or not (any_script or value.isascii()):
            one = "one character" if any_script else "one character of ASCII"
            yield (
                f"source {source.name!r}: {name} is {value!r}; it must be {one}, no zero or end of "
                "a line, or empty"
            )
    if source.escape not in ("", "\\"):
        yield (
            f"source {source.name!r}: escape is {source.escape!r}; it must be a backslash, or the "
            f"quote itself, {source.quote!r}"
        )
    if not _is_encoding(source.encoding):
        yield f"source {source.name!r} has the encoding {source.encoding!r}, which is none of texts"
    if nested := [c.name for c in source.columns if c.path and source.format == "csv"]:
        yield f"source {source.name!r} is csv, where no path leads to {', '.join(nested)}"
    if renamed := [c.name for c in source.columns if c.header and source.format != "csv"]:
        yield f"source {source.name!r} is no csv: there is no header to name {', '.join(renamed)}"
    wild = [column.name for column in source.columns if {"*", "**"} & {*column.place}]
    if wild and source.format == "json":
        yield f"source {source.name!r} is json, where a key * cannot be read: {', '.join(wild)}"
    places = {column.place for column in source.columns}
    for column in source.columns:
        outer = [column.place[:end] for end in range(1, len(column.place))]
        if inside := [place for place in outer if place in places]:
            yield f"column {column.name!r} lies inside the column {'.'.join(inside[0])!r}"


def _is_encoding(name: str) -> bool:
    """Whether Python has it, for texts, and tells bytes that are none apart."""
    try:
        "".encode(name)
        codecs.getincrementaldecoder(name)("backslashreplace").decode(b"a", False)
    except (LookupError, ValueError):
        return False
    return True


def _image_source_problems(source: Source) -> Iterator[str]:
    for column in source.columns:
        place = f"{source.name}.{column.name}"
        if column.name not in IMAGE_COLUMNS:
            yield f"column {place} is none of a folder of images: {', '.join(IMAGE_COLUMNS)}"
        elif column.type != IMAGE_COLUMNS[column.name]:
            yield f"column {place} has type {column.type!r}; it is {IMAGE_COLUMNS[column.name]!r}"


def _join_problems(dataset: Parts, join: Join) -> Iterator[str]:
    names = {source.name for source in dataset.sources} - {dataset.rows}
    if join.source not in names:
        yield f"join with {join.source!r}, which is no other source"
        return
    if join.source.lower() in (name.lower() for name in dataset.row_source.column_names):
        yield f"parent {join.source!r} is also a column of {dataset.rows!r}; rename the source"
    if not join.on:
        yield f"join with {join.source!r} on nothing"
    for _, parent_column in join.on:
        if parent_column not in dataset.source(join.source).column_names:
            yield f"join on {join.source}.{parent_column}, which is not declared"


def _cross_problems(dataset: Parts) -> Iterator[str]:
    crossable = {f.name: f for f in dataset.categorical if not f.crossed}
    for f in dataset.categorical:
        parts = [crossable[name] for name in f.crossed if name in crossable]
        if len(f.crossed) == 1 or len(parts) < len(f.crossed):
            names = ", ".join(f.crossed)
            yield f"field {f.name!r} crosses {names}; give 2 or more categorical fields"
        elif parts and f.expr:
            yield f"field {f.name!r} has an expr and crosses others; give one of the two"


def _replace_problems(dataset: Parts) -> Iterator[str]:
    for f in dataset.categorical:
        for transform in f.transforms:
            if not isinstance(transform, Replace):
                continue
            if why := _why_no_regex(transform.pattern, transform.by):
                yield f"field {f.name!r}: RE2 refuses {transform}: {why}"


def _vocabulary_problems(dataset: Parts) -> Iterator[str]:
    logs: dict[str, WithIds] = {}
    for f in dataset.with_ids:
        first = logs.setdefault(f.log_name, f)
        if any(getattr(first, part) != getattr(f, part) for part in _OF_VOCABULARY):
            alike = ", ".join(_OF_VOCABULARY)
            yield f"fields {first.name!r} and {f.name!r} share a vocabulary; {alike} must be equal"
    if mixed := sorted(logs.keys() & {f.name for f in dataset.measured}):
        yield f"vocabularies named like numeric fields: {', '.join(mixed)}"


def _field_problems(dataset: Parts) -> Iterator[str]:
    yield from _cross_problems(dataset)
    yield from _replace_problems(dataset)
    yield from _vocabulary_problems(dataset)
    names = [f.name for f in dataset.fields]
    if repeated := _duplicates([*names, *dataset.key]):
        yield f"fields named twice, or as a key column: {', '.join(repeated)}"
    if taken := sorted(n for n in {*names, *dataset.key} if n.lower() in RESERVED):
        yield f"fields named like Millstream's own columns: {', '.join(taken)}"
    if taken := [n for n in names if n.startswith(_OF_THE_ENGINE)]:
        yield (
            "fields that begin with two underscores, as only Millstream's own columns do: "
            f"{', '.join(taken)}"
        )
    if len(dataset.of_kind(Label)) != 1:
        yield f"{len(dataset.of_kind(Label))} labels; exactly one is needed"
    if len(dataset.of_kind(Weight)) > 1:
        yield "more than one weight"
    for carried in dataset.of_kind(Carried):
        if carried.type.strip().lower() not in NUMPY_OF_TYPE:
            known = ", ".join(NUMPY_OF_TYPE)
            yield f"field {carried.name!r} has type {carried.type!r}; known are {known}"
    for f in (*dataset.of_kind(NumericList), *dataset.of_kind(CategoricalList)):
        if f"{f.name}_length" in names:
            yield f"field {f.name}_length has the name of the lengths of list {f.name!r}"
    if not (dataset.measured or dataset.with_ids or dataset.tensors):
        yield "no numeric, categorical, tensor, image or list field: a model would see nothing"
