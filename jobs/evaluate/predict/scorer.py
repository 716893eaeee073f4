"""Judged rows to scored ones, where they are judged: no row is written only to be read again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from jobs.etl.encode.encoder import Encoder
from jobs.evaluate.predict.predict import Predictor, scored
from jobs.evaluate.predict.predictions import kept_columns


@dataclass(frozen=True)
class Scorer:
    """Tables of valid rows to tables of the same rows with scores, in a Python worker.

    In place of the fields that a prediction does not keep they have the columns of
    `score_columns`; what tells repeated rows apart stays.

    Attributes:
        encoder: with the state that the model was trained with.
    """

    encoder: Encoder
    predictor: Predictor

    def __call__(self, rows: pa.Table) -> pa.Table:
        encoded = self.encoder(rows).to_batches()
        scores = pa.concat_tables(scored(self.predictor, (), {}, iter(encoded)))
        kept = rows.select([name for name in rows.column_names if name not in self._left_out])
        for name in scores.column_names:
            kept = kept.append_column(name, scores[name])
        return kept

    @cached_property
    def _left_out(self) -> frozenset[str]:
        dataset = self.predictor.dataset
        return frozenset(f.name for f in dataset.fields) - frozenset(kept_columns(dataset))
