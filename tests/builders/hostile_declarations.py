"""Declarations that take hostile lines: like the real logs, of every type and rule, unquoted."""

from __future__ import annotations

import random
from collections.abc import Sequence

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
from tests.builders.hostile import Cells, Hostile


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
