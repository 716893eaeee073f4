"""Settings: unknown keys, wrong values, overrides, paths and references."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.base.errors import ConfigError
from jobs.settings.load import load_settings
from jobs.settings.objects import load_object
from jobs.settings.settings import Settings
from schemas.flights import FLIGHTS

CONF = Path(__file__).parents[2] / "conf"
MINIMAL: dict[str, Any] = {
    "schema": "schemas.flights:FLIGHTS",
    "lake": "lake",
    "etl": {"sources": {"flights": "f.csv", "weather": "w.csv", "planes": "p.csv"}},
}


def written(folder: Path, tree: Any) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda path: path.name)
def test_every_settings_file_of_the_project_loads(file: Path) -> None:
    settings = load_settings(file)
    assert set(settings.etl.sources) == {s.name for s in settings.dataset().sources}


def test_a_file_by_its_declaration_and_paths_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from schemas.flights import FLIGHTS as MINE\n")
    settings = load_settings(written(tmp_path, {**MINIMAL, "schema": "./mine.py:MINE"}))
    assert settings.dataset() == FLIGHTS
    assert settings.lake_url == str(tmp_path / "lake")
    assert settings.path("s3://bucket/raw") == "s3://bucket/raw"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "etl.rowgroup_rows=5",
            "unknown setting 'etl.rowgroup_rows'; did you mean 'row_group_rows'",
        ),
        ("trian.epochs=5", "unknown setting 'trian'; did you mean 'train'"),
        ("train.epochs=many", "setting train.epochs: Input should be a valid integer"),
        ("train.epochs=yes", "setting train.epochs: Input should be no flag"),
        ("train.hidden=[64, yes]", "setting train.hidden: Input should be no flag"),
        ("etl.limits={malformed: on}", "setting etl.limits: Input should be no flag"),
        ("train.epochs=0", "greater than or equal to 1 (found 0)"),
        ("train.hidden=[64, 0]", "greater than or equal to 1 (found 0)"),
        ("train.bottom_hidden=[-1]", "greater than or equal to 1 (found -1)"),
        ("train.seed=18446744073709551616", "less than or equal to 4611686018427387904"),
        ("etl.split.seed=2147483648", "less than 2147483648"),
        ("train.batch_rows=100", "must be a multiple of stream.streams (64)"),
        ("lake=a::b", "lake is {folder}/a::b; a path must be without `::`"),
        ("etl.sources.planes=x/p::q/*.csv", "etl.sources.planes is {folder}/x/p::q/*.csv; a path"),
        ("score.sources={flights: zip://a::b.zip}", "score.sources.flights is zip://a::b.zip; a"),
        ("serve.parents={planes: p::q}", "serve.parents.planes is {folder}/p::q; a path must"),
        ("train.stall_s=90", "stream.timeout_s is 90; it must be below train.stall_s (90)"),
        ("etl.split.train=0.9", "the fractions add up to 1.1"),
        ("train.optimizer=magic", "setting train.optimizer"),
        ("train", "--set section.key=value"),
        ("train.epochs=[", "is no YAML"),
        ("lake.x=1", "'lake' is a value, not a section"),
        ("lake='lake[1]'", "lake[1] has '['"),
        ("lake=s3://bucket/a%20b", "a%20b has '%20'"),
        ("schema=schemas.flights:NOWHERE", "cannot be loaded"),
        ("schema=./nowhere.py:X", "no file"),
        ("schema=jobs.settings.settings:Settings", "is a ModelMetaclass"),
        ("schema=flights", "names no object"),
        ("schema=./flights:FLIGHTS", "names no object"),
        ("schema=..flights:FLIGHTS", "names no object"),
        ("base=/tmp", "unknown setting 'base'"),
        ("lake=2024-13-01", "the value is no YAML: month must be in 1..12"),
        ("lake=!!int a", "the value is no YAML: "),
        ("train={epochs: 1, epochs: 2}", "line 1: 'epochs' is there twice"),
        ("train.learning_rate=.inf", "setting train.learning_rate: Input should be a finite"),
        ("gate.rules=[{min_gain: .nan}]", "setting gate.rules.0.min_gain: Input should be a fin"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, override: str, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(written(tmp_path, MINIMAL), [override]).dataset()
    assert named.replace("{folder}", str(tmp_path)) in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("url", ["https://me:hidden@host/x", "https://host/x?token=hidden"])
@pytest.mark.parametrize("name", ["webhook_url", "pushgateway_url", "lineage_url"])
def test_a_secret_in_a_url_is_refused_and_not_shown(tmp_path: Path, name: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"setting observe.{name}: .*_env") as refused:
        load_settings(written(tmp_path, MINIMAL), [f"observe.{name}={url}"])
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["observe.webhook_url_env", "observe.lineage_url_env", "serve.token_env"]
)
def test_a_secret_in_the_place_of_a_variables_name_is_not_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"setting {name}") as refused:
        load_settings(written(tmp_path, MINIMAL), [f"{name}=https://hooks/hidden"])
    assert "hidden" not in str(refused.value)


def test_what_is_wrong_among_settings_does_not_show_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(written(tmp_path, MINIMAL), ["train.batch_rows=100"])
    text = str(refused.value)
    assert "train.batch_rows is 100" in text
    assert "found" not in text and "{" not in text


def test_a_declaration_that_is_no_python_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("X = 1\nY = (\n")
    with pytest.raises(ConfigError, match=r"mine\.py, line 2: ") as refused:
        load_settings(written(tmp_path, MINIMAL), ["schema=./mine.py:X"]).dataset()
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("Column('a', 'int', mn=0)", "TypeError: Column.__init__() got an unexpected"),
        ("Nmeric('a')", "NameError: name 'Nmeric' is not defined"),
        ("Categorical('a', min_count='2')", "TypeError: '<' not supported"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("raise SystemExit(7)", "SystemExit: 7"),
    ],
)
def test_a_declaration_that_fails_is_named_with_its_line(
    tmp_path: Path, line: str, named: str
) -> None:
    head = "from schemas.dataset import Column\nfrom schemas.field import Categorical\n"
    (tmp_path / "mine.py").write_text(f"{head}{line}\n")
    with pytest.raises(ConfigError) as refused:
        load_settings(written(tmp_path, MINIMAL), ["schema=./mine.py:X"]).dataset()
    assert f"cannot be loaded: {tmp_path}/mine.py, line 3: {named}" in str(refused.value)


def test_a_section_without_lines_has_its_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, {**MINIMAL, "train": None})
    assert load_settings(path) == load_settings(written(tmp_path, MINIMAL))
    path = written(tmp_path, {**MINIMAL, "train": None})
    assert load_settings(path, ["train.epochs=9"]).train.epochs == 9


@pytest.mark.parametrize(
    "text", ["", "- a list", "a: [", "lake: x", "lake: 2024-13-01", "lake: 0x_", "a: " + "[" * 3000]
)
def test_files_that_hold_no_settings_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_settings(path)


def test_of_two_sections_of_one_name_neither_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("train: {epochs: 2}\nlake: lake\ntrain: {workers: 1}\n")
    with pytest.raises(ConfigError, match="line 3: 'train' is there twice"):
        load_settings(path)


def test_a_mapping_may_take_another_one_in(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "schema: schemas.flights:FLIGHTS\nlake: lake\n"
        "etl: {sources: &all {flights: f.csv, weather: w.csv, planes: p.csv}}\n"
        "score: {sources: {<<: *all, flights: new.csv}}\n"
    )
    sources = load_settings(path).score.sources
    assert sources == {"flights": "new.csv", "weather": "w.csv", "planes": "p.csv"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no settings file .*nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml")


def test_the_tree_is_frozen(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        settings.train.epochs = 3  # type: ignore[misc]


@given(
    epochs=st.integers(1, 10**6),
    rate=st.floats(1e-9, 1e3),
    streams=st.integers(1, 512),
    times=st.integers(1, 64),
)
def test_an_override_is_what_the_file_could_have_said(
    tmp_path_factory: pytest.TempPathFactory, epochs: int, rate: float, streams: int, times: int
) -> None:
    folder = tmp_path_factory.mktemp("settings")
    train = {"epochs": epochs, "learning_rate": rate, "batch_rows": streams * times}
    said = {**MINIMAL, "train": train, "stream": {"streams": streams}}
    by_file = load_settings(written(folder, said))
    overrides = [f"train.{name}={value!r}" for name, value in train.items()]
    by_override = load_settings(written(folder, MINIMAL), [*overrides, f"stream.streams={streams}"])
    assert by_override == by_file
    assert by_override.digest() == by_file.digest()
    assert Settings.model_validate(said).train.epochs == epochs


@pytest.mark.parametrize("path", sorted(Path("conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_settings_that_are_shipped_load(path: Path) -> None:
    settings = load_settings(path)

    assert settings.dataset().label
    assert settings.gate.rules


def test_a_file_of_ones_own_may_have_dataclasses_and_stays_no_module(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    text += "@dataclass\nclass Own:\n    rows: int\nOWN = Own(3)\n"
    (tmp_path / "json.py").write_text(text, encoding="utf-8")
    assert load_object("./json.py:OWN", str(tmp_path)).rows == 3
    assert sys.modules["json"] is json


def test_threads_may_load_a_file_of_ones_own_at_once(tmp_path: Path) -> None:
    # So long that all threads are in it at once, if nothing keeps them apart.
    text = "import time\nfrom schemas.flights import FLIGHTS as X\ntime.sleep(0.05)\n"
    (tmp_path / "mine.py").write_text(text)
    settings = load_settings(written(tmp_path, {**MINIMAL, "schema": "./mine.py:X"}))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: settings.dataset(), range(4)))
    assert found == [FLIGHTS] * 4
    assert "mine" not in sys.modules
