"""What is HDFS' own: forked children, URLs, errors, waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.lake.tables import Table
from jobs.stores import hdfs as module
from jobs.stores.errors import StoreFailed, store_failed
from jobs.stores.files import Guarded, store_at, write_whole
from tests.builders.hdfs import Hdfs

pytestmark = pytest.mark.slow


def test_a_child_by_fork_starts_though_the_store_was_used(hdfs: Hdfs) -> None:
    """As Spark's JVM does: fsspec drops its instances in the child."""
    code = (
        "import os, subprocess, sys\n"
        "from jobs.stores.files import store_at\n"
        "store, path = store_at(sys.argv[1])\n"
        "store.fs.exists(path)\n"
        "del store\n"
        "child = subprocess.Popen(['true'], preexec_fn=lambda: None)\n"
        "sys.exit(child.wait())\n"
    )
    command = [sys.executable, "-c", code, hdfs.url("fork")]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


def test_processes_end_well_after_threads_wrote(hdfs: Hdfs, tmp_path: Path) -> None:
    """Files, guarded files and commits of a table, by eight threads, and out."""
    code = (
        "import sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import pyarrow as pa\n"
        "from jobs.lake.tables import Table\n"
        "from jobs.stores.files import Guarded, write_whole\n"
        "url = sys.argv[1]\n"
        "def write(n):\n"
        "    write_whole(f'{url}/{n}', b'x' * 3_000_000)\n"
        "    Guarded(f'{url}/lock').swap(b'%d' % n, '')\n"
        "    Table(f'{url}/table').append(pa.table({'n': [n]}))\n"
        "write(0)\n"
        "ThreadPoolExecutor(8).map(write, range(1, 9))\n"
    )
    for round_ in range(3):
        url = hdfs.url(tmp_path.name, str(round_))
        command = [sys.executable, "-c", code, url]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_nameservices_keep_their_capitals_and_paths_their_marks() -> None:
    of = module.HdfsFiles._get_kwargs_from_urls
    assert of("hdfs://Prod-1/data/x?.csv") == {"host": "Prod-1", "port": None}
    assert of("hdfs://name:8020/data") == {"host": "name", "port": 8020}
    assert of("hdfs:///data") == {"host": None, "port": None}
    strip = module.HdfsFiles._strip_protocol
    assert strip("hdfs://Prod-1/data/x?#;.csv") == "/data/x?#;.csv"
    assert strip("hdfs://name:8020") == "/"
    assert strip("/data/folder/") == "/data/folder"


def test_a_nameservice_is_that_of_the_configuration(
    hdfs: Hdfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and tables, by its name and as the default store; its first name node is away."""
    for name, value in hdfs.as_nameservice("Prod-1", tmp_path / "conf").items():
        monkeypatch.setenv(name, value)
    module.HdfsFiles.clear_instance_cache()
    folder = f"tests/{tmp_path.name}"

    write_whole(f"hdfs://Prod-1/{folder}/file", b"content")
    table = Table(f"hdfs://Prod-1/{folder}/table")
    assert [table.append(pa.table({"n": [n]})) for n in range(3)] == [1, 2, 3]

    assert Table(f"hdfs:///{folder}/table").version() == 3
    for url in (f"hdfs:///{folder}", hdfs.url(tmp_path.name)):
        store, path = store_at(url)
        assert store.fs.cat_file(f"{path}/file") == b"content"
    module.HdfsFiles.clear_instance_cache()


def refusal(url: str) -> str:
    with pytest.raises(OSError) as error:
        write_whole(url, b"x")
    return str(store_failed(error.value))


def test_no_name_node(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        monkeypatch.setattr(module, "_ATTEMPTS", ("dfs.client.failover.max.attempts", "2"))
        said = refusal(f"hdfs://127.0.0.1:{port}/x")
        fs, path = store_at(f"hdfs://127.0.0.1:{port}/x")[0].fs, "/x"
        # Nothing that is not known is taken for absent.
        for ask in (fs.find, fs.ls, fs.exists, fs.isdir, fs.isfile, fs.info):
            with pytest.raises(StoreFailed):
                ask(path)
        with pytest.raises(StoreFailed):
            fs.glob("/x/*.json")
    assert f"hdfs://127.0.0.1:{port}: " in said
    assert "Connection refused" in said
    assert "start the store, or correct host and port" in said


def test_a_port_of_something_else_is_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        said = refusal(f"hdfs://127.0.0.1:{silent.getsockname()[1]}/x")
    assert "no end within 0.5 s" in said
    assert "see whether host and port are those of the store" in said


def test_an_unknown_nameservice_is_named(hdfs: Hdfs) -> None:
    said = refusal("hdfs://Nowhere/x")
    assert "hdfs://Nowhere: " in said
    assert "HADOOP_CONF_DIR" in said


def test_no_permission(hdfs: Hdfs) -> None:
    said = refusal(f"hdfs://127.0.0.1:{hdfs.port}/of-others")
    assert "Permission denied: user=millstream, access=WRITE" in said
    assert "HADOOP_USER_NAME" in said


def test_a_quota_that_is_exceeded(hdfs: Hdfs) -> None:
    hdfs.dfs("-mkdir", "-p", "/tests/few")
    hdfs.dfs("-chmod", "777", "/tests/few")
    hdfs.admin("-setQuota", "1", "/tests/few")
    said = refusal(hdfs.url("few", "one"))
    assert "NSQuotaExceeded" in said and "/tests/few" in said
    assert "-setQuota" in said
    hdfs.admin("-clrQuota", "/tests/few")
    hdfs.admin("-setSpaceQuota", "1000", "/tests/few")
    said = refusal(hdfs.url("few", "large"))
    assert "DSQuotaExceeded" in said
    assert "-setSpaceQuota" in said


def test_safe_mode(hdfs: Hdfs) -> None:
    hdfs.admin("-safemode", "enter")
    try:
        said = refusal(hdfs.url("x"))
        read, _ = Guarded(hdfs.url("no", "lock.json")).read()
    finally:
        hdfs.admin("-safemode", "leave")
    assert "safe mode" in said
    assert "hdfs dfsadmin -safemode get" in said
    assert read is None


def test_the_user_of_the_environment_owns_what_is_written(hdfs: Hdfs) -> None:
    write_whole(hdfs.url("owned"), b"x")
    store, path = store_at(hdfs.url("owned"))
    assert store.fs.info(path)["owner"] == os.environ["HADOOP_USER_NAME"]
