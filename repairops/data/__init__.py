"""Image sets and image files: ImageFolder, hub-style parquet, safe decoding, memory-mapped where they are large."""
