"""What stores and their clients raise, in a user's words."""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Callable
from typing import TypeVar

from jobs.base.errors import ConfigError, MillstreamError
from jobs.base.jvm import jvm_ended

# Packages of the clients under fsspec.
_CLIENTS = ("aiohttp", "azure", "botocore", "gcsfs", "google")
# What errors of the store say that delta-rs, Spark's JVM or a task passes on.
_OF_CLIENTS = (
    "HdfsObjectStore error",
    "failed on connection exception",
    "org.apache.hadoop.ipc.RemoteException",
    "jobs.stores.errors.StoreFailed",
)
# What a system says of a file that cannot be written.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST)
_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
# What Spark's JVM says of a store whose connector it was not given.
_NO_CLIENT = re.compile(r'No FileSystem for scheme "?(\w+)|Class org\.apache\.hadoop\.fs\.s3a')
_SQLITE_FULL = "database or disk is full"

# What a store says -> what to do, the first that fits.
_REMEDIES = {
    "safe mode": "wait until `hdfs dfsadmin -safemode get` says OFF; a name node that stays in it "
    "misses blocks, or its disk is full",
    "SafeMode": "wait until `hdfs dfsadmin -safemode get` says OFF",
    "NSQuotaExceeded": "remove files below the folder that is named (`millstream vacuum`), or have "
    "its quota raised: `hdfs dfsadmin -setQuota`",
    "DSQuotaExceeded": "remove files below the folder that is named (`millstream vacuum`), or have "
    "its quota raised: `hdfs dfsadmin -setSpaceQuota`",
    "Permission denied: user=": "let this user (HADOOP_USER_NAME, or of the Kerberos ticket) write "
    "there: `hdfs dfs -chown` or `-setfacl`",
    "No NameNode hosts found": "name the name node, hdfs://HOST:PORT/..., or let HADOOP_CONF_DIR "
    "hold the hdfs-site.xml that knows the nameservice",
    "Connection refused": "start the store, or correct host and port in the URL",
    "failed to lookup": "correct the host in the URL, or let HADOOP_CONF_DIR hold the "
    "hdfs-site.xml that knows the nameservice",
    "no end within": "see whether host and port are those of the store, and whether it is well",
}


_ATTEMPTS = 3
_FIRST_BACKOFF_S = 0.025
T = TypeVar("T")


class StoreFailed(OSError):
    """A store did not do what it was asked; the message names it."""


def is_of_client(error: BaseException) -> bool:
    """Whether an error comes from a store's client; some of what those raise is no OSError."""
    chain = [e for e in (error, error.__cause__) if e is not None]
    return any(
        type(e).__module__.partition(".")[0] in _CLIENTS
        or isinstance(e, StoreFailed)
        or any(words in str(e) for words in _OF_CLIENTS)
        for e in chain
    ) or (isinstance(error, PermissionError) and "hdfs://" in str(error))


def is_of_store(error: BaseException) -> bool:
    """Whether an error comes from a file system or a store's client."""
    return isinstance(error, OSError) or is_of_client(error)


def persistently(act: Callable[[], T]) -> T:
    """Calls `act`, which asks a store once, up to three times where the store refuses.

    A client's own attempts are for a busy store; these are for one that refuses now and then.

    Raises:
        FileNotFoundError: there is no such file, which another attempt would not change.
        Exception: what the last attempt raised.
    """
    for attempt in itertools.count(1):
        try:
            return act()
        except Exception as error:
            stays = isinstance(error, FileNotFoundError) or not is_of_store(error)
            if stays or attempt == _ATTEMPTS:
                raise
            time.sleep(_FIRST_BACKOFF_S * 4**attempt)
    raise AssertionError("unreachable")


def known_error(error: BaseException) -> MillstreamError | None:
    """An error of a store, a file system or Spark's JVM in a user's words; None for any other."""
    return store_failed(error) or jvm_ended(error)


def store_failed(error: BaseException) -> MillstreamError | None:
    """An error of a store or a file system in a user's words; None for any other error."""
    if isinstance(error, MillstreamError):
        return None
    if is_of_client(error):
        return MillstreamError(
            f"the store failed: {type(error).__name__}: {told(error)}",
            "a store that answers, and lets this user read and write",
            remedy_of(str(error)),
        )
    if unknown := _NO_CLIENT.search(str(error)):
        return ConfigError(
            f"Spark has no client for {unknown[1] or 's3a'}://",
            "Spark with the connector of the lake's store",
            "add it: for S3 that is hadoop-aws, and s3a:// in the settings (docs/stores.md)",
        )
    number = _of_system(error)
    if number is None:
        return None
    where = getattr(error, "filename", None)
    found = f"{where}: {os.strerror(number)}" if where else os.strerror(number)
    if number in _NO_SPACE:
        return MillstreamError(
            found,
            "space for the lake, and for Spark's own files (spark.local.dir)",
            "make space and run again: what was committed stands, nothing half-written is visible",
        )
    return ConfigError(
        found,
        "a place that this user can read, and write files in",
        "correct the path, of the lake or of what the line names, or its permissions",
    )


def _of_system(error: BaseException) -> int | None:
    """What the system said of a file; of a lack of space also where another program passed it on:
    the JVM, a task, SQLite."""
    if isinstance(error, OSError) and error.errno in (*_NO_SPACE, *_NOT_WRITABLE, *_NO_NAME):
        return error.errno
    text = str(error)
    if _SQLITE_FULL in text:
        return errno.ENOSPC
    return next((n for n in (*_NO_SPACE, errno.EROFS) if os.strerror(n) in text), None)


def told(error: BaseException) -> str:
    """What a client said, on one line: without colours, arrows and traces of Java and Python."""
    text = re.sub(r"\s*\u21b3\s*", ": ", re.sub(r"\x1b\[[0-9;]*m", "", str(error)))
    lines = text.partition("JVM stacktrace:")[0].splitlines()
    kept = [line for line in lines if not re.match(r"\s+(at |File )|Traceback|\s{4,}", line)]
    said = next((line for line in kept if any(w in line for w in _OF_CLIENTS)), "")
    return " ".join((said or " ".join(kept)).split())


def remedy_of(said: str) -> str:
    """What to do about what a store said."""
    known = (remedy for words, remedy in _REMEDIES.items() if words in said)
    return next(known, "look at the endpoint and the credentials in the environment")
