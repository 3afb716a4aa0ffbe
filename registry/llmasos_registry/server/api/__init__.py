"""Face 3: the registry's own API."""
