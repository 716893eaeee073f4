"""Sources: which files are a date's, and that no row of a range is lost between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.base.errors import ConfigError, NoRawFile
from jobs.etl.raw import sources
from jobs.etl.raw.sources import RawSources, source_paths
from jobs.rows.read import pieces as pieces_of_files
from jobs.settings.load import load_settings
from tests.builders.judged import judged
from tests.builders.visits import HEADER, VISITS, Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
BY_PATH = replace(VISITS, ds=None)


def land(folder: Path, files: dict[str, list[str]]) -> dict[str, str]:
    """Writes the files and the shops; returns the paths but that of the visits."""
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join([HEADER, *lines]) + "\n")
    shops = folder / "shops.csv"
    shops.write_text("shop,size\na,1\nb,2\nc,3\nd,4\n")
    return {"shops": str(shops)}


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("raw/2024-12-31-backfill/{ds}.csv", "raw/2024-12-31-backfill/{ds}.csv"),
        ("raw/v?/{ds}.csv", "raw/v1/{ds}.csv"),
        ("raw/[a-c]x/{ds}/*.csv", "raw/bx/{ds}/part.csv"),
        ("raw/{{left,right}}/{ds}", "raw/right/{ds}/2023-01-01.csv"),
    ],
)
def test_a_row_is_of_the_date_in_its_path(tmp_path: Path, pattern: str, place: str) -> None:
    lines = {ds: rows_of(ds, 5 + n) for n, ds in enumerate(DATES)}
    paths = land(tmp_path, {place.replace("{ds}", ds): own for ds, own in lines.items()})
    pattern = pattern.replace("{{", "{").replace("}}", "}")
    found = judged(BY_PATH, {**paths, "visits": f"{tmp_path}/{pattern}"}, DATES)
    assert found.refused.num_rows == found.others == 0
    for row in found.valid.select(["ds", "raw"]).to_pylist():
        assert row["raw"] in lines[row["ds"]]
    assert found.valid.num_rows == sum(map(len, lines.values()))


def test_rows_of_a_range_whose_date_cannot_be_read_are_refused_not_lost(tmp_path: Path) -> None:
    """Whether the date stands in a column of files by date, or of one file for all."""
    lines = {ds: [*rows_of(ds, 6), f"never,{n},a,1.0,30,1"] for n, ds in enumerate(DATES)}
    paths = land(tmp_path, {f"{ds}.csv": own for ds, own in lines.items()})
    every = [line for own in lines.values() for line in own]
    land(tmp_path, {"all.csv": [*every, *rows_of("2024-02-01", 4)]})
    for path, others in (("{ds}.csv", 0), ("all.csv", 4)):
        found = judged(VISITS, {**paths, "visits": f"{tmp_path}/{path}"}, DATES)
        days = Counter(found.refused["ds"].to_pylist())
        assert (found.valid.num_rows, days, found.others) == (18, {"undated": 3}, others)
    # The path's date stands for a row's, and a column with another date is a mere value.
    by_path = judged(BY_PATH, {**paths, "visits": f"{tmp_path}/{{ds}}.csv"}, DATES)
    assert Counter(by_path.refused["ds"].to_pylist()) == dict.fromkeys(DATES, 1)


def test_a_file_that_two_dates_match_is_read_once_where_rows_say_their_date(
    tmp_path: Path,
) -> None:
    paths = land(tmp_path, {"all.csv": [line for ds in DATES for line in rows_of(ds, 4)]})
    # The date stands in an alternative of the path alone.
    pattern = f"{tmp_path}/{{{{ds}},all}}.csv"
    found = judged(VISITS, {**paths, "visits": pattern}, DATES)
    assert found.valid.num_rows == 12


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    paths = land(
        tmp_path,
        {
            "raw/a/good.csv": rows_of(DATES[0], 5),
            "raw/_temporary/bad.csv": rows_of(DATES[0], 50),
            "raw/a/.staging/b/bad.csv": rows_of(DATES[0], 50),
            "raw/a/_bad.csv": rows_of(DATES[0], 50),
        },
    )
    for pattern in ("raw", "raw/*/*.csv", "raw/**/*.csv"):
        found = judged(VISITS, {**paths, "visits": f"{tmp_path}/{pattern}"}, DATES[:1])
        assert found.valid.num_rows == 5


def test_pieces_cover_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PIECE_BYTES", 100)
    monkeypatch.setattr(pieces_of_files, "_HEAD_BYTES", len(HEADER) + 1)
    paths = land(tmp_path, {f"{ds}.csv": rows_of(ds, 40) for ds in DATES})
    raw = RawSources.listed(BY_PATH, {**paths, "visits": f"{tmp_path}/{{ds}}.csv"}, DATES)
    pieces = raw.pieces()
    assert len(pieces) > 30
    for file in raw.files["visits"]:
        own = [piece for piece in pieces if piece.file == file]
        ends = [piece.end for piece in own]
        assert [piece.start for piece in own] == [0, *ends[:-1]]
        assert ends[-1] is None


def test_the_digest_is_of_names_and_stamps(tmp_path: Path) -> None:
    paths = land(tmp_path, {f"{ds}.csv": rows_of(ds, 4) for ds in DATES})
    paths["visits"] = f"{tmp_path}/{{ds}}.csv"

    def digest() -> str:
        return RawSources.listed(VISITS, paths, DATES).digest

    first = digest()
    assert digest() == first
    (tmp_path / f"{DATES[1]}.csv").write_text(f"{HEADER}\n")
    second = digest()
    (tmp_path / "shops.csv").write_text("shop,size\na,1\n")
    assert len({first, second, digest()}) == 3


def test_sources_are_those_of_the_declaration(tmp_path: Path) -> None:
    raw = Raw(tmp_path).write()
    settings = load_settings(raw.config)
    with pytest.raises(ConfigError, match=r"etl\.sources has shops, visits"):
        source_paths(settings, replace(VISITS, sources=VISITS.sources[:1], joins=()))
    with pytest.raises(ConfigError, match="says the date"):
        source_paths(settings, BY_PATH)
    with pytest.raises(NoRawFile, match=r"no raw file matches .*/2024-01-02.csv"):
        land(tmp_path, {f"{DATES[0]}.csv": []})
        RawSources.listed(VISITS, {"visits": f"{tmp_path}/{{ds}}.csv"}, DATES[:2])
