"""HDFS, by hdfs-native's class for fsspec, which needs no JVM and no libhdfs."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

# Before its import: it would say of every call that a standby name node was asked first.
os.environ.setdefault("RUST_LOG", "error")

from hdfs_native import FileReader, FileWriter
from hdfs_native.fsspec import HdfsFileSystem

from jobs.base.bounded import attempt
from jobs.stores.errors import StoreFailed, persistently
from jobs.stores.versions import VersionedStore

T = TypeVar("T")

# A name node that listens and says nothing would be waited for without end.
ANSWER_S = 120.0
# While it refuses connections it may be starting: the client tries for about a minute, or as the
# site's own settings say.
_ATTEMPTS = ("dfs.client.failover.max.attempts", "9")
# A forked child, such as that which becomes Spark's JVM, lets go of fsspec's instances. The end of
# a client there would wait for threads that only the parent has, so there is none.
_KEPT: list[Any] = []
_URL = re.compile(r"^[a-z]+://([^/]*)(/.*)?$", re.DOTALL)
_RPC_ERROR = re.compile(r'^RPCError\("([\w.$]+)", "(.*)"\)$', re.DOTALL)


class HdfsFiles(HdfsFileSystem):  # type: ignore[misc]
    """hdfs-native's class, with errors and waits as the other stores have them.

    Of the name node's host, `hdfs://HOST:PORT/`, or a nameservice of `HADOOP_CONF_DIR`; the default
    one for `hdfs:///`.
    """

    def __init__(self, host: str | None = None, port: int | None = None, **options: str) -> None:
        url = f"hdfs://{host or ''}" + (f":{port}" if port else "")
        with _os_errors(url):
            super().__init__(host, port, **{**_patience(), **options})
        self.client: Any = _Client(self.client, url)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        # Theirs takes `?`, `#` and `;` for the end of the path.
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        found = _URL.match(path)
        return ((found[2] or "") if found else path).rstrip("/") or "/"

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        # A nameservice may have capital letters, which theirs makes small.
        found = _URL.match(path)
        host, _, port = (found[1] if found else "").rpartition("@")[2].partition(":")
        return {"host": host or None, "port": int(port) if port else None}

    def _convert_file_status(self, status: Any) -> dict[str, Any]:
        info: dict[str, Any] = super()._convert_file_status(status)
        return {**info, "mtime": status.modification_time / 1000, "blocksize": status.blocksize}

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> Any:
        """The files below a folder, in one go."""
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth, withdirs, detail, **options)
        try:
            listed = self.client.list_status(self._strip_protocol(path), True)
        except FileNotFoundError:
            listed = []
        found = {one.path: self._convert_file_status(one) for one in listed if not one.isdir}
        return found if detail else list(found)

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, **options: Any
    ) -> Any:
        # Theirs, and so `glob`, takes a folder that could not be listed for an empty one.
        options["on_error"] = _unless_absent
        return super().walk(path, maxdepth, topdown, **options)

    def isdir(self, path: str) -> bool:
        return self.exists(path) and bool(self.info(path)["type"] == "directory")

    def isfile(self, path: str) -> bool:
        return self.exists(path) and bool(self.info(path)["type"] == "file")

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        with self.open(path1, "rb") as source, HdfsStore(self).writing(path2) as copy:
            while block := source.read(1 << 24):
                copy.write(block)

    def _open(
        self, path: str, mode: str = "rb", overwrite: bool = True, **options: Any
    ) -> _OpenedFile | _NewFile:
        # Without fsspec's block size, which would be that of the file, too.
        return super()._open(path, mode, overwrite)  # type: ignore[no-any-return]


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _patience() -> dict[str, str]:
    name, value = _ATTEMPTS
    site = Path(os.environ.get("HADOOP_CONF_DIR", "")) / "hdfs-site.xml"
    return {} if site.is_file() and f"<name>{name}<" in site.read_text() else {name: value}


class _Client:
    """hdfs-native's client: each question has a deadline, and what it raises is an OSError."""

    def __init__(self, client: Any, url: str) -> None:
        self._client, self._url = client, url
        _KEPT.append(client)

    def list_status(self, path: str, recursive: bool = False) -> list[Any]:
        return self._asked(lambda: list(self._client.list_status(path, recursive)))

    def read(self, path: str) -> Any:
        return _OpenedFile(self._asked(partial(self._client.inner.read, path)), self._url)

    def create(self, path: str, write_options: Any) -> Any:
        file = self._asked(partial(self._client.inner.create, path, write_options))
        return _NewFile(file, self._url, self._asked)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self._asked(partial(getattr(self._client, name), *arguments))

    def _asked(self, ask: Callable[[], T]) -> T:
        answer: list[T] = []
        error = attempt(lambda: answer.append(ask()), ANSWER_S)
        if error is None:
            return answer[0]
        raise _os_error(error, self._url) from None


class _OpenedFile(FileReader):  # type: ignore[misc]
    """The client itself has deadlines for what data nodes send."""

    def __init__(self, inner: Any, url: str) -> None:
        super().__init__(inner)
        self._url = url

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self.tell(), self.size)[whence]
        # Beyond the end theirs panics, where a torn file says that more is there.
        super().seek(min(start + offset, self.size))
        return int(self.tell())

    def read(self, size: int = -1) -> bytes:
        with _os_errors(self._url):
            return bytes(super().read(size))


class _NewFile(FileWriter):  # type: ignore[misc]
    def __init__(self, inner: Any, url: str, asked: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(inner)
        self._url, self._asked, self._closed = url, asked, False

    def write(self, content: Any) -> int:
        with _os_errors(self._url):
            return int(super().write(content))

    def close(self) -> None:
        # The interpreter closes what it collects, once more.
        if not self._closed:
            self._closed = True
            self._asked(self.inner.close)


@contextmanager
def _os_errors(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _os_error(error, url) from None


def _os_error(error: Exception, url: str) -> OSError:
    """What the client raised, without the name node's stack trace."""
    if found := _RPC_ERROR.match(str(error)):
        kind, said = found[1].rpartition(".")[2], found[2].partition("\\n")[0]
    else:
        kind, said = type(error).__name__, str(error).partition("\n")[0]
    if isinstance(error, FileNotFoundError | FileExistsError):
        return type(error)(said)
    if kind == "AccessControlException":
        return PermissionError(f"{url}: {said}")
    return StoreFailed(f"{url}: {kind}: {said}")


class HdfsStore(VersionedStore):
    """Guarded by renames, which the name node refuses where the new name is taken."""

    def await_answer(self) -> None:
        # delta-rs' own client ends at the first connection that is refused, and waits without end
        # for what listens and says nothing.
        self.fs.exists("/")

    def write_whole(self, path: str, content: bytes) -> None:
        # Of a file whose data node dies the client may say that it could not end it in time.
        persistently(partial(super().write_whole, path, content))

    @contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        staged = f"{path}.{secrets.token_hex(8)}.tmp"
        with self.fs.open(staged, "wb") as file:
            yield file
        self.fs.mv(staged, path, overwrite=True)

    def _make(self, path: str, content: bytes) -> bool:
        staged = f"{path}.{secrets.token_hex(8)}.tmp"
        try:
            persistently(partial(self.fs.pipe_file, staged, content))
            self.fs.mv(staged, path)
        except (FileExistsError, FileNotFoundError):
            self.fs.rm(staged)
            return False
        return True
