"""deploy/kubernetes: against the published types, and the job's script against what it calls."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.serve.openapi import openapi
from jobs.settings.load import load_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
STEPS = ["etl", "train", "evaluate", "gate", "score", "report"]
# Says which states an application goes through, one a question.
KUBECTL = """#!/bin/sh
case "$*" in
delete*) echo "$@" >> "$FOLDER/calls" ;;
create*) cat > "$FOLDER/created" ;;
*errorMessage*) echo "$MESSAGE" ;;
*)
    echo x >> "$FOLDER/asked"
    set -- $STATES
    shift $(($(wc -l < "$FOLDER/asked") - 1))
    [ "$1" != lost ] && echo "$1" ;;
esac
"""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def test_the_spark_application_is_one_by_its_published_type() -> None:
    from kubeflow_spark_api.models import SparkV1beta2SparkApplication

    (application,) = documents("sparkapplication.yaml")
    # What the type does not know gets lost on the way.
    found = SparkV1beta2SparkApplication.model_validate(application)
    assert found.model_dump(by_alias=True, exclude_none=True) == application


def test_the_cron_workflow_is_one_by_its_published_type() -> None:
    from hera.workflows.models import CronWorkflow

    (workflow,) = documents("cronworkflow.yaml")
    found = CronWorkflow.model_validate(workflow)
    assert found.model_dump(mode="json", by_alias=True, exclude_none=True) == workflow
    night, _ = workflow["spec"]["workflowSpec"]["templates"]
    assert [task["name"] for task in night["dag"]["tasks"]] == STEPS


@pytest.mark.parametrize("name", ["access.yaml", "cronjob.yaml", "serve.yaml"])
def test_kubernetes_own_kinds_are_what_it_publishes(name: str) -> None:
    import kubernetes_validate

    found = documents(name)
    assert found
    for document in found:
        kubernetes_validate.validate(document, "1.34", strict=True)
        with pytest.raises(kubernetes_validate.ValidationError, match="speck"):
            kubernetes_validate.validate({**document, "speck": 1}, "1.34", strict=True)


def test_the_server_is_asked_where_it_listens() -> None:
    deployment, service, scaler, budget = documents("serve.yaml")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    overrides = [text.removeprefix("--set=") for text in container["args"] if "--set=" in text]
    serve = load_settings(ROOT / "conf" / "flights.yaml", overrides).serve
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": serve.port, "grpc": serve.grpc_port}
    assert container["env"][0]["name"] == serve.token_env
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")}
    assert paths <= openapi(("flights", "flights_encoded"), "1", ())["paths"].keys()
    assert pod["spec"]["terminationGracePeriodSeconds"] > serve.drain_s + 5
    labels = pod["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_manifests_name_one_image_and_files_that_it_holds() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.is_file()]
    texts.append((ROOT / "conf" / "spark" / "kubernetes.conf").read_text(encoding="utf-8"))
    images = {image for text in texts for image in re.findall(r"millstream:[\d.]+\d", text)}
    assert len(images) == 1
    named = re.compile(r"/opt/millstream/((?:jobs|conf)/[\w/.]+\w)")
    files = {file for text in texts for file in named.findall(text)}
    assert {"jobs/nightly/job.py", "conf/spark/kubernetes.conf"} <= files
    assert [file for file in files if not (ROOT / file).is_file()] == []
    (map_,) = documents("kustomization.yaml")[0]["configMapGenerator"]
    assert [file for file in map_["files"] if not (FOLDER / file).is_file()] == []


def test_the_last_try_of_a_night_is_for_the_same_yesterday() -> None:
    (job,) = documents("cronjob.yaml")
    minute, hour, *days = job["spec"]["schedule"].split()
    assert days == ["*"] * 3
    begins_s = int(hour) * 3600 + int(minute) * 60 + job["spec"]["startingDeadlineSeconds"]
    assert begins_s + job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 24 * 3600


@pytest.mark.parametrize(
    ("states", "message", "ends"),
    [
        ("SUBMITTED RUNNING lost RUNNING COMPLETED", "", 0),
        ("RUNNING FAILED", "driver container failed with ExitCode: 3, Reason: Error", 3),
        ("RUNNING FAILED", "driver container failed with ExitCode: 137, Reason: OOMKilled", 137),
        ("SUBMISSION_FAILED", "no such image", 1),
    ],
)
def test_the_job_ends_with_the_drivers_exit_code(
    tmp_path: Path, states: str, message: str, ends: int
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL, encoding="utf-8")
    kubectl.chmod(0o755)
    night = subprocess.run(
        [str(FOLDER / "night.sh"), str(FOLDER / "sparkapplication.yaml"), "2024-01-31"],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "FOLDER": str(tmp_path),
            "STATES": states,
            "MESSAGE": message,
            "NIGHT_POLL_S": "0",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert night.returncode == ends, night.stderr
    assert message in night.stderr
    created = yaml.safe_load((tmp_path / "created").read_text(encoding="utf-8"))
    assert created["metadata"]["name"] == "millstream-night-2024-01-31"
    assert created["spec"]["arguments"][2:4] == ["--date", "2024-01-31"]
    assert "millstream-night-2024-01-31" in (tmp_path / "calls").read_text(encoding="utf-8")
