"""Which version answers: a new champion only when its probe comes out, else the one before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch

from jobs.base.errors import ConfigError, DataRefused
from jobs.evaluate.predict.predict import loaded
from jobs.evaluate.predict.probe import check_probe, read_probe
from jobs.lake.ledger import new_run_id
from jobs.serve.champion import Champion
from jobs.serve.live import Live, refuse_bad_parents
from jobs.serve.request.rows import raw_rows
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from tests.builders.models import lake_of
from tests.serve.conftest import Served

COLUMNS = ("day", "visit", "shop", "amount", "age")


@pytest.fixture
def settings(served: Served) -> Iterator[Settings]:
    """With parents; afterwards the champion is the first model again."""
    yield load_settings(served.raw.config, [served.parents])
    served.registry.promote(served.models[0], new_run_id("promote"))


def scores(champion: Champion, served: Served) -> list[float]:
    columns = {name: [row[name] for row in served.night[:50]] for name in COLUMNS}
    rows = raw_rows(champion.dataset, columns, champion.looked_up)
    return champion.answers(rows).scores.tolist()


def live_of(settings: Settings, folder: Path) -> Live:
    live = Live(settings, folder)
    live.look()
    assert live.problem == ""
    return live


def champion_of(live: Live) -> Champion:
    assert live.champion is not None
    return live.champion


def test_the_alias_is_followed_there_and_back(
    served: Served, settings: Settings, tmp_path: Path
) -> None:
    live = live_of(settings, tmp_path)
    first = scores(champion_of(live), served)

    served.registry.promote(served.models[1], new_run_id("promote"))
    live.look()
    assert champion_of(live).version.version == served.models[1]
    assert scores(champion_of(live), served) != first

    served.registry.rollback(new_run_id("rollback"))
    live.look()
    assert champion_of(live).version.version == served.models[0]
    assert scores(champion_of(live), served) == first


@pytest.mark.parametrize(
    "damage", ["torn weights", "other weights", "torn probe", "no probe", "other scores"]
)
def test_a_broken_champion_never_answers(
    served: Served, settings: Settings, tmp_path: Path, damage: str
) -> None:
    live = live_of(settings, tmp_path)
    first = scores(champion_of(live), served)
    version = served.registry.resolve(served.models[1])
    digest = version.digest
    model = Path(version.folder_url) / "model.safetensors"
    probe = Path(lake_of(settings).folder("probes", digest, "torch.safetensors"))
    broken = probe if "probe" in damage or damage == "other scores" else model
    kept = tmp_path / "kept"
    shutil.copy(broken, kept)
    loaded.cache_clear()
    try:
        match damage:
            case "no probe":
                broken.unlink()
            case "other scores" | "other weights":
                tensors = safetensors.torch.load_file(broken)
                name = "score" if damage == "other scores" else sorted(tensors)[0]
                tensors[name] = tensors[name] + 1e-3
                safetensors.torch.save_file(tensors, broken)
            case _:
                broken.write_bytes(broken.read_bytes()[:-5])
        served.registry.promote(served.models[1], new_run_id("promote"))
        live.look()
        assert champion_of(live).version.version == served.models[0]
        assert live.problem
        assert scores(champion_of(live), served) == first
        # Also where it is the first that is looked at: then nothing is live.
        fresh = Live(settings, tmp_path)
        fresh.look()
        assert fresh.champion is None
    finally:
        shutil.copy(kept, broken)
    live.look()
    # Mended, it goes live, but where the model was loaded before it was damaged.
    assert champion_of(live).version.version == served.models[1]


def test_on_another_processor_scores_may_be_a_millionth_apart(
    served: Served, settings: Settings, tmp_path: Path
) -> None:
    champion = champion_of(live_of(settings, tmp_path))
    digest = champion.version.digest
    probe = read_probe(lake_of(settings), digest, "torch")
    check_probe(probe, champion.forward)
    near = probe.scores + np.float32(3e-7)
    other = type(probe)(probe.batch, near, "another")
    check_probe(other, champion.forward)
    for wrong in (
        type(probe)(probe.batch, near, probe.cpu),
        type(probe)(probe.batch, probe.scores + np.float32(1e-5), "another"),
        type(probe)(probe.batch, probe.scores[:-1], "another"),
    ):
        with pytest.raises(DataRefused):
            check_probe(wrong, champion.forward)


@pytest.mark.parametrize("looked_up", [True, False])
def test_the_first_request_after_a_load_plans_nothing(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_up: bool
) -> None:
    settings = load_settings(served.raw.config, [served.parents] if looked_up else [])
    champion = champion_of(live_of(settings, tmp_path))
    columns = {name: [row[name] for row in served.night[:50]] for name in COLUMNS}
    own = {"shops.shop": ["a"] * 50, "shops.size": [3.0] * 50}

    def planned(*_: object) -> None:
        raise AssertionError("a statement was planned")

    made = champion.engine._duck
    monkeypatch.setattr("jobs.rows.judge.resident._Plan.__init__", planned)
    rows = raw_rows(champion.dataset, columns | ({} if looked_up else own), champion.looked_up)
    assert np.isfinite(champion.answers(rows).scores).all()
    assert champion.engine._duck is made


def own_shops(served: Served, folder: Path) -> tuple[Path, Settings]:
    """A parent's file to change, and settings that look it up again and again."""
    shops = folder / "shops.csv"
    shutil.copy(served.raw.folder / "shops.csv", shops)
    options = [f"serve.parents={{shops: {shops}}}", "serve.parents_refresh_s=0.001"]
    return shops, load_settings(served.raw.config, options)


def test_parents_are_read_again_when_their_files_change(
    served: Served, settings: Settings, tmp_path: Path
) -> None:
    shops, own = own_shops(served, tmp_path)
    live = live_of(own, tmp_path)
    first = scores(champion_of(live), served)
    lines = shops.read_text().splitlines()
    shops.write_text(
        "\n".join([lines[0], *(f"{li.split(',')[0]},5000" for li in lines[1:])]) + "\n"
    )
    live.look()
    assert live.problem == "" and scores(champion_of(live), served) != first
    # What cannot be read is said, and the rows before it stay.
    shops.write_text(f"{lines[0]}\na,1\na,2\n")
    live.look()
    assert "stand in more than one row" in live.problem
    assert len(scores(champion_of(live), served)) == 50


def test_newer_parents_are_taken_also_after_another_could_not_be_read(
    served: Served, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shops, own = own_shops(served, tmp_path)
    live = live_of(own, tmp_path)
    first, old = scores(champion_of(live), served), shops.read_text()

    def torn(champion: Champion, parents: object) -> Champion:
        raise DataRefused("torn")

    with monkeypatch.context() as another:
        another.setattr(Champion, "with_parents", torn)
        head, *lines = old.splitlines()
        shops.write_text("\n".join([head, *(f"{li.split(',')[0]},5000" for li in lines), ""]))
        live.look()
        assert "torn" in live.problem
    live.look()
    assert live.problem == "" and scores(champion_of(live), served) != first


def test_newer_parents_stay_where_a_new_champion_fails(
    served: Served, settings: Settings, tmp_path: Path
) -> None:
    """They were read, and dropped with the version that could not be loaded."""
    shops, own = own_shops(served, tmp_path)
    live = live_of(own, tmp_path)
    first = scores(champion_of(live), served)
    digest = served.registry.resolve(served.models[1]).digest
    probe = Path(lake_of(settings).folder("probes", digest, "torch.safetensors"))
    kept = probe.read_bytes()
    lines = shops.read_text().splitlines()
    try:
        probe.unlink()
        served.registry.promote(served.models[1], new_run_id("promote"))
        larger = [f"{line.split(',')[0]},5000" for line in lines[1:]]
        shops.write_text("\n".join([lines[0], *larger, ""]))
        live.look()
        assert "no probe" in live.problem
        live.look()
        assert champion_of(live).version.version == served.models[0]
        assert scores(champion_of(live), served) != first
    finally:
        probe.write_bytes(kept)


def test_parents_that_cannot_be_looked_up_are_refused(served: Served) -> None:
    for parents, why in (
        ("{none: x.csv}", "sources that the declaration joins"),
        ("{shops: 'x/{ds}.csv'}", "of a date"),
    ):
        settings = load_settings(served.raw.config, [f"serve.parents={parents}"])
        with pytest.raises(ConfigError, match=why):
            refuse_bad_parents(settings)


def test_a_server_of_no_champion_is_not_ready(served: Served, tmp_path: Path) -> None:
    settings = load_settings(served.raw.config, [f"lake={tmp_path}/empty"])
    live = Live(settings, tmp_path)
    live.look()
    assert live.champion is None
    assert "no champion" in live.problem
    assert fsspec.core.url_to_fs(settings.lake_url)[0]
