"""Field kinds: what one column of the examples is and what it is for.

Every kind has a `name` (its column in the examples) and an `expr`: DuckDB's SQL over the raw row,
where a parent's columns are written `parent.column` (docs/expressions.md). An `expr` left empty
means the raw column of the same name.

The kinds and their transforms only declare: the row engine (`jobs/rows`) casts the expression's
value to the kind's type and applies the transforms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from schemas.source import quoted
from schemas.text import TextTransform

# Ids of a categorical field: 0 padding, 1 null, then the out-of-vocabulary buckets, then values.
PADDING_ID = 0
NULL_ID = 1
FIRST_OOV_ID = 2

# Between the values of crossed fields, where null counts as the empty text. Texts do not hold it;
# two that did could cross to one value.
SEPARATOR = "\x1f"

Task: TypeAlias = Literal["binary", "regression", "multiclass"]

# Where training has a field's embedding table; empty where `train.tables` decides.
TablePlace: TypeAlias = Literal["", "replicated", "sharded"]
# Marks what no example follows from: a declaration with another value has the same digest.
OF_TRAINING = {"of_training": True}


@dataclass(frozen=True)
class Log1p:
    """ln(1 + x); a value of -1 or below leaves no finite number and refuses the row."""


@dataclass(frozen=True)
class Clip:
    """x limited to [low, high]. What is no finite number passes, so that the row is refused, not
    clipped into sense."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"Clip: low is {self.low}, high is {self.high}; low must be below high"
            )


@dataclass(frozen=True)
class Scale:
    """x * factor, for units that make numbers readable (metres to kilometres)."""

    factor: float


@dataclass(frozen=True)
class Cyclic:
    """sin or cos of the position in a period, so that 23:59 is near 00:00."""

    period: float
    part: Literal["sin", "cos"]

    def __post_init__(self) -> None:
        if self.period <= 0:
            raise ValueError(f"Cyclic: period is {self.period}; it must be above 0")


Transform: TypeAlias = Log1p | Clip | Scale | Cyclic


@dataclass(frozen=True)
class Field:
    """What all kinds share."""

    name: str
    expr: str = ""

    @property
    def sql(self) -> str:
        """DuckDB's SQL of the value before the kind's cast and the transforms."""
        return self.expr or quoted(self.name)


@dataclass(frozen=True)
class Label(Field):
    """What the model predicts; a null is reason `label_absent`.

    With task `multiclass` it is the number of a class, from 0 to `classes` - 1.
    """

    task: Task = "binary"
    classes: int = 0

    def __post_init__(self) -> None:
        if (self.task == "multiclass") != (self.classes >= 2):
            raise ValueError(
                f"Label {self.name!r}: task is {self.task!r} and classes {self.classes}; "
                "multiclass needs 2 or more, the other tasks none"
            )


@dataclass(frozen=True)
class Weight(Field):
    """How much a row counts in loss and metrics: finite and above 0."""


@dataclass(frozen=True)
class Numeric(Field):
    """A float32 input. Null stays null (NaN in tensors): the model's first layer imputes."""

    transforms: tuple[Transform, ...] = ()


@dataclass(frozen=True)
class WithIds(Field):
    """What the kinds share whose values have ids in the dataset's append-only id log.

    A value gets an id once it was seen `min_count` times in train rows; at most `max_size` values
    do. Others are hashed into `oov_buckets`. `embedding_dim` 0 lets the model's rule decide.
    Fields with the same `vocabulary` count and number values together. `table` says where training
    has the embedding table: whole on each rank, or in pieces; left empty, `train.tables` does.
    """

    min_count: int = 1
    max_size: int = 1_000_000
    oov_buckets: int = 1
    embedding_dim: int = 0
    vocabulary: str = ""
    table: TablePlace = field(default="", metadata=OF_TRAINING)

    def __post_init__(self) -> None:
        if self.table not in get_args(TablePlace):
            kind = type(self).__name__
            raise ValueError(
                f"{kind} {self.name!r}: table is {self.table!r}; it may be replicated or sharded"
            )
        lowest = {"min_count": 1, "max_size": 0, "oov_buckets": 1, "embedding_dim": 0}
        for name, low in lowest.items():
            if (value := getattr(self, name)) < low:
                kind = type(self).__name__
                raise ValueError(f"{kind} {self.name!r}: {name} is {value}, below {low}")

    @property
    def log_name(self) -> str:
        """What the id log and the contributions call the field."""
        return self.vocabulary or self.name

    @property
    def first_value_id(self) -> int:
        return FIRST_OOV_ID + self.oov_buckets


@dataclass(frozen=True)
class Categorical(WithIds):
    """An id: of the value, of null, or of the bucket of a value that has none.

    The value is the text of what `expr` gives; `transforms` change it first. `crossed` names other
    categorical fields, whose values together (`SEPARATOR` between them, null where all are null)
    are this one's, which then has no `expr`.
    """

    transforms: tuple[TextTransform, ...] = ()
    crossed: tuple[str, ...] = ()


TooLong: TypeAlias = Literal["refuse", "keep_first"]


@dataclass(frozen=True)
class CategoricalList(WithIds):
    """Ids of a list of values (tags, visited pages); `expr` gives a list.

    Null is the empty list; a null element has the id of null. Each element counts in fitting.
    A list of more than `max_length` elements refuses the row, or its first ones are kept.
    """

    max_length: int = 0
    too_long: TooLong = "refuse"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_max_length(self)


@dataclass(frozen=True)
class NumericList(Field):
    """Numbers in their order, of a length that varies from row to row; `expr` gives a list.

    Null is the empty list; an element that is null or not finite refuses the row. A list of more
    than `max_length` elements refuses the row, or its first ones are kept.
    """

    max_length: int = 0
    too_long: TooLong = "refuse"

    def __post_init__(self) -> None:
        _check_max_length(self)


def _check_max_length(f: CategoricalList | NumericList) -> None:
    if f.max_length < 1:
        kind = type(f).__name__
        raise ValueError(f"{kind} {f.name!r}: max_length is {f.max_length}; give 1 or more")


@dataclass(frozen=True)
class Timestamp(Field):
    """A moment in UTC, kept in the examples; no input of the model."""


@dataclass(frozen=True)
class Carried(Field):
    """Kept in examples and predictions for slices, joins and reading; no input of the model."""

    type: str = "string"


@dataclass(frozen=True)
class Tensor(Field):
    """A float32 array of a fixed shape; `expr` gives a list of its numbers in row-major order."""

    shape: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"Tensor {self.name!r}: shape is {self.shape}; give positive sizes")


@dataclass(frozen=True)
class Image(Field):
    """An encoded image; `expr` gives its bytes. Shape (H, W) is grey, (H, W, 3) colour, uint8."""

    shape: tuple[int, ...] = field(default=())
    format: Literal["png", "jpeg"] = "png"

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(self.shape) < 1 or self.shape[2:] not in ((), (3,)):
            raise ValueError(
                f"Image {self.name!r}: shape is {self.shape}; give (H, W) or (H, W, 3)"
            )
