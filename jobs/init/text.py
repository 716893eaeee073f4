"""The files as text: the declaration, a Python module; settings, YAML; Spark's properties."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence

from jobs.init.draft import Draft, Line
from jobs.init.names import python_name

_WIDTH = 100
_SMALL_ROWS = 100_000
_STREAMS = 64


def declaration_text(draft: Draft) -> str:
    """The module, each line with its reason."""
    fields = draft.fields()
    body = [
        f'"""The data set `{draft.name}`: a first declaration, proposed from the data.',
        "",
        *_about(draft),
        '"""',
        "",
        *_imports(fields),
        f"{python_name(draft.name)} = Dataset(",
        *_indented(1, [Line(f"name={draft.name!r}", "folder in the lake, name of the models")]),
        "    sources=(",
        "        Source(",
        *_indented(3, _layout(draft)),
        "            columns=(  # in the file's order: type, rules; what the sample holds",
        *_indented(4, draft.columns()),
        "            ),",
        "        ),",
        "    ),",
        *_indented(1, _identity(draft)),
        "    fields=(  # what is stored of a row; the model sees all but the label",
        *_indented(2, fields),
        "    ),",
        ")",
    ]
    return "\n".join(body) + "\n"


def _about(draft: Draft) -> list[str]:
    rows = f"{draft.sample.rows:,} rows"
    read = f"all {rows} of the file" if draft.sample.whole else f"the first {rows} of the file"
    text = (
        f"It was read off {read}; read each line. A row that breaks a rule goes to quarantine, "
        "with the reason. Take out fields that are not known yet when one wants to predict: a "
        "column that follows from the label makes a model that is good on paper only. After a "
        "change: `millstream etl --rebuild`."
    )
    return textwrap.wrap(text, _WIDTH)


def _imports(fields: Sequence[Line]) -> list[str]:
    code = " ".join(line.code for line in fields)
    kinds = sorted(set(re.findall(r"\b(Categorical|Label|Log1p|Numeric|Scale)\(", code)))
    return [
        "from schemas.dataset import Column, Dataset, Source",
        f"from schemas.field import {', '.join(kinds)}",
        "",
    ]


def _layout(draft: Draft) -> list[Line]:
    layout = draft.sample.layout
    found = [Line(repr(draft.name), f"the source's name in etl.sources of {draft.name}.yaml")]
    if layout.delimiter != ",":
        found.append(Line(f"delimiter={layout.delimiter!r}", "between values"))
    if draft.sample.null_value:
        why = "no value, besides an empty one"
        found.append(Line(f"null_value={draft.sample.null_value!r}", why))
    if layout.encoding != "utf-8":
        why = "the file is no UTF-8; correct it if letters look wrong"
        found.append(Line(f"encoding={layout.encoding!r}", why))
    return found


def _identity(draft: Draft) -> list[Line]:
    names = tuple(draft.names[name] for name in draft.key)
    if names:
        why = "makes a row unique within a date; a second row with it goes to quarantine"
    else:
        why = "no key: a row is its line; name a column and predictions carry it"
    return [
        Line(f"rows={draft.name!r}", "the source whose rows become examples"),
        Line(f"ds={draft.date.sql!r}", draft.date.why),
        Line(f"key={names!r}", why),
        Line("", "entity=('user',) would keep all rows of a user in one split"),
    ]


def _indented(level: int, lines: Sequence[Line]) -> list[str]:
    """Code with its reason behind it, or above it where that would be too long."""
    found: list[str] = []
    space = "    " * level
    for line in lines:
        if not line.code:
            found += _comment(line.why, space)
            continue
        code = f"{space}{_double_quoted(line.code)},"
        if len(code) + len(line.why) + 4 <= _WIDTH:
            found.append(f"{code}  # {line.why}")
        else:
            found += [*_comment(line.why, space), code]
    return found


def _comment(text: str, space: str) -> list[str]:
    begin = f"{space}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=begin, subsequent_indent=begin)


def _double_quoted(code: str) -> str:
    """Python's repr with the quotes that formatters want, where that changes nothing."""
    return code if '"' in code or "\\" in code else code.replace("'", '"')


def settings_text(draft: Draft) -> str:
    """The YAML file, each line with its reason."""
    sizes = _sizes(draft)
    rule, why = _gate_rule(draft)
    lines = [
        (f"schema: ./{draft.name}.py:{python_name(draft.name)}", "the declaration"),
        ("lake: lake", "all that is written; a folder, or s3://bucket/folder"),
        ("etl:", ""),
        ("  sources:", "a path, a glob, or with {ds} where the date stands in it"),
        (f"    {draft.name}: {json.dumps(draft.date.path, ensure_ascii=False)}", ""),
        ("  max_quarantined_fraction: 0.05", "more refused rows refuse the date"),
        ("train:", ""),
        (f"  model: {sizes['model']}", "mlp, wide_deep, dlrm, dcn_v2, or one's own"),
        (f"  batch_rows: {sizes['batch_rows']}", "rows a step; a multiple of stream.streams (64)"),
        (f"  epochs: {sizes['epochs']}", "the best one's model is kept"),
        (f"  learning_rate: {sizes['learning_rate']}", "smaller for more rows"),
        (f"  workers: {sizes['workers']}", "Horovod processes; more for more rows"),
        ("gate:", ""),
        ("  rows: all", "judged on the held-out tenth of all dates"),
        ("  rules:", why),
        (f"    - {rule}", ""),
        ("nightly:", ""),
        ("  label_delay_days: 0", "days until a date's labels are known"),
        ("observe:", ""),
        (f"  json_log: logs/{draft.name}.jsonl", "see docs/operations.md for metrics and alerts"),
        ("spark:", ""),
        (
            f"  properties_file: {draft.name}.spark.conf",
            "spark-submit has its own",
        ),
    ]
    head = f"# Settings of the data set {draft.name}; paths are relative to this file."
    return "\n".join([head, *(f"{code}  # {why}" if why else code for code, why in lines)]) + "\n"


def _sizes(draft: Draft) -> dict[str, object]:
    """Some hundred steps whatever the rows: many for a small file, few for a large one."""
    sample = draft.sample
    small = sample.whole and sample.rows < _SMALL_ROWS
    batch_rows = _STREAMS
    while small and batch_rows * 100 < sample.rows:
        batch_rows *= 2
    categories = any(line.code.startswith("Categorical") for line in draft.fields())
    return {
        "model": "wide_deep" if categories else "mlp",
        "batch_rows": batch_rows if small else 4096,
        "epochs": 10 if small else 3,
        "learning_rate": 0.01 if small else 0.001,
        "workers": 1 if small else 2,
    }


def _gate_rule(draft: Draft) -> tuple[str, str]:
    """What a model must reach: something that one which learned nothing does not."""
    # A tenth of the rows are held out; some fewer by chance.
    min_rows = max(1, min(100, draft.sample.rows // 20))
    more = f"min_gain: 0, min_rows: {min_rows}"
    match draft.label.task:
        case "binary":
            return (
                f"{{metric: auc, min_value: 0.55, {more}}}",
                "better than chance, and than before",
            )
        case "regression":
            return f"{{metric: r2, min_value: 0, {more}}}", "better than the mean and before"
        case "multiclass":
            common = draft.sample.column(draft.label.column).common
            share = common[0][1] / sum(count for _, count in common)
            return (
                f"{{metric: accuracy, min_value: {share:.3f}, {more}}}",
                "better than always the most frequent class, and before",
            )


def spark_text(draft: Draft) -> str:
    """Spark's properties for one machine."""
    return f"""\
# Spark on this machine, for the data set {draft.name}. Of a cluster: docs/cluster.md.
# All cores; local[4] takes four.
spark.master                        local[*]
# Of the one Java process that does all the work here.
spark.driver.memory                 4g
# Spark generates methods above the JIT's 8,000-byte limit, which otherwise run interpreted. In
# runs of minutes the optimizing compiler costs more than it gives; without TieredStopAtLevel for
# runs of hours.
spark.driver.extraJavaOptions       -XX:-DontCompileHugeMethods -XX:TieredStopAtLevel=1 \
-XX:ReservedCodeCacheSize=240m
spark.driver.host                   localhost
spark.driver.bindAddress            127.0.0.1
spark.ui.enabled                    false
spark.ui.showConsoleProgress        false
# Small files still use all cores.
spark.sql.files.maxPartitionBytes   16m
# Tasks after a shuffle: two for each core; 200 by default, too many for small data.
spark.sql.shuffle.partitions        8
"""
