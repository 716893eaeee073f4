"""conf/spark: the files parse, and Spark itself knows every option and takes its value."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

CONF = Path(__file__).parents[2] / "conf" / "spark"
FILES = sorted(CONF.glob("*.conf"))
# The objects of Spark that declare options, for the modules that have their own.
DECLARING = (
    "org.apache.spark.internal.config.package$",
    "org.apache.spark.internal.config.Python$",
    "org.apache.spark.internal.config.UI$",
    "org.apache.spark.deploy.yarn.config.package$",
    "org.apache.spark.deploy.k8s.Config$",
    "org.apache.spark.sql.internal.SQLConf$",
    "org.apache.spark.sql.internal.StaticSQLConf$",
)
# Families, whose names carry a user's own: a resource, a volume, a label of a node.
_POD = r"spark\.kubernetes\.(driver|executor)"
_CLAIM = rf"{_POD}\.volumes\.persistentVolumeClaim\.\w+"
FAMILIES = {
    r"spark\.(executor|task|driver)\.resource\.\w+\.amount": r"\d+",
    r"spark\.(executor|driver)\.resource\.\w+\.discoveryScript": r"\S+",
    r"spark\.(executor|driver)\.resource\.\w+\.vendor": r"[a-z.]+",
    rf"{_CLAIM}\.mount\.path": "/.+",
    rf"{_CLAIM}\.options\.claimName": r"\S+",
    rf"{_POD}\.node\.selector\.\S+": r"\S+",
}


def options(file: Path) -> list[tuple[str, str]]:
    """Names and values, also of options that a comment offers."""
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("#") for line in lines if re.match(r"#?spark\.", line)]
    return [(name, value) for name, value in (line.split(None, 1) for line in kept)]


@pytest.fixture(scope="module")
def jvm(spark: SparkSession) -> Any:
    found: Any = spark._jvm
    for name in DECLARING:
        found.java.lang.Class.forName(name)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_spark_knows_each_option_and_takes_its_value(jvm: Any, file: Path) -> None:
    found = options(file)
    assert found
    for name, value in found:
        family = next((wanted for f, wanted in FAMILIES.items() if re.fullmatch(f, name)), None)
        if family is not None:
            assert re.fullmatch(family, value), f"{name} {value}"
            continue
        if name == jvm.org.apache.spark.launcher.SparkLauncher.SPARK_MASTER:
            continue
        entry = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry(name)
        assert entry is not None, f"{file.name}: Spark has no option {name}"
        entry.valueConverter().apply(value)


def test_a_wrong_name_and_a_wrong_value_are_found(jvm: Any) -> None:
    """The test above could fail."""
    find = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry
    assert find("spark.executor.memori") is None
    with pytest.raises(Exception, match="INVALID_CONF_VALUE"):
        find("spark.executor.cores").valueConverter().apply("four")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_says_an_option_once_and_why(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    names = [name for name, _ in options(file)]
    assert len(set(names)) == len(names)
    assert all(re.match(r"#|spark\.[\w.]+ +\S|$", line) for line in lines)
    assert lines[0].startswith("# ")


def test_gpus_are_found_as_spark_reads_them(jvm: Any, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n3\\n'\n", encoding="utf-8")
    tool.chmod(0o755)
    said = subprocess.run(
        [str(CONF / "discover_gpus.sh")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    gpus = jvm.org.apache.spark.resource.ResourceInformation.parseJson(said)
    assert gpus.name() == "gpu"
    assert list(gpus.addresses()) == ["0", "3"]
