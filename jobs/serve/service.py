"""What the server does, whatever the protocol: a request's tensors or columns to its answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jobs.serve.accounts import Accounts
from jobs.serve.champion import Answers, Champion
from jobs.serve.live import Live
from jobs.serve.request.errors import NotReady, RequestError, TooLarge, Unknown
from jobs.serve.request.rows import (
    Values,
    columns_of_tensors,
    raw_rows,
    refuse_other_columns,
)
from jobs.serve.request.tensors import BYTES, NamedTensor
from jobs.serve.sample import ServedSample
from jobs.serve.waiting import Rows, WaitingRows
from jobs.settings.serve import ServeSettings
from schemas.dataset import Dataset

log = logging.getLogger("millstream.serve")

# The model of this name takes what shards hold; the one of the data set's own name raw rows.
ENCODED = "_encoded"
_HANGS = "nothing is answered here now"
SCORE, SCORES, CLASS, REASONS = "score", "scores", "predicted_class", "reasons"


@dataclass(frozen=True)
class Answered:
    """An answer before it is written in a protocol.

    Attributes:
        parameters: the version, and the digests of its weights and state.
    """

    model: str
    version: str
    outputs: list[NamedTensor]
    parameters: dict[str, str]

    def asked(self, names: Collection[object]) -> list[NamedTensor]:
        """The outputs of these names; all where none is named.

        Raises:
            RequestError: there is no such output.
        """
        known = [tensor.name for tensor in self.outputs]
        if not all(name in known for name in names):
            raise RequestError(f"an output that is asked for is none of {', '.join(known)}")
        return [tensor for tensor in self.outputs if not names or tensor.name in names]


class Service:
    """One replica's answers.

    Attributes:
        draining: whether it is about to end, and so not ready.
    """

    def __init__(
        self,
        settings: ServeSettings,
        dataset: Dataset,
        live: Live,
        waiting: WaitingRows,
        accounts: Accounts,
        sample: ServedSample,
    ) -> None:
        self.settings, self.dataset, self.live = settings, dataset, live
        self.accounts, self.draining = accounts, False
        self._waiting, self._sample = waiting, sample

    @cached_property
    def _most_columns(self) -> int:
        """How many columns the declaration has, with those of parents."""
        sources = [self.dataset.source(join.source) for join in self.dataset.joins]
        return sum(len(source.columns) for source in (self.dataset.row_source, *sources))

    @property
    def names(self) -> tuple[str, str]:
        """Of the two models: of raw rows, and of encoded ones."""
        return self.dataset.name, f"{self.dataset.name}{ENCODED}"

    @property
    def ready(self) -> bool:
        return self.live.champion is not None and not self.draining and not self.hangs

    @property
    def hangs(self) -> bool:
        """Whether a batch has been computed for longer than any request waits for its answer."""
        return time.monotonic() - self.alive_at > self.settings.deadline_ms / 1000

    @property
    def alive_at(self) -> float:
        """See `WaitingRows`."""
        return self._waiting.alive_at

    @property
    def version(self) -> str:
        """The one that is live; empty where none is."""
        champion = self.live.champion
        return champion.version.version if champion is not None else ""

    def champion(self, name: str, version: str = "") -> Champion:
        """The live version of a model.

        Raises:
            Unknown: no such model, or another version is live.
            NotReady: none is.
        """
        if name not in self.names:
            raise Unknown(f"no such model; here are {' and '.join(self.names)}")
        # One that drains answers what still comes: its ports close, and its readiness is gone.
        champion = self.live.champion
        if champion is None:
            raise NotReady("no model is live here now")
        if version and version != champion.version.version:
            raise Unknown(f"that version is not live, version {champion.version.version} is")
        return champion

    def check_ready(self, name: str, version: str = "") -> None:
        """
        Raises:
            Unknown: no such model, or another version is live.
            NotReady: none is, it is about to end, or its scores do not come.
        """
        self.champion(name, version)
        if self.draining:
            raise NotReady("this server ends")
        if self.hangs:
            raise NotReady(_HANGS)

    async def infer(
        self, name: str, version: str, tensors: Sequence[NamedTensor], timeout_s: float
    ) -> Answered:
        """The answer to tensors.

        Raises:
            RequestError: there is none.
        """
        champion = self.champion(name, version)
        if not tensors:
            raise RequestError("a request needs inputs")
        self._refuse_many({tensor.rows for tensor in tensors})
        if name == self.names[0]:
            columns = columns_of_tensors(tensors)
            answers = await self._of_columns(champion, columns, timeout_s)
        else:
            rows = champion.inputs.rows(tensors)
            answers = await self._answers(champion, rows, timeout_s)
        return Answered(name, champion.version.version, _outputs(answers), _names(champion))

    async def invocations(
        self, columns: Mapping[str, Values], timeout_s: float
    ) -> list[dict[str, Any]]:
        """The answer to columns, a mapping a row.

        Raises:
            RequestError: there is none.
        """
        champion = self.champion(self.names[0])
        if not columns:
            raise RequestError("a request needs columns")
        self._refuse_many({len(values) for values in columns.values()})
        answers = await self._of_columns(champion, columns, timeout_s)
        outputs = [_plain(tensor) for tensor in _outputs(answers)]
        names = _names(champion)
        return [
            {**{name: values[row] for name, values in outputs}, **names}
            for row in range(len(answers.scores))
        ]

    async def _of_columns(
        self, champion: Champion, columns: Mapping[str, Values], timeout_s: float
    ) -> Answers:
        rows = raw_rows(self.dataset, columns, champion.looked_up)
        answers = await self._answers(champion, rows, timeout_s)
        try:
            self._sample.offer(columns, answers, champion)
        except Exception:
            # What is kept of an answer must not cost the answer.
            log.exception("rows were not kept in `served`")
            self.accounts.drop(len(rows))
        return answers

    async def _answers(self, champion: Champion, rows: Rows, timeout_s: float) -> Answers:
        if self.hangs:
            # At once, so that whoever balances asks another server.
            raise NotReady(_HANGS)
        longest = self.settings.deadline_ms / 1000
        answers = await self._waiting.answers(champion, rows, min(timeout_s, longest))
        refused = len(answers.reasons)
        self.accounts.rows(champion.version.version, len(rows) - refused, refused)
        return answers

    def check_columns(self, names: Collection[str], rows: int) -> None:
        """
        Raises:
            RequestError: more rows than are taken, or more names than the declaration has.
        """
        self._refuse_many({rows})
        if len(names) > self._most_columns:
            refuse_other_columns(self.dataset, names)

    def _refuse_many(self, counts: set[int]) -> None:
        if len(counts) != 1:
            raise RequestError("the inputs have different numbers of rows")
        count = counts.pop()
        if not count:
            raise RequestError("the request has no rows")
        if count > self.settings.most_rows:
            raise TooLarge(f"{count} rows; at most {self.settings.most_rows} are taken at once")

    def inputs(self, name: str) -> list[tuple[str, str, list[int]]]:
        """Name, datatype and shape of a model's inputs; -1 rows stands for any number."""
        champion = self.champion(name)
        if name != self.names[0]:
            kinds = champion.inputs.kinds.items()
            return [(key, kind, [-1, *shape]) for key, (kind, shape) in kinds]
        columns = [c.name for c in self.dataset.row_source.columns if not c.of_label]
        for join in self.dataset.joins:
            if join.source not in champion.looked_up:
                names = self.dataset.source(join.source).column_names
                columns += [f"{join.source}.{column}" for column in names]
        return [(column, BYTES, [-1]) for column in columns]

    def output_kinds(self) -> list[tuple[str, str, list[int]]]:
        """Name, datatype and shape of the outputs."""
        found = [(SCORE, "FP32", [-1]), (REASONS, BYTES, [-1])]
        label = self.dataset.label
        if label.task == "multiclass":
            found += [(CLASS, "INT32", [-1]), (SCORES, "FP32", [-1, label.classes])]
        return found


def _outputs(answers: Answers) -> list[NamedTensor]:
    """As predictions have them: the score, of classes the most probable one's and all; and the
    reasons of a refused row as the text of a JSON list, empty of the others."""
    scores = answers.scores
    count = len(scores)
    texts = [""] * count
    for row, why in answers.reasons.items():
        texts[row] = json.dumps(list(why))
    reasons = NamedTensor(REASONS, BYTES, (count,), texts)
    if scores.ndim == 1:
        return [NamedTensor(SCORE, "FP32", (count,), scores), reasons]
    refused = np.isnan(scores).any(axis=1)
    best = np.where(refused, -1, np.nan_to_num(scores).argmax(axis=1)).astype(np.int32)
    return [
        NamedTensor(SCORE, "FP32", (count,), scores.max(axis=1)),
        reasons,
        NamedTensor(CLASS, "INT32", (count,), best),
        NamedTensor(SCORES, "FP32", tuple(scores.shape), scores),
    ]


def _names(champion: Champion) -> dict[str, str]:
    tags = champion.version.tags
    return {
        "model_version": champion.version.version,
        "weights_digest": tags["weights_digest"],
        "state_digest": tags["state_digest"],
    }


def _plain(tensor: NamedTensor) -> tuple[str, list[Any]]:
    """A row's value each, as JSON has it; of reasons a list."""
    if not isinstance(tensor.data, np.ndarray):
        return tensor.name, [json.loads(text) if text else [] for text in tensor.data]
    found = tensor.data.astype(object)
    if np.issubdtype(tensor.data.dtype, np.floating):
        found[~np.isfinite(tensor.data)] = None
    return tensor.name, found.tolist()
