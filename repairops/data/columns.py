"""A further column of a data set, for slices: its values in the order of the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repairops.data.sources import parquet_files
from repairops.errors import InvalidOption


def read_column(path: str | Path, column: str, option: str) -> np.ndarray:
    """The column's values as texts (N,), '' for null, in the order of `load_image_set`.

    option: the option that names the column, for messages. Raises InvalidOption where there is no such column.
    """
    import pyarrow.parquet as pq

    shards = parquet_files(Path(path))
    if not shards:
        raise InvalidOption(option, column, f"unset: {path} is an ImageFolder, which has no columns")
    values: list[object] = []
    for shard in shards:
        names = pq.read_schema(shard).names
        if column not in names:
            raise InvalidOption(option, column, f"one of the columns of {shard.name}: {', '.join(names)}")
        values += pq.read_table(shard, columns=[column])[column].to_pylist()
    return np.array(["" if value is None else str(value) for value in values])
