"""Model references: a path, ``hf://org/name[@revision]``, ``pypi:package[==version]/path/inside``."""
