"""Image sets from arrays, folders and parquet files, under the name by which users import them."""

from repairops.data.sets import from_arrays, load_image_set, write_parquet

__all__ = ["from_arrays", "load_image_set", "write_parquet"]
