"""The ETL's peer: DuckDB parses, splits, counts, encodes, shuffles and writes the same rows.

    python benchmarks/etl_duckdb.py --raw FILE --out FOLDER [--rules]

With `--rules` it also applies the declaration's rules to each row, keeps refused lines apart with
their reason, and numbers identical lines. It commits nothing, keeps no counts for later dates and
no statistics beyond mean and deviation, and does not read back what it wrote.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import duckdb

from schemas.criteo import CATEGORIES, CRITEO, INTEGERS

_MIN_COUNT = CRITEO.categorical[0].min_count
_BUCKETS = CRITEO.categorical[0].oov_buckets
_ROW_GROUP_ROWS = 65_536
_SHARD_ROWS = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-gb", type=int, default=16)
    parser.add_argument("--rules", action="store_true")
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    asked.out.mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute(f"SET temp_directory = '{asked.out}/spilled'")
    connection.execute(f"SET threads = {asked.threads}")
    connection.execute(f"SET memory_limit = '{asked.memory_gb}GB'")
    connection.execute("SET preserve_insertion_order = false")
    (parse_with_rules if asked.rules else parse)(connection, asked.raw)
    if asked.rules:
        connection.execute(
            f"COPY (SELECT raw, reason FROM rows WHERE reason <> '') "
            f"TO '{asked.out}/refused.parquet' (FORMAT parquet)"
        )
        connection.execute("DELETE FROM rows WHERE reason <> ''")
    count_values(connection)
    write_shards(connection, asked.out)
    total, written = connection.execute(
        f"SELECT (SELECT count(*) FROM rows), "
        f"(SELECT count(*) FROM read_parquet('{asked.out}/examples/**/*.parquet'))"
    ).fetchall()[0]
    assert total == written, f"{total} rows, {written} written"
    print(f"{written} rows")


def _typed(integers: str, categories: str) -> str:
    logs = [
        f"CAST(ln(1 + greatest({integers.format(name)}, 0)) AS FLOAT) AS {name}"
        for name in INTEGERS
    ]
    return ", ".join([*logs, *[f"{categories.format(name)} AS {name}" for name in CATEGORIES]])


def _place(line: str, number: str) -> str:
    """The row's id and split by hashes of its line."""
    return (
        f"hash({line}, {number}) AS row_id, "
        f"CASE WHEN hash({line}, 7) % 10 < 8 THEN 'train' "
        f"WHEN hash({line}, 7) % 10 = 8 THEN 'val' ELSE 'test' END AS split"
    )


def parse(connection: duckdb.DuckDBPyConnection, raw: str) -> None:
    """Typed rows; the line's hash is that of all its values."""
    types = {"label": "INTEGER", **dict.fromkeys(INTEGERS, "INTEGER")}
    types |= dict.fromkeys(CATEGORIES, "VARCHAR")
    columns = ", ".join(f"'{name}': '{type_}'" for name, type_ in types.items())
    values = ", ".join(types)
    connection.execute(
        f"CREATE TABLE rows AS SELECT {_place(values, '0')}, CAST(label AS FLOAT) AS label, "
        f"{_typed('{}', '{}')} FROM read_csv('{raw}', delim = '\t', header = false, quote = '', "
        f"columns = {{{columns}}})"
    )


def parse_with_rules(connection: duckdb.DuckDBPyConnection, raw: str) -> None:
    """The same from whole lines, each with its reason if it is refused, identical ones numbered."""
    names = ["label", *INTEGERS, *CATEGORIES]
    part = {name: f"nullif(parts[{number}], '')" for number, name in enumerate(names, start=1)}
    wrong = [f"CASE WHEN len(parts) <> {len(names)} THEN 'malformed,' ELSE '' END"]
    for name in ["label", *INTEGERS]:
        unparsable = f"{part[name]} IS NOT NULL AND TRY_CAST({part[name]} AS INTEGER) IS NULL"
        wrong.append(f"CASE WHEN {unparsable} THEN 'unparsable:{name},' ELSE '' END")
    for name in CATEGORIES:
        strange = f"NOT regexp_full_match({part[name]}, '[0-9a-f]{{8}}')"
        wrong.append(f"CASE WHEN {strange} THEN 'pattern:{name},' ELSE '' END")
    label = f"TRY_CAST({part['label']} AS INTEGER)"
    wrong.append(f"CASE WHEN {label} NOT IN (0, 1) THEN 'not_allowed:label,' ELSE '' END")
    wrong.append(f"CASE WHEN {label} IS NULL THEN 'label_absent,' ELSE '' END")
    integers = {name: f"TRY_CAST({part[name]} AS INTEGER)" for name in INTEGERS}
    typed = _typed("{}", "{}")
    for name in INTEGERS:
        typed = typed.replace(f"greatest({name},", f"greatest({integers[name]},")
    for name in CATEGORIES:
        typed = typed.replace(f"{name} AS {name}", f"{part[name]} AS {name}")
    connection.execute(
        f"CREATE TABLE lines AS SELECT raw, "
        f"row_number() OVER (PARTITION BY hash(raw), raw) AS number "
        f"FROM read_csv('{raw}', delim = '\x01', header = false, quote = '', "
        f"columns = {{'raw': 'VARCHAR'}})"
    )
    connection.execute(
        f"CREATE TABLE rows AS SELECT {_place('raw', 'number')}, "
        f"CAST({label} AS FLOAT) AS label, {typed}, {' || '.join(wrong)} AS reason, "
        f"CASE WHEN reason <> '' THEN raw END AS raw "
        f"FROM (SELECT raw, number, string_split(raw, '\t') AS parts FROM lines)"
    )
    connection.execute("DROP TABLE lines")


def count_values(connection: duckdb.DuckDBPyConnection) -> None:
    """A vocabulary a field, ids by descending count, ties by value; means and deviations."""
    for name in CATEGORIES:
        connection.execute(
            f"CREATE TABLE entries_{name} AS SELECT value, CAST({1 + _BUCKETS} + row_number() "
            f"OVER (ORDER BY count DESC, value) AS INTEGER) AS id FROM (SELECT {name} AS value, "
            f"count(*) AS count FROM rows WHERE split = 'train' AND {name} IS NOT NULL "
            f"GROUP BY {name} HAVING count(*) >= {_MIN_COUNT})"
        )
    sums = ", ".join(f"avg({name}), stddev_pop({name})" for name in INTEGERS)
    connection.execute(f"SELECT {sums} FROM rows WHERE split = 'train'").fetchall()


def write_shards(connection: duckdb.DuckDBPyConnection, out: Path) -> None:
    """Files of a split, in order of the row id."""
    ids = ", ".join(
        f"CASE WHEN {name} IS NULL THEN 1 ELSE coalesce(e_{name}.id, "
        f"CAST(2 + hash({name}) % {_BUCKETS} AS INTEGER)) END AS {name}"
        for name in CATEGORIES
    )
    joins = " ".join(
        f"LEFT JOIN entries_{name} e_{name} ON e_{name}.value = rows.{name}" for name in CATEGORIES
    )
    for split in ("train", "val", "test"):
        folder = out / "examples" / split
        folder.mkdir(parents=True)
        connection.execute(
            f"COPY (SELECT row_id, label, {', '.join(INTEGERS)}, {ids} FROM rows {joins} "
            f"WHERE split = '{split}' ORDER BY row_id) TO '{folder}' (FORMAT parquet, "
            f"COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP_ROWS}, "
            f"PER_THREAD_OUTPUT false, FILE_SIZE_BYTES '128MB')"
        )


if __name__ == "__main__":
    main()
