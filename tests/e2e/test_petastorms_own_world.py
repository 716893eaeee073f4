"""What the ETL writes, read where Petastorm, Arrow 14 and NumPy 1.26 are as they were.

The environment is made once, in the user's cache, by tools/petastorm_world.sh.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from schemas.dataset import ROW_ID
from tests.builders.lakes import example_rows, examples_of, run_etl
from tests.builders.visits import VISITS, Raw, rows_of

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world() -> str:
    """Its interpreter."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "millstream").expanduser()
    script = str(ROOT / "tools" / "petastorm_world.sh")
    made = subprocess.run(
        [script, sys.executable, str(cache)], stdout=subprocess.PIPE, text=True, check=True
    )
    return made.stdout.strip()


def read(world: str, out: Path, kind: str, *urls: str) -> dict[str, npt.NDArray[np.generic]]:
    """Each column's values, in order of the row ids."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    script = str(ROOT / "tests" / "builders" / "petastorm_alone.py")
    subprocess.run([world, "-I", script, kind, str(out), *urls], env=environment, check=True)
    with np.load(out) as found:
        columns = dict(found)
    order = columns[ROW_ID].argsort()
    return {name: values[order] for name, values in columns.items()}


def test_tables_open_with_make_batch_reader(
    world: str, spark: SparkSession, tmp_path: Path
) -> None:
    raw = Raw(tmp_path / "raw").add(rows_of("2024-01-01", 90)).write()
    run_etl(raw, spark, ["2024-01-01"])
    examples = examples_of(raw)
    files = [f"file://{examples.url}/{shard.path}" for shard in examples.shards()]
    assert len(files) > 1

    found = read(world, tmp_path / "found.npz", "batch", *files)

    wanted = example_rows(raw)
    assert sorted(found) == sorted(column.name for column in VISITS.stored_columns())
    for name, values in found.items():
        expected = wanted[name].to_numpy()
        if expected.dtype == object:
            expected = np.array(["" if pd.isna(value) else str(value) for value in expected])
        np.testing.assert_array_equal(values, expected, err_msg=name)
        assert values.dtype.kind == expected.dtype.kind
