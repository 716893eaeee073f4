"""Raw files: listed once, by path, glob and date, with size and stamp."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jobs.base.errors import DataRefused, NoRawFile
from jobs.rows.read.links import LinkedFiles, each_once, refuse_closed
from jobs.stores.files import store_at

_GLOB = re.compile(r"[*?\[{]")


@dataclass(frozen=True, order=True)
class RawFile:
    """A raw file as it was when it was listed.

    Attributes:
        ds: the date that its path says; empty where the path has no `{ds}`.
        stamp: what tells it from another file in its place: size and time, and the store's ETag.
        block_bytes: size of the parts that the store keeps it in; 0 where it has none.
    """

    ds: str
    path: str
    size_bytes: int
    stamp: str
    block_bytes: int = 0


def find_files(path: str, dates: Sequence[str]) -> list[RawFile]:
    """The raw files of a source, by date and path.

    Folders are searched below, also those that links lead to; a local file of several names is read
    once. Files and folders whose names begin with `_` or `.` are passed over
    (writers keep unfinished files there), unless the path itself names them.

    Args:
        path: a path or glob (`*`, `?`, `[ab]`, `{a,b}`); `{ds}` stands for each of the dates.
        dates: dates wanted, as YYYY-MM-DD.

    Raises:
        NoRawFile: a path, or a date's path, matches no file. An absent file is not an empty one.
        DataRefused: what is matched is neither a file nor a folder, or has a name with `::`.
        ConfigError: there is no client for the path's store.
    """
    days = list(dates) if "{ds}" in path else [""]
    fs = store_at(path)[0].fs
    fs = LinkedFiles() if isinstance(fs, LocalFileSystem) else fs
    with ThreadPoolExecutor(min(16, len(days))) as threads:
        found = list(threads.map(partial(_files_of, fs, path), days))
    if missing := [
        path.replace("{ds}", ds) for ds, own in zip(days, found, strict=True) if not own
    ]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NoRawFile(
            f"no raw file matches {', '.join(missing[:3])}{more}",
            remedy="land the files, or correct etl.sources",
        )
    return sorted(file for own in found for file in own)


def _files_of(fs: Any, path: str, ds: str) -> list[RawFile]:
    """The files of one date, each once."""
    found = {
        name: info
        for pattern in _alternatives(path.replace("{ds}", ds))
        for name, info in _matches(fs, fs._strip_protocol(pattern))
    }
    for name, info in found.items():
        _refuse_odd(name, info)
    if isinstance(fs, LinkedFiles):
        found = each_once(found)
    return [
        RawFile(ds, _url(fs, name), info["size"], stamp_of(info), info.get("blocksize") or 0)
        for name, info in found.items()
    ]


def _refuse_odd(name: str, info: Mapping[str, Any]) -> None:
    """Refuses what opening would wait for, or would take for something else."""
    what = ""
    if info["type"] == "other":
        leads = "a link to no file, or to a folder that it lies in"
        what = f"is {leads if info.get('islink') else 'a pipe, a socket or a device'}"
    elif "::" in name:
        what = "has `::` in its name, which fsspec takes for a chain of stores"
    if what:
        raise DataRefused(
            f"{name} {what}",
            "files, and folders of files",
            "take it away or rename it, or give a path that does not match it",
        )


def _alternatives(pattern: str) -> list[str]:
    """`{a,b}` written out."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    start, end = braces.span()
    return [
        text
        for part in braces[1].split(",")
        for text in _alternatives(f"{pattern[:start]}{part}{pattern[end:]}")
    ]


def _matches(fs: Any, pattern: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and descriptions of the files that a glob matches, or that lie below what it does."""
    if not _GLOB.search(pattern):
        if not fs.exists(pattern):
            return
        matched = {pattern: fs.info(pattern)}
    else:
        matched = fs.glob(pattern, detail=True)
    for name, info in matched.items():
        if _hidden(name, pattern):
            continue
        if info["type"] != "directory":
            yield name, info
            continue
        local = isinstance(fs, LinkedFiles)
        for below, inner in fs.find(name, detail=True, withdirs=local).items():
            parts = below.removeprefix(name).strip("/").split("/")
            if any(part.startswith(("_", ".")) for part in parts):
                continue
            if local and inner["type"] == "directory":
                refuse_closed(below)
            else:
                yield below, inner


def _hidden(name: str, pattern: str) -> bool:
    """Whether a glob reached a hidden file or folder without naming it as one."""
    parts, patterns = name.strip("/").split("/"), pattern.strip("/").split("/")
    if "**" in patterns:
        # Which part of the name is which of the pattern's is not known.
        named = [wanted for wanted in patterns if wanted.startswith(("_", "."))]
        return any(
            part.startswith(("_", ".")) and not any(fnmatchcase(part, wanted) for wanted in named)
            for part in parts
        )
    return any(
        part.startswith(("_", ".")) and not wanted.startswith(part[0])
        for part, wanted in zip(parts, patterns, strict=False)
    )


def stamp_of(info: dict[str, Any]) -> str:
    """Of a file's description by its store."""
    time = info.get("mtime") or info.get("LastModified") or info.get("modified") or ""
    return ", ".join(str(part) for part in (info["size"], time, info.get("ETag", "")) if part != "")


def _url(fs: Any, name: str) -> str:
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return name if protocol == "file" else str(fs.unstrip_protocol(name))


def refuse_changed(file: RawFile) -> None:
    """Refuses a file that is another than when it was listed.

    Raises:
        DataRefused: it names the file.
    """
    fs, name = fsspec.core.url_to_fs(file.path)
    try:
        now = stamp_of(fs.info(name))
    except FileNotFoundError:
        now = "no file"
    if now != file.stamp:
        raise DataRefused(
            f"{file.path} changed while it was read: {file.stamp} when it was listed, now {now}",
            "a file that stays as it is",
            "run again when it has landed; nothing was changed",
        )


def unreadable(file: str, error: BaseException) -> DataRefused:
    """The refusal for a file that is torn or cannot be opened."""
    return DataRefused(
        f"{file} cannot be read: {type(error).__name__}: {error}".splitlines()[0],
        "a whole file",
        "land the file again; nothing was changed",
    )
