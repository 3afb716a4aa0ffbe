"""What ``llmasos doctor`` says of this back end. Imports no torch."""

from __future__ import annotations

from llmasos_cpu.library import Absence, library


def lines() -> list[str]:
    """The tier that models run on here, and why."""
    found = library()
    if isinstance(found, Absence):
        return [f"without native kernels (oneDNN, or plain torch where that is faster): {found.detail}"]
    held = "" if found.isa == found.machine_isa else f", although this machine has {found.machine_isa}"
    return [
        f"native kernels for {found.isa}{held}: {', '.join(found.features) or 'no features'}; {found.path}"
    ]
