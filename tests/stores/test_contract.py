"""What a lake needs of a store (`jobs/stores/store.py`): each kind passes, or refuses by name."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.base.errors import ConfigError
from jobs.stores.files import folder_to_write, local_file, read_json, store_at, write_json
from jobs.stores.store import Store
from jobs.stores.versions import KEPT

STORES = [
    "local",
    "s3",
    "google",
    pytest.param("hdfs", marks=pytest.mark.slow),
]


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a folder that nobody else uses, in the store that the test's parameter names."""
    if request.param == "local":
        return str(tmp_path)
    return str(request.getfixturevalue(request.param).url(f"contract-{tmp_path.name}"))


def of_each(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("url", names, indirect=True)


def opened(url: str, name: str) -> tuple[Store, str]:
    return store_at(f"{url}/{name}")


@of_each(STORES)
def test_a_file_is_listed_described_and_read_in_ranges(url: str) -> None:
    store, path = opened(url, "folder/ds=2024-01-01/a #1;b.bin")
    store.write_whole(path, bytes(range(100)))
    _, folder = store_at(f"{url}/folder")

    found = store.fs.find(folder, detail=True)

    assert {name: info["size"] for name, info in found.items()} == {path: 100}
    assert store.fs.info(path)["size"] == 100
    assert store.fs.cat_file(path) == bytes(range(100))
    assert store.fs.cat_file(path, start=10, end=20) == bytes(range(10, 20))
    assert store.fs.glob(f"{folder}/*/*.bin") == [path]
    assert store.fs.unstrip_protocol(path).endswith("/folder/ds=2024-01-01/a #1;b.bin")
    with store.fs.open(path, "rb") as file:
        assert file.seek(-5, 2) == 95
        assert file.read(3) == bytes([95, 96, 97])
        assert file.tell() == 98


@of_each(STORES)
def test_what_is_absent_is_a_file_that_is_not_found(url: str) -> None:
    store, path = opened(url, "absent")

    assert not store.fs.exists(path)
    assert store.fs.find(path) == []
    for ask in (store.fs.info, store.fs.cat_file):
        with pytest.raises(FileNotFoundError):
            ask(path)


@of_each(STORES)
def test_a_file_written_again_is_another(url: str) -> None:
    store, path = opened(url, "folder/file")
    folder = path.rsplit("/", 1)[0]
    store.write_whole(path, b"first")
    first = store.fs.find(folder, detail=True)[path]

    store.write_whole(path, b"other")

    assert store.fs.cat_file(path) == b"other"
    second = store.fs.find(folder, detail=True)
    assert list(second) == [path]
    assert second[path] != first


@of_each(STORES)
def test_a_file_is_seen_when_it_is_complete(url: str) -> None:
    store, path = opened(url, "file")
    store.write_whole(path, b"before")

    with store.writing(path) as file:
        for _ in range(4):
            file.write(b"after " * 100_000)
            assert store.fs.cat_file(path) == b"before"

    assert store.fs.cat_file(path) == b"after " * 400_000


@of_each(STORES)
def test_a_writer_that_fails_leaves_what_was_there(url: str) -> None:
    store, path = opened(url, "file")
    store.write_whole(path, b"before")

    with pytest.raises(ZeroDivisionError), store.writing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError

    assert store.fs.cat_file(path) == b"before"


@of_each(STORES)
def test_readers_see_one_writing_or_the_next(url: str) -> None:
    store, path = opened(url, "file")
    contents = [bytes([n]) * 300_000 for n in range(10)]
    store.write_whole(path, contents[0])
    done = threading.Event()

    def write() -> None:
        for content in contents:
            store.write_whole(path, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [store.fs.cat_file(path)]
    while not done.is_set():
        # A range of the file as it is now; HDFS reads the blocks of the file that was opened.
        seen.append(store.fs.cat_file(path))
    writer.join()

    assert all(content in contents for content in seen)


@of_each(STORES)
def test_folders_and_documents(url: str) -> None:
    for round_ in range(2):
        with folder_to_write(f"{url}/folder", last="card.json") as folder:
            (folder / "card.json").write_text(f"{round_}")
            (folder / "weights").write_bytes(b"w" * 100)
    write_json(f"{url}/folder/more.json", {"a": 1})

    assert read_json(f"{url}/folder/card.json") == 1
    assert read_json(f"{url}/folder/more.json") == {"a": 1}
    with local_file(f"{url}/folder/weights") as path:
        assert path.read_bytes() == b"w" * 100
    store, path_ = opened(url, "folder")
    assert len(store.fs.find(path_)) == 3


@of_each(STORES)
def test_one_of_eight_makes_a_file(url: str) -> None:
    store, _ = store_at(url)
    for round_ in range(5):
        _, path = opened(url, f"locks/{round_}.json")
        assert store.read_tagged(path) == (None, "")
        with ThreadPoolExecutor(8) as writers:
            won = list(writers.map(lambda n, path=path: store.create(path, b"%d" % n), range(8)))
        assert won.count(True) == 1
        assert store.read_tagged(path)[0] == b"%d" % won.index(True)


@of_each(STORES)
def test_no_increment_of_eight_writers_is_lost(url: str) -> None:
    """Each replaces what it read, and reads again when another was first."""
    store, path = opened(url, "locks/count.json")

    def increment(writer: int) -> None:
        for _ in range(5):
            while True:
                content, tag = store.read_tagged(path)
                count = int(content.split()[0]) if content else 0
                new = b"%d by %d" % (count + 1, writer)
                if store.replace(path, new, tag) if tag else store.create(path, new):
                    break

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(increment, range(8)))

    content, _ = store.read_tagged(path)
    assert content is not None
    assert int(content.split()[0]) == 40


@of_each(STORES)
def test_an_old_tag_replaces_nothing_however_often_others_did(url: str) -> None:
    store, path = opened(url, "locks/lock.json")
    assert store.create(path, b"0")
    _, old = store.read_tagged(path)
    for number in range(1, 2 * KEPT):
        assert store.replace(path, b"%d" % number, store.read_tagged(path)[1])
        assert not store.replace(path, b"late", old)
        assert not store.create(path, b"late")
        assert store.read_tagged(path)[0] == b"%d" % number


def test_a_store_that_cannot_guard_says_so() -> None:
    store, path = opened("memory://bucket", "locks/lock.json")

    for ask in (
        lambda: store.read_tagged(path),
        lambda: store.create(path, b""),
        lambda: store.replace(path, b"", "tag"),
    ):
        with pytest.raises(ConfigError, match=r"memory://.* cannot guard a file"):
            ask()
