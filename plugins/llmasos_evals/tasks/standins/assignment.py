"""The assignment problem, for task code where SciPy is not installed."""

from __future__ import annotations

from typing import Any

import numpy as np


def linear_sum_assignment(cost_matrix: Any, maximize: bool = False) -> tuple[Any, Any]:
    """Rows and columns of a complete assignment of least total cost (largest with ``maximize``).

    Shortest augmenting paths (Jonker and Volgenant 1987), O(n^2 m). Of several optimal assignments it may find another
    one than SciPy.
    """
    costs = np.asarray(cost_matrix, dtype=float)
    costs = -costs if maximize else costs
    turned = costs.shape[0] > costs.shape[1]
    costs = costs.T if turned else costs
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for start in range(rows):
        # Dijkstra from a free row to a free column over reduced costs.
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        row, so_far, column = start, 0.0, -1
        while row >= 0:
            reduced = so_far + costs[row] - row_price[row] - column_price
            shorter = ~done & (reduced < distance)
            distance[shorter], before[shorter] = reduced[shorter], row
            column = int(np.argmin(np.where(done, np.inf, distance)))
            so_far, done[column] = float(distance[column]), True
            row = int(row_of[column])
        settled = done & (np.arange(columns) != column)
        row_price[start] += so_far
        row_price[row_of[settled]] += so_far - distance[settled]
        column_price[settled] -= so_far - distance[settled]
        while True:  # turn the path round
            row = int(before[column])
            row_of[column], column = row, int(np.flatnonzero(row_of == row)[0]) if row != start else column
            if row == start:
                break
    chosen = np.flatnonzero(row_of >= 0)
    pairs = sorted(zip(row_of[chosen].tolist(), chosen.tolist(), strict=True))
    first, second = np.asarray([p[0] for p in pairs], dtype=int), np.asarray([p[1] for p in pairs], dtype=int)
    if not turned:
        return first, second
    order = np.argsort(second)
    return second[order], first[order]
