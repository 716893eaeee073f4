"""HDFS for tests: a name node and data nodes on loopback, with what befalls them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.builders.daemons import Daemon, free_port
from tests.builders.worlds import CACHE, ROOT

_PACKAGE = "org.apache.hadoop.hdfs"
_NAME_NODE = f"{_PACKAGE}.server.namenode.NameNode"
_DATA_NODE = f"{_PACKAGE}.server.datanode.DataNode"
_JAVA = (
    *("java", "-Xmx400m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
    *("--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.nio=ALL-UNNAMED"),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
)
START_S = 90.0
# So that the tests' blocks are many and small.
BLOCK_BYTES = 1 << 20


class Hdfs:
    """A running HDFS. `environment` points hdfs-native, delta-rs and Spark at it."""

    def __init__(self, world: Path, folder: Path, data_nodes: int) -> None:
        self._world, self._folder = world, folder
        self.port = free_port()
        self.conf = folder / "conf"
        shutil.copytree(world / "conf", self.conf)
        self._configure(data_nodes)
        self.environment = {"HADOOP_CONF_DIR": str(self.conf), "HADOOP_USER_NAME": "millstream"}
        self.hdfs(_NAME_NODE, "-format", "-force", "-nonInteractive")
        self.name_node = self._daemon("name", _NAME_NODE)
        self.data_nodes = [
            self._daemon(f"data-{n}", f"-Ddata={folder}/data-{n}", _DATA_NODE)
            for n in range(data_nodes)
        ]

    def make_folder(self) -> None:
        """One in which every user may do everything."""
        self.until_ready(len(self.data_nodes))
        self.dfs("-mkdir", "-p", "/tests")
        self.dfs("-chmod", "777", "/tests")

    def url(self, *names: str) -> str:
        return "/".join([f"hdfs://127.0.0.1:{self.port}/tests", *names])

    def as_nameservice(self, name: str, folder: Path) -> dict[str, str]:
        """An environment that knows it as the second name node of a nameservice, the first of which
        refuses connections."""
        shutil.copytree(self.conf, folder)
        nodes = f"dfs.namenode.rpc-address.{name}"
        more = {
            "dfs.nameservices": name,
            f"dfs.ha.namenodes.{name}": "first,second",
            f"{nodes}.first": "127.0.0.1:1",
            f"{nodes}.second": f"127.0.0.1:{self.port}",
        }
        _write_properties(folder / "core-site.xml", {"fs.defaultFS": f"hdfs://{name}"})
        _write_properties(folder / "hdfs-site.xml", more)
        return {**self.environment, "HADOOP_CONF_DIR": str(folder)}

    def upload(self, folder: Path | str, name: str) -> str:
        """Copies a folder up, its name replaced; returns its URL."""
        import fsspec

        fs, path = fsspec.core.url_to_fs(self.url(name))
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                fs.put_file(str(file), f"{path}/{file.relative_to(folder)}")
        return self.url(name)

    def dfs(self, *arguments: str) -> str:
        """What `hdfs dfs` says, as the superuser."""
        return self.hdfs("org.apache.hadoop.fs.FsShell", *arguments)

    def admin(self, *arguments: str) -> str:
        """What `hdfs dfsadmin` says."""
        return self.hdfs(f"{_PACKAGE}.tools.DFSAdmin", *arguments)

    def hdfs(self, main: str, *arguments: str) -> str:
        """What a main class of HDFS says.

        Raises:
            CalledProcessError: it failed.
        """
        done = subprocess.run(
            self._java(main, *arguments),
            env=_as_superuser(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{main} {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def until_ready(self, data_nodes: int) -> None:
        """Returns when the name node left safe mode and has so many live data nodes."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                report = self.admin("-report", "-live")
            except RuntimeError:
                continue
            if f"Live datanodes ({data_nodes})" in report and "Safe mode is ON" not in report:
                return
        raise TimeoutError(self.name_node.log.read_text()[-3000:])

    def end(self) -> None:
        for daemon in [*self.data_nodes, self.name_node]:
            daemon.kill()

    def _daemon(self, name: str, *main: str) -> Daemon:
        return Daemon(self._java(*main), self._folder / f"{name}.log", _as_superuser())

    def _java(self, *main: str) -> list[str]:
        places = [f"{self.conf}", f"{self._world}/lib/*", f"{self._world}/last.jar"]
        return [*_JAVA, "-cp", ":".join(places), *main]

    def _configure(self, data_nodes: int) -> None:
        loopback = "127.0.0.1:0"
        core = {"fs.defaultFS": f"hdfs://127.0.0.1:{self.port}", "hadoop.tmp.dir": self._folder}
        site = {
            "dfs.replication": data_nodes,
            "dfs.blocksize": BLOCK_BYTES,
            "dfs.namenode.fs-limits.min-block-size": 1024,
            "dfs.namenode.name.dir": f"file://{self._folder}/name",
            "dfs.datanode.data.dir": "file://${data}",
            "dfs.namenode.http-address": loopback,
            "dfs.datanode.address": loopback,
            "dfs.datanode.http.address": loopback,
            "dfs.datanode.ipc.address": loopback,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.safemode.extension": 0,
            # A dead data node is known as one after about 10 s, not 10 minutes.
            "dfs.heartbeat.interval": 1,
            "dfs.namenode.heartbeat.recheck-interval": 1000,
            # Longer than a name node takes to start, and no longer.
            "dfs.client.failover.max.attempts": 6,
            # With as many data nodes as copies there is none to take a dead one's place.
            "dfs.client.block.write.replace-datanode-on-failure.policy": "NEVER",
        }
        _write_properties(self.conf / "core-site.xml", core)
        _write_properties(self.conf / "hdfs-site.xml", site)
        (self.conf / "log4j.properties").write_text(
            "log4j.rootLogger=INFO, err\n"
            "log4j.appender.err=org.apache.log4j.ConsoleAppender\n"
            "log4j.appender.err.target=System.err\n"
            "log4j.appender.err.layout=org.apache.log4j.PatternLayout\n"
            "log4j.appender.err.layout.ConversionPattern=%d %p %c: %m%n\n"
        )


def _as_superuser() -> dict[str, str]:
    """The environment without a test's own; who starts the name node is the superuser."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HADOOP_")}


def _write_properties(path: Path, properties: Mapping[str, Any]) -> None:
    rows = "".join(
        f"<property><name>{name}</name><value>{value}</value></property>\n"
        for name, value in properties.items()
    )
    path.write_text(f"<configuration>\n{rows}</configuration>\n")


@contextmanager
def serving(folder: Path, data_nodes: int = 1) -> Iterator[Hdfs]:
    """HDFS in an empty folder; it ends with the block."""
    command = [str(ROOT / "tools" / "install_hdfs.sh"), sys.executable, str(CACHE)]
    world = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    hdfs = Hdfs(Path(world), folder, data_nodes)
    try:
        hdfs.make_folder()
        yield hdfs
    finally:
        hdfs.end()
