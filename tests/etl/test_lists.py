"""List fields: elements are counted in train rows, encoded in their order, refused by reason."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import SparkSession

from jobs.etl.encode.encoder import id_map
from jobs.etl.fit.entries import read_entries
from jobs.evaluate import score
from jobs.evaluate.predict.predict import Predictor, predicted
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.models.artifact import load_model
from jobs.models.build import build_model, predict
from jobs.models.spec import ModelSpec
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from jobs.train.read.id_maps import MappedStream
from jobs.train.read.stream import Stream
from jobs.train.warm.source import find_source
from jobs.train.warm.weights import warm
from schemas.dataset import Column, Source, struct_type
from schemas.field import FIRST_OOV_ID, NULL_ID, CategoricalList, Label, NumericList
from tests.builders.baskets import BASKETS, LONGEST, baskets_of, write_baskets
from tests.builders.judged import encoded, judged
from tests.builders.lakes import run_etl
from tests.builders.models import register_model
from tests.builders.visits import Raw

FIRST, SECOND = "2024-06-01", "2024-06-02"
_JSON = """from_json({}, '["VARCHAR"]')"""
POISON = {
    9001: ("9001,a|b|c|d|e,,,s0,1", ["too_long:tag_ids"]),
    9002: ("9002,a,,1.0|2|3|4|5,s0,1", ["too_long:price_list"]),
    9003: ("9003,a,,1.0|many,s0,1", ["null_element:price_list"]),
    9004: ("9004,a,,1.0|Infinity,s0,1", ["not_finite:price_list"]),
    9005: ("9005,a|b|c|d|e,,1.0|many,s0,1", ["null_element:price_list", "too_long:tag_ids"]),
}
HOSTILE = (
    # Null elements, a value twice, values that no other row has, pages that are cut.
    "8001,a||a,p1|p2|p3,1.0,s0,1",
    "8002,|,only_here,-0.5|0.5,s1,0",
    "8003,,,,,0",
)


@dataclass(frozen=True)
class Made:
    raw: Raw
    lake: Lake
    lines: dict[int, list[str]]
    examples: Examples

    def stored(self) -> dict[int, dict[str, Any]]:
        """Example rows by basket, with their ds and split."""
        rows = {}
        for shard in self.examples.shards():
            with Path(self.examples.url, shard.path).open("rb") as file:
                for row in pq.read_table(file).to_pylist():
                    rows[row["basket"]] = {**row, "ds": shard.ds, "split": shard.split}
        return rows

    def ids(self, field: str, until: str) -> dict[str, int]:
        log = self.lake.table("id_log").read_arrow().to_pylist()
        mine = [row for row in log if row["field"] == field and row["from_ds"] <= until]
        return {row["value"]: row["id"] for row in mine}


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Made:
    poison = [line for line, _ in POISON.values()]
    first = [*baskets_of(1, 120, "abcd"), *HOSTILE, *poison]
    second = baskets_of(201, 80)
    raw = write_baskets(tmp_path_factory.mktemp("baskets"), {FIRST: first, SECOND: second})
    run_etl(raw, spark, [FIRST])
    run_etl(raw, spark, [SECOND])
    lake = Lake(str(raw.lake), "baskets")
    lines = {int(line.split(",")[0]): line.split(",") for line in [*first, *second]}
    return Made(raw, lake, lines, Examples.open(lake.table("examples").url))


def parts(text: str) -> list[str]:
    return text.split("|") if text else []


def test_each_refused_list_has_its_reasons(made: Made) -> None:
    refused = made.lake.table("quarantine").read_arrow().to_pylist()

    found = {int(row["raw"].split(",")[0]): sorted(row["reasons"]) for row in refused}

    assert found == {number: reasons for number, (_, reasons) in POISON.items()}


def test_ids_stand_in_the_order_of_their_values(made: Made) -> None:
    rows = made.stored()
    assert rows.keys() == made.lines.keys() - POISON.keys()
    unseen = 0
    for number, row in rows.items():
        tags, pages, prices = (parts(text) for text in made.lines[number][1:4])
        known = made.ids("tag_ids", row["ds"])
        assert len(row["tag_ids"]) == len(tags)
        for tag, identity in zip(tags, row["tag_ids"], strict=True):
            if tag in known:
                assert identity == known[tag]
            elif tag == "":
                assert identity == NULL_ID
            else:
                assert FIRST_OOV_ID <= identity < FIRST_OOV_ID + 3
                unseen += 1
        page_ids = made.ids("page_ids", row["ds"])
        assert row["page_ids"] == [page_ids.get(page, FIRST_OOV_ID) for page in pages[:2]]
        assert row["price_list"] == [float(price) for price in prices]
    assert unseen == 0 or unseen < len(rows)


def test_elements_count_in_train_rows_only(made: Made) -> None:
    rows = made.stored()
    trained = [n for n, row in rows.items() if row["split"] == "train" and row["ds"] == FIRST]
    counts = Counter(tag or None for n in trained for tag in parts(made.lines[n][1]))
    prices = [float(p) for n in trained for p in parts(made.lines[n][3])]

    kept = made.lake.table("contributions").read_arrow().to_pylist()

    of_first = [row for row in kept if row["ds"] == FIRST]
    found = {row["value"]: row["count"] for row in of_first if row["field"] == "tag_ids"}
    assert found == counts
    state = load_state(made.lake, made.examples.info["states"][FIRST])
    assert state.numeric["price_list"].count == len(prices)
    assert state.numeric["price_list"].mean == pytest.approx(np.mean(prices), abs=1e-12)
    assert state.numeric["price_list"].std == pytest.approx(np.std(prices), abs=1e-12)
    assert set(made.ids("tag_ids", FIRST)) == {t for t, n in counts.items() if t and n >= 2}


def test_a_row_alone_or_in_any_order_is_encoded_the_same(made: Made, tmp_path: Path) -> None:
    paths = {"baskets": f"{made.raw.folder}/{{ds}}/baskets.csv"}
    valid = judged(BASKETS, paths, [FIRST]).valid
    entries = read_entries(made.lake.table("id_log"), None)
    order = np.random.default_rng(1).permutation(valid.num_rows)

    together = encoded(BASKETS, valid.take(order), entries, tmp_path).to_pylist()

    stored = made.stored()
    assert len(together) == sum(row["ds"] == FIRST for row in stored.values())
    alone = [
        row
        for place in (0, 119, 120)
        for row in encoded(BASKETS, valid.slice(place, 1), entries, tmp_path).to_pylist()
    ]
    assert {row["basket"] for row in alone} >= {8001}
    for row in (*alone, *together):
        for name in ("tag_ids", "page_ids", "price_list", "shop_id"):
            assert row[name] == stored[row["basket"]][name]


@pytest.mark.parametrize("format_", ["json", "parquet"])
def test_lists_of_json_and_parquet_come_as_json_text(tmp_path: Path, format_: str) -> None:
    columns = [Column(n, "string") for n in ("tags", "prices")]
    dataset = replace(
        BASKETS,
        sources=(Source("baskets", (Column("basket", "int"), *columns), format=format_),),
        ds=f"DATE'{FIRST}'",
        fields=(
            Label("label", "basket"),
            CategoricalList("tag_ids", _JSON.format("tags"), max_length=3),
            NumericList("price_list", _JSON.format("prices"), max_length=3),
        ),
    )
    rows: list[dict[str, Any]] = [
        {"basket": 1, "tags": ["x|y", 'a "b"'], "prices": [1.5, -2.0]},
        {"basket": 2, "tags": [], "prices": None},
        {"basket": 3, "tags": [None, "é"], "prices": [0.1]},
    ]
    file = tmp_path / f"baskets.{format_}"
    if format_ == "json":
        file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)

    found = judged(dataset, {"baskets": str(file)}, [FIRST])

    assert found.refused.num_rows == 0
    by_basket = {row["basket"]: row for row in found.valid.to_pylist()}
    for row in rows:
        assert by_basket[row["basket"]]["tag_ids"] == row["tags"]
        wanted = np.float32(row["prices"] or []).tolist()
        assert by_basket[row["basket"]]["price_list"] == wanted


def test_the_stream_pads_and_says_the_lengths(made: Made) -> None:
    rows = {row["row_id"]: row for row in made.stored().values()}
    seen = 0
    for split in ("train", "val", "test"):
        stream = Stream(made.examples, BASKETS, split=split, batch_rows=16, streams=4)
        for batch in stream.epoch(0):
            for place in range(batch.rows):
                row = rows[int(batch.row_id[place])]
                for name, longest in (("tag_ids", LONGEST), ("page_ids", 2), ("price_list", 4)):
                    length = int(batch.tensors[f"{name}_length"][place])
                    padded = batch.tensors[name][place].tolist()
                    assert padded == row[name] + [0] * (longest - length)
                    assert length == len(row[name])
                seen += 1
    assert seen == len(rows)
    assert batch.tensors["tag_ids"].dtype == batch.tensors["tag_ids_length"].dtype == torch.int64
    assert batch.tensors["price_list"].dtype == torch.float32


def test_a_model_older_than_the_examples_gives_one_score_everywhere(
    made: Made, spark: SparkSession
) -> None:
    """Law 8: stream with mapped ids, evaluation with mapped ids, scoring from raw rows."""
    settings = load_settings(made.raw.config)
    version = register_model(settings, FIRST)
    model = Registry(settings, made.lake).resolve(version)
    state = load_state(made.lake, model.tags["state_digest"])
    maps = id_map(made.lake, BASKETS, state, made.examples.info["versions"]["id_log"])
    assert "tag_ids" in maps, "the second date has tags that the first has not"

    score.run(settings, spark, run_id="score-lists", dates=[SECOND], model=version)
    scored = made.lake.table("predictions").read_arrow().to_pandas()
    in_scoring = scored.set_index("row_id")["score"]

    predictor = Predictor.of(model, BASKETS, 7)
    schema = struct_type((c.name, c.spark_type) for c in BASKETS.stored_columns())
    paths = [f"{made.examples.url}/{s.path}" for s in made.examples.shards(first_ds=SECOND)]
    rows = spark.read.schema(schema).parquet(*paths)
    in_evaluation = predicted(rows, predictor, ["row_id"], maps).toPandas().set_index("row_id")

    in_training = {}
    network = load_model(model.folder_url).model
    tensors = {name: torch.from_numpy(ids).long() for name, ids in maps.items()}
    for split in ("train", "val", "test"):
        stream = Stream(
            made.examples, BASKETS, split=split, batch_rows=16, streams=4, first_ds=SECOND
        )
        for batch in MappedStream(stream, tensors, ["shop_id"]).epoch(0):
            scores = predict(network, batch)[batch.is_row].tolist()
            in_training.update(zip(batch.row_id[batch.is_row].tolist(), scores, strict=True))

    _assert_warm_start_scores_the_same(made, spark, version, in_scoring.to_dict())
    assert len(in_scoring) == len(in_evaluation) == len(in_training) == 80
    assert np.ptp(in_scoring) > 0.05
    for row_id, found in in_training.items():
        assert found == pytest.approx(in_scoring[row_id], abs=1e-6)
        assert found == pytest.approx(in_evaluation["score"][row_id], abs=1e-6)


def _assert_warm_start_scores_the_same(
    made: Made, spark: SparkSession, version: str, scores: dict[int, float]
) -> None:
    """A model of the newer state, with its larger tables, before its first step."""
    settings = load_settings(made.raw.config, [f"train.warm_start='{version}'"])
    state = load_state(made.lake, made.examples.info["states"][SECOND])
    start = find_source(settings, made.lake, made.examples, state, settings.train.warm_start)
    assert start is not None and "tag_ids" in start.id_maps
    name = settings.train.model
    spec = start.spec(ModelSpec.of(BASKETS, state, settings.train), name)
    model = build_model(name, spec)
    warm(model, spec, start)
    for split in ("train", "val", "test"):
        stream = Stream(
            made.examples, BASKETS, split=split, batch_rows=16, streams=4, first_ds=SECOND
        )
        for batch in stream.epoch(0):
            rows = batch.is_row
            for row_id, score_ in zip(batch.row_id[rows], predict(model, batch)[rows], strict=True):
                assert float(score_) == pytest.approx(scores[int(row_id)], abs=1e-6)
