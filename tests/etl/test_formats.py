"""What is read from each format, compression and encoding; nothing is lost and nothing guessed."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from jobs.etl.ingest import read_source
from jobs.etl.lines import decoded_blocks, readable
from schemas.dataset import Column, Source

THINGS = Source(
    "things",
    columns=(Column("id", "bigint", nullable=False), Column("name", "string")),
    null_value="NA",
)
TEXT = 'id,name\n1,café\n\n2,"say ""hi"", you"\n3,NA\n4,日本\n'
NAMES = {1: "café", 2: 'say "hi", you', 3: None, 4: "日本"}


def rows_of(spark: SparkSession, source: Source, *files: Path) -> list[Row]:
    rows = read_source(spark, source, [f"file:{file}" for file in files])
    return sorted(rows.collect(), key=lambda row: (row["id"] is None, row["id"], row["raw"]))


def names_of(rows: list[Row]) -> dict[int, Any]:
    assert not any(row["reasons"] for row in rows)
    return {row["id"]: row["name"] for row in rows}


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstd), (".zstd", zstd)],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_compressed_text_is_the_text(
    suffix: str,
    compress: Callable[[bytes], bytes],
    encoding: str,
    tmp_path: Path,
    spark: SparkSession,
) -> None:
    file = tmp_path / f"things.csv{suffix}"
    file.write_bytes(compress(TEXT.replace("\n", "\r\n").encode(encoding)))
    rows = rows_of(spark, replace(THINGS, encoding=encoding), file)
    assert names_of(rows) == NAMES
    assert {row["source_file"] for row in rows} == {f"file:{file}"}
    assert [row["raw"] for row in rows] == TEXT.replace("\n\n", "\n").splitlines()[1:]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8-sig", "utf-16-be"])
def test_encodings(encoding: str, tmp_path: Path, spark: SparkSession) -> None:
    file = tmp_path / "things.csv"
    file.write_bytes("id,name\n1,café\n".encode(encoding))
    assert names_of(rows_of(spark, replace(THINGS, encoding=encoding), file)) == {1: "café"}


def test_bytes_that_are_no_text_are_refused_and_kept(tmp_path: Path, spark: SparkSession) -> None:
    bad = b"2,caf\xe9 \\ \xe6\x97\xa5"
    file = tmp_path / "things.csv"
    file.write_bytes(b"id,name\n1,fine\n" + bad + b"\n")
    rows = read_source(spark, THINGS, [str(file)])
    found = {row["id"]: row for row in rows.withColumn("raw", readable(F.col("raw"))).collect()}
    assert {key: row["reasons"] for key, row in found.items()} == {1: "", 2: "encoding"}
    assert found[1]["raw"] == "1,fine"
    assert found[2]["raw"] == r"2,caf\xe9 \\ \xe6\x97\xa5"
    assert found[2]["raw"].encode().decode("unicode_escape").encode("latin-1") == bad


def test_undecodable_bytes_of_other_encodings(tmp_path: Path, spark: SparkSession) -> None:
    file = tmp_path / "things.csv"
    file.write_bytes(b"id,name\n1,\x80uro\n2,a\\b\x81\n")
    first, second = rows_of(spark, replace(THINGS, encoding="cp1252"), file)
    assert (first["name"], first["reasons"]) == ("€uro", "")
    assert (second["raw"], second["reasons"]) == ("2,a\\\\b\\x81", "encoding")


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_lines_do_not_depend_on_blocks(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.etl.lines._BLOCK_BYTES", block)
    file = tmp_path / "lines.txt"
    file.write_bytes("a\r\n日\n\nb\rc\u2028d\r\n".encode("utf-16"))
    lines = [line for lines in decoded_blocks(str(file), "utf-16") for line in lines]
    assert lines == ["a", "日", "", "b", "c\u2028d"]


def test_headerless_tabs_without_quotes_and_comments(tmp_path: Path, spark: SparkSession) -> None:
    source = replace(THINGS, delimiter="\t", header=False, quote="", comment="#")
    file = tmp_path / "things.tsv"
    file.write_text('\ufeff1\t"open\n# a comment\n2\ta "b"\n', encoding="utf-8")
    assert names_of(rows_of(spark, source, file)) == {1: '"open', 2: 'a "b"'}


def test_a_comment_may_stand_before_the_header(tmp_path: Path, spark: SparkSession) -> None:
    file = tmp_path / "things.csv"
    file.write_text('# made by hand\n"id","name"\n1,x\n', encoding="utf-8")
    assert names_of(rows_of(spark, replace(THINGS, comment="#"), file)) == {1: "x"}
    with pytest.raises(DataRefused, match="missing id, name; unknown # made by hand"):
        rows_of(spark, THINGS, file)


NESTED = Source(
    "nested",
    format="json",
    columns=(
        Column("id", "bigint", nullable=False),
        Column("name", "string", path="user.name"),
        Column("city", "string", path="user.address.city"),
        Column("price", "double"),
    ),
)


def test_json_values_keep_their_text(tmp_path: Path, spark: SparkSession) -> None:
    lines = {
        1: '{"id": 1, "user": {"name": 1.50, "address": {"city": "B\\u00e9 1.5,"}}, "price": 2}',
        2: '{"price": 1.25, "id": "2", "user": {"name": "ann"}, "unknown": [1.5, {"a": -2E+5}]}',
        3: '{"id": 3, "user": {"name": 12345678901234567890.10}}',
        4: '{"id": 4, "user": null, "price": null}',
    }
    file = tmp_path / "nested.json"
    file.write_text("\n".join(lines.values()), encoding="utf-8")
    rows = rows_of(spark, NESTED, file)
    found = {row["id"]: (row["name"], row["city"], row["price"]) for row in rows}
    assert found == {
        1: ("1.50", "Bé 1.5,", 2.0),
        2: ("ann", None, 1.25),
        3: ("12345678901234567890.10", None, None),
        4: (None, None, None),
    }
    assert not any(row["reasons"] for row in rows)
    assert {row["id"]: row["raw"] for row in rows} == lines


HOSTILE_JSON = (
    ('{"id": 1}{"id": 2}', "malformed"),
    ('{"id": 1}, {"id": 2}', "malformed"),
    ('{"id": 1}] {"id": 2}', "malformed"),
    ('{"id": 1} junk', "malformed"),
    ('[{"id": 1}]', "malformed"),
    ("{'id': 1}", "malformed"),
    ('{"id": 1, "price": 1.5', "malformed"),
    ('{"id": 1, "price": 01.5}', "malformed"),
    ("null", "malformed"),
    ('{"id": 1, "price": NaN}', "unparsable:price"),
    ('{"id": 1, "price": 1e999}', "unparsable:price"),
    ('{"id": 1.0}', "unparsable:id"),
    ('{"id": 9223372036854775808}', "unparsable:id"),
    ('{"id": 1, "user": {"name": "\\ud83d\\ude00"}}', ""),
    ('{"id": 1, "user": {"name": "\\\\ud83d"}}', ""),
    ('{"id": 1, "user": {"name": "\\ud83d"}}', "encoding"),
    ('{"id": 1, "user": {"name": "\\ude00"}}', "encoding"),
    ('{"id": 1, "user": {"name": "' + '\\n"'.join(["x"] * 3) + '"}}', "malformed"),
    ('{"id": 1, "price": 1.5, "user": {"name": "' + "\\n" * 100_000 + '"}}', ""),
)


def test_hostile_json(tmp_path: Path, spark: SparkSession) -> None:
    file = tmp_path / "nested.json"
    file.write_text("".join(line + "\n" for line, _ in HOSTILE_JSON), encoding="utf-8")
    rows = read_source(spark, NESTED, [str(file)]).collect()
    found = [(row["raw"], row["reasons"].replace(",null:id", "")) for row in rows]
    assert sorted(found) == sorted(HOSTILE_JSON)


@pytest.mark.parametrize("format_", ["parquet", "orc"])
def test_columns_of_other_types_are_read_strictly(
    format_: Any, tmp_path: Path, spark: SparkSession
) -> None:
    write = pq.write_table if format_ == "parquet" else orc.write_table
    as_declared = pa.table({"name": ["x", None], "id": pa.array([1, 2], pa.int64())})
    as_text = pa.table({"id": ["3", "4.5"], "name": ["y", "z"]})
    folder = tmp_path / "day=2024-01-01"
    folder.mkdir()
    write(as_declared, folder / "a")
    write(as_text, folder / "b")
    source = replace(THINGS, format=format_)
    *sound, bad = rows_of(spark, source, folder / "a", folder / "b")
    assert names_of(sound) == {1: "x", 2: None, 3: "y"}
    assert (bad["id"], bad["reasons"]) == (None, "unparsable:id")
    assert json.loads(bad["raw"]) == {"id": "4.5", "name": "z"}
    assert json.loads(sound[1]["raw"]) == {"id": 2, "name": None}
    assert bad["source_file"] == f"file:{folder}/b"


def test_nested_columns_of_parquet(tmp_path: Path, spark: SparkSession) -> None:
    user = {"name": "ann", "address": {"city": "Bonn"}}
    pq.write_table(pa.Table.from_pylist([{"id": 1, "price": 2.5, "user": user}]), tmp_path / "a")
    (row,) = read_source(spark, replace(NESTED, format="parquet"), [str(tmp_path / "a")]).collect()
    assert (row["id"], row["name"], row["city"], row["price"]) == (1, "ann", "Bonn", 2.5)


@pytest.mark.parametrize("format_", ["parquet", "orc"])
def test_a_file_with_other_columns_is_refused_by_name(
    format_: Any, tmp_path: Path, spark: SparkSession
) -> None:
    write = pq.write_table if format_ == "parquet" else orc.write_table
    write(pa.table({"id": [1], "name": ["x"]}), tmp_path / "good")
    write(pa.table({"id": [1], "nome": ["x"]}), tmp_path / "other")
    with pytest.raises(DataRefused, match=r"other: .* missing name; unknown nome"):
        rows_of(spark, replace(THINGS, format=format_), tmp_path / "good", tmp_path / "other")
    (tmp_path / "torn").write_bytes((tmp_path / "good").read_bytes()[:-7])
    with pytest.raises(DataRefused, match="torn cannot be read"):
        rows_of(spark, replace(THINGS, format=format_), tmp_path / "torn")
