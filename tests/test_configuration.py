"""docs/configuration.md tells of all settings, as they are."""

from __future__ import annotations

from tools.make_configuration import TARGET, configuration


def test_the_reference_is_what_the_settings_are() -> None:
    found = TARGET.read_text(encoding="utf-8")
    assert found == configuration(), "write it anew: python -m tools.make_configuration"


def test_every_setting_is_explained() -> None:
    rows = [line for line in configuration().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if not row.split(" | ")[-1].strip("| ")] == []
