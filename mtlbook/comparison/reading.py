"""Tasks from a folder of images, a table or an .npz file, with what was assumed on the way."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlbook.comparison import targets
from mtlbook.comparison.pictures import read_folder
from mtlbook.tasks import Task, TaskSet

TABLES = (".csv", ".tsv", ".parquet")
LEVELS = 30  # of a column of text that becomes indicators
ONE_SHAPE = (
    "bring images to one size (a folder of images is: --images pixels --size N) and describe all "
    "samples by the same columns. For unlike inputs nothing but single-task learning is left to "
    "compare: one model, a common trunk and the linear methods need one first layer for all, "
    "priors and norms stacks of layers of one shape. With networks of your own, "
    "mtlbook.backbones.attach lets methods relate the layers that have one shape, and "
    "mtlbook.methods.MTAL mixes kernels of convolutions"
)
HINT = (
    "a folder <task>/<class>/<image>, a .csv, .tsv or .parquet table with a column of tasks, or an "
    ".npz file"
)


@dataclass
class Data:
    """Tasks, and what a reader should know of how they were made.

    Attributes
    ----------
    tasks : TaskSet
    notes : list of str
        What was assumed or changed.
    features : list of str
        Names of the inputs' entries; empty for images.
    """

    tasks: TaskSet
    notes: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)


def read(
    data: str | os.PathLike | TaskSet | Data,
    *,
    task: str = "task",
    target: str | Sequence[str] = "target",
    group: str | None = None,
    drop: Sequence[str] = (),
    without: Sequence[str] = (),
    kind: str = "auto",
    images: str = "auto",
    size: int = 32,
    tell: Callable[[str], None] = lambda text: None,
) -> Data:
    """Read tasks.

    Parameters
    ----------
    data : path, TaskSet or Data
        A folder of images ``<task>/<class>/<image>``; a table, one row a sample; an ``.npz`` file
        with ``x``, ``y``, ``task`` and optionally ``group``, or with ``x_NAME``, ``y_NAME`` and
        optionally ``group_NAME`` of every task.
    task, target, group : str
        Columns of a table. Several targets make a regression of several outputs. Samples of one
        group (a patient, a writer) are never divided between training and test.
    drop : sequence of str
        Columns of a table that are no inputs.
    without : sequence of str
        Tasks to leave out.
    kind : "auto" | "classification" | "regression"
        "auto": text, truth values and at most 20 different whole numbers are classes.
    images : "auto" | "features" | "pixels"
        Features of a small pretrained network (EfficientNet-Lite0), or pixels; "auto" takes the
        features where its weights are installed.
    size : int
        Height and width of pixels.
    tell : callable
        Is told the progress, a line at a time.

    Raises
    ------
    ValueError
        If the data do not have this form; the message names what was expected and what came.
    """
    if kind not in ("auto", "classification", "regression"):
        raise ValueError(f"kind: expected auto, classification or regression, got {kind!r}")
    if images not in ("auto", "features", "pixels"):
        raise ValueError(f"images: expected auto, features or pixels, got {images!r}")
    if isinstance(data, TaskSet):
        found = Data(data)
    elif isinstance(data, Data):
        found = data
    else:
        path = Path(data)
        if path.is_dir():
            x, y, of_task, notes = read_folder(path, images, size, tell)
            found = _assemble(path.name, x, y, of_task, None, "classification", notes, [])
        elif not path.is_file():
            raise ValueError(f"data: expected {HINT}, got no file or folder {path}")
        elif path.suffix.lower() in TABLES:
            found = _read_table(path, task, target, group, drop, kind)
        elif path.suffix.lower() == ".npz":
            found = _read_arrays(path, kind)
        else:
            raise ValueError(f"data: expected {HINT}, got {path.name}")
    if without:
        names = found.tasks.names
        if unknown := sorted(set(without) - set(names)):
            raise ValueError(f"without: expected names among {names}, got {unknown}")
        kept = [t for t, name in enumerate(names) if name not in without]
        if not kept:
            raise ValueError("without: expected to leave some tasks, got all of them")
        note = f"left out: {', '.join(without)}"
        found = Data(found.tasks.subset(kept), [*found.notes, note], found.features)
    return found


def _read_table(
    path: Path,
    task: str,
    target: str | Sequence[str],
    group: str | None,
    drop: Sequence[str],
    kind: str,
) -> Data:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas: pip install pandas", name="pandas") from error
    try:
        if path.suffix.lower() == ".parquet":
            table = pandas.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else None  # None: found out
            table = pandas.read_csv(path, sep=separator, engine="python", encoding="utf-8-sig")
    except ImportError as error:
        raise ImportError(
            f"{path.name}: Parquet needs pyarrow, pip install 'mtlbook[parquet]'; or save a .csv",
            name="pyarrow",
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name}: expected text in UTF-8, got other bytes: {error}"
        ) from error
    except (ValueError, OSError, csv.Error, pandas.errors.ParserError) as error:
        raise ValueError(f"{path.name}: expected a table, got: {error}") from error
    if table.empty:
        size = f"{len(table)} rows and {len(table.columns)} columns"
        raise ValueError(f"{path.name}: expected one row per sample, got {size}")
    table.columns = [str(name).strip() for name in table.columns]
    wanted = [target] if isinstance(target, str) else list(target)
    for option, names in (
        ("task", [task]),
        ("target", wanted),
        ("group", [group] if group else []),
    ):
        if missing := [name for name in names if name not in table.columns]:
            raise ValueError(
                f"{option}: expected a column among {list(table.columns)}, got {missing[0]!r}"
            )
    if unknown := [name for name in drop if name not in table.columns]:
        raise ValueError(f"drop: expected columns among {list(table.columns)}, got {unknown}")
    roles = [task, *wanted, *([group] if group else [])]
    if len(set(roles)) < len(roles):
        raise ValueError(f"task, target, group: expected different columns, got {roles}")
    if used := [name for name in drop if name in roles]:
        raise ValueError(f"drop: expected columns of inputs, got {used[0]!r}, which is asked for")
    inputs = [c for c in table.columns if c not in {*roles, *drop}]
    empty = {c: int(n) for c, n in table[[*roles, *inputs]].isna().sum().items() if n}
    if empty:
        raise ValueError(
            f"{path.name}: expected a value in every cell, got empty ones by column: {empty}; fill "
            "them, or drop the rows or the columns"
        )
    notes: list[str] = []
    columns = [_inputs_of(table[c], c, notes) for c in inputs]
    if not columns:
        raise ValueError(f"{path.name}: expected columns of inputs, got none besides {roles}")
    names = [name for of, _ in columns for name in of]
    x = np.concatenate([values for _, values in columns], axis=1)
    y = np.stack([_plain(table[c], c) for c in wanted], axis=1)
    y = y if len(wanted) > 1 else y[:, 0]
    groups = None if group is None else pandas.factorize(table[group])[0]
    return _assemble(
        path.name, x, y, table[task].astype(str).to_numpy(), groups, kind, notes, names
    )


def _inputs_of(column: Any, name: str, notes: list[str]) -> tuple[list[str], np.ndarray]:
    """The names and numbers of one column: as it is, or indicators of its texts."""
    values = _plain(column, name)
    if values.dtype.kind in "iufb":
        return [name], values.astype(np.float64)[:, None]
    levels, codes = np.unique(values, return_inverse=True)
    if len(levels) > LEVELS:
        comma = all(re.fullmatch(r"\s*[-+]?\d*,\d+\s*", level) for level in levels if "," in level)
        hint = "write its numbers with a decimal point, or " if comma and "," in levels[0] else ""
        raise ValueError(
            f"column {name!r}: expected numbers, or a text with at most {LEVELS} different values, "
            f"got {len(levels)} such as {str(levels[0])!r}; {hint}leave it out with --drop {name}"
        )
    notes.append(f"column {name}: {len(levels)} texts became indicators")
    return [f"{name}={level}" for level in levels], np.eye(len(levels))[codes]


def _plain(column: Any, name: str) -> np.ndarray:
    """The values of a column as numbers or texts, whatever the table holds them in."""
    values = column.to_numpy()
    if values.dtype.kind == "O":  # nullable integers, decimals, texts
        if all(isinstance(value, Real | Decimal) for value in values):
            kinds = {type(value) for value in values}
            whole = all(issubclass(kind, int | np.integer) for kind in kinds) and bool not in kinds
            return values.astype(bool if kinds == {bool} else np.int64 if whole else np.float64)
        odd = next((v for v in values if isinstance(v, list | tuple | dict | np.ndarray)), None)
        if odd is not None:
            raise ValueError(
                f"column {name!r}: expected a number or a text in every cell, got "
                f"{type(odd).__name__}; give each of its entries a column"
            )
    return values if values.dtype.kind in "iufb" else values.astype(str)


def _read_arrays(path: Path, kind: str) -> Data:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # NumPy has many names for a file that it does not like
        raise ValueError(f"{path.name}: expected an .npz of plain arrays, got: {error}") from error
    if single := sorted(name for name, a in arrays.items() if not a.ndim):
        raise ValueError(f"{path.name}: expected arrays with one entry per sample, got {single}")
    if {"x", "y", "task"} <= set(arrays):
        sizes = {name: len(a) for name, a in arrays.items() if name in ("x", "y", "task", "group")}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"{path.name}: expected arrays of one length, got {sizes}")
        of_task, groups = arrays["task"], arrays.get("group")
        if of_task.ndim != 1 or (of_task.dtype.kind == "f" and np.isnan(of_task).any()):
            raise ValueError(
                f"{path.name}: expected the name or number of a task for every sample, got an "
                f"array of shape {of_task.shape}" + (" with NaN" if of_task.ndim == 1 else "")
            )
        names = of_task.astype(str)
        return _assemble(path.name, arrays["x"], arrays["y"], names, groups, kind, [], [])
    names = [name[2:] for name in arrays if name.startswith("x_")]
    others = [name[2:] for name in arrays if name.startswith("y_")]
    if not names or set(names) != set(others):
        raise ValueError(
            f"{path.name}: expected arrays x, y and task, or x_NAME and y_NAME of every task, got "
            f"{sorted(arrays)}"
        )
    for name in names:
        if len(arrays[f"x_{name}"]) != len(arrays[f"y_{name}"]):
            sizes = len(arrays[f"x_{name}"]), len(arrays[f"y_{name}"])
            raise ValueError(f"{path.name}: expected as many x as y of task {name}, got {sizes}")
    widths = {name: arrays[f"y_{name}"].shape[1:] for name in names}
    if len(set(widths.values())) > 1:
        raise ValueError(f"{path.name}: expected targets of one shape in all tasks, got {widths}")
    kinds = {name: targets.guess(arrays[f"y_{name}"]) for name in names}
    if kind == "auto" and len(set(kinds.values())) > 1:
        raise ValueError(
            f"{path.name}: expected targets of one kind in all tasks, got {kinds}; say which it is "
            "with --kind, or leave tasks out"
        )
    shapes = {name: arrays[f"x_{name}"].shape[1:] for name in names}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{path.name}: expected inputs of one shape in all tasks, got {shapes}; {ONE_SHAPE}"
        )
    of_task = np.repeat(names, [len(arrays[f"x_{name}"]) for name in names])
    groups = None
    if any(f"group_{name}" in arrays for name in names):
        missing = [name for name in names if f"group_{name}" not in arrays]
        if missing:
            raise ValueError(
                f"{path.name}: expected group_NAME of every task, got none of {missing}"
            )
        groups = np.concatenate([arrays[f"group_{name}"].astype(str) for name in names])
    x, y = (np.concatenate([arrays[f"{of}_{name}"] for name in names]) for of in "xy")
    return _assemble(path.name, x, y, of_task, groups, kind, [], [])


def _assemble(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    of_task: np.ndarray,
    groups: np.ndarray | None,
    kind: str,
    notes: list[str],
    features: list[str],
) -> Data:
    """Tasks of samples that are all in one array."""
    if x.dtype.kind not in "iufb" or x.ndim < 2:
        raise ValueError(f"{name}: expected numbers (n, ...) as inputs, got {x.dtype} {x.shape}")
    if kind == "auto":
        kind = targets.guess(y)
        notes = [*notes, f"the targets were taken for {kind}; --kind says otherwise"]
    make = targets.classes if kind == "classification" else targets.numbers
    found = make(name, y, of_task, notes)
    keys = None if groups is None else np.unique(groups.astype(str), return_inverse=True)[1]
    inputs = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    tasks = []
    for of, (codes, classes) in found.items():
        rows = torch.from_numpy(np.flatnonzero(of_task == of))
        tasks.append(
            Task(
                str(of),
                inputs[rows],
                torch.from_numpy(codes),
                loss="mse" if classes is None else "cross_entropy",
                classes=classes,
                groups=None if keys is None else torch.from_numpy(keys)[rows],
            )
        )
    return Data(TaskSet(name, tasks, tier="fetched", licence="yours"), notes, features)
