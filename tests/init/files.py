"""Files as users have them, and what `init` makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jobs.init.job import Wishes, run
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from schemas.dataset import Dataset

DAYS = ("2024-03-01", "2024-03-02")


def written(path: Path, header: str, rows: Iterable[str], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return path


def orders(count: int = 300) -> list[str]:
    """Rows of `order,day,size,price,note,late`, every fifth price empty."""
    return [
        f"{i},{DAYS[i % 2]},{'SML'[i % 3]},{'' if i % 5 == 0 else i % 40 + 0.5},"
        f'"note, {i}",{int(i % 3 == 0)}'
        for i in range(count)
    ]


HEADER = "order,day,size,price,note,late"


@dataclass(frozen=True)
class Made:
    """What was written."""

    folder: Path
    name: str
    said: str

    @property
    def config(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def text(self) -> str:
        return (self.folder / f"{self.name}.py").read_text(encoding="utf-8")

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    @property
    def dataset(self) -> Dataset:
        return self.settings.dataset()


def made(
    file: Path,
    label: str | None = "late",
    key: tuple[str, ...] | None = (),
    date: str | None = None,
    name: str | None = None,
) -> Made:
    folder = file.parent / "made"
    wishes = Wishes(str(file), str(folder), label, key, date, name)
    said = run(wishes, ask=None)
    return Made(folder, next(folder.glob("*.yaml")).stem, said)
