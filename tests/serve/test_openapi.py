"""What the OpenAPI page says holds, whatever is asked by it: schemathesis, as it comes.

It runs in an environment that is made once, in the user's cache, by tools/world.sh.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.builders.servers import Server
from tests.builders.worlds import interpreter

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
    "allow_header_conformance",
)


@pytest.mark.slow
def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    (replica,) = server.replicas()
    before = replica.memory_info().rss
    page = f"http://127.0.0.1:{server.port}/openapi.json"
    report = tmp_path / "report.json"
    options = ["--checks", ",".join(CHECKS), "--seed", "1", "--continue-on-failure"]
    options += ["--report", "json", "--report-json-path", str(report)]
    program = str(Path(interpreter("clients")).with_name("schemathesis"))
    ended = subprocess.run(
        [program, "run", page, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    said = next(line for line in ended.stdout.splitlines() if " generated, " in line)
    print(said, f"{(replica.memory_info().rss - before) >> 20} MiB more")
    assert json.loads(report.read_text())
    assert replica.memory_info().rss - before < 64 << 20
    assert "Traceback" not in server.said
