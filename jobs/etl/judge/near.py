"""Tasks near their blocks: Spark is told which hosts have what each task reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import IntegerType, StructField, StructType

from jobs.rows.read.pieces import Piece
from jobs.stores.files import scheme_of

_NUMBER = StructType([StructField("number", IntegerType(), False)])
# As many copies as a block has by default: hosts after these hold a smaller part of the task's.
_MOST_HOSTS = 3
_THREADS = 16
# Of a smaller piece, a question to the name node would cost what reading it from afar does.
_LEAST_BYTES = 1 << 20


def numbered(spark: SparkSession, shares: Sequence[Sequence[Piece]]) -> DataFrame:
    """The numbers of the shares, one a partition, whose task prefers hosts that have its pieces."""
    hosts = [_hosts(spark, share) for share in shares]
    if not any(hosts):
        return spark.range(0, len(shares), 1, len(shares))
    context, java, scala = spark.sparkContext, spark.sparkContext._jvm, partial(_scala, spark)
    assert java is not None
    rows = [
        java.scala.Tuple2(java.org.apache.spark.sql.RowFactory.create(_array(spark, n)), scala(own))
        for n, own in enumerate(hosts)
    ]
    # Python's own `parallelize` cannot say where a partition belongs.
    placed = context._jsc.sc().makeRDD(scala(rows), java.scala.reflect.ClassTag.Any())
    schema = spark._jsparkSession.parseDataType(_NUMBER.json())
    return DataFrame(spark._jsparkSession.createDataFrame(placed.toJavaRDD(), schema), spark)


def _hosts(spark: SparkSession, share: Sequence[Piece]) -> list[str]:
    """The hosts that have most bytes of some pieces, in order; none where nobody says."""
    asked = [p for p in share if scheme_of(p.file.path) == "hdfs" and p.weight >= _LEAST_BYTES]
    held = Counter[str]()
    with ThreadPoolExecutor(_THREADS) as threads:
        for found in threads.map(partial(_held, spark), asked):
            held.update(found)
    return [host for host, _ in sorted(held.items(), key=lambda one: (-one[1], one[0]))][
        :_MOST_HOSTS
    ]


def _held(spark: SparkSession, piece: Piece) -> Counter[str]:
    """Bytes of a piece by host. hdfs-native does not say; Hadoop's own client, in Spark, does."""
    java = spark.sparkContext._jvm
    assert java is not None
    path = java.org.apache.hadoop.fs.Path(piece.file.path)
    store = path.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
    held = Counter[str]()
    for block in store.getFileBlockLocations(path, piece.offset, piece.weight):
        for host in block.getHosts():
            held[str(host)] += int(block.getLength())
    return held


def _array(spark: SparkSession, number: int) -> Any:
    gateway = spark.sparkContext._gateway
    assert gateway is not None
    array = gateway.new_array(gateway.jvm.Object, 1)
    array[0] = number
    return array


def _scala(spark: SparkSession, values: Sequence[Any]) -> Any:
    java = spark.sparkContext._jvm
    assert java is not None
    listed = java.java.util.ArrayList()
    for value in values:
        listed.add(value)
    return java.PythonUtils.toSeq(listed)
