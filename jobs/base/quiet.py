"""What a user sees of libraries: nothing, while all goes well; with `--verbose` what they say.

Millstream's own lines come from the logger `millstream`. Errors are raised, and so are always seen.
Here is all that keeps Spark's JVM, Python's libraries and the ranks quiet: their log levels, the
filter of warnings, and the environment of the processes that are started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FORMAT = "%(asctime)s %(name)s: %(message)s"
_VERBOSE = "MILLSTREAM_VERBOSE"
# What libraries read when they are imported, in this process and in those that it starts.
_ENVIRONMENT = {
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
# log4j is configured when the JVM starts; `conf/spark/log4j2.properties` is the same, for
# spark-submit, whose JVM starts before Python does.
LOG4J = """\
rootLogger.level = error
# Spark would set another level for a Python shell, and say so.
logger.python.name = org.apache.spark.api.python.PythonGatewayServer
logger.python.level = error
# What a task fails with is raised in Python, too.
logger.tasks.name = org.apache.spark.scheduler.TaskSetManager
logger.tasks.level = off
logger.executor.name = org.apache.spark.executor.Executor
logger.executor.level = off
logger.blocks.name = org.apache.spark.storage.DiskBlockObjectWriter
logger.blocks.level = off
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %c{1}: %m%n%ex
"""
JVM_OPTIONS = "spark.driver.extraJavaOptions"
# As the properties files that are shipped have it, for spark-submit.
_CLASS_PATH, _OF_CHECKOUT = "spark.driver.extraClassPath", "conf/spark"
# What java itself says before log4j can be asked to be quiet.
_OF_JAVA = (b"WARNING: ", b"NOTE: Picked up ", b"Picked up ")


def start_log(verbose: bool = False, level: int = logging.INFO) -> None:
    """Sends Millstream's lines to standard error, and with `verbose` those of libraries.

    Args:
        level: of Millstream's lines.
    """
    if verbose:
        os.environ[_VERBOSE] = "1"
    os.environ.update(of_processes())
    logging.basicConfig(stream=sys.stderr, format=FORMAT)
    logging.getLogger("millstream").setLevel(level)
    quiet_libraries()


def quiet_libraries() -> None:
    """Log levels and warnings of this process."""
    if is_verbose():
        logging.getLogger().setLevel(logging.INFO)
        warnings.simplefilter("default")
        return
    logging.getLogger().setLevel(logging.ERROR)
    # It logs what it raises, and what an interrupt cuts short; partly by the root's logger.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_is_not_of_py4j)
    warnings.simplefilter("ignore")


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    return "py4j" not in Path(record.pathname).parts


def is_verbose() -> bool:
    return bool(os.environ.get(_VERBOSE))


def of_processes() -> dict[str, str]:
    """The environment of processes that are started, here or on a cluster; what is set stays."""
    if is_verbose():
        return {_VERBOSE: "1"}
    return {name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()}


@contextmanager
def jvm_options(properties: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Spark's properties with what a JVM logs, which must start within the block.

    A log4j configuration that the user names, in the properties or SPARK_CONF_DIR, stands.
    """
    given = properties.get(JVM_OPTIONS, "")
    if "log4j" in given or "SPARK_CONF_DIR" in os.environ:
        yield dict(properties)
        return
    with tempfile.TemporaryDirectory(prefix="millstream-") as folder:
        file = Path(folder, "log4j2.properties")
        log4j = re.sub("level = (error|off)", "level = warn", LOG4J) if is_verbose() else LOG4J
        file.write_text(log4j, encoding="utf-8")
        log = f"-Dlog4j2.configurationFile={file.as_uri()}"
        own = {**properties, JVM_OPTIONS: f"{given} {log}".strip()}
        if own.get(_CLASS_PATH) == _OF_CHECKOUT:
            # Only a log4j configuration is there; a JVM with folders in its path shares no classes.
            del own[_CLASS_PATH]
        yield own


@contextmanager
def jvm_errors() -> Iterator[int | None]:
    """A file descriptor for a JVM's standard error, which passes on all but Java's own warnings.

    None with `--verbose`: the JVM then has the process's own.
    """
    if is_verbose():
        yield None
        return
    reading, writing = os.pipe()
    passing = threading.Thread(target=_pass_on, args=(reading,), daemon=True, name="jvm-errors")
    passing.start()
    try:
        yield writing
    except BaseException:
        # The JVM did not start: what it said comes before the error.
        os.close(writing)
        passing.join(timeout=5)
        raise
    # The JVM has its own copy, and the thread ends with that.
    os.close(writing)


def _pass_on(reading: int) -> None:
    """Copies lines, and the pieces of a progress bar as they come."""
    held, begins = b"", True
    while piece := os.read(reading, 1 << 16):
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            if not (begins and line.startswith(_OF_JAVA)):
                _write(line + b"\n")
            begins = True
        if not (begins and any(held.startswith(word[: len(held)]) for word in _OF_JAVA)):
            _write(held)
            held, begins = b"", False
    _write(held)
    os.close(reading)


def _write(text: bytes) -> None:
    # Where nobody reads any more the JVM must not be held up.
    with contextlib.suppress(OSError):
        os.write(2, text)
