"""The digits' settings over images and a lake in a folder of a test's own."""

from __future__ import annotations

from pathlib import Path

import yaml

from tools.make_digits import DATES

CONFIG = Path(__file__).parents[2] / "conf" / "digits.yaml"
FIRST, SECOND, THIRD = DATES


def configure(folder: Path) -> Path:
    """conf/digits.yaml as it is, but for the places of images and lake."""
    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    del tree["spark"]
    tree |= {"lake": "lake"}
    tree["etl"]["sources"] = {"digits": "raw/{ds}"}
    config = folder / "digits.yaml"
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return config
