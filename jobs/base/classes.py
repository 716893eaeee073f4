"""Classes of Spark's JVM in a file that it maps when it starts, which takes half the time then.

`make setup` makes it: an archive of Java's Class Data Sharing
(https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html). A JVM of another version, or
with other jars, does without it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.base import quiet

OPTIONS = "spark.driver.extraJavaOptions"
FILE = Path(sys.prefix, "share", "millstream", "spark-classes.jsa")


def with_classes(properties: Mapping[str, str], file: Path = FILE) -> dict[str, str]:
    """Spark's properties with the archive, if there is one and they name no other."""
    given = properties.get(OPTIONS, "")
    if not file.is_file() or "-XX:SharedArchiveFile" in given or "-XX:ArchiveClasses" in given:
        return dict(properties)
    # An archive that does not fit is no error; Java would say so on standard output.
    log = "" if quiet.is_verbose() else " -Xlog:disable -Xlog:all=error:stderr"
    return {**properties, OPTIONS: f"{given} -XX:SharedArchiveFile={file}{log}".strip()}
