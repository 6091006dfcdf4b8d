"""The engine of all experiments: split, tune on validation data, train, compare.

An experiment is a `Study`: one table of arms, a protocol, and four functions (how the data are
split, how an arm is trained, what validation judges, what is measured). The engine does the rest in
one way for all:

- A number is chosen on the validation parts of splits of their own, which no repeat tests. Neither
  training nor tuning is handed a test part.
- All arms of a repeat share its split and its seed, so differences are paired.
- What was tried and what was chosen is stored in one shape: a record ``<arm>@<value>`` for each
  trial, ``settings["chosen"]``, and ``settings["configurations"]`` where a value stands for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from mtlbook.arms import Add as Add
from mtlbook.arms import Arm as Arm
from mtlbook.arms import Outcome as Outcome
from mtlbook.arms import Trial as Trial
from mtlbook.arms import configurations as configurations
from mtlbook.ledger.results import Result
from mtlbook.methods import Method
from mtlbook.tasks import TaskSet
from mtlbook.training import evaluate, fit, pick_device

Parts = Mapping[str, TaskSet]


def validation_score(method: Method, part: TaskSet, chunk: int = 64) -> Sequence[float]:
    """Mean accuracy in percent over the tasks; for regression minus the mean error."""
    scores = evaluate(method, part, chunk=chunk)
    return [-scores.mean if scores.metric == "rmse" else scores.mean]


@dataclass(frozen=True)
class Study:
    """An experiment.

    Attributes
    ----------
    name : str
        A key of ``mtlbook.numerics.NUMERICS``.
    arms : mapping of str to Arm
    protocol : dataclass
        What all arms have in common.
    split : callable
        ``split(tasks, repeat, protocol)`` to the parts ``train``, ``validation``, ``test`` (or some
        of them). What ``validation`` holds is tested in no repeat.
    training : callable
        From a `Trial` to the arguments of :func:`mtlbook.training.fit`.
    measure : callable
        ``measure(add, outcome, parts)`` records what a trained arm reaches.
    score : callable
        ``score(method, validation)`` to the numbers that ``metrics`` names, the larger the better.
    metrics : sequence of str
        The first one decides.
    watch : callable, optional
        ``watch(trial, parts)`` to the arguments ``probe`` and ``probe_at`` of ``fit``: what is
        read on the way in a comparison. Nothing is chosen by it.
    tuning_splits : sequence of int
        On which numbers are chosen; none is a repeat of a comparison.
    suffix : str
        Ends the name of every metric, and of what was chosen.
    """

    name: str
    arms: Mapping[str, Arm]
    protocol: Any
    split: Callable[[TaskSet, int, Any], Parts]
    training: Callable[[Trial], dict[str, Any]]
    measure: Callable[[Add, Outcome, Parts], None]
    score: Callable[[Method, TaskSet], Sequence[float]] = validation_score
    metrics: Sequence[str] = ("validation_percent",)
    watch: Callable[[Trial, Parts], dict[str, Any]] | None = None
    tuning_splits: Sequence[int] = (1000,)
    suffix: str = ""

    def at(self, **changes: Any) -> Study:
        """The same study under a protocol that differs in some fields."""
        return replace(self, protocol=replace(self.protocol, **changes))

    def grids(self, arms: Iterable[str] | None = None) -> dict[str, Sequence[float]]:
        """The grids of the arms that have one."""
        names = self.arms if arms is None else self._known(arms)
        return {name: self.arms[name].values for name in names if self.arms[name].values}

    def begin(
        self,
        experiment: str,
        parameters: Mapping[str, Any],
        tasks: TaskSet,
        *,
        uses: Mapping[str, Result] | None = None,
        device: str = "cpu",
        settings: Mapping[str, Any] | None = None,
    ) -> Result:
        """An empty result of this study; ``uses`` are the results whose choices it takes over."""
        return Result.begin(
            experiment,
            parameters,
            tasks,
            study=self.name,
            uses=uses,
            splits=self.split(tasks, 0, self.protocol),
            device=str(pick_device(device)),
            settings={"protocol": vars(self.protocol), **(settings or {})},
        )

    def trial(
        self,
        arm: str,
        train: TaskSet,
        repeat: int,
        value: float | None = None,
        start: Method | None = None,
    ) -> Trial:
        """The trial of an arm at a number, which an arm with a grid must be given."""
        (arm,) = self._known([arm])
        row = self.arms[arm]
        value = row.value if value is None else value
        if value is None and (row.values or row.like):
            raise ValueError(f"value: expected a number for arm {arm!r}, got None")
        if (start is None) != (row.start is None):
            raise ValueError(
                f"start: expected {row.start or 'no trained arm'} for arm {arm!r}, got "
                f"{type(start).__name__}"
            )
        protocol = replace(self.protocol, **row.changes(value))
        return Trial(row, train, repeat, protocol, value, start)

    def train(
        self,
        arm: str,
        parts: Parts,
        repeat: int,
        value: float | None = None,
        *,
        values: Mapping[str, float] | None = None,
        starts: dict[str, Method] | None = None,
        watch: bool = False,
        device: str = "auto",
    ) -> Outcome:
        """Train one arm of one repeat on ``parts["train"]``.

        Parameters
        ----------
        arm : str
        parts : mapping of str to TaskSet
        repeat : int
        value : float, optional
            The arm's number; by default its own of ``values``.
        values : mapping of arm to float, optional
            The numbers of all arms; also that of an arm to start from.
        starts : dict, optional
            Trained arms of this repeat that others start from; filled on the way.
        watch : bool
            Whether to read on the way what the study watches.
        device : str
        """
        (arm,) = self._known([arm])
        row, values, starts = self.arms[arm], values or {}, {} if starts is None else starts
        value = values.get(arm, values.get(row.like)) if value is None else value
        if row.start and row.start not in starts:
            first = self.train(row.start, parts, repeat, values=values, device=device)
            starts[row.start] = first.method
        start = deepcopy(starts[row.start]) if row.start else None
        trial = self.trial(arm, parts["train"], repeat, value, start)
        method = row.build(trial)
        watched = self.watch(trial, parts) if watch and self.watch else {}
        options = {"seed": repeat} | self.training(trial) | watched
        history = fit(method, trial.train, device=device, **options)
        return Outcome(arm, trial, method, history)

    def tune(
        self, result: Result, tasks: TaskSet, *, arms: Iterable[str], device: str = "auto"
    ) -> dict[str, float]:
        """Try every value of the arms' grids on the tuning splits, and choose.

        A value is judged by its mean over the splits, and the weakest of a tie is taken. One that
        diverges scores 0 (an error of 1000 in regression). Records ``<arm>@<value>`` for each split
        and metric; ``settings["chosen"]`` holds the choices, ``settings["validation"]`` the means.
        """
        splits = {}
        for repeat in self.tuning_splits:
            parts = self.split(tasks, repeat, self.protocol)
            splits[repeat] = {name: parts[name] for name in ("train", "validation")}
        starts: dict[int, dict] = {repeat: {} for repeat in splits}
        validation = result.settings.setdefault("validation", {})
        chosen: dict[str, float] = {}
        for arm, grid in self.grids(arms).items():
            means = {}
            for value in grid:
                trial = f"{arm}@{value:g}"
                found = [
                    self.validate(arm, value, parts, repeat, starts[repeat], device)
                    for repeat, parts in splits.items()
                ]
                for repeat, scores in zip(splits, found, strict=True):
                    for metric, score in zip(self.metrics, scores, strict=True):
                        metric += self.suffix
                        result.add(arm=trial, metric=metric, value=score, repeat=repeat)
                means[value] = sum(scores[0] for scores in found) / len(found)
                validation[trial + self.suffix] = means[value]
            chosen[arm] = max(means, key=means.get)  # the first one of a tie
            if drawn := self.arms[arm].configurations:
                result.settings.setdefault("configurations", {})[arm] = list(drawn)
        result.settings.setdefault("chosen", {}).update(
            {arm + self.suffix: value for arm, value in chosen.items()}
        )
        return chosen

    def validate(
        self,
        arm: str,
        value: float | None,
        parts: Parts,
        repeat: int,
        starts: dict[str, Method] | None = None,
        device: str = "auto",
    ) -> Sequence[float]:
        """The scores of an arm trained at a number, on the validation part."""
        try:
            outcome = self.train(arm, parts, repeat, value, starts=starts, device=device)
            return self.score(outcome.method, parts["validation"])
        except FloatingPointError:  # diverged: worse than a guess
            worst = -1e3 if parts["train"][0].loss == "mse" else 0.0
            return [worst] * len(self.metrics)

    def compare(
        self,
        result: Result,
        tasks: TaskSet | None,
        *,
        arms: Iterable[str],
        repeats: Iterable[int],
        values: Mapping[str, float] | None = None,
        device: str = "auto",
    ) -> None:
        """Train and measure every arm in every repeat; without ``values`` numbers are tuned first.

        Parameters
        ----------
        result : Result
            Takes the records.
        tasks : TaskSet
            None where ``split`` makes the data.
        arms, repeats
        values : mapping of arm to float, optional
            As :func:`choices` gives them.
        """
        arms, repeats = self._known(arms), list(repeats)
        taken = set(repeats) & set(self.tuning_splits)
        if taken:
            raise ValueError(f"repeats: expected none of the tuning splits, got {sorted(taken)}")
        if values is None:
            values = self.tune(result, tasks, arms=arms, device=device)
        else:
            kept = {arm + self.suffix: values[arm] for arm in arms if arm in values}
            result.settings["chosen"] = result.settings.get("chosen", {}) | kept
        for repeat in repeats:
            parts, starts = self.split(tasks, repeat, self.protocol), {}
            for arm in arms:
                outcome = self.train(
                    arm, parts, repeat, values=values, starts=starts, watch=True, device=device
                )
                self.measure(Add(result, arm, repeat, self.suffix), outcome, parts)
                if any(self.arms[other].start == arm for other in arms):
                    starts[arm] = outcome.method

    def _known(self, arms: Iterable[str]) -> list[str]:
        arms = list(arms)
        unknown = [arm for arm in arms if arm not in self.arms]
        if unknown or not arms:
            raise ValueError(f"arms: expected some of {tuple(self.arms)}, got {unknown or arms}")
        return arms


def choices(*results: Result) -> dict[str, float]:
    """What was chosen in tunings or comparisons, by arm (with its suffix), later ones winning.

    A result that was merged from runs holds a mapping of run to choices where the runs differ.
    """
    flat: dict[str, float] = {}
    for result in results:
        for name, value in result.settings["chosen"].items():
            flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


def parameters_of(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a notebook: what its namespace holds of JSON's types so far.

    Called right after the cell of parameters. ``device`` and ``result`` say where to compute and
    where to write, not what.
    """
    kinds = (bool, int, float, str, list, dict)
    foreign = ("In", "Out", "device", "result")
    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, kinds) and not name.startswith("_") and name not in foreign
    }
