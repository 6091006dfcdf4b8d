"""What an experiment is a table of: arms, their trials, and what comes out of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mtlbook.ledger.results import Result
from mtlbook.methods import Method
from mtlbook.tasks import TaskSet
from mtlbook.training import History


@dataclass(frozen=True)
class Arm:
    """A row of a table: a method, and what of it may be tuned, one number or configurations.

    Attributes
    ----------
    build : callable
        From a `Trial` to the untrained `Method`.
    grid : sequence of float
        Values of its number to try, the weakest first; empty where there is nothing to tune.
    number : str, optional
        The field of the protocol that the number sets, such as ``"lr"``; by default none: ``build``
        reads ``trial.value``.
    configurations : sequence of mapping
        Instead of a grid, settings of several fields of the protocol at once: its number is then
        the place of one in this list. :func:`configurations` draws some.
    value : float, optional
        The number of an arm that has no grid.
    like : str, optional
        The arm whose chosen number it takes over: a control that of its model.
    start : str, optional
        The arm at whose trained weights it starts.
    protocol : mapping
        Fields of the protocol in which this arm differs from the others.
    """

    build: Callable[[Trial], Method]
    grid: Sequence[float] = ()
    number: str | None = None
    configurations: Sequence[Mapping[str, Any]] = ()
    value: float | None = None
    like: str | None = None
    start: str | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Sequence[float]:
        """The numbers to try: the grid, or the places of the configurations."""
        return self.grid or range(len(self.configurations))

    def changes(self, value: float | None) -> dict[str, Any]:
        """The fields of the protocol in which a trial at a number differs from the others."""
        if self.configurations:
            return {**self.protocol, **self.configurations[int(value)]}
        return self.protocol | ({self.number: value} if self.number and value is not None else {})


@dataclass(frozen=True)
class Trial:
    """One training of one arm: all that a builder sees, and no sample but those to train on.

    Attributes
    ----------
    arm : Arm
    train : TaskSet
    repeat : int
        Seed of the initial weights and of the order of the samples.
    protocol : dataclass
        The study's, with what the arm and its number change.
    value : float, optional
        The arm's number.
    start : Method, optional
        A copy of the trained arm to start from.
    """

    arm: Arm
    train: TaskSet
    repeat: int
    protocol: Any
    value: float | None = None
    start: Method | None = None


@dataclass(frozen=True)
class Add:
    """Records what one arm of one repeat reaches, in a result."""

    result: Result
    arm: str
    repeat: int
    suffix: str = ""

    def __call__(self, *, metric: str, of: str = "", **record: Any) -> None:
        """Add a number: ``metric``, ``value``, and what else :meth:`Result.add` takes.

        ``of`` names a part of the arm, which is recorded as ``<arm>/<of>``.
        """
        self.result.add(
            arm=f"{self.arm}/{of}" if of else self.arm,
            repeat=self.repeat,
            seed=self.repeat,
            metric=metric + self.suffix,
            **record,
        )

    def curve(self, name: str, value: Any) -> None:
        """Keep what is no number."""
        self.result.curves[f"{name}/{self.arm}/{self.repeat}{self.suffix}"] = value


@dataclass(frozen=True)
class Outcome:
    """What came out of a trial."""

    name: str
    trial: Trial
    method: Method
    history: History | None

    def untrained(self) -> Method:
        """The method as it was before training."""
        return self.trial.arm.build(self.trial)


def configurations(
    number: int, seed: int = 0, **ranges: tuple[float, float] | list
) -> list[dict[str, Any]]:
    """Draw settings at random, so that arms with more numbers to choose get no more trials.

    Parameters
    ----------
    number : int
    seed : int
    **ranges
        Of each field: a tuple ``(low, high)``, covered evenly on a logarithmic scale (a Latin
        hypercube), or a list of values, each about as often.

    Returns
    -------
    list of dict
        Numbers with two significant digits.

    Examples
    --------
    >>> configurations(3, weight=(0.01, 10.0), rho=[0.5, 0.9])
    [{'weight': 5.1, 'rho': 0.9}, {'weight': 0.029, 'rho': 0.9}, {'weight': 0.83, 'rho': 0.5}]
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[dict[str, Any]] = [{} for _ in range(number)]
    for name, values in ranges.items():
        places = torch.randperm(number, generator=generator)
        # in float64 whatever the default is: the same settings everywhere
        shares = (
            (places + torch.rand(number, generator=generator, dtype=torch.float64)) / number
        ).tolist()
        for settings, share in zip(drawn, shares, strict=True):
            if isinstance(values, list):
                settings[name] = values[int(share * len(values))]
            else:
                low, high = (math.log(end) for end in values)
                settings[name] = float(f"{math.exp(low + share * (high - low)):.2g}")
    return drawn
