"""Any folder of Parquet files, of Petastorm's too, as a source of the stream.

    folder = Folder.open("s3://others/clicks", label="clicked", sparse=["ad"], key="id")
    stream = Stream(folder, folder.dataset, split=None, batch_rows=8192)

What is which: columns of numbers are dense unless they are named otherwise, lists of a fixed size
and Petastorm's images and arrays are tensors, all else is left out. Ids of `sparse` columns are
taken as they are.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.base.errors import ConfigError, DataRefused
from jobs.batch.columns import arrow_type
from jobs.lake.choice import Choice, Where
from jobs.lake.footers import COMMON_METADATA, Footer, Footers, read_footers
from jobs.lake.manifest import Shard
from jobs.petastorm_arrow import CodecColumn, codec_columns
from jobs.train.read.derived import Roles, Shaped, column_of, derived
from jobs.train.read.foreign import ForeignColumns
from schemas.dataset import Dataset
from schemas.field import Carried, Label, NumericList, Tensor, Timestamp

_BY_CODEC = (Tensor, NumericList)


@dataclass(frozen=True)
class Folder:
    """Others' Parquet files. They are told apart by what their footers say, not by their names.

    The fingerprint of a stream over a folder sees rows that were added or taken away, and a column
    chunk whose sizes, nulls, least or greatest value changed. It cannot see a change of values that
    leaves all of these as they were.

    Attributes:
        url: of the folder.
        dataset: the declaration that its columns are read by.
        columns: how they are read.
        files: what is known of each file.
    """

    url: str
    dataset: Dataset
    columns: ForeignColumns
    files: tuple[Footer, ...]

    @classmethod
    def open(
        cls,
        url: str,
        *,
        label: str | Label | None = None,
        dense: Sequence[str] | None = None,
        sparse: Sequence[str] = (),
        tensors: Sequence[Shaped] = (),
        weight: str | None = None,
        key: str | None = None,
        dataset: Dataset | None = None,
        footers_at: str | None = None,
        threads: int = 16,
    ) -> Folder:
        """Lists the folder and reads the footers of files that are new or changed.

        Args:
            label: its column; labels are NaN when None.
            dense: columns of numbers; all that are named nowhere else when None.
            sparse: columns of ids.
            tensors: columns of lists or of encoded images, as fields: what the files do not say of
                them, as the longest list.
            weight: its column.
            key: column that gives row ids; the file and the row's place in it when None.
            dataset: a declaration whose fields are columns of the files, in place of all the above
                but `key`.
            footers_at: URL of the file that keeps what footers said; in the user's cache when None.
            threads: footers read at once.

        Raises:
            DataRefused: no Parquet files, or metadata of Petastorm's that holds other things.
            ConfigError: a column that is not there.
        """
        footers = read_footers(url, footers_at, threads)
        codecs = _codecs(url)
        partitions = sorted(footers.files[0].partition)
        if dataset is None:
            roles = Roles(label, dense, sparse, tensors, weight, key)
            dataset = derived(footers.schema, codecs, partitions, roles)
            sources = {field.name: column_of(field) for field in dataset.fields}
            if label is None:
                del sources[dataset.label.name]
        else:
            sources = _declared(dataset, {*footers.schema.names, *partitions})
        columns = _columns(dataset, sources, footers, codecs, key)
        return cls(url.rstrip("/"), dataset, columns, footers.files)

    def shards(
        self,
        split: str | None = None,
        first_ds: str | None = None,
        last_ds: str | None = None,
        where: Where | None = None,
    ) -> list[Shard]:
        """The files that are chosen, numbered within their partition by what their footers say.

        `Shard.ds` is the partition, as `day=1/kind=a`; `.` where there is none. Row ids are not
        known before reading, so `row_id_sum` is 0.

        Raises:
            ConfigError: a choice by what is no partition column.
        """
        choice = Choice.of(split, first_ds, last_ds, where)
        choice.check(sorted(self.columns.partitions))
        chosen = [file for file in self.files if choice.takes(file.partition)]
        by_place = itertools.groupby(sorted(chosen, key=_place), key=lambda file: _place(file)[0])
        return [
            Shard(place, "", number, file.path, file.bytes, file.row_group_rows, file.digest, 0)
            for place, files in by_place
            for number, file in enumerate(files)
        ]


def _place(file: Footer) -> tuple[str, int, str]:
    partition = "/".join(f"{name}={value}" for name, value in file.partition.items())
    return partition or ".", file.digest, file.path


def _codecs(url: str) -> dict[str, CodecColumn]:
    fs, root = fsspec.core.url_to_fs(url.rstrip("/"))
    path = f"{root}/{COMMON_METADATA}"
    if not fs.exists(path):
        return {}
    try:
        with fs.open(path, "rb") as file:
            return codec_columns(pq.read_metadata(file).metadata or {})
    except (pickle.UnpicklingError, pa.ArrowInvalid) as error:
        raise DataRefused(
            f"{url}/{COMMON_METADATA}: {error}",
            "the description of columns that Petastorm writes",
            "do not use data from where you do not trust it",
        ) from error


def _declared(dataset: Dataset, there: set[str]) -> dict[str, str]:
    inputs = [f.name for f in dataset.fields if not isinstance(f, Carried | Timestamp)]
    if missing := sorted(set(inputs) - there):
        raise ConfigError(
            f"declaration {dataset.name!r} has {', '.join(missing)}, which the files have not",
            f"some of {', '.join(sorted(there))}",
        )
    return {name: name for name in inputs}


def _columns(
    dataset: Dataset,
    sources: dict[str, str],
    footers: Footers,
    codecs: dict[str, CodecColumn],
    key: str | None,
) -> ForeignColumns:
    names = set(footers.schema.names)
    if key is not None and key not in names:
        raise ConfigError(f"no column {key!r} (key)", f"some of {', '.join(sorted(names))}")
    types = {c.name: arrow_type(c.spark_type) for c in dataset.stored_columns()}
    decoded = {f.name: sources[f.name] for f in dataset.fields if isinstance(f, _BY_CODEC)}
    return ForeignColumns(
        sources=sources,
        types={name: type_ for name, type_ in types.items() if type_ is not None},
        decoders={name: codecs[src].decode for name, src in decoded.items() if src in codecs},
        partitions=frozenset(footers.files[0].partition),
        key=key,
    )
