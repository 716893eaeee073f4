"""The Spark session: the settings that results depend on, the same however Spark was started."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from pyspark import SparkConf, SparkContext
from pyspark.accumulators import AccumulatorTCPServer
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from jobs.base import daemon, quiet
from jobs.base.errors import ConfigError, MillstreamError
from jobs.base.jvm import with_classes
from jobs.base.properties import read_properties
from jobs.base.termination import handlers_kept

# The module that forks the Python workers of a local master.
DAEMON = "jobs.base.daemon"
# A task keeps so many files of a partitioned table open; rows for more are sorted by file first.
OPEN_FILES = 8

# What results, and speed, depend on. Set on every session, whatever the properties file says.
SEMANTICS = {
    "spark.sql.session.timeZone": "UTC",
    # Expressions of a declaration give null where a value cannot be had; a rule then names it.
    "spark.sql.ansi.enabled": "false",
    # `ds=2013-01-01` in a path is a text, and so is `ds=undated`.
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    # INT96, the default, is read by fewer engines and has no statistics.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # A truncated or vanished raw file ends the run instead of giving fewer rows.
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    # Joins of wide rows keep whole-stage code generation; what should not says so (`apart`).
    "spark.sql.codegen.maxFields": "2000",
    # Inferring filters takes the optimizer minutes for plans of many columns and gives nothing.
    "spark.sql.constraintPropagation.enabled": "false",
    # Of more than 32 paths Spark lists each in a task of its own: 2 s for a year's dates.
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "32",
    "spark.sql.maxConcurrentOutputFileWriters": str(OPEN_FILES),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # What goes to Python at once: rows mostly, but images are larger.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(32 << 20),
    # Rows are kept for a few passes only, which do not earn the compressing back.
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
}


class _OnUse:
    """Stands for a session, and starts it when it is first used."""

    def __init__(self, start: Callable[[], SparkSession]) -> None:
        self._start = start

    @cached_property
    def _session(self) -> SparkSession:
        return self._start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def session_on_use(
    app_name: str, properties_file: str | None = None, *of_steps: str
) -> SparkSession:
    """As `session`, but Spark is started when something is first asked of it.

    So a job refuses at once what it can refuse without Spark. Under spark-submit, whose JVM is
    there already, and which waits for a session, it is started here.

    Args:
        of_steps: modules that steps in Python workers import.

    Raises:
        ConfigError: the properties file is missing.
    """
    _properties(properties_file)
    start = partial(session, app_name, properties_file, *of_steps)
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return start()
    return cast("SparkSession", _OnUse(start))


def session_ahead(
    app_name: str,
    properties_file: str | None = None,
    *of_steps: str,
    first: Callable[[SparkSession], object] = lambda _: None,
) -> SparkSession:
    """As `session`, but Spark starts beside what is done until something is asked of it.

    Whoever ends before waits for no more than its JVM's launch; the JVM ends with this process.

    Args:
        of_steps: modules that steps in Python workers import.
        first: a small job, which is run unless something was asked before it: Spark's first job
            takes seconds, whatever it does.

    Raises:
        ConfigError: the properties file is missing.
    """
    _properties(properties_file)
    ahead = _Ahead(app_name, properties_file, of_steps, first)
    ahead.begin()
    return cast("SparkSession", _OnUse(ahead.session))


class _Ahead:
    """A session that threads start, with a first job of its own."""

    def __init__(
        self,
        app_name: str,
        properties_file: str | None,
        of_steps: Sequence[str],
        first: Callable[[SparkSession], object],
    ) -> None:
        self._app_name, self._properties_file = app_name, properties_file
        self._of_steps, self._first = of_steps, first
        self._session: Future[SparkSession] = Future()
        self._asked = threading.Event()
        self._is_new = SparkContext._active_spark_context is None

    def begin(self) -> None:
        # This process does not end before it: files that the JVM reads meanwhile would go with it.
        launching = threading.Thread(target=self._launch, name="jvm-ahead")
        launching.start()
        starting = partial(self._start, launching)
        threading.Thread(target=starting, daemon=True, name="spark-ahead").start()

    def session(self) -> SparkSession:
        self._asked.set()
        return self._session.result()

    def _launch(self) -> None:
        try:
            if "PYSPARK_GATEWAY_PORT" not in os.environ:
                _start_jvm(_own_properties(self._properties_file, self._of_steps))
        except BaseException as error:
            self._session.set_exception(error)

    def _start(self, launching: threading.Thread) -> None:
        launching.join()
        if self._session.done():
            return
        try:
            spark = session(self._app_name, self._properties_file, *self._of_steps)
        except BaseException as error:
            self._session.set_exception(error)
            return
        self._session.set_result(spark)
        if self._is_new and not self._asked.is_set():
            # Whoever asks next is told what is wrong, and this process may be ending.
            with suppress(Exception):
                self._first(spark)


def session(app_name: str, properties_file: str | None = None, *of_steps: str) -> SparkSession:
    """The session of this process; started when there is none.

    Args:
        app_name: shown by Spark's UI.
        properties_file: Spark properties for a session that this process starts itself. Under
            spark-submit the submission's own properties stand.
        of_steps: modules that steps in Python workers import.

    Raises:
        ConfigError: the properties file is missing.
    """
    builder = SparkSession.builder.appName(app_name)
    for name, value in quiet.of_processes().items():
        builder = builder.config(f"spark.executorEnv.{name}", value)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        properties = _own_properties(properties_file, of_steps)
        for name, value in properties.items():
            builder = builder.config(name, value)
        _start_jvm(properties)
    if not quiet.is_verbose():
        # It prints a trace when the JVM ends, which is raised where something is asked of it, too.
        AccumulatorTCPServer.handle_error = lambda *_: None  # type: ignore[method-assign]
    # Pyspark's handler of Ctrl-C asks the JVM for something while another question of this thread
    # is open, and so ends in errors of py4j's.
    with handlers_kept():
        spark = builder.getOrCreate()
    for name, value in SEMANTICS.items():
        spark.conf.set(name, value)
    spark.sparkContext.setLogLevel("WARN" if quiet.is_verbose() else "ERROR")
    return spark


@contextmanager
def side_by_side(spark: SparkSession) -> Iterator[ThreadPoolExecutor]:
    """Two threads for jobs of Spark's. Planning small ones takes longer than their tasks do, and
    leaves cores idle.

    All jobs are cancelled when the block fails, so that it does not wait for them.
    """
    context = spark.sparkContext
    with ThreadPoolExecutor(2) as threads:
        try:
            yield threads
        except BaseException:
            context.cancelAllJobs()
            raise


def _own_properties(properties_file: str | None, of_steps: Sequence[str]) -> dict[str, str]:
    """Of a session that this process starts itself."""
    # Tasks run in this environment, also where it was not activated; else in PATH's python3.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    properties = {
        "spark.master": "local[*]",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        **_properties(properties_file),
    }
    if properties["spark.master"].startswith("local"):
        properties.setdefault("spark.python.daemon.module", DAEMON)
        properties.setdefault(f"spark.executorEnv.{daemon.MODULES}", ",".join(of_steps))
    return properties


def _start_jvm(properties: dict[str, str]) -> None:
    """Starts the JVM as Spark's session would, but quiet; nothing where one runs.

    Raises:
        MillstreamError: it did not start; what it said is on standard error.
    """
    if SparkContext._gateway is not None:
        return
    try:
        with quiet.jvm_options(properties) as options, quiet.jvm_errors() as errors:
            conf = SparkConf(loadDefaults=False).setAll(list(with_classes(options).items()))
            gateway = launch_gateway(conf, {"stderr": errors})  # type: ignore[no-untyped-call]
    except (PySparkRuntimeError, OSError) as error:
        raise MillstreamError(
            f"Spark's JVM did not start: {error}",
            "Java 17 or later at JAVA_HOME, or in PATH where that is not set; Spark properties "
            "that it takes; memory for spark.driver.memory",
            "look at the lines above, which Java and Spark said",
        ) from error
    SparkContext._ensure_initialized(gateway=gateway)


def _properties(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    if not Path(path).is_file():
        raise ConfigError(f"no Spark properties file {path}", remedy="see spark.properties_file")
    # As Spark reads it: a comment in another encoding is no error.
    return read_properties(Path(path).read_text(encoding="utf-8", errors="replace"))
