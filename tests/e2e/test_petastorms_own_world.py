"""What the ETL writes, read where Petastorm, Arrow 14 and NumPy 1.26 are as they were.

The environment is made once, in the user's cache, by tools/world.sh.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.lake.examples import Examples
from jobs.main import main
from schemas.dataset import ROW_ID
from tests.builders.digits import FIRST, configure
from tests.builders.lakes import example_rows, examples_of, run_etl
from tests.builders.visits import VISITS, Raw, rows_of
from tests.builders.worlds import interpreter
from tools.make_digits import make_digits

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world() -> str:
    """Its interpreter."""
    return interpreter("petastorm")


def read(world: str, out: Path, kind: str, *urls: str) -> dict[str, npt.NDArray[np.generic]]:
    """Each column's values, in order of the row ids."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    script = str(ROOT / "tests" / "builders" / "petastorm_alone.py")
    subprocess.run([world, "-I", script, kind, str(out), *urls], env=environment, check=True)
    with np.load(out) as found:
        columns = {name.removeprefix("column:"): values for name, values in found.items()}
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


def test_images_open_with_make_reader(world: str, spark: SparkSession, tmp_path: Path) -> None:
    make_digits(tmp_path / "raw", step=6)
    config = configure(tmp_path)
    assert main(["etl", "--config", str(config), "--quiet", "--date", FIRST]) == 0
    examples = Examples.open(f"{tmp_path}/lake/digits/examples")
    files = [f"{examples.url}/{shard.path}" for shard in examples.shards()]
    folder = f"file://{examples.url}/run={examples.shards()[0].run}"

    rows = read(world, tmp_path / "rows.npz", "rows", folder)
    scalars = read(world, tmp_path / "batch.npz", "batch", *[f"file://{file}" for file in files])

    stored = pa.concat_tables([pq.ParquetFile(file).read() for file in files]).sort_by(ROW_ID)
    pixels = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in _raw_files(tmp_path, stored)]
    assert len(rows[ROW_ID]) == stored.num_rows == 200
    np.testing.assert_array_equal(rows["image"], np.stack(pixels))
    assert rows["image"].dtype == np.uint8
    for name in (ROW_ID, "digit", "file", "folder"):
        np.testing.assert_array_equal(rows[name], stored[name].to_numpy(), err_msg=name)
        np.testing.assert_array_equal(scalars[name], rows[name], err_msg=name)
    assert set(rows["ds"]) == {FIRST} and set(rows["split"]) == {"train", "val", "test"}


def _raw_files(folder: Path, stored: pa.Table) -> list[Path]:
    places = zip(stored["folder"].to_pylist(), stored["file"].to_pylist(), strict=True)
    return [folder / "raw" / FIRST / digit / name for digit, name in places]
