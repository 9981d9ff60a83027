"""Image sets and image files: ImageFolder, hub-style parquet, safe decoding, memory-mapped where they are large."""

from repairops.data.decoding import decode_image, encode_png, file_id, peek_shape, sample_id, sample_ids
from repairops.data.sets import (
    from_arrays,
    load_image_set,
    peek_class_names,
    peek_image_size,
    pick_images,
    to_pixels,
    write_parquet,
)
from repairops.data.sources import resolve_label

__all__ = [
    "decode_image",
    "encode_png",
    "file_id",
    "from_arrays",
    "load_image_set",
    "peek_class_names",
    "peek_image_size",
    "peek_shape",
    "pick_images",
    "resolve_label",
    "sample_id",
    "sample_ids",
    "to_pixels",
    "write_parquet",
]
