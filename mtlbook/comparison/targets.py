"""Of samples in one array, the targets of every task: classes or numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MOST = 20  # different whole numbers that are taken for classes


def guess(y: np.ndarray) -> str:
    """``"classification"`` or ``"regression"``, by what the targets look like."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 1 and (y.dtype.kind in "bUS" or (_whole(y) and _few(y))):
        return "classification"
    return "regression"


def _whole(y: np.ndarray) -> bool:
    """Whole numbers, whatever holds them: where a table once had gaps, 1 is 1.0."""
    if y.dtype.kind == "f":
        return bool(np.isfinite(y).all() and (y == np.round(y)).all())
    return y.dtype.kind in "iu"


def _few(y: np.ndarray) -> bool:
    return len(np.unique(y)) <= MOST


def classes(
    name: str, y: np.ndarray, of_task: np.ndarray, notes: list[str]
) -> Mapping[str, tuple[np.ndarray, list]]:
    """Of each task the codes of its samples and its classes.

    One space of labels where tasks have classes in common.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        hint = "; of columns with one 1 take the place of it (argmax)" if y.ndim == 2 else ""
        raise ValueError(
            f"{name}: expected one class a sample, got targets of shape {y.shape}{hint}"
        )
    if y.dtype.kind == "f":
        if (odd := ~np.isfinite(y) | (y != np.round(y))).any():
            raise ValueError(f"{name}: expected classes, got numbers such as {y[odd][0]:g}")
        y = y.astype(np.int64)
    if y.dtype.kind in "iu" and y.min() < 0 and set(np.unique(y)) != {-1, 1}:
        raise ValueError(
            f"{name}: expected classes from 0 on, got {int(y.min())}; a label that means 'unknown' "
            "must leave with its sample"
        )
    spaces = {of: np.unique(y[of_task == of]) for of in dict.fromkeys(of_task.tolist())}
    common = set.intersection(*(set(space.tolist()) for space in spaces.values()))
    if common:
        union = np.unique(y)
        lacking = {of: len(union) - len(s) for of, s in spaces.items() if len(s) < len(union)}
        if lacking:
            notes.append(f"classes that a task has no sample of: {lacking}")
        spaces = dict.fromkeys(spaces, union)
    else:
        notes.append(
            "no class is common to all tasks: each has classes of its own; one model for all, and "
            "what relates the heads, take the first of each (sorted) for the same, and so on"
        )
    return {
        of: (np.searchsorted(space, y[of_task == of]).astype(np.int64), space.tolist())
        for of, space in spaces.items()
    }


def numbers(
    name: str, y: np.ndarray, of_task: np.ndarray, notes: list[str]
) -> Mapping[str, tuple[np.ndarray, list]]:
    """Of each task the numbers, shape ``(n, outputs)``, which have no classes."""
    if y.dtype.kind not in "iufb":
        such = f"text such as {str(y.flat[0])!r}" if y.dtype.kind in "US" else str(y.dtype)
        raise ValueError(f"{name}: expected numbers as targets of a regression, got {such}")
    largest = np.abs(y.astype(np.float64)).max()
    if np.isfinite(largest) and largest > np.finfo(np.float32).max:
        raise ValueError(
            f"{name}: expected targets of at most 3.4e38 (single precision), got {largest:.2g}"
        )
    y = y.reshape(len(y), -1)
    if len(lost := blurred(y)):
        raise ValueError(
            f"{name}: expected targets that single precision (7 digits) tells apart, got numbers "
            f"such as {float(y[0, lost[0]])!r}; subtract their mean"
        )
    y = y.astype(np.float32)
    return {of: (y[of_task == of], []) for of in dict.fromkeys(of_task.tolist())}


def varies(values: np.ndarray) -> np.ndarray:
    """Which columns ``(n, k)`` are not constant but for rounding in double precision."""
    exact = values.astype(np.float64)
    largest = np.abs(exact).max(0)
    with np.errstate(over="ignore", invalid="ignore"):
        return (np.ptp(exact, axis=0) > 1e-12 * largest) | ~np.isfinite(largest)


def blurred(values: np.ndarray) -> np.ndarray:
    """The columns ``(n, k)`` whose differences are lost when they are rounded to single precision.

    Lost is a column in which a number moves by more than a thousandth of the standard deviation.
    """
    exact = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.abs(exact.astype(np.float32) - exact).max(0)
        return np.flatnonzero((moved > 1e-3 * exact.std(0)) & varies(values))
