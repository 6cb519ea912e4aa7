# SPDX-License-Identifier: Apache-2.0
"""Which values there are and how often, without numpy.unique and numpy.isin: the first use of those imports numpy.ma, 6 MB."""

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]


def distinct(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Indices, Indices]:
    """
    The different values of shape (n,), sorted: shape (m,) each.

    Returns:
        The values, the index of the first of each, and how often each comes.
    """
    order, starts = _grouped(values)
    first = order[starts]
    return values[first], first, np.diff(np.append(starts, len(values)))


def sums(values: npt.NDArray[Any], weights: npt.NDArray[np.int64]) -> tuple[Indices, npt.NDArray[np.int64]]:
    """
    The weights of equal values, added up: shape (m,) each, from shape (n,) each.

    Returns:
        The index of the first of each of the different values, sorted, and the sum of the weights of all that are equal to it.
    """
    order, starts = _grouped(values)
    added: npt.NDArray[np.int64] = np.add.reduceat(weights[order], starts) if len(starts) else weights[:0]
    return order[starts], added


def _grouped(values: npt.NDArray[Any]) -> tuple[Indices, Indices]:
    """The order that sorts the values, and where in it each of the different values begins."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.ones(len(values), dtype=np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    return order, np.flatnonzero(begins)


def is_among(values: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values, shape (n,), are among the others, shape (m,): shape (n,)."""
    if not len(others):
        return np.zeros(len(values), dtype=np.bool_)
    ordered = np.sort(others)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[place] == values
    return found
