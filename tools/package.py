"""Packs what a cluster needs: `make package`, or python tools/package.py FOLDER.

    FOLDER/millstream-VERSION.zip    jobs and schemas, for spark-submit --py-files
    FOLDER/environment.tar.gz        the packages they import, for --archives ...#environment
    FOLDER/jobs/.../*.py             the files that spark-submit is given

The archive holds what the project requires, in the versions installed here, without what only its
development needs and without Spark, which a cluster has. Its `bin/python` is a link: the same
Python must be at the same place on every host.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT, EXTRAS = "millstream", ("horovod", "s3", "hdfs", "gcs", "onnx")
PACKAGES = ("jobs", "schemas")
SUFFIXES = (".py", ".html", ".css")
SUBMITTED = (
    "jobs/etl/job.py",
    "jobs/train/job.py",
    "jobs/evaluate/job.py",
    "jobs/evaluate/score.py",
    "jobs/nightly/job.py",
)
# Spark puts its own on the path of every Python that it starts.
OF_SPARK = {"pyspark", "py4j"}
# A third of the files, and no code that runs here: tests, C++ headers, MLflow's web pages.
LEFT_OUT = ("*/tests/*", "torch/include/*", "pyarrow/include/*", "mlflow/server/js/*", "*.a")


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    made = [pack_code(folder), pack_environment(folder / "environment.tar.gz")]
    copy_submitted(folder)
    for path in made:
        print(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")
    print(f"package: written to {folder} in {time.monotonic() - started:.0f} s")
    return 0


def pack_code(folder: Path) -> Path:
    """Writes the zip of the project's own modules and pages; the same bytes for the same files.

    Those of other versions go: who submits a job takes the one that is there.
    """
    for other in folder.glob(f"{PROJECT}-*.zip"):
        other.unlink()
    path = folder / f"{PROJECT}-{distribution(PROJECT).version}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            files = (ROOT / package).rglob("*")
            for file in sorted(file for file in files if file.suffix in SUFFIXES):
                name = zipfile.ZipInfo(str(file.relative_to(ROOT)))
                archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path


def copy_submitted(folder: Path) -> None:
    for name in SUBMITTED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)


def pack_environment(path: Path) -> Path:
    """Writes the archive of the required packages, as a relocatable virtual environment."""
    python = Path(
        sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"
    )
    library = f"lib/{python.name}/site-packages"
    # Sent over a network once an executor: the quickest compression earns most of what there is.
    part = path.with_name(f"{path.name}.part")
    with tarfile.open(part, "w:gz", compresslevel=1) as archive:
        for name in ("bin/python", "bin/python3"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(python)
            archive.addfile(link)
        archive.add(Path(sys.prefix, "pyvenv.cfg"), "pyvenv.cfg")
        for found in required():
            for source, name in files_of(found):
                archive.add(source, f"{library}/{name}")
    return part.replace(path)


def required() -> list[Distribution]:
    """The distributions that the project needs to run, by name, without itself and Spark."""
    wanted = [Requirement(f"{PROJECT}[{','.join(EXTRAS)}]")]
    seen: set[tuple[str, str]] = set()
    found: dict[str, Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if name in OF_SPARK or (name, extra) in seen:
                continue
            seen.add((name, extra))
            found[name] = distribution(name)
            for text in found[name].requires or ():
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    wanted.append(inner)
    del found[PROJECT]
    return [found[name] for name in sorted(found)]


def files_of(found: Distribution) -> Iterator[tuple[Path, str]]:
    """The installed files of a distribution, and their names below site-packages."""
    if found.files is None:
        raise RuntimeError(f"{found.metadata['Name']} has no list of its files; install it by pip")
    for file in found.files:
        name = os.path.normpath(file)
        source = Path(str(found.locate_file(file)))
        inside = not name.startswith("..")
        if inside and source.is_file() and not any(fnmatch(name, left) for left in LEFT_OUT):
            yield source, name


if __name__ == "__main__":
    sys.exit(main())
