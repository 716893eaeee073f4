"""What a training shows: a bar on a terminal, else a line now and then.

Rank 0 knows how far training is, and the driver has the terminal. Horovod forwards what ranks
print only when they end, so rank 0 keeps a small note in the run's folder, which the driver reads.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from jobs.base.bounded import attempt
from jobs.stores.files import read_json, write_json

log = logging.getLogger("millstream.train")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_NOTES = 1.0
MOST_COLUMNS = 100
LAST_LOOK_S = 10.0


class Silent:
    """Of ranks other than 0."""

    def close(self) -> None:
        pass

    def rows(self, title: str, rows: int, total_rows: int) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class Console:
    """Shows rows, rows a second and time left, on a terminal as a bar."""

    def __init__(self, terminal: bool) -> None:
        self._shown = log.isEnabledFor(logging.INFO)
        self._terminal = terminal
        self._bar: Any = None
        self._title = ""
        self._started = self._said = 0.0

    def rows(self, title: str, rows: int, total_rows: int) -> None:
        if not self._shown:
            return
        if title != self._title:
            self._begin(title, total_rows)
        if self._bar is not None:
            self._bar.update(rows - self._bar.n)
        elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            speed = rows / max(1e-9, self._said - self._started)
            left = (total_rows - rows) / max(1e-9, speed)
            log.info(
                "%s: %s of %s rows, %s rows/s, %.0f s left",
                *(title, f"{rows:,}", f"{total_rows:,}", f"{speed:,.0f}", left),
            )

    def say(self, line: str) -> None:
        self.close()
        log.info("%s", line)

    def _begin(self, title: str, total_rows: int) -> None:
        self.close()
        self._title, self._started = title, time.monotonic()
        self._said = self._started
        if self._terminal:
            columns, lines = shutil.get_terminal_size()
            self._bar = tqdm(
                total=total_rows,
                desc=title,
                unit=" rows",
                unit_scale=True,
                leave=False,
                # A terminal that does not say how large it is would get no bar from tqdm.
                ncols=min(MOST_COLUMNS, columns),
                nrows=lines,
            )

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@dataclass(frozen=True)
class _Note:
    """All lines so far, and how far the part that runs is."""

    lines: tuple[str, ...] = ()
    title: str = ""
    rows: int = 0
    total_rows: int = 0


class Notes:
    """Rank 0's reporter where the driver is another process.

    Notes are written beside the training, which a store that is slow or refuses must not touch:
    what could not be written comes with the next note.
    """

    def __init__(self, folder: str) -> None:
        self._url = _note_url(folder)
        self._note = _Note()
        # Lines of another rank 0, which was lost, stay; None until they are read.
        self._before: tuple[str, ...] | None = None
        self._changed = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._follow, name="millstream-notes", daemon=True).start()

    def rows(self, title: str, rows: int, total_rows: int) -> None:
        self._note = _Note(self._note.lines, title, rows, total_rows)
        self._changed.set()

    def say(self, line: str) -> None:
        note = self._note
        self._note = _Note((*note.lines, line), note.title, note.rows, note.total_rows)
        self._changed.set()

    def close(self) -> None:
        """Writes the last note; waits for the store some seconds."""
        attempt(self._write, LAST_LOOK_S)

    def _follow(self) -> None:
        while self._changed.wait():
            with suppress(Exception):
                self._write()
            time.sleep(SECONDS_BETWEEN_NOTES)

    def _write(self) -> None:
        # One after the other: the last one to be written is the newest.
        with self._writing:
            self._changed.clear()
            try:
                if self._before is None:
                    self._before = _noted(self._url).lines
                note = replace(self._note, lines=(*self._before, *self._note.lines))
                write_json(self._url, asdict(note))
            except BaseException:
                self._changed.set()
                raise


@contextmanager
def relayed(folder: str, console: Console) -> Iterator[None]:
    """Shows what rank 0 notes while the block runs."""
    ended = threading.Event()
    relay = _Relay(_note_url(folder), console)

    def follow() -> None:
        # A store that fails now may answer the next time.
        while not ended.wait(SECONDS_BETWEEN_NOTES):
            with suppress(Exception):
                relay.show(ended)

    thread = threading.Thread(target=follow, name="millstream-progress", daemon=True)
    thread.start()
    closed = threading.Event()
    try:
        yield
    finally:
        ended.set()
        # What was trained is trained, shown or not.
        thread.join(LAST_LOOK_S)
        error = attempt(partial(relay.show, closed), LAST_LOOK_S)
        closed.set()
        if error is not None:
            log.warning("the last lines of training could not be read: %r", error)
        console.close()


class _Relay:
    """Shows what the note of a run has new."""

    def __init__(self, url: str, console: Console) -> None:
        self._url = url
        self._console = console
        self._said = 0
        self._showing = threading.Lock()

    def show(self, over: threading.Event) -> None:
        """Reads the note and shows it, unless `over` was set before the store answered."""
        note = _noted(self._url)
        with self._showing:
            if over.is_set():
                return
            # Fewer than before: the ranks were started again.
            said = self._said if len(note.lines) >= self._said else 0
            for line in note.lines[said:]:
                self._console.say(line)
            self._said = len(note.lines)
            if note.title and note.rows < note.total_rows:
                self._console.rows(note.title, note.rows, note.total_rows)


def _noted(url: str) -> _Note:
    try:
        note = read_json(url)
    except (FileNotFoundError, json.JSONDecodeError):
        return _Note()
    return _Note(**{**note, "lines": tuple(note["lines"])})


def _note_url(folder: str) -> str:
    return f"{folder}/progress.json"
