"""Ids of examples as those of a model that is older than they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# Of each field, the model's id by that of the examples.
IdMaps = Mapping[str, npt.NDArray[np.int32]]


def with_model_ids(table: pa.Table, id_maps: IdMaps) -> pa.Table:
    """The table with the model's ids in place of the examples'."""
    for name, ids in id_maps.items():
        place = table.column_names.index(name)
        column = table.column(name).combine_chunks()
        is_list = pa.types.is_list(column.type)
        own = pa.array(ids[(column.flatten() if is_list else column).to_numpy()], pa.int32())
        if is_list:
            # Of a slice, the offsets begin elsewhere than at 0.
            offsets = pc.subtract(column.offsets, column.offsets[0])
            own = pa.ListArray.from_arrays(offsets, own)
        table = table.set_column(place, name, own)
    return table
