"""Reads data with Petastorm alone, in an environment that has none of our code.

    python -I petastorm_alone.py batch|rows OUT URL...

Writes OUT, an .npz with each column's values as `column:NAME`: [rows, ...], texts as texts, missing
texts as "".
"""

import sys

import numpy as np
import petastorm
import pyarrow


def values(kind, urls):
    """Column -> its values, in the order in which they come."""
    make = {"batch": petastorm.make_batch_reader, "rows": petastorm.make_reader}[kind]
    found = {}
    with make(urls if kind == "batch" else urls[0], workers_count=2, num_epochs=1) as reader:
        for part in reader:
            for name, value in part._asdict().items():
                found.setdefault(name, []).append(value)
    join = np.concatenate if kind == "batch" else np.stack
    return {name: plain(join(parts)) for name, parts in found.items()}


def plain(array):
    if array.dtype != object:
        return array
    return np.array(["" if value is None else str(value) for value in array])


def main(kind, out, *urls):
    versions = (pyarrow.__version__, np.__version__, petastorm.__version__)
    assert versions == ("14.0.2", "1.26.4", "0.12.1"), versions
    found = values(kind, list(urls))
    assert not {"jobs", "schemas"} & set(sys.modules)
    # Prefixed, since savez has an argument `file` of its own.
    np.savez(out, **{f"column:{name}": column for name, column in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
