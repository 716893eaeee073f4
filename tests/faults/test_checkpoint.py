"""Checkpoints: whole or not there, whatever happens to their files."""

from __future__ import annotations

import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.base.errors import DataRefused
from jobs.batch.batch import Batch
from jobs.lake.lake import Lake
from jobs.models.build import build_model
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone
from jobs.train.keep.chain import prune
from jobs.train.keep.checkpoint import listed, load, verified, write
from jobs.train.keep.commits import Committer, RankMemory
from jobs.train.keep.resume import select
from jobs.train.keep.seal import COMMIT, Damaged
from jobs.train.keep.snapshot import Snapshot, restore, take
from jobs.train.keep.together import StoreHangs
from jobs.train.keep.writer import Writer
from jobs.train.step.history import Position
from jobs.train.step.rowledger import RowCount, RowLedger
from jobs.train.step.step import Step
from tests.builders.batches import SPEC, batch_of
from tests.builders.devices import DEVICES
from tests.builders.s3 import S3

IDENTITY = {
    "examples_version": 3,
    "state_digest": "s",
    "fingerprint": {"seed": 7, "dates": {"2026-01-01": {"rows": 4}}},
    "spec": {"hidden": [8]},
    "train": {"learning_rate": 0.1, "workers": 2, "batch_rows": 64},
}
FILES = ("weights.safetensors", "optimizer.safetensors", "random.safetensors", COMMIT)


def step_of(optimizer: str = "adam", steps: int = 0, device: str = "cpu") -> Step:
    torch.manual_seed(1)
    settings = TrainSettings.model_validate({"optimizer": optimizer, "learning_rate": 0.1})
    step = Step(build_model("wide_deep", SPEC).to(device), settings, Alone())
    for number in range(steps):
        step.run(batch_of(16, seed=number))
    return step


def snapshot_of(steps: int = 2, row: int = 32) -> Snapshot:
    position = Position(epoch=1, row=row, loss=0.25, weight=3.5, trained=RowCount(row, 2**63 + 5))
    return take(step_of(steps=steps), position, RowLedger(position.trained))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path), "clicks")


@pytest.fixture
def folder(lake: Lake) -> str:
    return lake.folder("checkpoints", "train-a")


def assert_equal(ours: Snapshot, theirs: Snapshot) -> None:
    for name in ("weights", "optimizer"):
        left, right = getattr(ours, name), getattr(theirs, name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert torch.equal(ours.random, theirs.random)
    assert (ours.numbers, ours.position) == (theirs.numbers, theirs.position)


def test_what_is_read_is_what_was_written(folder: str) -> None:
    snapshot = snapshot_of()
    found = verified(write(folder, snapshot, IDENTITY))
    assert_equal(load(found), snapshot)
    assert found.identity == IDENTITY
    assert found.name.startswith("train-a/at-")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_a_restored_training_goes_on_with_the_same_bits(
    optimizer: str, device: str, folder: str
) -> None:
    step = step_of(optimizer, steps=3, device=device)
    url = write(folder, take(step, Position(), RowLedger()), IDENTITY)
    other = step_of(optimizer, device=device)
    torch.manual_seed(99)
    restore(other, load(verified(url)))
    drawn = torch.rand(3, device=device)
    batches: list[Batch] = [batch_of(16, seed=number) for number in (7, 8)]
    for each in (step, other):
        for batch in batches:
            each.run(batch)
    restore(step, replace(load(verified(url)), weights=dict(step.model.state_dict())))
    assert torch.equal(drawn, torch.rand(3, device=device)), (
        "the random numbers go on where they were"
    )
    for ours, theirs in zip(step.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_on_s3_the_commit_comes_last(s3: S3, tmp_path: Path) -> None:
    folder = s3.url(tmp_path.name, "clicks", "checkpoints", "train-a")
    snapshot = snapshot_of()
    before = len(s3.requests())
    url = write(folder, snapshot, IDENTITY)
    put = [path.rsplit("/", 1)[-1] for verb, path, *_ in s3.requests()[before:] if verb == "PUT"]
    assert put[-4:] == list(FILES)
    assert listed(folder) == [url]
    assert_equal(load(verified(url)), snapshot)
    prune(folder, 1, [url, write(folder, snapshot, IDENTITY)])
    assert len(listed(folder)) == 1


# Damage: the newest complete one is taken, the others are named.


def torn(file: Path, older: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 3])


def torn_at_its_last_byte(file: Path, older: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path, older: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path, older: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    file.write_bytes(data)


def missing(file: Path, older: Path) -> None:
    file.unlink()


def of_an_older_step(file: Path, older: Path) -> None:
    shutil.copy(older / file.name, file)


DAMAGE = (torn, torn_at_its_last_byte, emptied, flipped, missing)
CASES = [(damage, name) for damage in DAMAGE for name in FILES]
# A whole folder of an older step is a checkpoint.
CASES += [(of_an_older_step, name) for name in FILES]


@pytest.mark.parametrize(("damage", "name"), CASES, ids=lambda c: getattr(c, "__name__", c))
def test_a_damaged_checkpoint_is_passed_over_by_name(
    damage: Any, name: str, lake: Lake, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    older = write(folder, snapshot_of(steps=1, row=16), IDENTITY)
    # Drawn in between, so that no file of the two is the same.
    torch.manual_seed(5)
    newest = write(folder, replace(snapshot_of(), random=torch.ones(1, 8).byte()), IDENTITY)
    damage(Path(newest, name), Path(older))

    found = select(lake, "auto", IDENTITY)

    assert found is not None
    assert found.url == older
    assert load(found).position.row == 16
    (message,) = caplog.messages
    assert f"train-a/{newest.rsplit('/', 1)[-1]} is not used: " in message
    assert any(file in message for file in FILES)
    with pytest.raises(Damaged):
        verified(newest)


def test_a_run_without_a_whole_checkpoint_is_refused_by_name(lake: Lake, folder: str) -> None:
    url = write(folder, snapshot_of(), IDENTITY)
    Path(url, COMMIT).unlink()
    with pytest.raises(DataRefused, match=r"run train-a has no complete checkpoint:\s+.*missing"):
        select(lake, "train-a", IDENTITY)
    assert select(lake, "auto", IDENTITY) is None
    with pytest.raises(DataRefused, match="run 'train-z' left no checkpoint") as refused:
        select(lake, "train-z", IDENTITY)
    assert refused.value.expected == "one of train-a"


# What fits


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fingerprint": {"seed": 8, "dates": IDENTITY["fingerprint"]["dates"]}}, "seed was 7"),  # type: ignore[index]
        ({"fingerprint": {"seed": 7, "dates": {"2026-01-01": {"rows": 5}}}}, "had 4 rows, has 5"),
        ({"spec": {"hidden": [9]}}, r"the model's hidden was \[8\], is \[9\]"),
        ({"train": {"learning_rate": 0.2}}, "train.learning_rate was 0.1, is 0.2"),
    ],
    ids=["order", "data", "model", "settings"],
)
def test_another_training_is_refused_naming_what_differs(
    change: dict[str, Any], named: str, lake: Lake, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, snapshot_of(), IDENTITY)
    now = {**IDENTITY, **change}
    with pytest.raises(DataRefused, match=named) as refused:
        select(lake, "train-a", now)
    assert refused.value.exit_code == 3
    assert select(lake, "auto", now) is None
    assert "run train-a is not resumed" in caplog.text
    assert select(lake, "never", IDENTITY) is None


def test_ranks_batches_and_what_only_shows_may_change(lake: Lake, folder: str) -> None:
    url = write(folder, snapshot_of(), IDENTITY)
    free = {"workers": 5, "batch_rows": 128, "curves": False, "prometheus_file": "/new/place"}
    train = {**IDENTITY["train"], **free}  # type: ignore[dict-item]
    found = select(lake, "auto", {**IDENTITY, "train": train})
    assert found is not None
    assert found.url == url


# Stores that fail


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow past 4 KiB: the kernel refuses, as it does on a full one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def settings_of(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({"commit_steps": 1, "checkpoint_rows": 16, **changes})


def no_model(snapshot: Snapshot) -> None:
    """Saves none: there is no best epoch."""


def test_a_full_disk_leaves_the_one_before_and_training_goes_on(folder: str) -> None:
    said: list[str] = []
    before = Path(folder, "at-5")
    before.mkdir(parents=True)
    step = step_of()
    writer = Writer(folder, IDENTITY, settings_of(), said.append, [str(before)], no_model)
    memory = RankMemory()
    memory.committed(take(step, Position(), RowLedger()))
    committer = Committer(step, settings_of(), memory, writer, said.append)
    step.run(batch_of(16, seed=0))
    # Not a moment longer: what the tests print may go to a file, too.
    with full_disk():
        committer.after_step(Position(row=16), RowLedger())
        writer.close()
    (line,) = said
    assert line.startswith("checkpoint at epoch 1, row 16 not written: ")
    assert [path.name for path in Path(folder).iterdir()] == ["at-5"]
    assert memory.last is not None
    assert memory.last.position.row == 16


def test_a_hung_store_ends_in_an_error_within_its_deadline(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = threading.Event()
    monkeypatch.setattr("jobs.train.keep.checkpoint.write", lambda *given: hung.wait(60))
    settings = settings_of(checkpoint_timeout_s=0.3)
    writer = Writer(folder, IDENTITY, settings, print, [], no_model)
    assert writer.offer(snapshot_of())
    with pytest.raises(StoreHangs, match=r"for more than 0\.3 s"):
        writer.close()
    hung.set()


def test_the_last_ones_are_kept(folder: str) -> None:
    settings = settings_of(checkpoint_keep=2)
    Path(folder, "staged-1").mkdir(parents=True)
    writer = Writer(folder, IDENTITY, settings, pytest.fail, [], no_model)
    for row in (16, 32, 48):
        assert writer.offer(snapshot_of(row=row))
        writer.close()
    assert [verified(url).position.row for url in listed(folder)] == [48, 32]
    assert len(list(Path(folder).iterdir())) == 2, "what a killed process staged is gone too"


def test_older_ones_that_stay_are_no_checkpoint_less(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr("jobs.train.keep.writer.prune", refuse)
    said: list[str] = []
    writer = Writer(folder, IDENTITY, settings_of(), said.append, [], no_model)
    assert writer.offer(snapshot_of())
    writer.close()
    assert [verified(url).position.row for url in listed(folder)] == [32]
    assert said == ["older checkpoints are not removed: no; training goes on"]
