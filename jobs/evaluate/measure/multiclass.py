"""Multiclass scores as the sums of `sums.py` see them: the probability of each row's own class."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.evaluate.predict.predict import PREDICTED_CLASS, SCORE, SCORES


def with_own_score(scored: DataFrame) -> DataFrame:
    """The rows with the probability of the label's class as score; null where it is no class."""
    label = F.col("label").cast("double")
    is_class = (label >= 0) & (label < F.size(SCORES)) & (label == F.floor(label))
    place = F.when(is_class, label.cast("int"))
    return scored.withColumn(SCORE, F.get(F.col(SCORES), place))


__all__ = ["PREDICTED_CLASS", "with_own_score"]
