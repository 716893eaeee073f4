"""Lines of delimited text that parsers disagree about, and declarations that take them.

Every text of `TEXTS` stands in every column of some line whose other cells are sound, so that a
line that is judged wrongly names the text and the column.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.criteo import CATEGORIES, CRITEO, INTEGERS
from schemas.dataset import Column, Dataset, Source
from schemas.field import (
    Carried,
    Categorical,
    Clip,
    Label,
    Log1p,
    Numeric,
    Scale,
    Timestamp,
    Weight,
)

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


# The declarations: one like the real logs, one of every type and rule, one without quotes.


def _clicks(random_: random.Random) -> Cells:
    whole = [random_.choice(("", "0", "1", "-1", str(random_.randrange(10**6)))) for _ in INTEGERS]
    hexes = [random_.choice(("", f"{random_.getrandbits(32):08x}")) for _ in CATEGORIES]
    return [random_.choice("01"), *whole, *hexes]


CLICKS = Hostile(CRITEO, _clicks, (0, 1, 13, 14, 39), (1, 39))

_HEX = "^[0-9a-f]{4}$"
_KINDS = ("a", "b", "日本", "NAN", "5", "")

EVERY = Dataset(
    name="every",
    sources=(
        Source(
            "every",
            null_value="NA",
            comment="#",
            columns=(
                Column("id", "bigint", nullable=False),
                Column("tiny", "TinyInt", min=-100, max=100),
                Column("small", "smallint", allowed=(0, 1, 2, 5, 300, -5)),
                Column("whole", "int", nullable=False, min=-3, header="Whole number"),
                Column("count", " integer ", max=2**31),
                Column("size", "long", min=-(2**40), max=2**62),
                Column("rate", "float", min=0, max=0.1),
                Column("share", "float", nullable=False),
                Column("price", "double", min=-1.5, max=1e300),
                Column("level", "double", allowed=(0, 1, 2, 3, 5)),
                Column("code", "string", pattern=_HEX),
                Column("other", "string", pattern=_HEX, nullable=False),
                Column("lone", "string", pattern="^[a-zA-Z_ -]{1}$"),
                Column("kind", "string", allowed=_KINDS),
                Column("note", "string"),
                Column("must", "string", nullable=False),
                Column("w", "double"),
                Column("unused", "float"),
                Column("y", "float", of_label=True),
            ),
        ),
    ),
    rows="every",
    key=(),
    fields=(
        Label("target", "y", task="regression"),
        Weight("w"),
        Numeric("id_as_number", "id"),
        Numeric("tiny"),
        Numeric("tiny_log", "tiny", (Clip(-0.75, 99.5), Log1p())),
        Numeric("small_log", "small", (Scale(2), Log1p())),
        Numeric("whole_log", "whole", (Clip(0, 1000.5), Log1p(), Scale(0.1))),
        Numeric("count", transforms=(Log1p(), Clip(-0.5, 9), Scale(1 / 3))),
        Numeric("size_scaled", "size", (Scale(-1e-3),)),
        Numeric("size", transforms=(Clip(-5, 2**40), Scale(1e26), Clip(0, 1e38))),
        Numeric("rate"),
        Numeric("rate_log", "rate", (Log1p(), Log1p())),
        Numeric("share_clipped", "share", (Clip(-1, 1), Log1p())),
        Numeric("price"),
        Numeric("price_log", "price", (Scale(1e5), Log1p(), Clip(-3, 9.5))),
        Numeric("level", transforms=(Scale(-0.5),)),
        Numeric("share_below_0", "share", (Clip(-1e9, -0.0),)),
        Categorical("code_id", "code"),
        Categorical("other"),
        Categorical("lone_id", "lone", vocabulary="lone"),
        Categorical("kind_id", "kind"),
        Carried("note"),
        Carried("must", type=" String "),
        Categorical("note_id", "note", max_size=0),
    ),
)


def _number(random_: random.Random, digits: int) -> str:
    return f"{random_.random() * 10**digits:.{random_.randint(1, 6)}f}"


def _every(random_: random.Random) -> Cells:
    sound = [
        str(random_.randrange(10**17)),
        random_.choice(("", "NA", "0", "100", "-100", "7")),
        random_.choice(("", "NA", "0", "300", "2")),
        str(random_.randrange(-3, 2**31)),
        random_.choice(("", "0", "70000", str(random_.randrange(2**31)))),
        random_.choice(("NA", str(random_.randrange(-(2**39), 10**15)))),
        random_.choice(("", "0.05", "0", _number(random_, -2))),
        random_.choice(("1", "-0.5", _number(random_, 5))),
        random_.choice(("", "NA", "-0.00000001", _number(random_, 9))),
        random_.choice(("", "0", "1.0", "3")),
        *[f"{random_.getrandbits(16):04x}" for _ in range(2)],
        random_.choice(("", "a", "Z", "-", " ", "_")),
        random_.choice(("", "a", "日本")),
        random_.choice(("", "NA", "a b", "x\\y", "it's", "日本", "\u2028", " ")),
        random_.choice(("a", "Ω", "NAN")),
        random_.choice(("1", "0.25", _number(random_, 3))),
        random_.choice(("", "NA", "1.5")),
        random_.choice(("0", "-1", "2.5", _number(random_, 4))),
    ]
    assert len(sound) == len(EVERY.row_source.columns)
    return sound


ALL_TYPES = Hostile(EVERY, _every, range(19), (0, 1, 4, 7, 8, 10, 17))

BARE = Hostile(
    Dataset(
        name="bare",
        sources=(
            Source(
                "bare",
                delimiter=";",
                header=False,
                null_value="-",
                quote="",
                escape="\\",
                columns=(
                    Column("note", "string"),
                    Column("y", "bigint"),
                    Column("w", "bigint"),
                    Column("x", "double"),
                    Column("z", "float"),
                    Column("last", "string"),
                ),
            ),
        ),
        rows="bare",
        key=(),
        fields=(
            Label("y"),
            Weight("w"),
            Numeric("x"),
            Numeric("x_log", "x", (Log1p(),)),
            Numeric("x_log_log", "x", (Log1p(), Log1p())),
            Numeric("z", transforms=(Scale(1e10),)),
            Carried("note"),
            Categorical("last", oov_buckets=3),
        ),
    ),
    lambda random_: [
        random_.choice(("", "-", '"open', "a", "NA", ",", "\\")),
        random_.choice("01"),
        str(random_.randrange(1, 10**6)),
        random_.choice(("-", "", _number(random_, 3))),
        random_.choice(("-", "", _number(random_, 3))),
        random_.choice(("", "a", "é", "'")),
    ],
    range(6),
    (0, 1, 3),
)

ONE_COLUMN = Hostile(
    Dataset(
        name="one_column",
        sources=(Source("one_column", header=False, quote="'", columns=(Column("x", "double"),)),),
        rows="one_column",
        key=(),
        fields=(Label("y", "x", task="regression"), Numeric("x_log", "x", (Log1p(),))),
    ),
    lambda random_: [_number(random_, 3)],
    (0,),
    (0,),
)


KEYED = Hostile(
    Dataset(
        name="keyed",
        sources=(
            Source(
                "keyed",
                delimiter="||",
                escape="\\",
                null_value="null",
                columns=(
                    Column("day", "date"),
                    Column("at", "timestamp"),
                    Column("flag", "boolean"),
                    Column("user", "string"),
                    Column("rate", "double"),
                    Column("y", "smallint", of_label=True),
                ),
            ),
        ),
        rows="keyed",
        ds="day",
        key=("user", "at", "rate"),
        entity=("user",),
        fields=(
            Label("target", "y", task="regression"),
            Numeric("rate_log", "rate", (Clip(0, 1e6), Log1p())),
            Timestamp("at_moment", "at"),
            Carried("flag_as_is", "flag", type="boolean"),
            Carried("day_as_is", "day", type="date"),
            Categorical("user_id", "user"),
        ),
    ),
    lambda random_: [
        random_.choice(("2026-01-01", "2026-01-02")),
        f"2026-01-0{random_.randint(1, 9)}T{random_.randrange(24):02}:00:00",
        random_.choice(("true", "false", "", "null")),
        random_.choice(("a", '"b||c"', r'"d\"e"', "é", "x|y")),
        _number(random_, 3),
        random_.choice(("0", "1")),
    ],
    range(6),
    (0, 1, 2),
)


# Rules that parsers may compare otherwise: of another type than the column, or beyond its values.
RULES = (
    Column("beyond_tiny", "tinyint", allowed=(0, 300)),
    Column("no_float", "float", allowed=(0, 1, 2**24 + 1)),
    Column("no_double", "double", allowed=(0, 1, 2**53 + 1)),
    Column("texts_for_float", "float", allowed=("1", "0.1")),
    Column("texts_for_int", "int", allowed=("1", " 2", "03")),
    Column("mixed_for_text", "string", allowed=(0, "a")),
    Column("mixed_for_int", "int", allowed=(0, "1")),
    Column("many", "double", allowed=tuple(range(20))),
    Column("float_bounds_of_long", "bigint", min=-0.5, max=1e300),
    Column("long_bounds_of_float", "float", min=-(2**31), max=2**24 + 1),
    Column("long_bounds_of_double", "double", min=-(2**63), max=2**53 + 1),
    Column("exact_bounds_of_float", "float", min=-(2**31), max=2**31),
    Column("exact_bounds_of_long", "bigint", min=-1, max=2**62 + 1),
    Column("halves", "int", min=0.5, max=2.5),
    Column("beyond_int", "int", min=-(2**40), max=2**40),
    Column("thousand", "string", pattern="^[a]{1000}$"),
    Column("dashes", "string", pattern="^[+--b]{2}$"),
)
# Known only with the label, and inputs all the same.
OF_LABEL = (
    Column("whole", "int", of_label=True, nullable=False, max=5),
    Column("long", "bigint", of_label=True, allowed=(1,)),
    Column("real", "double", of_label=True),
    Column("text", "string", of_label=True, pattern=_HEX),
)
RULED_TEXTS = (
    *("0", "1", "-1", "2", "3", "03", "-0", "-0.0", "0.1", "1.0", "0.5", "300", "abc", "a", "--"),
    *("+,", "-b", "a" * 1001, "a" * 1000, "16777216", "16777217", "16777218", "2147483649"),
    *("-2147483649", "9007199254740992", "9007199254740993", "9007199254740994", "1e300", "1e39"),
    *("9223372036854775807", "-9223372036854775808", "4611686018427387905"),
    *("4611686018427387906", "4611686018427387904", "0a1f", "NaN"),
)


def ruled(columns: Sequence[Column]) -> Dataset:
    """A declaration of the columns after a label's, `x_NAME` the field of each."""
    own = (Column("y", "int", of_label=True), Column("any", "string"))
    source = Source("ruled", header=False, columns=(*own, *columns))
    fields = [
        (Carried if column.type == "string" else Numeric)(f"x_{column.name}", column.name)
        for column in columns
    ]
    return Dataset("ruled", (source,), "ruled", (), (Label("y"), Categorical("any"), *fields))
