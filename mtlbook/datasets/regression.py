"""Sets of regression tasks: the pupils of 139 schools, and the seven torques of a robot arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mtlbook.datasets.cache import read
from mtlbook.datasets.registry import require
from mtlbook.tasks import Task


def load_school(path: Path, *, constant: bool = False) -> list[Task]:
    """One task a school: the exam score (1 to 70) of each of its 22 to 251 pupils.

    Inputs have shape ``(n, 27)``: what is known of pupil and school, 0 or 1 but for two percentages
    (columns 3 and 4); targets ``(n, 1)`` with loss ``"mse"``. Nothing is scaled.

    Parameters
    ----------
    path : Path
        The canonical file.
    constant : bool
        Keep the column of ones that the source has for its models without an intercept.
    """
    arrays = read(path)
    width = arrays["X"].shape[1] - (not constant)
    inputs = torch.from_numpy(arrays["X"][:, :width]).float()
    scores = torch.from_numpy(arrays["y"]).unsqueeze(1)
    tasks = []
    for school in range(int(arrays["task"].max()) + 1):
        rows = torch.from_numpy(np.flatnonzero(arrays["task"] == school))
        name = f"school {school + 1}"
        tasks.append(Task(name=name, inputs=inputs[rows], targets=scores[rows], loss="mse"))
    return tasks


def load_sarcos(path: Path) -> list[Task]:
    """Seven tasks on the same inputs ``(4449, 21)``: the torques of the joints, ``(4449, 1)`` each.

    Inputs are 7 positions, 7 velocities and 7 accelerations. Nothing is scaled.
    """
    arrays = read(path)
    inputs, torques = torch.from_numpy(arrays["X"]), torch.from_numpy(arrays["Y"])
    return [
        Task(name=f"joint {joint + 1}", inputs=inputs, targets=torques[:, [joint]], loss="mse")
        for joint in range(torques.shape[1])
    ]


def fetch_school(scratch: Path) -> dict[str, np.ndarray]:
    """Of ``school.mat`` the pupils of all schools, one school after the other."""
    found = require("scipy.io", "reproduce").loadmat(scratch / "school.mat")
    inputs, scores = found["X"].ravel(), found["Y"].ravel()
    return {
        "X": np.concatenate(inputs),
        "y": np.concatenate(scores).ravel().astype(np.float32),
        "task": np.repeat(np.arange(len(inputs)), [len(x) for x in inputs]).astype(np.int16),
    }


def fetch_sarcos(scratch: Path) -> dict[str, np.ndarray]:
    """Of ``sarcos_inv_test.mat`` 21 columns of inputs and 7 of torques."""
    name = "sarcos_inv_test"
    rows = require("scipy.io", "reproduce").loadmat(scratch / f"{name}.mat")[name]
    rows = rows.astype(np.float32)
    return {"X": rows[:, :21], "Y": rows[:, 21:]}
