"""Petastorm runs on today's Arrow and NumPy, and nobody else sees the names it is given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from jobs.petastorm_arrow import (
    ConcurrentVentilator,
    EmptyResultError,
    ThreadPool,
    WorkerBase,
    unischema,
)
from schemas.flights import FLIGHTS


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_arrow_and_numpy_stay_as_they_are() -> None:
    done = python(
        "import sys, numpy, pyarrow\n"
        "import jobs.petastorm_arrow, petastorm.reader, petastorm.pytorch\n"
        "assert not {'LocalFileSystem', 'localfs', 'filesystem', 'hdfs'} & set(vars(pyarrow))\n"
        "assert not {'pyarrow.filesystem', 'pyarrow.hdfs'} & set(sys.modules)\n"
        "assert not hasattr(numpy, 'unicode_')\n"
        "assert petastorm.unischema.np.unicode_ is numpy.str_\n"
    )

    assert done.returncode == 0, done.stderr


def test_petastorm_made_to_work_by_others_first_is_refused() -> None:
    done = python(
        "import sys, types\n"
        "names = {'LocalFileSystem': type, 'HadoopFileSystem': type}\n"
        "for name in ('pyarrow.filesystem', 'pyarrow.hdfs'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    vars(sys.modules[name]).update(names)\n"
        "import petastorm, jobs.petastorm_arrow\n"
    )

    assert "petastorm was imported before jobs.petastorm_arrow" in done.stderr


def test_unischema_has_every_stored_column() -> None:
    schema = unischema(FLIGHTS)

    stored = FLIGHTS.stored_columns()
    assert list(schema.fields) == [column.name for column in stored]
    for column in stored:
        field = schema.fields[column.name]
        assert field.shape == column.shape
        assert field.nullable == column.nullable
    assert schema.fields["late"].numpy_dtype is np.float32
    assert schema.fields["origin"].numpy_dtype is np.str_


class Squares(WorkerBase):  # type: ignore[misc]
    def process(self, number: int) -> None:
        self.publish_func(number**2)


def test_pool_and_ventilator_give_every_result() -> None:
    pool = ThreadPool(2)
    items = [{"number": number} for number in range(50)]
    pool.start(Squares, ventilator=ConcurrentVentilator(pool.ventilate, items))

    found = [pool.get_results() for _ in items]

    assert sorted(found) == [number**2 for number in range(50)]
    with pytest.raises(EmptyResultError):
        pool.get_results()
    pool.stop()
    pool.join()
