"""How many tokens a device could hold in one pass with a model, remembered so that it need not run out of memory again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmasos.api import canonical_digest


class BudgetMemory:
    """The budget of one model on one accelerator. What cannot be read or written is not remembered."""

    def __init__(self, cache_dir: Path, facts: Mapping[str, Any]) -> None:
        key = [facts["files"], facts["dtype"], _name(facts["device"])]
        self._path = cache_dir / "evals" / "budgets" / f"{canonical_digest(key)[:32]}.json"

    def known(self) -> int | None:
        """The budget that an earlier run came down to."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self._path.read_bytes())["budget"]
            return found if type(found) is int and found > 0 else None
        return None

    def remember(self, budget: int) -> None:
        """Keep a budget for later runs."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps({"budget": budget}), encoding="utf-8")
            os.replace(temporary, self._path)


def _name(device: str) -> str:
    """What the device is, not which of several."""
    if device.partition(":")[0] == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return device.partition(":")[0]
