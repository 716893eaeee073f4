"""Gradients of sharded tables that are added up in the order of the global batch.

So the bits of a sum do not depend on which rank had which row of the batch. A gradient is sent for
each id that is looked up, instead of one for each distinct row, together with its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from jobs.train.tables.distinct import Distinct
from jobs.train.tables.table import PADDING_INDEX, Lookup
from jobs.train.tables.wire import SentRows


@dataclass(frozen=True)
class LookupGradients:
    """The gradients of k ids that a rank looked up in a table, padding apart, owner by owner.

    Attributes:
        values: [k, E].
        places: int32 [k], in the owners' pieces.
        keys: int64 [k], by which they are ordered in the global batch.
    """

    values: SentRows
    places: SentRows
    keys: SentRows


def lookup_keys(position: Tensor, lookups: Sequence[Tensor]) -> list[Tensor]:
    """The place of each looked up id in the global batch's order, int64 in the shapes of lookups.

    Args:
        position: int64 [b], of the batch's rows in the epoch.
        lookups: ids [b, ...] that these rows look up in one table.
    """
    widths = [ids[0].numel() for ids in lookups]
    total = sum(widths)
    return [
        (position.unsqueeze(1) * total + torch.arange(end - own, end, device=ids.device)).view(
            ids.shape
        )
        for ids, own, end in zip(lookups, widths, accumulate(widths), strict=True)
    ]


def lookup_gradients(
    lookups: Sequence[Lookup], keys: Sequence[Tensor], distinct: Distinct
) -> LookupGradients:
    """The gradients of lookups in one table whose layer keeps those of each id."""
    indices, values, places = [], [], []
    for lookup, own in zip(lookups, keys, strict=True):
        if lookup.rows.grad is not None:
            found = lookup.indices.flatten()
            kept = found != PADDING_INDEX
            indices.append(found[kept] - 1)
            values.append(lookup.gradients[kept])
            places.append(own.flatten()[kept])
    if not indices:
        return _nothing(lookups, distinct)
    rows = torch.cat(indices)
    order = torch.argsort(rows, stable=True)
    ends = torch.tensor(distinct.of_owner, device=rows.device).cumsum(0)
    owners = torch.searchsorted(ends, rows, right=True)
    of_rank = torch.bincount(owners, minlength=len(distinct.of_owner)).tolist()
    return LookupGradients(
        SentRows(torch.cat(values)[order], of_rank),
        SentRows(distinct.places[rows[order]], of_rank),
        SentRows(torch.cat(places)[order], of_rank),
    )


def _nothing(lookups: Sequence[Lookup], distinct: Distinct) -> LookupGradients:
    none = [0] * len(distinct.of_owner)
    places = distinct.places[:0]
    rows = lookups[0].rows.detach()[:0]
    return LookupGradients(
        SentRows(rows, none), SentRows(places, none), SentRows(places.long(), none)
    )
