"""Lines of delimited text that parsers disagree about, and declarations that take them.

Every text of `TEXTS` stands in every column of some line whose other cells are sound, so that a
line that is judged wrongly names the text and the column.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.dataset import Dataset, Source

Cells = list[str]

_WHOLE = (
    *("0", "-0", "00", "007", "-007", "+5", "5", " 5", "5 ", " 5 ", "\t5", "5\t", "--5", "-", "+"),
    *("- 5", "5-", "-1", "-2", "1", "2", "100", "-100", "101", "127", "128", "-128", "-129"),
    *("255", "256"),
    *("32767", "32768", "-32768", "-32769", "65535", "65536", "2147483647", "2147483648"),
    *("-2147483648", "-2147483649", "4294967295", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775808", "-9223372036854775809", "18446744073709551615"),
    # As many digits as a type surely takes, and one more.
    *("9" * 18, "-" + "9" * 18, "9" * 19, "1" + "0" * 18, "0" * 18 + "5", "0" * 17 + "5"),
    *("9" * 40, "-" + "9" * 40, "0" * 40 + "5", "0" * 400),
    # Between two float32s or two doubles; rounded once, some of them differ from rounded twice.
    *("16777216", "16777217", "9007199254740993", "1152921573326323713", "-1152921573326323713"),
    *("1152921573326323712", "4611686293305294849", "0x1F", "0X1f", "-0x1", "--0x1", "- 0x1"),
    *(" 0x5", "\t0x5", "5 0x5", "0x", "x5", "0b1", "0o7", "1_000", "1'000", "1 000", "1,000", "5L"),
)
_DECIMAL = (
    *("5.0", "5.", ".5", "-.5", ".", "-.", "1e3", "1E3", "1e+3", "1e-3", "1e", "e3", "1e3.5"),
    *("1d", "1f", "1D", "1F", "1.5d", "NaN", "nan", "-nan", "nan(1)", "NAN", "inf", "-inf", "INF"),
    *("Infinity", "-Infinity", "+Infinity", "infinity", "-infinity", "Inf", " NaN", "inf "),
    *("0x1p3", "0x1.8p1", "-0.0", "-0.9999999999999999", "-1.0", "-0.99", "0.1", "0.10", "0.5"),
    *("0.100000001490116119384765625", "0.1000000015", "0.09999999", "1.5", "99.5", "+1.5", "1.5 "),
    # The ends of float32 and of double.
    *("3.4028235e38", "3.4028236e38", "3.5e38", "1e39", "-1e39", "1e-45", "7e-46", "7.1e-46"),
    *("1e-46", "1.17549429e-38", "1.7976931348623157e308", "1.8e308", "1e308", "1e400", "1e-400"),
    *("-1e400", "4.9e-324", "2e-324", "2.2250738585072011e-308", "2.2250738585072012e-308"),
    *("123456789012345.123456789012345", "1234567890123456.5", "1.2345678901234567", "1e22"),
    *("16777217.0", "16777217.000000001", "9007199254740993.0", "1.00000005960464477"),
    "1.000000059604644775390625",
    *("1.00000005960464477539062500000001", "1.0000001788139343261718749", "0." + "0" * 50 + "1"),
    *("0.1" + "0" * 400, "9" * 39, "9" * 310, "0.30000000000000004", "1.0.0", "1..5", "5e-1"),
    # Where ln(1 + x) is about -1: the logarithm of 1 and that shows its last bit.
    *(f"-0.63212055882855{rest}" for rest in (7, 76, 765, 7655, 77, 78, 79, 8, 9)),
    *("1,5", "1.5e", "1.5e+", "1e5f", "$5", "5%", "1/2", "true", "True"),
)
_TEXT = (
    *("NA", " NA", "NA ", "na", "Na", "NAN", "N/A", "null", "NULL", "None", "\\N", "NANA", ""),
    *(" ", "  ", "\t", "\u00a0", "\u2003", "\u3000", "\u2028", "\u2029", "\u0085", "\v", "\f"),
    *("\u00a05", "5\u00a0", "\u20285", "5\u2028", "5\u0085", "\u00855", "\v5", "5\f", "\x1f5"),
    *("\x1c5", "5\x1d", "\x7f5", "\x015", "5\x1a", "\u200b5", "\ufeff", "\ufeff5", "5\ufeff"),
    *("٣", "５", "−5", "½", "1٠", "१", "𝟏", "0\u0301", "٫5", "1٫5"),  # noqa: RUF001
    *("\0", "5\0", "\0005", "0\0x1", "a\0b", "0a1f\0"),
    *('"5"', '5"', '"5', '""', '"', '""""', 'a"b', '"a""b"', '"a\\"b"', '"a;b\t,c|d"', '"NA"'),
    *("'5'", "'", "''", "'a;b\t,c|d'", "it's", "`5`", "\\", "\\\\", "5\\", "\\5", "a\\,b", "a\\;b"),
    *("\\t", "a\\", '\\"', "a,b", "a;b", "a\tb", "a|b", "#", "#5", "5#", " #5", ";5", "|5"),
    *("0a1f", "0A1F", "0a1", "0a1ff", "0a1g", "abcd", "ABCD", "1234", "0000", " 0a1f", "0a1f "),
    *("0a1f\u0085", "0a1f\u2028", "0a1f\u2029", "\ufeff0a1f", "0a1é", "é1f", "0á1", "é" * 4),
    *("deadbeef", "DEADBEEF", "deadbeeF", "deadbee", "deadbeef0", "deadbeeg", "deadbeef ", "é" * 8),
    *("deadbeef\u0085", "deadbeef\u2028", "dead beef", "deadbée", "dead\tbeef", "0xdeadbe"),
    *("a", "b", "c", "A", "a ", " a", "é", "ﬁ", "日本", "日本語", "😀", "e\u0301", "-", "x" * 2000),
    *("NA\u0085", "a\u2028b", "a\rb", "a\nb", "5\r", "\r5", "x" * 25_000, "id", "y", "\ufffd"),
)
_MOMENT = (
    *("2026-01-01", "2026-1-2", " 2026-01-02 ", "2026-01-03", "2026-02-29", "2024-02-29"),
    *("2026-13-01", "2026-00-01", "2026-01-00", "2026-01-32", "26-01-01", "02026-01-01"),
    *("2026/01/01", "2026.01.01", "20260101", "01-01-2026", "2026-01-01x", "x2026-01-01"),
    *("0001-01-01", "9999-12-31", "1969-12-31", "-2026-01-01", "2026-01-01 (BC)", "2026-01"),
    *("2026-01-01T00:00:00", "2026-01-01 23:59:59.999999", "2026-01-01 1:2:3", "2026-01-01T12"),
    *("2026-01-01 12:00", "2026-01-01  12:00", "2026-01-01T12:00:00Z", "2026-01-01 12:00:00 Z"),
    *("2026-01-01T12:00:00z", "2026-01-01T12:00:00+02", "2026-01-01T12:00:00+02:00"),
    *("2026-01-01T12:00:00-0530", "2026-01-01 12:00:00 +05:30", "2026-01-01T00:00+14:00"),
    *("2026-01-01T24:00:00", "2026-01-01T23:60:00", "2026-01-01T23:59:60", "2026-01-01T12:00:00+2"),
    *("2026-01-01T12:00:00.1", "2026-01-01T12:00:00.123456789", "2026-01-01T12:00:00.1234567890"),
    *("2026-01-01T12:00:00.", "2026-01-01T12:00:00 UTC", "2026-01-01T12:00:00[UTC]", "epoch"),
    *("infinity", "-infinity", "now", "today", "1767225600", "1767225600000", "12:00:00"),
    *("t", "T", "f", " f", "f ", "TRUE", "False", "yes", "YES", "y", "No", "n", "on", "off", "tru"),
)
TEXTS = tuple(dict.fromkeys((*_WHOLE, *_DECIMAL, *_TEXT, *_MOMENT)))


@dataclass(frozen=True)
class Hostile:
    """A declaration with a builder of sound lines' cells.

    Attributes:
        sound: the cells of a sound line.
        columns: indices of the columns that each text of `TEXTS` is put into.
        types: those of them that stand for all of a type.
    """

    dataset: Dataset
    sound: Callable[[random.Random], Cells]
    columns: Sequence[int]
    types: Sequence[int]

    @property
    def source(self) -> Source:
        return self.dataset.row_source

    def line(self, cells: Sequence[str]) -> bytes:
        return self.source.delimiter.join(cells).encode()

    def sound_lines(self, count: int) -> list[bytes]:
        random_ = random.Random(1)
        return [self.line(self.sound(random_)) for _ in range(count)]

    def hostile_lines(self, count: int) -> list[bytes]:
        """One line for each text in each column, misshapen lines, and `count` with several."""
        lines = [line for column in self.columns for line in self.with_texts(column)]
        lines += [line for seed in range(5) for line in self.misshapen(seed)]
        random_ = random.Random(2)
        for _ in range(count):
            several = min(random_.randint(2, 3), len(self.source.columns))
            places = random_.sample(range(len(self.source.columns)), several)
            lines.append(self._with(random_, {i: random_.choice(TEXTS) for i in places}))
        return lines

    def with_texts(self, column: int) -> list[bytes]:
        """A line for each text in one column."""
        random_ = random.Random(column)
        return [self._with(random_, {column: text}) for text in TEXTS]

    def with_telling(self, column: int) -> list[bytes]:
        """Those of these lines whose text may be taken for one of the column's type."""
        numbers = (*_WHOLE, *_DECIMAL)
        telling = _TEXT if self.source.columns[column].type == "string" else numbers
        lines = dict(zip(TEXTS, self.with_texts(column), strict=True))
        return [lines[text] for text in telling]

    def _with(self, random_: random.Random, texts: dict[int, str]) -> bytes:
        cells = self.sound(random_)
        for place, text in texts.items():
            cells[place] = text
        return self.line(cells)

    def misshapen(self, seed: int) -> Iterator[bytes]:
        """Lines with other numbers of fields, and with more around them than a line has."""
        random_ = random.Random(seed)
        cells, count = self.sound(random_), len(self.source.columns)
        line, mark = self.line(cells), self.source.delimiter.encode()
        place = random_.randrange(count)
        yield self.line(cells[:-1])
        yield self.line(cells[1:])
        yield self.line([*cells[:place], *cells[place + 1 :]])
        yield self.line([*cells[:place], "", *cells[place:]])
        yield self.line([*cells, "5"])
        yield self.line([*cells, *cells])
        yield from (line + mark, line + mark * 2, mark + line, line.replace(mark, mark * 2))
        yield from (mark * (count - 1), mark * count, mark * (count - 2), mark)
        yield line + mark * 25_000
        for around in (
            " ",
            "\t",
            '"',
            "'",
            "\u2028",
            "\u0085",
            "\ufeff",
            "\ufeff\ufeff",
            "\0",
            "5",
        ):
            yield from (around.encode() + line, line + around.encode())
        yield from (b"#" + line, b" #" + line, "\ufeff#".encode() + line, b"", b" ", b"   ", b"\t")
        yield from ("\ufeff".encode() * times for times in (1, 2, 3))
        yield from (b"\xff" + line, line + b"\xc3", line.replace(mark, b"\xed\xa0\x80" + mark, 1))
        names = list(self.source.header_names)
        header = self.line(names)
        yield from (header, b" " + header, header + b" ", header + mark, header.upper())
        yield self.line([f'"{name}"' for name in names])
        yield self.line([names[0], *cells[1:]])


def write_files(folder: Path, hostile: Hostile, files: Sequence[Sequence[bytes]]) -> None:
    """Writes the files into a folder, the ends of lines by turns as Unix and as Windows has them,
    headers with a byte order mark by turns, and the last file without an end of its last line."""
    folder.mkdir(parents=True)
    header = [hostile.line(hostile.source.header_names)] if hostile.source.header else []
    for number, lines in enumerate(files):
        end = (b"\n", b"\r\n")[number % 2]
        mark = (b"", b"\xef\xbb\xbf")[number % 2]
        content = mark + end.join([*header, *lines]) + (end if number + 1 < len(files) else b"")
        (folder / f"{number}.txt").write_bytes(content)
