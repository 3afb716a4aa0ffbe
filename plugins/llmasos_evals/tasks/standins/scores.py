"""Scores of classifications as ``sklearn.metrics`` defines them, for task code where that package is not installed.

Only single-label classes without weights, which is all that stock tasks use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["accuracy_score", "f1_score", "matthews_corrcoef", "precision_score", "recall_score"]


def accuracy_score(y_true: Sequence[Any], y_pred: Sequence[Any], *, normalize: bool = True) -> float:
    """Share (or with ``normalize`` False the number) of equal entries."""
    same = np.asarray(y_true) == np.asarray(y_pred)
    return float(np.mean(same)) if normalize else int(np.sum(same))


def f1_score(y_true: Any, y_pred: Any, **settings: Any) -> Any:
    """Harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn)."""
    return _score(y_true, y_pred, lambda tp, true, predicted: (2 * tp, true + predicted), **settings)


def precision_score(y_true: Any, y_pred: Any, **settings: Any) -> Any:
    """Share of the predicted that is right."""
    return _score(y_true, y_pred, lambda tp, true, predicted: (tp, predicted), **settings)


def recall_score(y_true: Any, y_pred: Any, **settings: Any) -> Any:
    """Share of the right that is predicted."""
    return _score(y_true, y_pred, lambda tp, true, predicted: (tp, true), **settings)


def matthews_corrcoef(y_true: Any, y_pred: Any) -> float:
    """Correlation of right and predicted classes, 0 where it is not defined."""
    _, codes = np.unique(np.concatenate([np.asarray(y_true), np.asarray(y_pred)]), return_inverse=True)
    half = len(codes) // 2
    classes = int(codes.max()) + 1
    table = np.zeros((classes, classes))
    np.add.at(table, (codes[:half], codes[half:]), 1)
    true, predicted, total = table.sum(axis=1), table.sum(axis=0), table.sum()
    covariance = np.trace(table) * total - true @ predicted
    spread = np.sqrt(float(total**2 - predicted @ predicted)) * np.sqrt(float(total**2 - true @ true))
    return float(covariance / spread) if spread else 0.0


def _score(
    y_true: Any,
    y_pred: Any,
    ratio: Any,
    *,
    labels: Any = None,
    pos_label: Any = 1,
    average: str | None = "binary",
    zero_division: Any = 0,
) -> Any:
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if len(true) != len(predicted):
        raise ValueError(f"{len(true)} right answers and {len(predicted)} predictions")
    present = np.unique(np.concatenate([true, predicted]))
    chosen = present if labels is None else np.asarray(labels)
    if average == "binary":
        if len(present) > 2:
            raise ValueError("there are more than two classes: choose another average than 'binary'")
        if pos_label not in present.tolist() and len(present) == 2:
            raise ValueError(f"pos_label={pos_label} is no class of {present.tolist()}")
        chosen = np.asarray([pos_label])
    hits = np.asarray([np.sum((true == label) & (predicted == label)) for label in chosen], dtype=float)
    wanted = np.asarray([np.sum(true == label) for label in chosen], dtype=float)
    given = np.asarray([np.sum(predicted == label) for label in chosen], dtype=float)
    if average == "micro":
        hits, wanted, given = (np.asarray([values.sum()]) for values in (hits, wanted, given))
    above, below = ratio(hits, wanted, given)
    empty = 0.0 if zero_division == "warn" else float(zero_division)
    values = np.divide(above, below, out=np.full(len(above), empty), where=below != 0)
    if average is None:
        return values
    if average == "weighted":
        return float(np.average(values, weights=wanted)) if wanted.sum() else empty
    if average not in ("binary", "macro", "micro"):
        raise ValueError(f"average={average!r} is not known")
    return float(np.average(values))
