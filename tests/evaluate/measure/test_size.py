"""Metrics at size: equal to scikit-learn's on a million rows, in a driver that does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn import metrics as sk

from jobs.evaluate.measure.metrics import measure
from jobs.evaluate.measure.sums import SCORE_EPSILON

ROOT = Path(__file__).parents[2]
# Scores, labels and weights follow from the row's number, here and in the driver's program.
MADE = {
    "score": "CAST((pmod(xxhash64(id, 1), {distinct}) + 0.5) / {distinct} AS FLOAT)",
    "label": "CAST(pmod(xxhash64(id, 2), 1000) / 1000.0D < "
    "(pmod(xxhash64(id, 1), {distinct}) + 0.5) / {distinct} AS INT)",
    "weight": "CAST(0.5 + pmod(xxhash64(id, 3), 7) AS FLOAT)",
}


@pytest.mark.slow
def test_a_million_rows_with_ties_and_weights_equal_scikit_learn(spark: SparkSession) -> None:
    made = [F.expr(text.format(distinct=50_000)).alias(name) for name, text in MADE.items()]
    rows = spark.range(1_000_000).select(*made).persist()
    values = rows.toPandas().astype(np.float64)
    s, y, w = values["score"], values["label"], values["weight"]
    clipped = np.clip(s, SCORE_EPSILON, 1 - SCORE_EPSILON)

    found = measure(rows, "binary", "rows").values

    rows.unpersist()
    expected = {
        "auc": sk.roc_auc_score(y, s, sample_weight=w),
        "pr_auc": sk.average_precision_score(y, s, sample_weight=w),
        "log_loss": sk.log_loss(y, clipped, sample_weight=w),
        "brier": sk.brier_score_loss(y, s, sample_weight=w),
        "accuracy": sk.accuracy_score(y, s >= 0.5, sample_weight=w),
        "f1": sk.f1_score(y, s >= 0.5, sample_weight=w),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


PROGRAM = """
import json, resource, sys
from pyspark.sql import SparkSession, functions as F
from jobs.evaluate.measure.metrics import measure
made, rows, distinct = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
spark = (
    SparkSession.builder.master("local-cluster[1,2,2048]")
    .config("spark.executor.memory", "2g").config("spark.driver.memory", "512m")
    .config("spark.driver.host", "localhost").config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "8").getOrCreate()
)
columns = [F.expr(text.format(distinct=distinct)).alias(name) for name, text in made.items()]
scored = spark.range(rows).select("id", *columns)
scored = scored.withColumn("block", F.expr("CAST(pmod(id, 50) AS INT)"))
third = F.expr("to_json(array(array('third'), array(string(id % 3))))")
scored = scored.withColumn("slices", F.array(third))
found = measure(scored, "binary", "rows")
memory = spark._jvm.java.lang.management.ManagementFactory.getMemoryPoolMXBeans()
heap = sum(p.getPeakUsage().getUsed() for p in memory if str(p.getType()) == "Heap memory")
print(json.dumps({"auc": found.values["auc"], "slices": len(found.slices),
                  "python_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                  "heap_mb": heap / 2**20}))
spark.stop()
"""


def _in_a_small_driver(rows: int, distinct: int) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(MADE), str(rows), str(distinct)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"},
    )
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_driver_of_512_mb_measures_ten_million_scores() -> None:
    few = _in_a_small_driver(100_000, 100_000)
    many = _in_a_small_driver(10_000_000, 10_000_000)

    assert few["slices"] == many["slices"] == 3
    assert 0.5 < many["auc"] < 1
    # A hundred times the rows and scores; the driver's own process hardly differs.
    assert many["python_mb"] < few["python_mb"] * 1.2
    assert many["heap_mb"] < 512
