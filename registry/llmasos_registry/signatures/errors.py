"""What the checks of keys and signatures raise.

::

    InputError
    └── KeyRefused          a key file is damaged, encrypted, of another kind, or must not be overwritten
    RunError
    └── SignatureRefused    a signature does not hold, or holds for something else
"""

from __future__ import annotations

from llmasos.errors import InputError, RunError


class KeyRefused(InputError):
    """A key that cannot be used, and what to do instead."""


class SignatureRefused(RunError):
    """A signature that must not be trusted; the message names what was expected and what was found."""
