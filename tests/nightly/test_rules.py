"""The rules of a night: where it goes on, what it does again, whom it catches up, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.base.errors import DataRefused
from jobs.lake.ledger import read_ledger
from jobs.lake.lock import stage_lock
from jobs.main import main
from jobs.nightly.names import STEPS
from jobs.nightly.record import save
from tests.builders.lakes import lake_of
from tests.builders.nights import DATES, Nights, gate_refused

FIRST, SECOND, THIRD = DATES[:3]


@pytest.fixture
def nights(tmp_path: Path, scripted: Callable[[Nights], Nights]) -> Iterator[Nights]:
    yield scripted(Nights(tmp_path, DATES))


def test_a_night_does_its_steps_in_order_and_once(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == list(STEPS)
    assert set(nights.states(FIRST).values()) == {"done"}

    assert nights.run("--date", FIRST) == 0
    assert nights.done == []
    assert f"{FIRST}: finished before by run nightly-" in capsys.readouterr().out
    rows = read_ledger(lake_of(nights.raw), stage="nightly")
    assert [row["status"] for row in rows] == ["done", "unchanged"]


def test_a_night_searches_on_its_weekdays_and_goes_on_there(nights: Nights) -> None:
    # The first of these dates is a Monday.
    nights.configure(nightly={"tune_on": ["monday", "sunday"]})
    nights.fails["tune", FIRST] = RuntimeError("no disk")
    assert nights.run("--date", FIRST) == 1
    assert nights.steps_done() == [*STEPS[:-1], "tune"]
    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == ["tune", "report"]
    assert nights.run("--date", FIRST) == 0
    assert nights.done == []
    assert nights.run("--date", SECOND) == 0
    assert nights.steps_done() == list(STEPS)


def test_spark_is_not_started_before_a_step_needs_it(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*arguments: object) -> None:
        raise AssertionError("Spark was started")

    # These steps need none, so what looks at raw files and records needs none either.
    monkeypatch.setattr("jobs.commands.line.spark_of", started)
    assert nights.run("--date", FIRST) == 0
    assert nights.run("--date", FIRST) == 0
    assert nights.done == []


@pytest.mark.parametrize("step", STEPS)
def test_a_rerun_goes_on_at_the_first_step_that_is_not_done(nights: Nights, step: str) -> None:
    nights.fails[step, FIRST] = RuntimeError("no disk")
    assert nights.run("--date", FIRST) == 1
    assert nights.states(FIRST)[step] == "failed"
    assert "no disk" in nights.record(FIRST).steps[step].message
    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == list(STEPS[STEPS.index(step) :])
    assert len(nights.record(FIRST).steps[step].runs) == 2


@pytest.mark.parametrize(
    ("changed", "step", "named"),
    [
        ({"etl": {"shard_rows": 10}}, "etl", "etl.shard_rows"),
        ({"train": {"epochs": 3}}, "train", "train.epochs"),
        ({"gate": {"first_model": "accept"}}, "evaluate", "gate.first_model"),
        ({"score": {"batch_rows": 99}}, "score", "score.batch_rows"),
        ({"score": {"engine": "onnx"}}, "evaluate", "score.engine"),
        ({"serve": {"engine": "onnx"}}, "evaluate", "serve.engine"),
        ({"spark": {"properties_file": None}, "nightly": {"catch_up_days": 3}}, "", ""),
        ({"nightly": {"missing_raw": "skip"}}, "", ""),
    ],
)
def test_changed_settings_redo_from_the_step_that_depends_on_them(
    nights: Nights,
    changed: dict[str, dict[str, object]],
    step: str,
    named: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert nights.run("--date", FIRST) == 0
    nights.configure(**changed)
    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == (list(STEPS[STEPS.index(step) :]) if step else [])
    assert f"{named} changed since step {step!r} was done" in caplog.text or not step


def test_a_changed_raw_file_is_named_and_the_night_done_again(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    assert nights.run("--date", FIRST) == 0
    nights.land(SECOND, rows=4)
    assert nights.run("--date", FIRST) == 0
    assert nights.done == []
    nights.land(FIRST, rows=4)
    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == list(STEPS)
    assert f"visits-{FIRST}.csv changed since step 'etl' was done" in caplog.text


def test_from_and_force_do_finished_steps_again(nights: Nights) -> None:
    assert nights.run("--date", FIRST) == 0
    assert nights.run("--date", FIRST, "--from", "gate") == 0
    assert nights.steps_done() == ["gate", "score", "report"]
    assert nights.run("--date", FIRST, "--force") == 0
    assert nights.steps_done() == list(STEPS)


@pytest.mark.parametrize("how", ["--force", "changed"])
def test_a_finished_night_stands_until_doing_it_again_is_finished(
    nights: Nights, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nights.run("--date", FIRST) == 0
    before = nights.record(FIRST)
    if how == "changed":
        nights.land(FIRST, rows=4)
    for step in ("train", "score"):
        nights.fails[step, FIRST] = RuntimeError("no disk")
        force = ["--force"] if (how, step) == ("--force", "train") else []
        assert nights.run("--date", FIRST, *force) == 1
        cut_short = nights.record(FIRST)
        assert cut_short.stands == before
        assert cut_short.steps[step].status == "failed"
    capsys.readouterr()
    assert main(["status", "--config", str(nights.raw.config)]) == 0
    _, finished, again = capsys.readouterr().out.splitlines()
    assert finished.split()[1:7] == ["done"] * 6
    assert again.split()[:8] == [FIRST, "again", *["done"] * 4, "failed", "-"]

    assert nights.run("--date", FIRST) == 0
    assert nights.steps_done() == ["score", "report"]
    assert nights.record(FIRST).stands is None and nights.record(FIRST).is_finished


def test_refused_data_ends_with_3_after_the_champion_scored_and_again(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nights.run("--date", FIRST) == 0
    nights.refuses["etl", SECOND] = DataRefused("half a file", "a whole one", "land it again")
    for tries in range(2):
        assert nights.run("--date", SECOND) == 3
        assert nights.steps_done() == (["etl", "score", "report"] if tries == 0 else [])
        error = capsys.readouterr().err
        assert "half a file" in error and "Traceback" not in error
        assert "SCORED ALL THE SAME" in error
        assert ("finished before" in error) == (tries == 1)
    assert nights.states(SECOND) == {
        "etl": "refused",
        **dict.fromkeys(("train", "evaluate", "gate"), "skipped"),
        **dict.fromkeys(("score", "report"), "done"),
    }


def test_the_first_refusal_gives_the_exit_code(nights: Nights) -> None:
    assert nights.run("--date", FIRST) == 0
    nights.refuses["gate", SECOND] = gate_refused()
    nights.refuses["score", SECOND] = DataRefused("all rows are refused")
    assert nights.run("--date", SECOND) == 4
    assert nights.states(SECOND)["score"] == "refused"
    assert nights.run("--date", SECOND) == 4


def test_the_champion_does_not_score_a_refused_night_where_it_may_not(nights: Nights) -> None:
    assert nights.run("--date", FIRST) == 0
    nights.configure(nightly={"score_with_champion": False})
    nights.refuses["gate", SECOND] = gate_refused()
    assert nights.run("--date", SECOND) == 4
    assert nights.states(SECOND)["score"] == "skipped"
    assert "score" not in nights.steps_done()


def test_without_a_champion_a_refused_night_is_not_scored(nights: Nights) -> None:
    nights.refuses["gate", FIRST] = gate_refused()
    assert nights.run("--date", FIRST) == 4
    assert nights.states(FIRST)["score"] == "skipped"
    assert nights.record(FIRST).steps["score"].message == "there is no champion yet"


def test_missed_dates_are_caught_up_in_order_with_one_model(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nights.run("--date", DATES[0]) == 0
    assert nights.run("--date", DATES[3]) == 0
    missed, last = (DATES[1], DATES[2]), (DATES[3],)
    assert nights.done == [
        ("etl", (*missed, *last)),
        ("score", missed),
        *((step, last) for step in ("train", "evaluate", "gate", "score")),
        ("report", (*missed, *last)),
    ]
    assert f"caught up {DATES[1]}, {DATES[2]}" in capsys.readouterr().out
    assert nights.record(DATES[1]).steps["train"].message == f"left to {DATES[3]}"
    assert nights.run("--date", DATES[4]) == 0
    assert nights.done[0] == ("etl", (DATES[4],))


def test_a_killed_date_is_caught_up_and_its_training_forgotten(nights: Nights) -> None:
    nights.fails["train", FIRST] = RuntimeError("no disk")
    assert nights.run("--date", FIRST) == 1
    (run,) = nights.record(FIRST).steps["train"].runs
    left = Path(lake_of(nights.raw).folder("checkpoints", run), "best-000000")
    left.mkdir(parents=True)
    assert nights.run("--date", SECOND) == 0
    assert nights.states(FIRST)["train"] == "skipped"
    assert nights.states(FIRST)["score"] == "done"
    assert not left.parent.exists()


def test_dates_before_the_first_night_and_too_old_ones_are_not_missed(nights: Nights) -> None:
    nights.configure(nightly={"catch_up_days": 2})
    assert nights.run("--date", DATES[1]) == 0
    assert nights.done[0] == ("etl", (DATES[1],))
    assert nights.run("--date", DATES[6]) == 0
    assert nights.done[0] == ("etl", tuple(DATES[4:7]))


def test_a_range_is_scored_by_its_own_champion_where_there_is_none_before(nights: Nights) -> None:
    assert nights.run("--dates", f"{FIRST}..{THIRD}") == 0
    assert [done for done in nights.done if done[0] == "score"] == [("score", tuple(DATES[:3]))]
    assert nights.steps_done().index("gate") < nights.steps_done().index("score")
    assert nights.run("--dates", f"{FIRST}..{THIRD}") == 0
    assert nights.done == []


def test_a_new_date_in_a_finished_range_makes_the_model_anew(nights: Nights) -> None:
    assert nights.run("--dates", f"{FIRST}..{THIRD}") == 0
    nights.land(SECOND, rows=5)
    assert nights.run("--dates", f"{FIRST}..{THIRD}") == 0
    assert nights.done[:3] == [("etl", (SECOND,)), ("score", (SECOND,)), ("train", (THIRD,))]


def test_one_refused_date_of_a_range_leaves_the_others_done(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    nights.refuses["etl", SECOND] = DataRefused("half a file")
    assert nights.run("--dates", f"{DATES[0]}..{DATES[3]}") == 3
    assert f"{SECOND}, etl" in capsys.readouterr().err
    assert [nights.states(ds)["etl"] for ds in DATES[:4]] == ["done", "refused", "done", "done"]
    assert nights.states(DATES[3])["gate"] == "done"
    assert nights.run("--date", DATES[3]) == 3
    assert nights.done == []


def test_a_missing_raw_file_refuses_and_is_caught_up_when_it_lands(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.base.errors import NoRawFile

    assert nights.run("--date", FIRST) == 0
    file = nights.raw.folder / f"visits-{SECOND}.csv"
    file.unlink()
    missing = NoRawFile(f"no raw file matches {file}")
    nights.refuses |= {("etl", SECOND): missing, ("score", SECOND): missing}
    assert nights.run("--date", SECOND) == 3
    assert nights.run("--date", SECOND) == 3
    assert nights.run("--date", THIRD) == 0
    nights.refuses.clear()
    nights.land(SECOND)
    assert nights.run("--date", DATES[3]) == 0
    assert nights.done[0] == ("etl", (SECOND, DATES[3]))


def test_a_missing_raw_file_may_be_skipped_and_is_on_record(nights: Nights) -> None:
    from jobs.base.errors import NoRawFile

    nights.configure(nightly={"missing_raw": "skip"})
    assert nights.run("--date", FIRST) == 0
    (nights.raw.folder / f"visits-{SECOND}.csv").unlink()
    missing = NoRawFile("no raw file matches")
    nights.refuses |= {("etl", SECOND): missing, ("score", SECOND): missing}
    assert nights.run("--date", SECOND) == 0
    assert nights.states(SECOND) == {**dict.fromkeys(STEPS, "skipped"), "report": "done"}
    assert "no raw file matches" in nights.record(SECOND).steps["etl"].message


def test_labels_that_come_late_take_an_earlier_date(nights: Nights) -> None:
    nights.configure(nightly={"label_delay_days": 2})
    assert nights.run("--date", THIRD) == 0
    nights.land(THIRD, rows=9)
    assert nights.run("--date", THIRD) == 0
    assert nights.steps_done() == ["score", "report"]
    nights.land(FIRST, rows=9)
    assert nights.run("--date", THIRD) == 0
    assert nights.steps_done() == list(STEPS)


def test_a_night_step_by_step_is_the_same_night(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in STEPS:
        assert nights.run("--date", FIRST, "--only", step) == 0
        assert nights.steps_done() == [step]
        assert nights.run("--date", FIRST, "--only", step) == 0
        assert nights.done == []
        assert "before" in capsys.readouterr().out.splitlines()[-1]
    assert nights.run("--date", FIRST) == 0
    assert nights.done == []
    assert nights.run("--date", FIRST, "--only", "score", "--force") == 0
    assert nights.steps_done() == ["score"]


def test_one_step_refuses_when_an_earlier_one_is_not_done(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nights.run("--date", FIRST, "--only", "etl") == 0
    assert nights.run("--date", FIRST, "--only", "gate") == 2
    assert nights.done == []
    assert "step 'train' of 2024-01-01 is waiting" in capsys.readouterr().err
    assert nights.run("--dates", f"{FIRST}..{SECOND}", "--only", "train") == 2
    nights.land(FIRST, rows=8)
    assert nights.run("--date", FIRST, "--only", "train") == 3
    assert "--only etl" in capsys.readouterr().err
    assert nights.run("--date", FIRST, "--only", "etl") == 0
    assert nights.steps_done() == ["etl"]


def test_step_by_step_a_refusal_ends_the_model_and_the_night_not_the_scoring(
    nights: Nights,
) -> None:
    assert nights.run("--date", FIRST) == 0
    nights.refuses["etl", SECOND] = DataRefused("half a file")
    codes = [nights.run("--date", SECOND, "--only", step) for step in STEPS]
    assert codes == [3, 3, 3, 3, 0, 3]
    assert nights.run("--date", SECOND) == 3
    assert nights.done == []


def test_a_second_night_names_the_holder(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage_lock(lake_of(nights.raw), "nightly", "nightly-of-another"):
        assert nights.run("--date", FIRST) == 5
    assert "held by run nightly-of-another (host " in capsys.readouterr().err
    assert nights.done == []


def test_a_record_in_another_format_is_refused(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nights.run("--date", FIRST) == 0
    save(lake_of(nights.raw), nights.record(FIRST))
    file = Path(lake_of(nights.raw).folder("nights", f"{FIRST}.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 9}))
    assert nights.run("--date", FIRST) == 2
    assert "format 9" in capsys.readouterr().err
