"""The data a task names."""

from __future__ import annotations

from llmasos_evals.datasets.opening import open_data
from llmasos_evals.datasets.rows import Rows

__all__ = ["Rows", "open_data"]
