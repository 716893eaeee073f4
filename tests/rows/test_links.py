"""Raw folders with links, pipes and odd names in them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from jobs.base.errors import DataRefused, NoRawFile
from jobs.rows.read.files import find_files
from tests.rows.engines import files_of, raw_rows, write
from tests.rows.test_delimited import THINGS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`top` with a file, a link to a folder and a link to a file, which lie elsewhere."""
    names = ("top/a.csv", "real/b.csv", "real/deep/c.csv", "else/d.csv")
    write(tmp_path, {name: f"id,name\n1,{name}\n" for name in names})
    (tmp_path / "top/sub").symlink_to("../real")
    (tmp_path / "top/d.csv").symlink_to(tmp_path / "else/d.csv")
    # A link is older than what it leads to.
    os.utime(tmp_path / "top/d.csv", (1, 1), follow_symlinks=False)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("top", ["a.csv", "d.csv", "sub/b.csv", "sub/deep/c.csv"]),
        ("top/*", ["a.csv", "d.csv", "sub/b.csv", "sub/deep/c.csv"]),
        ("top/**", ["a.csv", "d.csv", "sub/b.csv", "sub/deep/c.csv"]),
        ("top/**/*.csv", ["a.csv", "d.csv", "sub/b.csv", "sub/deep/c.csv"]),
        ("top/*/*.csv", ["sub/b.csv"]),
        ("t*/s*/deep/?.csv", ["sub/deep/c.csv"]),
        ("top/sub", ["sub/b.csv", "sub/deep/c.csv"]),
        ("top/sub/", ["sub/b.csv", "sub/deep/c.csv"]),
        ("top/{sub,.}/*.csv", ["sub/b.csv", "a.csv", "d.csv"]),
    ],
)
def test_links_are_what_they_lead_to(path: str, names: list[str], folder: Path) -> None:
    files = files_of(f"{folder}/{path}")
    assert {os.path.normpath(file.path) for file in files} == {f"{folder}/top/{n}" for n in names}
    held = {Path(name).resolve().relative_to(folder.resolve()) for name in (f.path for f in files)}
    assert {*raw_rows(THINGS, files)["name"].to_pylist()} == {str(name) for name in held}


def test_a_file_of_several_names_is_read_once_for_each_date(folder: Path) -> None:
    write(folder, {"days/2024-01-01/a.csv": "id,name\n1,a\n"})
    (folder / "days/2024-01-02").symlink_to("2024-01-01")
    for path in ("days", "days/*", "days/**/*.csv", "days/*/a.csv"):
        assert [file.path for file in files_of(f"{folder}/{path}")] == [
            f"{folder}/days/2024-01-01/a.csv"
        ]
    days = ["2024-01-01", "2024-01-02"]
    assert [file.ds for file in find_files(f"{folder}/days/{{ds}}", days)] == days
    os.link(folder / "else/d.csv", folder / "else/e.csv")
    assert len(files_of(folder / "else")) == 2


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    # Names of sockets are short.
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(path.name)


def put_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def put_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def put_link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.parent.parent / "pipe")
    path.symlink_to("../pipe")


def put_link_up(path: Path) -> None:
    path.symlink_to("..")


def put_chain(path: Path) -> None:
    path.with_name("odd::a.csv").write_text("id,name\n1,a\n")


@pytest.mark.parametrize(
    "put",
    [
        put_pipe,
        put_socket,
        put_link_to_nothing,
        put_link_to_itself,
        put_link_to_a_pipe,
        put_link_up,
        put_chain,
    ],
)
def test_what_is_no_file_is_refused_by_name_and_not_opened(
    put: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    put(folder / "top/odd")
    for path in ("top", "top/*", "top/**", "t*"):
        with pytest.raises(DataRefused, match=f"{folder}/top/odd.* (is a|has `::`)"):
            files_of(f"{folder}/{path}")
    assert [file.path for file in files_of(f"{folder}/top/a*.csv")] == [f"{folder}/top/a.csv"]
    if put is put_pipe:
        with pytest.raises(DataRefused, match="odd is a pipe"):
            files_of(folder / "top/odd")
    if put is put_link_to_nothing:
        with pytest.raises(NoRawFile):
            files_of(folder / "top/odd")


def test_folders_that_lead_to_each_other_are_walked_once(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.csv": "", "y/b.csv": ""})
    (tmp_path / "x/to_y").symlink_to("../y")
    (tmp_path / "y/to_x").symlink_to("../x")
    found = [file.path for file in files_of(f"{tmp_path}/**/*.csv")]
    assert found == [f"{tmp_path}/x/a.csv", f"{tmp_path}/y/b.csv"]
    with pytest.raises(DataRefused, match=r"to_. is a link to .* a folder that it lies in"):
        files_of(tmp_path / "x")


@pytest.fixture
def nobody() -> Iterator[None]:
    """Without the rights of root, who may list any folder."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_folder_that_may_not_be_listed_is_refused_by_name(nobody: None) -> None:
    with TemporaryDirectory() as place:
        folder = write(Path(place), {"open/a.csv": "", "open/_closed/b.csv": "", "shut/c.csv": ""})
        for name in ("open/_closed", "shut"):
            (folder / name).chmod(0)
        try:
            for path in ("", "*", "shut"):
                with pytest.raises(DataRefused, match=r"/shut cannot be listed"):
                    files_of(f"{folder}/{path}")
            assert len(files_of(folder / "open")) == 1
        finally:
            for name in ("open/_closed", "shut"):
                (folder / name).chmod(0o700)
