"""Image sets and image files: ImageFolder, hub-style parquet, safe decoding, memory-mapped where they are large."""

from repairops.data.decoding import encode_png, sample_ids
from repairops.data.sets import from_arrays, load_image_set, peek_image_size, pick_images, whole_file, write_parquet
from repairops.data.sources import peek_class_names

__all__ = [
    "encode_png",
    "from_arrays",
    "load_image_set",
    "peek_class_names",
    "peek_image_size",
    "pick_images",
    "sample_ids",
    "whole_file",
    "write_parquet",
]
