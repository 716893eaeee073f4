"""The registry: whole versions, one champion, promotions that survive a crash. Real MLflow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.base.errors import ConfigError, DataRefused, Locked
from jobs.base.quiet import of_processes
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, read_ledger, record
from jobs.lake.lock import stage_lock
from jobs.registry import promotions
from jobs.registry import registry as registry_module
from jobs.registry.files import LONGEST_TAG
from jobs.registry.listing import models_table, roll_back
from jobs.registry.registry import Registry
from jobs.registry.version import REQUIRED_TAGS
from jobs.settings.etl import EtlSettings
from jobs.settings.services import MlflowSettings
from jobs.settings.settings import Settings
from jobs.stores.host import guarded

CURVES = [{"train_loss": 0.6, "val_auc": 0.6}, {"train_loss": 0.5, "val_auc": 0.7}]


def _settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings(
        declaration="schemas.flights:FLIGHTS", lake=str(tmp_path), etl=EtlSettings(sources={})
    ).model_copy(update=changes)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), "flights")


@pytest.fixture
def registry(tmp_path: Path, lake: Lake) -> Registry:
    return Registry(_settings(tmp_path), lake)


def _saved(tmp_path: Path, content: str) -> str:
    folder = tmp_path / "saved" / content
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"weights_digest": content}))
    (folder / "model.safetensors").write_bytes(content.encode())
    return str(folder)


def _tags(**changes: str) -> dict[str, str]:
    tags = dict.fromkeys(REQUIRED_TAGS, "{}")
    return tags | {"run_id": "train-1", "dates": "2013-01-01..2013-01-31"} | changes


def _register(registry: Registry, tmp_path: Path, content: str, **tags: str) -> str:
    return registry.register(_saved(tmp_path, content), CURVES, _tags(**tags), {"hidden": (8, 4)})


def test_a_registered_model_is_whole(registry: Registry, tmp_path: Path, lake: Lake) -> None:
    version = _register(registry, tmp_path, "aaaa", settings='{"lake": "x"}')

    found = registry.resolve(version)

    assert found == registry.resolve("latest")
    assert found.folder_url == lake.folder("models", found.digest)
    assert Path(found.folder_url, "model.safetensors").read_bytes() == b"aaaa"
    assert json.loads(Path(found.folder_url, "model.json").read_text()) == {
        "weights_digest": "aaaa"
    }
    assert found.tags["settings"] == '{"lake": "x"}'
    assert found.dates == ("2013-01-01", "2013-01-31")
    assert registry.metrics_by_epoch(found) == {"train_loss": [0.6, 0.5], "val_auc": [0.6, 0.7]}


def test_evaluations_do_not_mix_with_the_training_curves(
    registry: Registry, tmp_path: Path
) -> None:
    version = _register(registry, tmp_path, "aaaa")

    registry.log_metrics(version, {"test.auc": 0.75})

    found = registry.resolve(version)
    assert set(registry.metrics_by_epoch(found)) == {"train_loss", "val_auc"}
    run = registry._client.mlflow.get_run(found.mlflow_run)
    assert run.data.metrics["eval.test.auc"] == 0.75
    assert run.data.params["hidden"] == "(8, 4)"


def test_a_replay_gets_the_version_that_stands(registry: Registry, tmp_path: Path) -> None:
    first = _register(registry, tmp_path, "aaaa")

    assert _register(registry, tmp_path, "aaaa", run_id="train-2") == first
    assert _register(registry, tmp_path, "aaaa", examples_version="9") != first
    assert _register(registry, tmp_path, "bbbb") != first
    assert registry.resolve("latest").tags["weights_digest"] == "bbbb"


def test_a_model_that_was_changed_is_no_champion(registry: Registry, tmp_path: Path) -> None:
    first, second = (_register(registry, tmp_path, content) for content in ("aaaa", "bbbb"))
    registry.promote(first, "nightly-1")
    registry.promote(second, "nightly-2")
    card = Path(registry.resolve(first).folder_url, "model.json")
    card.write_text(card.read_text().replace("{", '{"model": "os:system", ', 1))

    with pytest.raises(DataRefused, match=r"model\.json in \S+ was changed: model\n"):
        registry.rollback("rollback-1")
    with pytest.raises(DataRefused, match="was changed: model"):
        registry.promote(first, "nightly-3")
    champion = registry.champion()
    assert champion is not None and champion.version == second


def test_a_version_of_before_identities_were_kept_stays(
    registry: Registry, tmp_path: Path, lake: Lake
) -> None:
    tags = _tags(weights_digest="aaaa")
    shutil.copytree(_saved(tmp_path, "aaaa"), lake.folder("models", "aaaa"))
    version = registry._client.create_version("train-1", CURVES, {}, tags)

    registry.promote(version, "nightly-1")

    found = registry.resolve("champion")
    assert (found.identity, found.digest) == (None, "aaaa")
    assert found.folder_url == lake.folder("models", "aaaa")


def test_long_tags_come_back_whole(registry: Registry, tmp_path: Path) -> None:
    long = json.dumps({"shards": list(range(LONGEST_TAG))})

    version = _register(registry, tmp_path, "aaaa", fingerprint=long)

    assert registry.resolve(version).tags["fingerprint"] == long


def test_missing_tags_are_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tags are missing: state_digest"):
        _register(registry, tmp_path, "aaaa", state_digest="")


@pytest.mark.parametrize("model", ["latest", "champion", "3", "nobody"])
def test_a_model_that_is_not_there_is_refused_by_name(registry: Registry, model: str) -> None:
    with pytest.raises(DataRefused, match=f"no model '{model}' of flights"):
        registry.resolve(model)


def test_only_a_promotion_makes_a_champion(registry: Registry, tmp_path: Path, lake: Lake) -> None:
    first, second = (_register(registry, tmp_path, content) for content in ("aaaa", "bbbb"))
    assert registry.champion() is None

    registry.promote(first, "nightly-1")
    registry.promote(second, "nightly-2")
    registry.promote(second, "nightly-3")

    champion = registry.champion()
    assert champion is not None
    assert champion.version == second
    assert registry.resolve("champion") == champion
    rows = read_ledger(lake, stage="promote")
    assert [(row["run"], row["status"], row["versions"]) for row in rows] == [
        ("nightly-1", "intended", {"from": "", "to": first}),
        ("nightly-1", "done", {"from": "", "to": first}),
        ("nightly-2", "intended", {"from": first, "to": second}),
        ("nightly-2", "done", {"from": first, "to": second}),
    ]


def test_an_intent_without_its_move_is_completed(
    registry: Registry, tmp_path: Path, lake: Lake
) -> None:
    first, second = (_register(registry, tmp_path, content) for content in ("aaaa", "bbbb"))
    registry.promote(first, "nightly-1")
    versions = {"from": first, "to": second}
    record(lake, [LedgerRow("nightly-2", "promote", "", "intended", versions=versions)])

    champion = registry.champion()

    assert champion is not None
    assert champion.version == second
    assert read_ledger(lake, stage="promote")[-1]["status"] == "done"


def test_an_intent_of_a_live_run_is_left_to_it(
    registry: Registry, tmp_path: Path, lake: Lake
) -> None:
    first, second = (_register(registry, tmp_path, content) for content in ("aaaa", "bbbb"))
    registry.promote(first, "nightly-1")
    with stage_lock(lake, "promote", "nightly-2"):
        versions = {"from": first, "to": second}
        record(lake, [LedgerRow("nightly-2", "promote", "", "intended", versions=versions)])

        champion = registry.champion()

        assert champion is not None
        assert champion.version == first
        with pytest.raises(Locked, match="nightly-2"):
            registry.promote(second, "nightly-3")


def test_an_alias_moved_by_hand_is_named(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (_register(registry, tmp_path, content) for content in ("aaaa", "bbbb"))
    registry.promote(first, "nightly-1")
    registry._client.set_alias("champion", second)

    registry.champion()

    assert f"at version {second}; the ledger's last promotion was to {first}" in caplog.text


def test_several_processes_create_the_database_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from tests.registry.test_registry import _settings, Lake, Registry, Path\n"
        "root = Path(sys.argv[1]); lake = Lake(str(root / 'lake'), 'flights')\n"
        "print(Registry(_settings(root), lake).champion())\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **of_processes()},
        )
        for _ in range(3)
    ]

    outputs = [run.communicate(timeout=120)[0] for run in runs]

    # Nothing of MLflow's own chatter either.
    assert outputs == ["None\n"] * 3


def test_a_guard_that_is_kept_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "registry.guard"

    with guarded(path), pytest.raises(Locked, match=r"held by pid \d+"), guarded(path, 0.1):
        pass


def test_a_folder_without_a_model_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="no saved model"):
        registry.register(str(tmp_path), CURVES, _tags(), {})


def test_a_lake_without_a_file_system_needs_a_server(tmp_path: Path) -> None:
    remote = Registry(_settings(tmp_path), Lake("s3://bucket/lake", "flights"))

    with pytest.raises(ConfigError, match=r"mlflow\.tracking_uri"):
        _ = remote.shown_uri


def test_mlflow_is_imported_by_one_module_and_late() -> None:
    root = Path(registry_module.__file__).parents[2]
    importers = [
        path.relative_to(root).as_posix()
        for folder in ("jobs", "schemas")
        for path in (root / folder).rglob("*.py")
        if "mlflow import" in path.read_text() or "import mlflow" in path.read_text()
    ]
    assert importers == ["jobs/registry/client.py"]

    check = "import sys, jobs.registry.registry; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_rollback_goes_back_as_often_as_asked(
    registry: Registry, tmp_path: Path, lake: Lake
) -> None:
    versions = [_register(registry, tmp_path, content) for content in ("aaaa", "bbbb", "cccc")]
    for night, version in enumerate(versions):
        registry.promote(version, f"nightly-{night}")

    assert registry.rollback("rollback-1") == (versions[2], versions[1])
    assert registry.rollback("rollback-2") == (versions[1], versions[0])
    with pytest.raises(DataRefused, match=r"version 1 is the first champion[\s\S]*--to 2, 3"):
        registry.rollback("rollback-3")
    assert registry.rollback("rollback-4", versions[2]) == (versions[0], versions[2])
    assert registry.rollback("rollback-5") == (versions[2], versions[0])

    champion = registry.champion()
    assert champion is not None
    assert champion.version == versions[0]
    with pytest.raises(DataRefused, match="version 1 is the champion now"):
        registry.rollback("rollback-6", versions[0])
    with pytest.raises(DataRefused, match=r"version 9 never was[\s\S]*before: 2, 3"):
        registry.rollback("rollback-7", "9")


def test_a_rollback_cut_short_is_completed(registry: Registry, tmp_path: Path, lake: Lake) -> None:
    first, second = (_register(registry, tmp_path, content) for content in ("aaaa", "bbbb"))
    registry.promote(first, "nightly-1")
    registry.promote(second, "nightly-2")
    promotions.note(lake, "rollback-1", "intended", {"from": second, "to": first}, "rollback")

    champion = registry.champion()

    assert champion is not None
    assert champion.version == first
    assert promotions.champions(lake) == [first]


def test_rollback_says_which_predictions_it_touches(
    registry: Registry, tmp_path: Path, lake: Lake
) -> None:
    first, second = (_register(registry, tmp_path, content) for content in ("aaaa", "bbbb"))
    registry.promote(first, "nightly-1")
    registry.promote(second, "nightly-2")
    scored = {"2013-01-01": first, "2013-01-02": second, "2013-01-03": second}
    for ds, version in scored.items():
        record(lake, [LedgerRow(f"score-{ds}", "score", ds, "done", versions={"model": version})])
    # The date was scored again since, by the first version.
    record(lake, [LedgerRow("score-4", "score", "2013-01-03", "done", versions={"model": first})])
    first_rows, second_rows = "split 'test' of A, 9 rows", "split 'test' of B, 8 rows"
    for version, auc, rows in ((second, 0.79, first_rows), (second, 0.81, second_rows)):
        record(
            lake,
            [
                LedgerRow(
                    "evaluate-1",
                    "evaluate",
                    "2013-01-02",
                    "done",
                    versions={"model": version},
                    metrics={"auc": auc},
                    message=rows,
                )
            ],
        )

    said = roll_back(registry, "rollback-1", None)

    assert said.splitlines() == [
        "predictions of version 2: 2013-01-02; score these dates again",
        "rollback: version 1 is the champion again, 2 was",
    ]
    table = models_table(registry).splitlines()
    assert [line.split()[0] for line in table] == ["version", first, second]
    assert "now, since" in table[1]
    assert "auc 0.8100  split 'test' of B, 8 rows" in table[2]
    assert "now" not in table[2]


@pytest.mark.parametrize("model", ["99999999999999999999", "0", "nope", "\u0663"])
def test_what_is_no_version_is_not_found(registry: Registry, tmp_path: Path, model: str) -> None:
    for content in ("aaaa", "bbbb", "cccc"):
        _register(registry, tmp_path, content)
    with pytest.raises(DataRefused, match=f"no model '{model}' of flights"):
        registry.resolve(model)


def test_the_registry_s_password_is_not_shown(tmp_path: Path, lake: Lake) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings = _settings(tmp_path, mlflow=MlflowSettings(tracking_uri=uri))
    found = Registry(settings, lake)
    with pytest.raises(DataRefused, match="no model 'nope'"):
        found.resolve("nope")
    found._client._uri = "postgresql://anna:topsecret@db/mlflow"
    assert found.shown_uri == "postgresql://[user]@db/mlflow"
