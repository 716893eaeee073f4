"""Lines of text files: by Spark's reader where it can split them, else decoded in Python."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence

import fsspec
import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.etl.names import RAW, SOURCE_FILE

MISCODED = "__miscoded"
BYTE_ORDER_MARK = "\ufeff"
_BLOCK_BYTES = 4 << 20
# A code point that no text may hold; it stands around the bytes that could not be decoded.
_BAD = "\ufdd0"
_SUFFIXES = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd"}
_SCHEMA = f"{RAW} string, {SOURCE_FILE} string, {MISCODED} boolean"


def read_lines(spark: SparkSession, files: Sequence[str], encoding: str) -> DataFrame:
    """`raw`, `source_file` and whether the line is not in its encoding (`__miscoded`).

    Spark keeps the bytes of a line as they are, valid UTF-8 or not; `readable` shows them.
    """
    if needs_decoding(encoding):
        paths = spark.createDataFrame([(file,) for file in files], "path string")
        per_file = paths.repartition(len(files), "path")
        return per_file.mapInArrow(_Decoder(encoding), _SCHEMA)
    lines = spark.read.text(list(files))
    raw = F.col("value")
    if charset(encoding) == "iso8859-1":
        raw, miscoded = F.decode(raw.cast("binary"), "ISO-8859-1"), F.lit(False)
    else:
        miscoded = ~F.is_valid_utf8(RAW)
    # All of them: Spark's parser of CSV drops one of the first line that a task gives it.
    bare = F.ltrim(raw, F.lit(BYTE_ORDER_MARK))
    raw = F.when(raw.startswith(BYTE_ORDER_MARK), bare).otherwise(raw)
    file = F.col("_metadata.file_path").alias(SOURCE_FILE)
    return lines.select(raw.alias(RAW), file).withColumn(MISCODED, miscoded)


def charset(encoding: str) -> str:
    """The encoding's one name."""
    return codecs.lookup(encoding).name.removesuffix("-sig")


def needs_decoding(encoding: str) -> bool:
    """Whether Spark's reader cannot take the encoding: others than UTF-8 and Latin-1."""
    return charset(encoding) not in ("utf-8", "ascii", "iso8859-1")


def readable(text: SparkColumn) -> SparkColumn:
    r"""Text whose bytes are no UTF-8, with backslash escapes; other text as it is.

    Nothing is lost: Python's `text.encode().decode("unicode_escape").encode("latin-1")` gives the
    bytes back. Higher-order functions run interpreted: for refused rows, not for all.
    """
    latin = F.decode(text.cast("binary"), "ISO-8859-1")
    parts = F.regexp_extract_all(latin, F.lit(r"[\x00-\x7f]+|[\x80-\xff]"), F.lit(0))
    escaped = F.transform(
        parts,
        lambda part: F.when(
            F.ascii(part) < 128, F.replace(part, F.lit("\\"), F.lit("\\\\"))
        ).otherwise(F.concat(F.lit("\\x"), F.lower(F.hex(F.encode(part, "ISO-8859-1"))))),
    )
    return F.when(F.is_valid_utf8(text), text).otherwise(F.array_join(escaped, ""))


class _Decoder:
    """Files to lines, a block at a time, in Arrow batches of `_SCHEMA`."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for path in batch.column(0).to_pylist():
                for lines in decoded_blocks(path, self.encoding):
                    columns = [
                        pa.array([_shown(line) for line in lines], pa.string()),
                        pa.repeat(pa.scalar(path), len(lines)),
                        pa.array([_BAD in line for line in lines], pa.bool_()),
                    ]
                    yield pa.RecordBatch.from_arrays(columns, [RAW, SOURCE_FILE, MISCODED])


def decoded_blocks(path: str, encoding: str) -> Iterator[list[str]]:
    """The lines of a file, a block at a time; \\n, \\r\\n and \\r end a line, as for Spark."""
    codecs.register_error("millstream", _marked)
    decoder = codecs.getincrementaldecoder(encoding)("millstream")
    rest = ""
    with fsspec.open(path, "rb") as file:
        codec = next((codec for end, codec in _SUFFIXES.items() if path.endswith(end)), None)
        stream = pa.input_stream(pa.PythonFile(file, "r"), compression=codec)
        while block := stream.read(_BLOCK_BYTES):
            text = rest + decoder.decode(block)
            # A last \r may be half of a \r\n.
            end = -1 if text.endswith("\r") else len(text)
            *lines, rest = text[:end].replace("\r\n", "\n").replace("\r", "\n").split("\n")
            rest += text[end:]
            yield [line.lstrip(BYTE_ORDER_MARK) for line in lines]
        text = (rest + decoder.decode(b"", final=True)).removesuffix("\r")
        yield [text.lstrip(BYTE_ORDER_MARK)] if text else []


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    return f"{_BAD}{bad.hex()}{_BAD}", error.end


def _shown(line: str) -> str:
    if _BAD not in line:
        return line
    parts = line.split(_BAD)
    parts[::2] = [text.replace("\\", "\\\\") for text in parts[::2]]
    parts[1::2] = ["".join(f"\\x{byte:02x}" for byte in bytes.fromhex(x)) for x in parts[1::2]]
    return "".join(parts)
