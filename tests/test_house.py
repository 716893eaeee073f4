"""The house: imports point one way, rooms and files stay small, a name stands for one thing."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_FILES, MOST_LINES = 15, 300

# A room imports from itself and from those above it. Of a room within a room the longer name
# counts; the room's own name then stands for the files that lie loose in it.
ORDER = [
    "schemas",
    "jobs.base",
    "jobs.stores",
    "jobs.petastorm_legacy",
    "jobs.petastorm_arrow",
    "jobs.rows.base",
    "jobs.rows.read",
    "jobs.rows.judge",
    "jobs.rows",
    "jobs.settings",
    "jobs.lake",
    "jobs.etl.parcels",
    "jobs.etl.raw",
    "jobs.etl.fit",
    "jobs.etl.judge",
    "jobs.etl.encode",
    "jobs.etl.write",
    "jobs.etl",
    "jobs.batch",
    "jobs.models.tables",
    "jobs.models",
    "jobs.registry",
    "jobs.train.order",
    "jobs.train.read",
    "jobs.train.exchange",
    "jobs.train.tables",
    "jobs.train.step",
    "jobs.train.keep",
    "jobs.train.warm",
    "jobs.train.launch",
    "jobs.train.watch",
    "jobs.train",
    "jobs.tune.samplers",
    "jobs.tune",
    "jobs.evaluate.predict",
    "jobs.evaluate.export",
    "jobs.evaluate.measure",
    "jobs.evaluate.gate",
    "jobs.evaluate.report",
    "jobs.evaluate",
    "jobs.serve.request",
    "jobs.serve",
    "jobs.observe",
    "jobs.operations",
    "jobs.nightly",
    "jobs.init",
    "jobs.commands",
    "jobs.main",
]

# Rooms that are being rebuilt: what is said below of circles, sizes and names waits for them.
PENDING: tuple[str, ...] = ()

# File -> why it is longer than MOST_LINES.
LONG: dict[str, str] = {
    "jobs/base/xxhash.py": "one algorithm, whose parts nothing else uses",
}


@cache
def modules() -> dict[str, Path]:
    """Name -> file of each module, of packages their `__init__.py`."""
    files = [file for room in ("jobs", "schemas") for file in (ROOT / room).rglob("*.py")]
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        # Not ours: the package that stands in for Petastorm's own on PYTHONPATH.
        if "path" not in parts:
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, anywhere: in functions and for types too."""
    return {name: set(_imports(name, file)) for name, file in modules().items()}


def _imports(name: str, file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{name}: imports are written out in full"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            wanted = [one if one in modules() else node.module for one in inner]
        else:
            continue
        yield from (one for one in wanted if one in modules() and one != "jobs")


def room_of(module: str) -> str:
    rooms = [room for room in ORDER if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len)


def is_pending(module: str) -> bool:
    return f"{module}.".startswith(tuple(f"{room}." for room in PENDING))


def test_each_module_is_in_a_room() -> None:
    assert [name for name in modules() if name != "jobs" and not room_of(name)] == []


def test_imports_point_one_way() -> None:
    upwards = [
        f"{name} ({room_of(name)}) imports {one} ({room_of(one)})"
        for name, found in imports().items()
        for one in found
        if not is_pending(name) and ORDER.index(room_of(one)) > ORDER.index(room_of(name))
    ]
    assert sorted(upwards) == []


def test_nothing_is_imported_in_a_circle() -> None:
    graph = {name: found for name, found in imports().items() if not is_pending(name)}
    assert " imports ".join(_circle(graph)) == ""


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, the last one the first; none where nothing does."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_rooms_and_files_are_small() -> None:
    rooms: dict[Path, int] = Counter(
        file.parent for name, file in modules().items() if not is_pending(name)
    )
    crowded = {str(room.relative_to(ROOT)): n for room, n in rooms.items() if n > MOST_FILES}
    assert crowded == {}

    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for name, file in modules().items()
        if not is_pending(name)
    }
    long = {file: n for file, n in lines.items() if n > MOST_LINES}
    assert {file: n for file, n in long.items() if file not in LONG} == {}
    assert LONG.keys() <= long.keys(), "files with a reason to be long that are not"


def test_a_class_name_stands_for_one_class() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, file in modules().items():
        if not is_pending(name):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
