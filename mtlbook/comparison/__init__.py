"""All methods that apply, side by side on your own tasks: ``mtlbook compare DATA``."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtlbook.comparison.arms import CANDIDATES, NETWORKS, START, Choice, Protocol, choose
from mtlbook.comparison.checks import check
from mtlbook.comparison.judging import MARGIN, Judgement, judge
from mtlbook.comparison.reading import Data, is_frame, read
from mtlbook.comparison.report import as_html, as_text
from mtlbook.comparison.running import asked, run, study_of
from mtlbook.comparison.splits import Scaling
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.results import Result
from mtlbook.methods import Method
from mtlbook.training import pick_device

__all__ = [
    "CANDIDATES",
    "Comparison",
    "Data",
    "Protocol",
    "Trained",
    "check",
    "compare",
    "read",
    "train",
]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes
    ----------
    result : Result
        Every number of every repeat.
    judgement : Judgement
    html : str
        The report.
    """

    result: Result
    judgement: Judgement
    html: str

    def __str__(self) -> str:
        return as_text(self.judgement)


def compare(
    data: Any,
    *,
    arms: Iterable[str] | None = None,
    network: str = "auto",
    repeats: int = 10,
    trials: int = 8,
    anew: bool = False,
    output: str | os.PathLike | None = None,
    margin: float = MARGIN,
    device: str = "auto",
    tell: Callable[[str], None] = lambda text: None,
    protocol: Mapping[str, Any] | None = None,
    **reading: Any,
) -> Comparison:
    """Compare all methods that apply to some tasks, under one protocol and one budget.

    Parameters
    ----------
    data : path, pandas.DataFrame, TaskSet or Data
        As :func:`read` takes it.
    arms : iterable of str, optional
        Names of ``CANDIDATES``; by default all that the tasks admit.
    network : "auto" | "linear" | "mlp" | "convnet"
        "auto": convnet for images, linear for features of a pretrained network, else mlp.
    repeats : int
        Random splits, at least 5.
    trials : int
        Settings that every arm may choose from.
    anew : bool
        Whether numbers are chosen for every repeat by itself, among other settings and after
        training on what it trains on; the validation part stays. Intervals then hold the luck of
        the search, too, and it costs as many searches as repeats.
    output : path, optional
        A folder for ``report.html`` and ``result.json``; with it an interrupted comparison goes on
        where it stopped.
    margin : float
        Points within which two arms are equal.
    device : str
    tell : callable
        Is told the progress, a line at a time.
    protocol : mapping, optional
        Other fields of :class:`Protocol`, such as ``{"steps": 600}``.
    **reading
        Of :func:`read`.

    Raises
    ------
    ValueError
        If the data cannot be compared; the message says what was expected and what came.
    """
    arms = [arms] if isinstance(arms, str) else None if arms is None else list(arms)
    if type(repeats) is not int or repeats < 5:
        raise ValueError(
            f"repeats: expected at least 5, below which nothing is said, got {repeats!r}"
        )
    if type(trials) is not int or trials < 1:
        raise ValueError(f"trials: expected at least 1, got {trials!r}")
    if type(margin) not in (int, float) or not 0 <= margin < math.inf:
        raise ValueError(f"margin: expected points from 0 on, got {margin!r}")
    _check(network, arms, protocol or {}, device)
    if output is not None:
        _writable(Path(output))
    found = read(data, tell=tell, **reading)
    warnings = check(found)
    chosen, settled = _settle(found, network, arms, trials, dict(protocol or {}))
    path = None if output is None else Path(output) / "result.json"
    result = run(
        found.tasks,
        chosen,
        settled,
        repeats=repeats,
        trials=trials,
        path=path,
        anew=anew,
        device=device,
        tell=tell,
    )
    result = asked(result, chosen.arms, repeats)
    judgement = judge(result, margin=margin)
    options = {"arms": arms, "network": network, "repeats": repeats, "trials": trials}
    options |= {"anew": anew, "output": output, "margin": margin, **reading}
    html = as_html(
        result,
        judgement,
        found.notes,
        warnings,
        _command(data, options, protocol or {}),
        _code(data, judgement, settled, reading, found),
    )
    if output is not None:
        write_atomically(Path(output) / "report.html", html)
    return Comparison(result, judgement, html)


def _settle(
    found: Data, network: str, arms: Iterable[str] | None, trials: int, changes: dict[str, Any]
) -> tuple[Choice, Protocol]:
    """The arms and the protocol for some tasks."""
    images = found.tasks[0].inputs.ndim == 4
    if network == "auto":
        pretrained = any("EfficientNet" in note for note in found.notes)
        network = "convnet" if images else "linear" if pretrained else "mlp"
    if network == "convnet" and not images:
        shape = tuple(found.tasks[0].inputs.shape[1:])
        raise ValueError(f"network: expected images (channels, height, width), got {shape}")
    choice = choose(found.tasks, network, trials, arms)
    for name in changes:
        if by := [arm for arm in choice.arms if name in CANDIDATES[arm].ranges]:
            raise ValueError(f"protocol: expected fields that no arm chooses, got {name}: {by} do")
    return choice, replace(Protocol(network=network), **changes)


def _writable(output: Path) -> None:
    """Refuse now, and not after the first arm, a folder in which no report can be written."""
    there = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "which cannot be written to" if there.is_dir() else "which is a file"
        raise ValueError(f"output: expected a folder for a report, got {output}: {there}, {what}")


def _check(
    network: str, arms: Iterable[str] | None, changes: Mapping[str, Any], device: str
) -> None:
    """Refuse what is wrong whatever the data are, before they are read."""
    if network not in ("auto", *NETWORKS):
        raise ValueError(f"network: expected auto or one of {NETWORKS}, got {network!r}")
    if unknown := [name for name in arms or () if name not in CANDIDATES]:
        raise ValueError(f"arms: expected names among {list(CANDIDATES)}, got {unknown}")
    fields = {name: of for name, of in vars(Protocol()).items() if name != "network"}
    if unknown := sorted(set(changes) - set(fields)):
        raise ValueError(f"protocol: expected fields among {list(fields)}, got {unknown}")
    for name, value in changes.items():
        if name == "trunk":
            expected, right = "own or shared", value in ("own", "shared")
        elif isinstance(fields[name], int):
            expected, right = "a whole number from 1 on", type(value) is int and value >= 1
        else:
            below = 1 if name == "momentum" else math.inf
            expected = "a number from 0 on" + (", below 1," if below == 1 else "")
            right = type(value) in (int, float) and 0 <= value < below
        if not right:
            raise ValueError(f"protocol: expected {expected} as {name}, got {value!r}")
    try:
        torch.empty(0, device=pick_device(device))
    except (RuntimeError, AssertionError) as error:  # the latter without CUDA in the build
        why = str(error).partition(".")[0]
        raise ValueError(
            f"device: expected auto or one that is here, got {device!r}: {why}"
        ) from error


class Trained(nn.Module):
    """An arm, trained on all samples, that takes inputs and gives outputs in the data's own units.

    Attributes
    ----------
    method : Method
        On standardised inputs and targets.
    scaling : Scaling
        What they were standardised by.
    tasks, features : list of str
        Names of the tasks and of the inputs' entries, in their order; the latter empty for images
        and arrays.
    labels : list of list
        Of each task the classes that its outputs stand for; empty for regressions.
    """

    def __init__(self, method: Method, scaling: Scaling, data: Data):
        super().__init__()
        self.method, self.scaling = method, scaling
        self.tasks, self.features, self.labels = data.tasks.names, data.features, data.labels

    def get_extra_state(self) -> dict[str, Any]:
        """The scaling goes with the weights, which mean nothing without it."""
        return dict(vars(self.scaling))

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.scaling = Scaling(**state)

    @torch.no_grad()
    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Of T batches, one per task, in the data's units: scores of the classes, or numbers."""
        like, device = self.scaling.mean, next(self.method.parameters()).device
        x = [self.scaling.inputs(own.to(like)).to(device) for own in inputs]
        return self.scaling.outputs([out.to(like) for out in self.method(x)])


def train(
    data: Any,
    arm: str,
    settings: Mapping[str, Any],
    *,
    seed: int = 0,
    device: str = "auto",
    protocol: Mapping[str, Any] | None = None,
    **reading: Any,
) -> Trained:
    """Train one arm on all samples of some tasks: what a report advises.

    Parameters
    ----------
    data : path, pandas.DataFrame, TaskSet or Data
    arm : str
        A name of ``CANDIDATES``.
    settings : mapping
        Fields of :class:`Protocol` that the arm has chosen.
    seed : int
        Of the weights and of the order of the samples.
    device, protocol, **reading
        As in :func:`compare`.
    """
    changes = {"network": "auto", **(protocol or {})}
    network = changes.pop("network")
    _check(network, [arm], changes, device)
    found = read(data, **reading)
    check(found)
    choice, settled = _settle(found, network, [arm], 1, changes)
    scaling = Scaling.of(found.tasks)
    study = study_of(choice, settled)
    row = replace(choice.arms[arm], configurations=[dict(settings)])
    study = replace(study, arms={arm: row, **START})
    done = study.train(arm, {"train": scaling(found.tasks)}, seed, 0, device=device)
    return Trained(done.method, scaling, found)


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """Options of the command line that differ from nothing."""
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False or value == () or value == []:
            continue
        if value is True:
            words.append(f"--{name}")
            continue
        values = [value] if isinstance(value, str | int | float | os.PathLike) else list(value)
        words += [f"--{name}", *map(str, values)]
    return words


def _name(data: Any) -> str:
    """What stands for the data in code."""
    if isinstance(data, str | os.PathLike):
        return repr(str(data))
    return "table" if is_frame(data) else "tasks"


def _command(data: Any, asked: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    if not isinstance(data, str | os.PathLike):
        asked = {k: v for k, v in asked.items() if v is not None}
        pairs = ", ".join(f"{k}={v!r}" for k, v in asked.items() if k != "output")
        return f"mtlbook.compare({_name(data)}, {pairs}, protocol={dict(protocol)!r})"
    changes = [f"{name}={value}" for name, value in protocol.items()]
    return shlex.join(
        ["mtlbook", "compare", str(data), *_arguments({**asked, "protocol": changes})]
    )


def _code(
    data: Any,
    judgement: Judgement,
    settled: Protocol,
    reading: Mapping[str, Any],
    found: Data,
) -> str:
    row = next(row for row in judgement.rows if row.arm == judgement.advised)
    default = vars(Protocol())
    changed = {k: v for k, v in vars(settled).items() if v != default[k] or k == "network"}
    source = _name(data)
    options = "".join(f", {k}={v!r}" for k, v in reading.items() if v is not None and v != [])
    pictures = [note for note in found.notes if note.startswith("inputs: ") and not found.features]
    return (
        "from mtlbook.comparison import train\n\n"
        f"settings = {row.settings!r}\n"
        f"trained = train({source}, {row.arm!r}, settings, protocol={changed!r}{options})\n"
        "# trained([a tensor for each of trained.tasks]), in the data's units (columns:\n"
        "# trained.features), gives numbers, or scores of the classes in trained.labels\n"
        + "".join(f"# {note}\n" for note in pictures)
    )
