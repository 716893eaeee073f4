"""A made-up data set, `baskets`, with lists: tags of a basket and prices of what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from schemas.dataset import Column, Dataset, Source
from schemas.field import Categorical, CategoricalList, Label, NumericList
from tests.builders.visits import Raw

LONGEST = 4

BASKETS = Dataset(
    name="baskets",
    sources=(
        Source(
            "baskets",
            columns=(
                Column("basket", "int", nullable=False),
                Column("tags", "string"),
                Column("pages", "string"),
                Column("prices", "string"),
                Column("shop", "string"),
                Column("sold", "int", of_label=True),
            ),
        ),
    ),
    rows="baskets",
    key=("basket",),
    fields=(
        Label("label", "sold"),
        # An empty text between two bars is a null element.
        CategoricalList(
            "tag_ids",
            "list_transform(string_split(tags, '|'), lambda tag: nullif(tag, ''))",
            min_count=2,
            oov_buckets=3,
            max_length=LONGEST,
        ),
        CategoricalList(
            "page_ids", "string_split(pages, '|')", max_length=2, too_long="keep_first"
        ),
        NumericList("price_list", "string_split(prices, '|')", max_length=LONGEST),
        Categorical("shop_id", "shop"),
    ),
)


def baskets_of(first: int, count: int, tags: Sequence[str] = "abcdef") -> list[str]:
    """Sound lines; what is in a basket follows from its number."""
    return [
        f"{number},{'|'.join(tags[(number * k) % len(tags)] for k in range(1, number % 5 + 1))},"
        f"{'|'.join(f'p{(number + k) % 7}' for k in range(number % 4))},"
        f"{'|'.join(str(number % 3 + k / 4) for k in range(number % 5))},"
        f"s{number % 3},{int(number % 5 > 2)}"
        for number in range(first, first + count)
    ]


def write_baskets(folder: Path, lines_by_ds: dict[str, list[str]]) -> Raw:
    """A file a date, and the settings that read them."""
    raw = Raw(folder)
    for ds, lines in lines_by_ds.items():
        (folder / ds).mkdir(parents=True)
        header = "basket,tags,pages,prices,shop,sold"
        (folder / ds / "baskets.csv").write_text("\n".join([header, *lines]) + "\n", "utf-8")
    tree = {
        "schema": "tests.builders.baskets:BASKETS",
        "lake": "lake",
        "etl": {"sources": {"baskets": "{ds}/baskets.csv"}, "max_quarantined_fraction": 0.5},
        "stream": {"streams": 4, "window_rows": 16},
        "train": {"batch_rows": 16, "epochs": 1, "hidden": [8], "workers": 1},
        "gate": {"rules": [{"metric": "auc", "min_value": 0.0}]},
    }
    raw.config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return raw
