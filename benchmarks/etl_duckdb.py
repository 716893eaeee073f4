"""The ETL's peer: DuckDB does the work of a declaration, written for speed as by hand.

    python benchmarks/etl_duckdb.py --work WORK.json --out FOLDER

`WORK.json` is what `benchmarks.etl_work` says of a declaration. The peer reads the raw files as
texts, casts them strictly, joins parents, judges every row, keeps refused ones with reasons and
text, refuses repeated keys or numbers identical lines, counts values by date, gives ids as of each
date, splits and orders by hash, and writes Parquet by date and split. It commits nothing, does not
count raw rows apart, keeps no state for a next night and does not read back what it wrote. Its last
line is JSON: the rows kept, those refused, and those refused by kind of reason.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb

_FILE_BYTES = "128MB"
_SPLIT_UP_TO = {"train": 8, "val": 9, "test": 10}
_WHOLE_TYPES = ("BIGINT", "INTEGER")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-gb", type=int, default=12)
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    asked.out.mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute(f"SET temp_directory = '{asked.out}/spilled'")
    connection.execute(f"SET threads = {asked.threads}")
    connection.execute(f"SET memory_limit = '{asked.memory_gb}GB'")
    connection.execute("SET preserve_insertion_order = false")
    work = json.loads(asked.work.read_text(encoding="utf-8"))
    print(json.dumps(Peer(connection, work, asked.out).done()))


class Peer:
    """The steps, each a few statements over tables in memory."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, work: Any, out: Path) -> None:
        self._connection, self._work, self._out = connection, work, out

    def done(self) -> dict[str, Any]:
        for parent in self._work["parents"]:
            self._read_parent(parent)
        self._judge()
        if self._work["key"]:
            self._refuse_repeated_keys()
        else:
            self._number_identical_lines()
        refused = self._set_refused_apart()
        found = self._run("SELECT DISTINCT ds FROM judged WHERE reasons IS NULL")
        dates = [str(ds) for (ds,) in found]
        self._fit(dates)
        return {"kept": self._write(dates), **refused}

    def _run(self, sql: str) -> list[Any]:
        return self._connection.execute(sql).fetchall()

    def _read_parent(self, parent: Any) -> None:
        name, columns = parent["name"], parent["columns"]
        typed = ", ".join(f"{_cast(c, c['name'])} AS {name}__{c['name']}" for c in columns)
        self._run(f"CREATE TABLE {name} AS SELECT {typed}, true AS {name} FROM {_texts(parent)}")
        on = ", ".join(theirs for _, theirs in parent["on"])
        twice = self._run(f"SELECT {on} FROM {name} GROUP BY ALL HAVING count(*) > 1 LIMIT 1")
        assert not twice, f"{name}: {twice[0]} stands twice"

    def _judge(self) -> None:
        """Values of the fields, and reasons: these are worked out for rows that have any."""
        work = self._work
        columns, values, rules = work["columns"], _values(work), _rules(work)
        texts = ", ".join(f"{c['name']} AS t_{c['name']}" for c in columns)
        typed = ", ".join(f"{_cast(c, 't_' + c['name'])} AS {c['name']}" for c in columns)
        joins = " ".join(_join(parent) for parent in work["parents"])
        fields = ", ".join(f"{sql} AS f_{name}" for name, sql in values.items())
        line = ", ".join(f"coalesce(t_{c['name']}, '')" for c in columns)
        same = ", ".join(work["key"] or [f"t_{c['name']}" for c in columns])
        reasons = ", ".join(f"CASE WHEN {rule} THEN '{why}' END" for why, rule in rules.items())
        bad = " OR ".join(f"coalesce({rule}, false)" for rule in _flags(work))
        kept = ", ".join([*work["key"], *[f"f_{name}" for name in values]])
        self._run(
            f"CREATE TABLE judged AS "
            f"WITH texts AS (SELECT {texts} FROM {_texts(work, rejects=True)}), "
            f"typed AS (SELECT *, {typed} FROM texts), "
            f"dated AS (SELECT *, {work['date']} AS ds FROM typed), "
            f"valued AS (SELECT *, {fields} FROM dated {joins}), "
            f"flagged AS (SELECT *, {bad} AS bad FROM valued) "
            f"SELECT ds, hash({same}) AS same, {kept}, "
            f"CASE WHEN bad THEN concat_ws('{work['delimiter']}', {line}) END AS raw, "
            f"CASE WHEN bad THEN list_filter([{reasons}], lambda why: why IS NOT NULL) END "
            f"AS reasons, 1 AS ordinal FROM flagged"
        )

    def _refuse_repeated_keys(self) -> None:
        """Of valid rows with one key, all but the first."""
        key = ", ".join(["ds", *self._work["key"]])
        order = ", ".join(f"f_{name}" for name in _values(self._work))
        self._run(
            "CREATE TABLE repeated AS SELECT ds, same FROM judged WHERE reasons IS NULL "
            "GROUP BY ALL HAVING count(*) > 1"
        )
        self._run(
            f"CREATE TABLE again AS SELECT row AS place FROM (SELECT judged.rowid AS row, "
            f"row_number() OVER (PARTITION BY {key} ORDER BY {order}) AS number "
            f"FROM judged SEMI JOIN repeated USING (ds, same) WHERE reasons IS NULL) "
            f"WHERE number > 1"
        )
        self._run(
            "UPDATE judged SET reasons = ['duplicate_key'] WHERE rowid IN (SELECT place FROM again)"
        )

    def _number_identical_lines(self) -> None:
        self._run(
            "CREATE TABLE repeated AS SELECT ds, same FROM judged GROUP BY ALL HAVING count(*) > 1"
        )
        self._run(
            "CREATE TABLE numbered AS SELECT judged.rowid AS place, row_number() OVER "
            "(PARTITION BY ds, same ORDER BY judged.rowid) AS number "
            "FROM judged SEMI JOIN repeated USING (ds, same)"
        )
        self._run(
            "UPDATE judged SET ordinal = number FROM numbered "
            "WHERE judged.rowid = place AND number > 1"
        )

    def _set_refused_apart(self) -> dict[str, Any]:
        """Refused rows in a file, those with another number of values too; counts by kind."""
        values = ", ".join(f"f_{name}" for name in _values(self._work))
        raw = f"coalesce(raw, concat_ws(',', {values}))"
        self._run(
            f"CREATE TABLE refused AS SELECT ds, {raw} AS raw, reasons FROM judged "
            f"WHERE reasons IS NOT NULL UNION ALL SELECT NULL, any_value(csv_line), ['malformed'] "
            f"FROM reject_errors GROUP BY file_id, line"
        )
        self._run(f"COPY refused TO '{self._out}/refused.parquet' (FORMAT parquet)")
        kinds = self._run(
            "SELECT kind, count(*) FROM (SELECT unnest(list_distinct(list_transform(reasons, "
            "lambda why: split_part(why, ':', 1)))) AS kind FROM refused) GROUP BY kind"
        )
        return {"refused": self._run("SELECT count(*) FROM refused")[0][0], "kinds": dict(kinds)}

    def _fit(self, dates: list[str]) -> None:
        """Counts by date of the train rows; from them ids, each from the date that earned it."""
        ds = "ds" if len(dates) > 1 else f"DATE '{dates[0]}' AS ds"
        train = f"reasons IS NULL AND {_split()} = 'train'"
        for name, field in self._work["categories"].items():
            self._run(
                f"CREATE TABLE counts AS SELECT f_{name} AS value, {ds}, count(*) AS count "
                f"FROM judged WHERE {train} AND f_{name} IS NOT NULL GROUP BY ALL"
            )
            self._run(
                f"CREATE TABLE entries_{name} AS WITH reached AS (SELECT value, ds, "
                f"sum(count) OVER (PARTITION BY value ORDER BY ds) AS total FROM counts), "
                f"first AS (SELECT value, min(ds) AS from_ds, arg_min(total, ds) AS total "
                f"FROM reached WHERE total >= {field['min_count']} GROUP BY value) "
                f"SELECT value, from_ds, CAST({1 + field['buckets']} + row_number() OVER "
                f"(ORDER BY from_ds, total DESC, value) AS INTEGER) AS id FROM first"
            )
            self._run("DROP TABLE counts")
        sums = ", ".join(
            f"avg(f_{name}), stddev_pop(f_{name}), min(f_{name}), max(f_{name})"
            for name in self._work["numbers"]
        )
        self._run(f"SELECT ds, {sums} FROM judged WHERE {train} GROUP BY ds")

    def _write(self, dates: list[str]) -> int:
        """Files of a date and split, in order of the row id; returns the number of their rows."""
        work = self._work
        as_of = "AND from_ds <= ds" if len(dates) > 1 else ""
        kept = self._run("SELECT count(*) FROM judged WHERE reasons IS NULL")[0][0]
        columns = ["row_id", *work["key"], *work["labels"], *work["numbers"], *work["carried"]]
        ids = [f"{_id(name, field)} AS {name}" for name, field in work["categories"].items()]
        named = [
            f"f_{name} AS {name}" for name in (*work["labels"], *work["numbers"], *work["carried"])
        ]
        joins = " ".join(
            f"LEFT JOIN entries_{name} e_{name} ON e_{name}.value = f_{name} "
            f"{as_of.replace('from_ds', f'e_{name}.from_ds')}"
            for name in work["categories"]
        )
        coded = (
            f"SELECT ds, {_split()} AS split, hash(same, ordinal) AS row_id, "
            f"{', '.join([*work['key'], *named, *ids])} FROM judged {joins} WHERE reasons IS NULL"
        )
        stored = ", ".join([*columns, *work["categories"]])
        source = f"({coded})"
        if len(dates) > 1:
            # Sorted once: a date's rows are then found by the blocks' least and greatest values.
            self._run(f"CREATE TABLE coded AS {coded} ORDER BY ds, split, row_id")
            source = "coded"
        for ds in dates:
            for split in _SPLIT_UP_TO:
                where = f"ds = '{ds}' AND split = '{split}'"
                self._copy(f"SELECT {stored} FROM {source} WHERE {where}", ds, split)
        files = f"read_parquet('{self._out}/examples/**/*.parquet')"
        written = self._run(f"SELECT count(*) FROM {files}")[0][0]
        assert written == kept, f"{kept} rows, {written} written"
        return int(written)

    def _copy(self, rows: str, ds: str, split: str) -> None:
        folder = self._out / "examples" / f"ds={ds}" / f"split={split}"
        folder.mkdir(parents=True)
        self._run(
            f"COPY ({rows} ORDER BY row_id) TO '{folder}' (FORMAT parquet, "
            f"COMPRESSION {self._work['compression']}, FILE_SIZE_BYTES '{_FILE_BYTES}', "
            f"ROW_GROUP_SIZE {self._work['row_group_rows']}, PER_THREAD_OUTPUT false)"
        )


def _texts(source: Any, rejects: bool = False) -> str:
    """A source's files with all values as texts; lines of another length are set apart."""
    columns = ", ".join(f"'{c['name']}': 'VARCHAR'" for c in source["columns"])
    nulls = ", ".join(f"'{text}'" for text in sorted({"", source["null_value"]}))
    return (
        f"read_csv('{source['raw']}', auto_detect = false, delim = '{source['delimiter']}', "
        f"header = {str(source['header']).lower()}, quote = '{source['quote']}', escape = '', "
        f"nullstr = [{nulls}], columns = {{{columns}}}"
        f"{', store_rejects = true, rejects_limit = 0' if rejects else ''})"
    )


def _cast(column: Any, text: str) -> str:
    return text if column["type"] == "VARCHAR" else f"TRY_CAST({text} AS {column['type']})"


def _join(parent: Any) -> str:
    on = " AND ".join(f"{ours} = {theirs}" for ours, theirs in parent["on"])
    return f"LEFT JOIN {parent['name']} ON {on}"


def _values(work: Any) -> dict[str, str]:
    """SQL of each field's value before ids."""
    categories = {name: f"CAST({f['sql']} AS VARCHAR)" for name, f in work["categories"].items()}
    numbers = {name: f"CAST({f['sql']} AS FLOAT)" for name, f in work["numbers"].items()}
    labels = {name: f"CAST({sql} AS FLOAT)" for name, sql in work["labels"].items()}
    return {**labels, **numbers, **work["carried"], **categories}


def _rules(work: Any) -> dict[str, str]:
    """Reasons against a row, and where they hold."""
    found = {"undated": "ds IS NULL"}
    for column in work["columns"]:
        found |= _column_rules(column)
    for parent in work["parents"]:
        if parent["required"]:
            found[f"no_parent:{parent['name']}"] = f"{parent['name']} IS NULL"
    for name, number in work["numbers"].items():
        lost = f"(f_{name} IS NULL AND {number['base']} IS NOT NULL)"
        found[f"not_finite:{name}"] = f"(NOT isfinite(f_{name}) OR {lost})"
    for name in work["labels"]:
        found["label_absent"] = f"f_{name} IS NULL"
    return found


def _flags(work: Any) -> list[str]:
    """Where a row breaks any rule. That whole numbers are written as such takes one look at all
    of a row's together: what casts, and has but these characters, is one."""
    whole = [c for c in work["columns"] if c["type"] in _WHOLE_TYPES]
    texts = ", ".join(f"t_{c['name']}" for c in whole)
    found = [f"NOT regexp_full_match(concat({texts}), '[-+0-9]*')"] if whole else []
    unlike = {f"unparsable:{c['name']}": _uncast(c["name"]) for c in whole}
    return [*found, *{**_rules(work), **unlike}.values()]


def _column_rules(column: Any) -> dict[str, str]:
    name, text, found = column["name"], f"t_{column['name']}", {}
    if column["type"] in _WHOLE_TYPES:
        written = f"regexp_full_match({text}, '[+-]?[0-9]+')"
        found[f"unparsable:{name}"] = f"({_uncast(name)} OR NOT {written})"
    elif column["type"] != "VARCHAR":
        found[f"unparsable:{name}"] = _uncast(name)
    if not column["nullable"]:
        found[f"null:{name}"] = f"{text} IS NULL"
    if column["min"] is not None:
        found[f"below_min:{name}"] = f"{name} < {column['min']}"
    if column["max"] is not None:
        found[f"above_max:{name}"] = f"{name} > {column['max']}"
    if column["allowed"]:
        allowed = ", ".join(repr(value) for value in column["allowed"])
        found[f"not_allowed:{name}"] = f"{name} NOT IN ({allowed})"
    if column["pattern"]:
        found[f"pattern:{name}"] = f"NOT {_matches(text, column['pattern'])}"
    return found


def _uncast(name: str) -> str:
    return f"(t_{name} IS NOT NULL AND {name} IS NULL)"


def _matches(text: str, pattern: str) -> str:
    if pattern.startswith("^") and pattern.endswith("$"):
        return f"regexp_full_match({text}, '{pattern[1:-1]}')"
    return f"regexp_matches({text}, '{pattern}')"


def _split() -> str:
    cases = " ".join(
        f"WHEN hash(same, 7) % 10 < {bound} THEN '{split}'" for split, bound in _SPLIT_UP_TO.items()
    )
    return f"CASE {cases} END"


def _id(name: str, field: Any) -> str:
    bucket = (
        f"CAST(2 + hash(f_{name}) % {field['buckets']} AS INTEGER)" if field["buckets"] else "0"
    )
    return f"CASE WHEN f_{name} IS NULL THEN 1 ELSE coalesce(e_{name}.id, {bucket}) END"


if __name__ == "__main__":
    main()
