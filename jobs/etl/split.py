"""Split: train, val or test by a seeded hash of the entity key."""

from __future__ import annotations

from itertools import accumulate

from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F

from jobs.etl.ingest import RAW
from jobs.settings.etl import SplitSettings
from schemas.dataset import Dataset

_BUCKETS = 1_000_000


def split_of(dataset: Dataset, settings: SplitSettings) -> SparkColumn:
    """The split of a row: the same for all rows of an entity, whatever else is in the data."""
    entity = [F.col(name) for name in dataset.entity_columns or (RAW,)]
    bucket = F.pmod(F.xxhash64(F.lit(settings.seed), *entity), F.lit(_BUCKETS))
    fractions = settings.fractions()
    upper_bounds = [round(bound * _BUCKETS) for bound in accumulate(fractions.values())]
    split = F.lit(None).cast("string")
    for name, bound in reversed(list(zip(fractions, upper_bounds, strict=True))):
        split = F.when(bucket < bound, F.lit(name)).otherwise(split)
    return split
