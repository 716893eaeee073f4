"""The plain Spark script that the ETL is compared with: what a first version looks like.

    spark-submit benchmarks/etl_plain.py RAW OUT

Parses with Spark's reader, counts each field, joins each vocabulary on its texts, shuffles by
range and writes. It checks nothing and runs with the JVM's own flags.
"""

from __future__ import annotations

import sys

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from schemas.criteo import CATEGORIES, CRITEO, INTEGERS

_MIN_COUNT = CRITEO.categorical[0].min_count
_BUCKETS = CRITEO.categorical[0].oov_buckets


def main(raw: str, out: str) -> None:
    spark = SparkSession.builder.appName("plain").getOrCreate()
    columns = [*(f"{name} INT" for name in ("label", *INTEGERS))]
    schema = ", ".join([*columns, *(f"{name} STRING" for name in CATEGORIES)])
    rows = spark.read.csv(raw, schema=schema, sep="\t")
    line = [F.col(name) for name in ("label", *INTEGERS, *CATEGORIES)]
    bucket = F.pmod(F.xxhash64(F.lit(7), *line), F.lit(10))
    split = F.when(bucket < 8, "train").when(bucket == 8, "val").otherwise("test")
    rows = rows.select(F.xxhash64(*line).alias("row_id"), split.alias("split"), *line).cache()
    train = rows.where(F.col("split") == "train")
    for name in INTEGERS:
        rows = rows.withColumn(name, F.log1p(F.greatest(F.col(name), F.lit(0))).cast("float"))
    for name in CATEGORIES:
        entries = _entries(train, name)
        rows = rows.join(F.broadcast(entries), name, "left").drop(name)
        unseen = 2 + F.pmod(F.col("row_id"), F.lit(_BUCKETS)).cast("int")
        rows = rows.withColumn(name, F.coalesce(f"{name}_id", unseen)).drop(f"{name}_id")
    ordered = rows.repartitionByRange(8, "split", "row_id").sortWithinPartitions("split", "row_id")
    ordered.write.mode("overwrite").partitionBy("split").option("compression", "zstd").parquet(out)


def _entries(train: DataFrame, name: str) -> DataFrame:
    counts = train.where(F.col(name).isNotNull()).groupBy(name).count()
    order = Window.orderBy(F.desc("count"), name)
    place = (F.row_number().over(order) + 1 + _BUCKETS).alias(f"{name}_id")
    return counts.where(F.col("count") >= _MIN_COUNT).select(name, place)


if __name__ == "__main__":
    main(*sys.argv[1:])
