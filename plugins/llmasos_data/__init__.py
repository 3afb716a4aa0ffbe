"""Data plugin: sources, cleaning, quality, duplicate removal, packing. ``packed`` has the reader of packed shards."""
