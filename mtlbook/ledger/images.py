"""Who was right on which image in which repeat: what an interval over images needs.

Repeats that are tested on common images are not independent of each other: an image that one arm
gets wrong is wrong in many of them. A result keeps, in its curves, the images that a repeat tests
and, of every arm, on how many tasks each of them was decided rightly: one character an image.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from mtlbook.ledger.results import Result

_DIGITS = string.digits + string.ascii_lowercase
_NUMBERS = np.full(256, -1)  # of each digit's code: a result has a million of them
_NUMBERS[np.frombuffer(_DIGITS.encode(), dtype=np.uint8)] = np.arange(len(_DIGITS))
METRIC = "accuracy_percent"  # whose mean over the tested images is that of the tasks


def keep(result: Result, arm: str, repeat: int, tested: ArrayLike, right: ArrayLike) -> None:
    """Keep what an arm got right.

    Parameters
    ----------
    result : Result
    arm, repeat
    tested : array_like, shape ``(n,)``
        Different numbers of images in the data set, in the order in which they are tested.
    right : array_like, shape ``(n,)``
        Number of tasks, at most 35, decided rightly on each.
    """
    tested, right = np.asarray(tested), np.asarray(right)
    if len(set(tested.tolist())) != len(tested) or tested.shape != right.shape:
        raise ValueError(
            f"tested, right: expected different images and a number for each, got "
            f"{len(set(tested.tolist()))} images, shapes {tested.shape} and {right.shape}"
        )
    order = np.argsort(tested)
    mask = np.bincount(tested, minlength=1).astype(bool)
    images = np.packbits(mask).tobytes().hex()
    if result.curves.setdefault(f"tested/{repeat}", images) != images:
        raise ValueError(f"tested: expected the same images for all arms of repeat {repeat}")
    result.curves[f"right/{arm}/{repeat}"] = "".join(_DIGITS[n] for n in right[order].tolist())


def scores(result: Result, arm: str) -> dict[int, np.ndarray]:
    """Share of the tasks decided rightly, in percent, of every repeat in which an arm is kept.

    Returns
    -------
    dict of int to array, shape ``(N,)``
        By repeat; NaN for the images that it does not test. Shapes may differ.
    """
    curves, head = dict(_flat(result.curves)), f"right/{arm}/"
    found = {}
    for name, text in curves.items():
        if name.startswith(head) and "/" not in (repeat := name.removeprefix(head)):
            packed = np.frombuffer(bytes.fromhex(curves[f"tested/{repeat}"]), dtype=np.uint8)
            of_images = np.full(8 * len(packed), np.nan)
            right = _NUMBERS[np.frombuffer(text.encode("latin-1"), dtype=np.uint8)]
            if (right < 0).any():
                raise ValueError(f"{name}: expected digits of {_DIGITS}, got others")
            of_images[np.unpackbits(packed).astype(bool)] = right
            found[int(repeat)] = 100 * of_images / result.data["tasks"]
    return found


def differences(result: Result, arm: str, reference: str) -> np.ndarray | None:
    """Arm minus reference, shape ``(repeats, N)``, NaN where nothing is tested; None without both.

    Also None where the images do not give the accuracies of the records.
    """
    of_arm, of_reference = scores(result, arm), scores(result, reference)
    repeats = sorted(set(of_arm) & set(of_reference))
    if not repeats:
        return None
    for name, found in ((arm, of_arm), (reference, of_reference)):
        recorded = result.values(name, METRIC)
        for repeat in repeats:
            if not np.isclose(np.nanmean(found[repeat]), recorded.get(repeat, np.nan), rtol=1e-6):
                return None
    rows = [of_arm[r] - of_reference[r] for r in repeats]
    matrix = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    return matrix


def _flat(curves: dict) -> Iterator[tuple[str, str]]:
    """The texts among the curves of a run, or of a result that was merged from runs."""
    for name, value in curves.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif isinstance(value, str):
            yield name, value
