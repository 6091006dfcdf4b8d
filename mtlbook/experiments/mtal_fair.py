"""MTAL (reconstruction): as much to choose for every arm, and a threshold for every layer.

In :mod:`mtlbook.experiments.mtal` the arms have one number each, MTAL the threshold at STL's step
size, and one threshold for all layers joins pairs in the first alone. Here every arm chooses its
step size and its own number, with as many trials; a second form of MTAL has the threshold of each
layer at one chance level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mtlbook.experiments import mtal
from mtlbook.methods import MTAL, STL, TNRDMTL, CrossStitch, Method
from mtlbook.study import Arm, Study, Trial, configurations

TRIALS = 8  # settings of every arm, each on every tuning split


@dataclass(frozen=True)
class Protocol(mtal.Protocol):
    """What ``mtlbook.experiments.mtal.Protocol`` says, and what an arm may choose.

    Attributes
    ----------
    rho : float
        One threshold for all layers, the paper's.
    chance : float
        The share of random pairs of every layer that exceed its threshold, ours.
    strength : float
        Of weight decay or of a norm.
    own : float
        Start of the weight of one's own activations in cross-stitch.
    """

    train: int = 10
    rho: float = 0.5
    chance: float = 0.01
    strength: float = 0.0
    own: float = 0.9


def weight_decay(trial: Trial) -> STL:
    """Single-task learning with weight decay."""
    return STL(mtal.networks(trial), weight_decay=trial.protocol.strength)


def laf(trial: Trial) -> TNRDMTL:
    """TNRDMTL's norm, where shapes agree."""
    return TNRDMTL(mtal.networks(trial), kind="laf", gamma=trial.protocol.strength)


def cross_stitch(trial: Trial) -> CrossStitch:
    """Activations mixed."""
    return CrossStitch(mtal.networks(trial), own=trial.protocol.own)


def sharing(trial: Trial, by_chance: bool, **options: Any) -> Method:
    """MTAL with one threshold, or with one per layer; ``pairs="random"`` is its control."""
    p = trial.protocol
    options |= {"chance": p.chance} if by_chance else {"rho": p.rho}
    return MTAL(mtal.networks(trial), seed=trial.repeat, **options)


STEP = {"own_lr": (0.005, 0.15)}
RHO = {"rho": (0.1, 0.95)}
CHANCE = {"chance": (0.0003, 0.3)}
STRENGTH = {"strength": (0.0001, 0.1)}


def _arm(build: Any, **ranges: Any) -> Arm:
    return Arm(build, configurations=configurations(TRIALS, **ranges))


ARMS: dict[str, Arm] = {
    "stl": _arm(mtal.stl, **STEP),
    "weight-decay": _arm(weight_decay, **STEP, **STRENGTH),
    "laf": _arm(laf, **STEP, **STRENGTH),
    "hard-sharing": _arm(mtal.hard_sharing, **STEP),
    "cross-stitch": _arm(cross_stitch, **STEP, own=(0.5, 0.99)),
    "mtal": _arm(partial(sharing, by_chance=False), **STEP, **RHO),
    "random-pairs": _arm(partial(sharing, by_chance=False, pairs="random"), **STEP, **RHO),
    "mtal-chance": _arm(partial(sharing, by_chance=True), **STEP, **CHANCE),
    "random-pairs-chance": _arm(partial(sharing, by_chance=True, pairs="random"), **STEP, **CHANCE),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(ARMS),
    "few": ("stl", "hard-sharing", "mtal", "random-pairs", "mtal-chance", "random-pairs-chance"),
}
STUDY = Study(
    "mtal",
    ARMS,
    Protocol(),
    mtal.split,
    mtal.training,
    mtal.measure,
    tuning_splits=(1000, 1001, 1002, 1003),
)


def study(samples: int, steps: int, splits: int) -> Study:
    """The study with so many images of a class, on the first of the tuning splits."""
    here = STUDY.at(train=samples, steps=steps)
    return replace(here, tuning_splits=STUDY.tuning_splits[:splits])
