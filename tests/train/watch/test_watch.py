"""What is shown of a training: curves, gauges, a warning; and that nothing of it stops one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.train.step.history import EpochResult, History, Position
from jobs.train.step.loop import NoCommits
from jobs.train.watch.watch import Watch, write_gauges

RESULT = EpochResult(
    epoch=0,
    train_loss=0.5,
    val_loss=0.4,
    val_auc=None,
    val_auc_error=None,
    rows=1000,
    seconds=10.0,
    wait_s=0.5,
    compute_s=7.0,
    exchange_s=2.0,
    val_s=1.0,
    bytes_sent=5000,
)


def watch(curves: Path | None, gauges: Path | None) -> Watch:
    return Watch(
        NoCommits(),
        run="train-1",
        epoch_rows=1000,
        step_rows=100,
        curves=str(curves) if curves else None,
        gauges=str(gauges) if gauges else None,
    )


def after(result: EpochResult) -> Position:
    return Position(epoch=result.epoch + 1, history=History([result], result))


def gauges_in(path: Path) -> dict[str, float]:
    families = text_string_to_metric_families(path.read_text())
    return {s.name: s.value for family in families for s in family.samples}


def test_prometheus_reads_an_epochs_figures(tmp_path: Path) -> None:
    watch(None, tmp_path / "train.prom").after_epoch(after(RESULT))
    found = gauges_in(tmp_path / "train.prom")
    assert found == {
        "millstream_train_train_loss": 0.5,
        "millstream_train_val_loss": 0.4,
        "millstream_train_rows_per_s": 100.0,
        "millstream_train_wait_ms_per_step": 50.0,
        "millstream_train_compute_ms_per_step": 700.0,
        "millstream_train_exchange_ms_per_step": 200.0,
        "millstream_train_bytes_sent_per_step": 500.0,
        "millstream_train_rows": 1000.0,
    }
    write_gauges(str(tmp_path / "train.prom"), "train-2", {"rows": 7})
    assert gauges_in(tmp_path / "train.prom") == {"millstream_train_rows": 7.0}, "replaced whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = watch(tmp_path, None)
    shown.after_epoch(after(RESULT))
    shown.after_epoch(after(replace(RESULT, epoch=1, train_loss=0.25)))
    shown.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert losses == [(1000, 0.5), (2000, 0.25)]


def test_waiting_for_more_than_a_tenth_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "millstream.train"):
        watch(None, None).after_epoch(after(RESULT))
        watch(None, None).after_epoch(after(replace(RESULT, seconds=2.0, wait_s=0.9)))
        assert not caplog.records
        watch(None, None).after_epoch(after(replace(RESULT, wait_s=1.5)))
    assert "waited for data for 15 %" in caplog.text


def test_a_file_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = watch(None, tmp_path / "no folder" / "train.prom")
    shown.after_epoch(after(RESULT))
    shown.after_epoch(after(RESULT))
    assert caplog.text.count("given up") == 1


def test_curves_that_have_no_folder_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curves").write_text("a file")
    shown = watch(tmp_path / "curves" / "run", None)
    shown.after_epoch(after(RESULT))
    shown.close()
    assert caplog.text.count("given up") == 1
