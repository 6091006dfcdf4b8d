"""Tasks from a folder of images, a table or an .npz file, with what was assumed on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlbook.comparison import targets
from mtlbook.comparison.pictures import read_folder
from mtlbook.comparison.tables import read_table, suffix
from mtlbook.tasks import Task, TaskSet

TABLES = (".csv", ".tsv", ".parquet")
ONE_SHAPE = (
    "bring images to one size (a folder of images is: --images pixels --size N) and describe all "
    "samples by the same columns. For unlike inputs nothing but single-task learning is left to "
    "compare: one model, a common trunk and the linear methods need one first layer for all, "
    "priors and norms stacks of layers of one shape. With networks of your own, "
    "mtlbook.backbones.attach lets methods relate the layers that have one shape, and "
    "mtlbook.methods.MTAL mixes kernels of convolutions"
)
HINT = (
    "a folder <task>/<class>/<image>, a .csv, .tsv (or .csv.gz) or .parquet table with a column of "
    "tasks, or an .npz file"
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
    labels : list of list
        Of each task the classes that its outputs stand for; empty for regressions.
    """

    tasks: TaskSet
    notes: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    labels: list[list] = field(default_factory=list)


def read(
    data: Any,
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
    data : path, pandas.DataFrame, TaskSet, sequence of Task, or Data
        A folder of images ``<task>/<class>/<image>``; a table, one row a sample (a file, of text
        also packed by gzip, bzip2 or xz, or a DataFrame); an ``.npz`` file with ``x``, ``y``,
        ``task`` and optionally ``group``, or with ``x_NAME``, ``y_NAME`` and optionally
        ``group_NAME`` of every task.
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
    drop, without = ([of] if isinstance(of, str) else list(of) for of in (drop, without))
    if type(size) is not int or size < 1:
        raise ValueError(f"size: expected a whole number from 1 on, got {size!r}")
    if isinstance(data, list | tuple) and data and all(isinstance(t, Task) for t in data):
        data = TaskSet("tasks", data)
    if isinstance(data, TaskSet):
        found = Data(_plain(data))
    elif isinstance(data, Data):
        found = data
    elif is_frame(data):
        found = _of_table(data, "table", task, target, group, drop, kind)
    elif not isinstance(data, str | os.PathLike):
        raise ValueError(
            f"data: expected the path of {HINT}; or a DataFrame or a TaskSet; got "
            f"{type(data).__name__}"
        )
    else:
        path = Path(data)
        if str(path) != str(path).encode(errors="replace").decode():
            raise ValueError(f"data: expected a path that is text in UTF-8, got {str(path)!r}")
        if path.is_dir():
            x, y, of_task, notes = read_folder(path, images, size, tell)
            found = _assemble(path.resolve().name, x, y, of_task, None, "classification", notes, [])
        elif not path.is_file():
            raise ValueError(f"data: expected {HINT}, got no file or folder {path}")
        elif suffix(path) in TABLES:
            found = _of_table(path, path.name, task, target, group, drop, kind)
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
        labels = [found.labels[t] for t in kept] if found.labels else []
        found = Data(found.tasks.subset(kept), [*found.notes, note], found.features, labels)
    return found


def is_frame(data: Any) -> bool:
    """Whether it is a table of pandas, which who has one has imported."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def _of_table(source: Any, name: str, task, target, group, drop, kind: str) -> Data:
    x, y, of_task, groups, notes, names = read_table(source, task, target, group, drop)
    return _assemble(name, x, y, of_task, groups, kind, notes, names)


def _plain(tasks: TaskSet) -> TaskSet:
    """Somebody's tasks, numbers in single precision and without a history of gradients."""
    for task in tasks:
        x = task.inputs
        if x.is_complex() or x.layout != torch.strided or x.ndim not in (2, 4):
            raise ValueError(
                "tasks: expected dense real inputs (samples, features) or (samples, channels, "
                f"height, width), got {x.dtype} {tuple(x.shape)}, {x.layout}, of {task.name!r}"
            )
    tasks = tasks.map_inputs(lambda x: x.detach().float())
    made = [
        replace(
            task,
            name=str(task.name),
            targets=task.targets if task.classes else task.targets.detach().float(),
        )
        for task in tasks
    ]
    return replace(tasks, tasks=tuple(made))


def _read_arrays(path: Path, kind: str) -> Data:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            if odd := [name for name, a in arrays.items() if not isinstance(a, np.ndarray)]:
                raise ValueError(f"other files, {odd}")  # of a zip that NumPy has not written
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
        if groups is not None and (
            groups.ndim != 1 or (groups.dtype.kind == "f" and np.isnan(groups).any())
        ):
            raise ValueError(
                f"{path.name}: expected a group for every sample, got an array of shape "
                f"{groups.shape}" + (" with NaN" if groups.ndim == 1 else "")
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
        if odd := [n for n in names if arrays[f"group_{n}"].shape != (len(arrays[f"x_{n}"]),)]:
            raise ValueError(
                f"{path.name}: expected a group for every sample, got another number of {odd}"
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
    if x.dtype.kind not in "iufb" or x.ndim not in (2, 4):
        raise ValueError(
            f"{name}: expected numbers (samples, features) or (samples, channels, height, width) "
            f"as inputs, got {x.dtype} {x.shape}"
        )
    if not x.size:
        raise ValueError(f"{name}: expected samples with features, got inputs {x.shape}")
    if x.ndim == 4 and x.shape[1] == x.shape[2] > 4 and x.shape[3] in (1, 3, 4):
        raise ValueError(
            f"{name}: expected channels before height and width, got {x.shape}; move the last axis "
            "with np.moveaxis(x, -1, 1)"
        )
    if kind == "auto":
        kind = targets.guess(y)
        notes = [*notes, f"the targets were taken for {kind}; --kind says otherwise"]
    make = targets.classes if kind == "classification" else targets.numbers
    found = make(name, y, of_task, notes)
    keys = None if groups is None else np.unique(groups.astype(str), return_inverse=True)[1]
    wide = x.ndim == 2 and not (x.dtype.kind == "f" and x.dtype.itemsize <= 4)
    if wide:
        x = np.where(targets.varies(x), x, x[:1])
    if wide and len(lost := targets.blurred(x)):
        such = [features[i] if features else int(i) for i in lost[:6]]
        raise ValueError(
            f"{name}: expected inputs that single precision (7 digits) tells apart, got {such} "
            f"with numbers such as {float(x[0, lost[0]])!r}; subtract their mean"
        )
    inputs = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    tasks = []
    for of, (codes, space) in found.items():
        rows = torch.from_numpy(np.flatnonzero(of_task == of))
        tasks.append(
            Task(
                str(of),
                inputs[rows],
                torch.from_numpy(codes),
                loss="cross_entropy" if space else "mse",
                classes=len(space) or None,
                groups=None if keys is None else torch.from_numpy(keys)[rows],
            )
        )
    labels = [space for _, space in found.values() if space]
    return Data(TaskSet(name, tasks, tier="fetched", licence="yours"), notes, features, labels)
