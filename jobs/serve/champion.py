"""A version of the model, loaded: raw rows or encoded tensors in, scores and reasons out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from jobs.batch.layout import batch_from_arrow
from jobs.etl.encode.encoder import Encoder
from jobs.etl.encode.vocabulary import stage_vocabularies
from jobs.etl.fit.states import state_entries
from jobs.evaluate.export.export import with_engine
from jobs.evaluate.predict.blocks import block_scores, is_same_at_each_place, sizes_of_same_bits
from jobs.evaluate.predict.compatible import refuse_other_declaration
from jobs.evaluate.predict.predict import Forward, Predictor, forward_of
from jobs.evaluate.predict.probe import check_probe, read_probe
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.models.spec import ModelSpec
from jobs.registry.version import ModelVersion
from jobs.rows.base.names import REASONS
from jobs.rows.judge.resident import ResidentEngine
from jobs.serve.request.encoded import EncodedInputs, EncodedRows
from jobs.serve.request.rows import RawRows, raw_rows
from jobs.settings.serve import ServeSettings
from schemas.dataset import Dataset

log = logging.getLogger("millstream.serve")

NO_FINITE_SCORE = "no_finite_score"


@dataclass(frozen=True)
class Answers:
    """What became of rows.

    Attributes:
        scores: float32 [n], or [n, classes]; NaN of refused rows.
        reasons: of each refused row, by its place.
    """

    scores: npt.NDArray[np.float32]
    reasons: Mapping[int, tuple[str, ...]]

    def __getitem__(self, rows: slice) -> Answers:
        start, stop, _ = rows.indices(len(self.scores))
        own = {n - start: why for n, why in self.reasons.items() if start <= n < stop}
        return Answers(self.scores[start:stop], own)


@dataclass(frozen=True)
class Champion:
    """A version that answers; for one thread at a time.

    Attributes:
        inputs: what its encoded rows are.
        block_sizes: rows of a forward; see `block_scores`.
    """

    version: ModelVersion
    spec: ModelSpec
    inputs: EncodedInputs
    dataset: Dataset
    engine: ResidentEngine
    encoder: Encoder
    forward: Forward
    block_sizes: tuple[int, ...]

    @property
    def looked_up(self) -> set[str]:
        """Parents whose rows are known here."""
        return set(self.engine.parents)

    def with_parents(self, parents: Mapping[str, pa.Table]) -> Champion:
        """The same with other rows of parents, ready to answer."""
        engine = ResidentEngine(self.dataset, (), parents, None, False)
        return replace(self, engine=engine)._warmed()

    def _warmed(self) -> Champion:
        """After a row of nulls: tables of parents are built and statements planned, which would
        else cost the first requests many times what the others take."""
        columns: dict[str, list[None]] = {c.name: [None] for c in self.dataset.row_source.columns}
        for join in self.dataset.joins:
            if join.source not in self.looked_up:
                names = self.dataset.source(join.source).column_names
                columns.update({f"{join.source}.{name}": [None] for name in names})
        judged = self.engine.judge(raw_rows(self.dataset, columns, self.looked_up).table)
        self.encoder(judged.valid)
        return self

    def answers(self, rows: RawRows | EncodedRows) -> Answers:
        if isinstance(rows, EncodedRows):
            return self._finite(block_scores(self.forward, rows.batch(), self.block_sizes), {})
        judged = self.engine.judge(rows.table)
        reasons = dict(
            zip(
                judged.refused_places.tolist(),
                map(tuple, judged.refused[REASONS].to_pylist()),
                strict=True,
            )
        )
        classes = (self.spec.classes,) if self.spec.task == "multiclass" else ()
        scores = np.full((len(rows), *classes), np.nan, np.float32)
        if judged.valid.num_rows:
            batch = batch_from_arrow(
                self.encoder(judged.valid),
                self.dataset,
                with_label=False,
                columns=self.spec.columns(self.dataset),
            )
            found = block_scores(self.forward, batch, self.block_sizes)
            scores[judged.valid_places] = found
        return self._finite(scores, reasons)

    def _finite(
        self, scores: npt.NDArray[np.float32], reasons: dict[int, tuple[str, ...]]
    ) -> Answers:
        whole = np.isfinite(scores)
        if whole.all():
            return Answers(scores, reasons)
        finite = whole.reshape(len(scores), -1).all(axis=1)
        for place in np.flatnonzero(~finite).tolist():
            reasons.setdefault(place, (NO_FINITE_SCORE,))
        scores[~finite] = np.nan
        return Answers(scores, reasons)


def load_champion(
    settings: ServeSettings,
    dataset: Dataset,
    lake: Lake,
    version: ModelVersion,
    parents: Mapping[str, pa.Table],
    folder: Path,
) -> Champion:
    """Loads a version and tries it with its probe.

    Args:
        parents: rows of sources that are looked up.
        folder: on this host, for what its replicas share.

    Raises:
        DataRefused: it belongs to another declaration; its card, source, weights, state or id log
            are not what it names; other scores than those of its probe come out.
        ConfigError: ONNX Runtime is asked for and not there.
    """
    refuse_other_declaration(version, dataset, lake)
    state = load_state(lake, version.tags["state_digest"])
    predictor = Predictor.of(version, dataset, settings.block_rows)
    model = predictor.model
    predictor = with_engine(lake, predictor, settings.engine)
    torch.set_num_threads(settings.threads)
    forward = forward_of(predictor, settings.threads)
    probe = read_probe(lake, predictor.digest, settings.engine)
    check_probe(probe, forward)
    if not is_same_at_each_place(forward, probe.batch, settings.block_rows):
        log.warning(
            "serve.block_rows = %d: a row's score depends on its place among others; "
            "take a multiple of 32",
            settings.block_rows,
        )
    names = {f.log_name for f in dataset.counted}
    entries = state_entries(lake, state) if names else None
    url = str(folder / state.digest)
    vocabularies = stage_vocabularies(entries, names, url) if entries is not None else {}
    return Champion(
        version=version,
        spec=model.spec,
        inputs=EncodedInputs(dataset, model.spec),
        dataset=dataset,
        engine=ResidentEngine(dataset, (), dict(parents), None, False),
        encoder=Encoder(dataset, vocabularies, state.ds),
        forward=forward,
        block_sizes=sizes_of_same_bits(
            forward, probe.batch, settings.block_rows, settings.batch_rows
        ),
    )._warmed()
