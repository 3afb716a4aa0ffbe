"""Face 2: the Python package index."""
