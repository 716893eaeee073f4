"""A small made-up data set, `visits`, with builders for sound and hostile raw files."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from schemas.dataset import Column, Dataset, Join, Source
from schemas.field import Carried, Categorical, Clip, Label, Log1p, Numeric

HEADER = "day,visit,shop,amount,age,bought"

VISITS = Dataset(
    name="visits",
    sources=(
        Source(
            name="visits",
            null_value="NA",
            columns=(
                Column("day", "date", nullable=False),
                Column("visit", "int", nullable=False),
                Column("shop", "string", pattern="^[a-z0-9_]+$"),
                Column("amount", "double", min=-1e9),
                Column("age", "int", min=0, max=120),
                Column("bought", "int", allowed=(0, 1), of_label=True),
            ),
        ),
        Source(
            name="shops",
            columns=(Column("shop", "string", nullable=False), Column("size", "double")),
        ),
    ),
    rows="visits",
    ds="day",
    key=("visit",),
    joins=(Join("shops", on=(("shop", "shop"),)),),
    fields=(
        Label("label", "CAST(bought AS FLOAT)"),
        Numeric("amount_log", "amount", (Log1p(), Clip(0, 20))),
        Numeric("age_years", "age"),
        Numeric("shop_size", "shops.size"),
        Categorical("shop_id", "shop", min_count=2, oov_buckets=3),
        Categorical("age_group", "age // 10"),
        Carried("shop"),
    ),
)


def rows_of(ds: str, count: int, shops: Sequence[str] = ("a", "b", "c", "d")) -> list[str]:
    """Sound lines of a date; arithmetic, so that every value can be told from its number."""
    start = int(ds[2:].replace("-", "")) * 1000
    values = (
        (
            ds,
            start + i,
            shops[i * 7 // 3 % len(shops)],
            (i % 17) * 1.5,
            18 + i % 50,
            int(i % 3 == 0),
        )
        for i in range(count)
    )
    return [",".join(map(str, line)) for line in values]


@dataclass
class Raw:
    """Raw files in a folder, and the settings file that reads them."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    declaration: str = "tests.builders.visits:VISITS"

    @property
    def config(self) -> Path:
        return self.folder / "visits.yaml"

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    def add(self, lines: Iterable[str]) -> Raw:
        self.lines += lines
        return self

    def write(self, name: str = "visits.csv", header: str = HEADER) -> Raw:
        """Writes the lines so far, the shops and the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join([header, *self.lines]) + "\n"
        (self.folder / name).write_text(text, encoding="utf-8")
        shops = "".join(f"{shop},{size}\n" for size, shop in enumerate("abcd", start=1))
        (self.folder / "shops.csv").write_text(f"shop,size\n{shops}", encoding="utf-8")
        self.configure({"visits": name})
        return self

    def configure(self, sources: dict[str, str], parents: bool = True) -> None:
        tree: dict[str, Any] = {
            "schema": self.declaration,
            "lake": "lake",
            "etl": {"sources": {**({"shops": "shops.csv"} if parents else {}), **sources}},
            "stream": {"streams": 8, "window_rows": 64},
            "train": {"batch_rows": 64, "epochs": 2, "hidden": [8], "workers": 1},
            "gate": {
                "rules": [{"metric": "auc", "min_value": 0.0, "min_gain": 0, "min_rows": 1}],
                "rows": "all",
            },
        }
        for section, values in self.settings.items():
            tree.setdefault(section, {}).update(values)
        self.config.write_text(yaml.safe_dump(tree), encoding="utf-8")

    def copy(self, folder: Path) -> Raw:
        """The same files, and the lake made from them, at another place."""
        shutil.copytree(self.folder, folder)
        return Raw(folder, list(self.lines), dict(self.settings))

    def truncated_gzip(self, name: str = "visits.csv.gz") -> Raw:
        """The lines as a gzip file that ends in its middle."""
        self.write()
        whole = gzip.compress((self.folder / "visits.csv").read_bytes())
        (self.folder / name).write_bytes(whole[: len(whole) // 2])
        self.configure({"visits": name})
        return self


# One line of each defect, with the reasons that it must be refused for. The first is sound.
POISON: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("2024-01-01,1,a,1.0,30,1", ()),
    ("2024-01-01,2,a,1.0,30,1,surplus", ("malformed",)),
    ("2024-01-01,3,a,many,30,1", ("unparsable:amount",)),
    ("2024-01-01,4,a,1.0,12.5,1", ("unparsable:age",)),
    ("2024-01-01,5,a,1.0,130,1", ("above_max:age",)),
    ("2024-01-01,6,A?,1.0,30,1", ("pattern:shop",)),
    ("2024-01-01,7,a,1.0,30,2", ("not_allowed:bought",)),
    ("2024-01-01,8,a,1.0,30,NA", ("label_absent",)),
    ("2024-01-01,9,a,-1.0,30,1", ("not_finite:amount_log",)),
    ("2024-01-01,10,a,Infinity,-4,1", ("below_min:age", "unparsable:amount")),
    ("2024-01-01,NA,a,1.0,30,1", ("null:visit",)),
    ("2024-01-01,1,a,2.0,30,0", ("duplicate_key",)),
    ("yesterday,13,a,1.0,30,1", ("undated", "unparsable:day")),
)
