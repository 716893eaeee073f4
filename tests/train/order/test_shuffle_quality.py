"""How fair a batch is, beside an ideal permutation: laws are about order, this about mixing.

All sizes but that of the batch are an eighth of the default settings' on 8.4 M rows: as many row
groups, windows and batches' worth of each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.stream_data import NARROW, drifting_dates, sorted_labels
from benchmarks.stream_quality import quality_of
from jobs.settings.etl import EtlSettings
from jobs.settings.train import StreamSettings

SCALE = 8
ROWS = 8_400_000 // SCALE
GROUP_ROWS = EtlSettings.model_fields["row_group_rows"].default // SCALE
WINDOW_ROWS = StreamSettings.model_fields["window_rows"].default // SCALE
BATCH_ROWS = 8_192


def test_labels_sorted_before_the_etl_come_mixed(tmp_path: Path) -> None:
    examples = sorted_labels(tmp_path, ROWS, GROUP_ROWS)

    quality = quality_of(examples, NARROW, BATCH_ROWS, window_rows=WINDOW_ROWS)

    assert quality.spread < 1.3
    assert abs(quality.lag_1) < 0.3
    assert quality.shards > 40


def test_dates_whose_labels_drift_come_mixed(tmp_path: Path) -> None:
    examples = drifting_dates(tmp_path, ROWS, GROUP_ROWS)

    quality = quality_of(examples, NARROW, BATCH_ROWS, window_rows=WINDOW_ROWS)
    of_single_groups = quality_of(examples, NARROW, BATCH_ROWS, window_rows=1)

    assert quality.spread < 2
    assert quality.lag_1 < 0.8
    assert quality.dates > 50
    # Less is mixed at once: the measure would see it.
    assert of_single_groups.spread > quality.spread


@pytest.mark.slow
def test_default_settings_mix_real_sizes(tmp_path: Path) -> None:
    examples = drifting_dates(tmp_path, ROWS * SCALE, GROUP_ROWS * SCALE)

    assert quality_of(examples, NARROW, BATCH_ROWS).spread < 2
