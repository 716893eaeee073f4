"""Spark's properties files are read as Spark reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.base.properties import read_properties

TEXT = (
    "spark.trailing value \t\n"
    + r"""
# a comment, and another:
! spark.not 1
spark.blank value of words
spark.blanks    value
spark.tab	value
   spark.indented	 	value
spark.equals=value
spark.equals.blanks  =  value
spark.colon:value
spark.second.equals==value
spark.url hdfs://host:9000/a=b
spark.continued -Da=b \
    -Dc=d \
  -De=f
spark.even.backslashes value\\
spark.escaped\:name value
spark.tab.in.value a\tb
spark.unicode \u00e9t\u00e9
spark.empty
spark.twice first
spark.twice second
other.tool.option value
"""
)


def test_each_line_is_what_spark_reads(spark: SparkSession, tmp_path: Path) -> None:
    file = tmp_path / "spark.conf"
    file.write_text(TEXT, encoding="utf-8")
    jvm = spark._jvm
    assert jvm is not None
    read = jvm.org.apache.spark.util.Utils.getPropertiesFromFile(str(file))
    items = read.iterator()
    expected = {}
    while items.hasNext():
        item = items.next()
        expected[item._1()] = item._2()
    assert expected.pop("other.tool.option") == "value"

    assert read_properties(TEXT) == expected
    assert expected["spark.continued"] == "-Da=b -Dc=d -De=f"
    assert expected["spark.tab"] == "value"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_anywhere(end: str) -> None:
    assert read_properties(f"spark.a 1{end}spark.b \\{end}  2") == {"spark.a": "1", "spark.b": "2"}
