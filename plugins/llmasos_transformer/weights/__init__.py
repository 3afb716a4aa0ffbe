"""Weight files: safetensors, GGUF and, when the user asks for it, PyTorch pickles.

Each module has one format object (the factory of a ``weight_loader`` contribution) and its checkpoint. Headers are
hostile until checked: nothing is allocated by a number that a file states before that number has been compared with
the size of the file, and no third-party parser sees a header that the checks here have not passed.

Nothing is imported here: listing the plugin must not import torch or numpy.
"""

from __future__ import annotations
