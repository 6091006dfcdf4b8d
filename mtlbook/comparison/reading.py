"""Tasks from a folder of images, a table or an .npz file, with what was assumed on the way."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlbook.tasks import Task, TaskSet

TABLES = (".csv", ".tsv", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
LEVELS = 30  # of a column of text that becomes indicators; of whole numbers that are classes: 20
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
            found = _read_folder(path, images, size)
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
            separator = "\t" if path.suffix.lower() == ".tsv" else None
            table = pandas.read_csv(path, sep=separator, engine="python", encoding="utf-8-sig")
    except ImportError as error:
        raise ValueError(
            f"{path.name}: {str(error).splitlines()[0]}; or save it as .csv"
        ) from error
    except (ValueError, OSError, pandas.errors.ParserError) as error:
        raise ValueError(f"{path.name}: expected a table, got: {error}") from error
    table.columns = [str(name).strip() for name in table.columns]
    targets = [target] if isinstance(target, str) else list(target)
    for option, names in (
        ("task", [task]),
        ("target", targets),
        ("group", [group] if group else []),
    ):
        if missing := [name for name in names if name not in table.columns]:
            raise ValueError(
                f"{option}: expected a column among {list(table.columns)}, got {missing[0]!r}"
            )
    if unknown := [name for name in drop if name not in table.columns]:
        raise ValueError(f"drop: expected columns among {list(table.columns)}, got {unknown}")
    inputs = [c for c in table.columns if c not in {task, group, *targets, *drop}]
    empty = {c: int(n) for c, n in table[[task, *targets, *inputs]].isna().sum().items() if n}
    if empty:
        raise ValueError(
            f"{path.name}: expected a value in every cell, got empty ones by column: {empty}; fill "
            "them, or drop the rows or the columns"
        )
    notes: list[str] = []
    columns = [_inputs_of(table[c], c, notes) for c in inputs]
    if not columns:
        raise ValueError(f"{path.name}: expected columns of inputs, got none besides {targets}")
    names = [name for of, _ in columns for name in of]
    x = np.concatenate([values for _, values in columns], axis=1)
    y = table[targets].to_numpy() if len(targets) > 1 else table[targets[0]].to_numpy()
    groups = None if group is None else pandas.factorize(table[group])[0]
    return _assemble(
        path.name, x, y, table[task].astype(str).to_numpy(), groups, kind, notes, names
    )


def _inputs_of(column: Any, name: str, notes: list[str]) -> tuple[list[str], np.ndarray]:
    """The names and numbers of one column: as it is, or indicators of its texts."""
    values = column.to_numpy()
    if values.dtype.kind in "iufb":
        return [name], values.astype(np.float64)[:, None]
    levels, codes = np.unique(values.astype(str), return_inverse=True)
    if len(levels) > LEVELS:
        raise ValueError(
            f"column {name!r}: expected numbers, or a text with at most {LEVELS} different values, "
            f"got {len(levels)} such as {levels[0]!r}; leave it out with --drop {name}"
        )
    notes.append(f"column {name}: {len(levels)} texts became indicators")
    return [f"{name}={level}" for level in levels], np.eye(len(levels))[codes]


def _read_arrays(path: Path, kind: str) -> Data:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # NumPy has many names for a file that it does not like
        raise ValueError(f"{path.name}: expected an .npz of plain arrays, got: {error}") from error
    if {"x", "y", "task"} <= set(arrays):
        sizes = {name: len(a) for name, a in arrays.items() if name in ("x", "y", "task", "group")}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"{path.name}: expected arrays of one length, got {sizes}")
        names, groups = arrays["task"].astype(str), arrays.get("group")
        return _assemble(path.name, arrays["x"], arrays["y"], names, groups, kind, [], [])
    names = [name[2:] for name in arrays if name.startswith("x_")]
    if not names or any(f"y_{name}" not in arrays for name in names):
        raise ValueError(
            f"{path.name}: expected arrays x, y and task, or x_NAME and y_NAME of every task, got "
            f"{sorted(arrays)}"
        )
    for name in names:
        if len(arrays[f"x_{name}"]) != len(arrays[f"y_{name}"]):
            sizes = len(arrays[f"x_{name}"]), len(arrays[f"y_{name}"])
            raise ValueError(f"{path.name}: expected as many x as y of task {name}, got {sizes}")
    shapes = {name: arrays[f"x_{name}"].shape[1:] for name in names}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{path.name}: expected inputs of one shape in all tasks, got {shapes}; those of "
            "unlike shape can share kernels alone (mtlbook.methods.MTAL), which is not tried here"
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


def _read_folder(path: Path, images: str, size: int) -> Data:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[tuple[str, str, Path]] = []
    for of_task in folders:
        classes = sorted(p for p in of_task.iterdir() if p.is_dir() and not p.name.startswith("."))
        for of_class in classes:
            found = sorted(p for p in of_class.rglob("*") if p.suffix.lower() in IMAGES)
            files += [(of_task.name, of_class.name, p) for p in found]
    if not files:
        raise ValueError(
            f"{path.name}: expected images as <task>/<class>/<image> ({', '.join(IMAGES)}), got "
            f"{len(folders)} folders without any at that depth"
        )
    from mtlbook.datasets import efficientnet

    use = images
    if images == "auto":
        use = "features" if efficientnet.installed() and find_spec("torchvision") else "pixels"
    batches = _pictures([p for *_, p in files], 224 if use == "features" else size)
    if use == "features":
        x = torch.cat([efficientnet.features(batch) for batch in batches]).numpy()
        note = "inputs: 1280 features of EfficientNet-Lite0, trained on ImageNet"
    else:
        x = torch.cat([batch.float() / 255 for batch in batches]).numpy()
        note = f"inputs: pixels, {size} x {size}, in colour"
    y, of_task = np.array([c for _, c, _ in files]), np.array([t for t, _, _ in files])
    return _assemble(path.name, x, y, of_task, None, "classification", [note], [])


def _pictures(paths: Sequence[Path], size: int, chunk: int = 64):
    """Bytes ``(B, 3, size, size)``, some files at a time."""
    from PIL import Image, UnidentifiedImageError

    for start in range(0, len(paths), chunk):
        pixels = []
        for path in paths[start : start + chunk]:
            try:
                with Image.open(path) as image:
                    small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
                raise ValueError(f"{path}: expected an image, got: {error}") from error
            pixels.append(np.asarray(small).transpose(2, 0, 1))
        yield torch.from_numpy(np.stack(pixels))


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
    if y.dtype.kind == "O":
        y = y.astype(str)
    if kind == "auto":
        kind = _guess(y)
        notes = [*notes, f"the targets were taken for {kind}; --kind says otherwise"]
    make = _classes if kind == "classification" else _numbers
    targets = make(name, y, of_task, notes)
    keys = None if groups is None else np.unique(groups.astype(str), return_inverse=True)[1]
    inputs = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    tasks = []
    for of, (codes, classes) in targets.items():
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


def _guess(y: np.ndarray) -> str:
    if y.ndim > 1:
        return "regression"
    if y.dtype.kind in "biuUS":
        return (
            "classification" if y.dtype.kind in "bUS" or len(np.unique(y)) <= 20 else "regression"
        )
    return "regression"


def _classes(
    name: str, y: np.ndarray, of_task: np.ndarray, notes: list[str]
) -> Mapping[str, tuple[np.ndarray, int]]:
    """Codes of the classes: one space of labels where tasks have classes in common."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"{name}: expected one class a sample, got targets of shape {y.shape}")
    if y.dtype.kind == "f":
        if not np.isfinite(y).all() or (y != np.round(y)).any():
            raise ValueError(
                f"{name}: expected classes, got numbers such as {y[y != np.round(y)][:1]}"
            )
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
        notes.append("no class is common to all tasks: each has classes of its own")
    return {
        of: (np.searchsorted(space, y[of_task == of]).astype(np.int64), len(space))
        for of, space in spaces.items()
    }


def _numbers(
    name: str, y: np.ndarray, of_task: np.ndarray, notes: list[str]
) -> Mapping[str, tuple[np.ndarray, None]]:
    if y.dtype.kind not in "iufb":
        raise ValueError(f"{name}: expected numbers as targets of a regression, got {y.dtype}")
    y = y.astype(np.float32).reshape(len(y), -1)
    return {of: (y[of_task == of], None) for of in dict.fromkeys(of_task.tolist())}
