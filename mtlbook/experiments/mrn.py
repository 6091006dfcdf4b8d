"""The experiments of MRN (arXiv 1506.02117v4, section 5), and the comparisons they lack.

An *arm* is what a table compares: a method with one number, which five values on validation data
decide. All arms of a repeat share the split, the order of the samples and, where their shapes
agree, the initial weights, so differences are paired.

The tasks are the domains of one problem. Their inputs are features of a frozen backbone; on top of
them every deep arm has an fc7 and an fc8 for each task, as MRN has on AlexNet's fc6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtlbook.backbones import mlp
from mtlbook.layers import TaskNetwork
from mtlbook.methods import (
    DMTLTF,
    DRN,
    MRN,
    MTFL,
    MTRL,
    RMTL,
    STL,
    FixedRelation,
    HardSharing,
    Method,
    Pooled,
)
from mtlbook.priors import flip_flop
from mtlbook.relations import Relation
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate, fit

if TYPE_CHECKING:
    from mtlbook.ledger.results import Result

VALIDATION_SEED = 2017  # of the part that is set aside for validation, once and for all
TUNING_REPEATS = (1000, 1001)  # splits on which numbers are chosen; no repeat of a table uses them
PERCENTS = (5, 10, 20)  # of the images of each task, to train on


@dataclass(frozen=True)
class Protocol:
    """What the paper does, and what it leaves open and we chose.

    Attributes
    ----------
    percent : int
        Of the samples of each task, drawn at random, to train on: 5, 10 or 20 in the paper.
    validation : float
        Part of each task that no repeat trains or tests on (ours; the paper cross-validates on
        the training set, which at 5 % is one image a class and task).
    hidden : int
        Outputs of fc7; 4096 in the paper, which starts it at pre-trained weights.
    steps, batch_size, lr, momentum
        Batch and momentum are the released code's. Step size and number of steps were chosen on
        the tuning splits: from 200 to 300 steps validation accuracy changed little.
    update_every : int
        Steps between two updates of MRN's covariances: about an epoch, as in the paper.
    rho : float
        Correlation of all tasks in the control whose relation is not learned.
    start : float
        Weight decay of the single-task networks at whose weights DMTL-TF starts.
    """

    percent: int = 5
    validation: float = 0.2
    hidden: int = 64
    steps: int = 300
    batch_size: int | None = 24
    lr: float = 0.02
    momentum: float = 0.9
    update_every: int = 10
    rho: float = 0.9
    start: float = 0.1


# The one number of an arm, five values of it for each: the same budget for all. For a prior and for
# weight decay it is the weight in front of it, on all weights; with identities for covariances, a
# prior *is* weight decay.
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
GRIDS: dict[str, Sequence[float]] = {
    "stl": WEIGHTS,
    "mtfl": (0.001, 0.003, 0.01, 0.03, 0.1),
    "rmtl": (0.001, 0.003, 0.01, 0.03, 0.1),
    "mtrl": (0.0001, 0.0003, 0.001, 0.003, 0.01),
    "dmtl-tf": (0.1, 0.2, 0.3, 0.5, 0.7),  # part of the start that the factors may lose
    "mrn-8": WEIGHTS,
    "mrn-t": WEIGHTS,
    "mrn": WEIGHTS,
    "pooled": WEIGHTS,
    "fixed": WEIGHTS,
    "hard-sharing": WEIGHTS,
    "drn": WEIGHTS,
    "mrn-released": WEIGHTS,
    "mrn-once": WEIGHTS,
    "known": WEIGHTS,
}
RELATIONAL = ("mtrl", "mrn-8", "mrn-t", "mrn", "drn", "mrn-released", "mrn-once")
PAPER_ARMS = ("stl", "mtfl", "rmtl", "mtrl", "dmtl-tf", "mrn-8", "mrn-t", "mrn")
CONTROLS = ("pooled", "fixed", "hard-sharing")
ARMS = (*PAPER_ARMS, *CONTROLS, "drn", "mrn-released", "mrn-once")
SHALLOW = {
    "mtfl": MTFL,
    "rmtl": lambda gamma, **options: RMTL(gamma, gamma, **options),
    "mtrl": lambda strength, **options: MTRL(0.0, strength, rounds=3, **options),
}
#: Names of groups of arms, about equal in time: a run of a notebook is one of them.
GROUPS: dict[str, Sequence[str]] = {
    "all": ARMS,
    "baselines": ("stl", "mtfl", "rmtl", "mtrl", "dmtl-tf", "pooled", "fixed", "hard-sharing"),
    "partial": ("mrn-8", "mrn-t", "drn", "mrn-released", "mrn-once"),
    "full": ("mrn",),
    "few": ("stl", "mrn-t", "mrn", "pooled", "fixed", "hard-sharing"),
}


# Splits


def parts_of(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test parts of one repeat: random samples of each task.

    The validation part is the same in all repeats and drawn first, so that no repeat tests on a
    sample that a number was chosen with. Classes are not balanced, as the paper's are not: at 5 %
    a small domain lacks some of them.
    """
    generator = torch.Generator().manual_seed(repeat)
    rows: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
    for validation, rest in _set_aside(tasks, protocol):
        total = len(validation) + len(rest)
        order = rest[torch.randperm(len(rest), generator=generator)]
        count = max(1, round(protocol.percent / 100 * total))
        rows["validation"].append(validation)
        rows["train"].append(order[:count])
        rows["test"].append(order[count:])
    return {name: tasks.select(of) for name, of in rows.items()}


def parts_of_lists(
    tasks: TaskSet,
    lists: Mapping[str, tuple[Tensor, Tensor]],
    protocol: Protocol,
    *,
    unique: bool = False,
) -> dict[str, TaskSet]:
    """The training and test parts of given lists, :func:`mtlbook.datasets.published_splits`.

    Parameters
    ----------
    tasks : TaskSet
    lists : mapping of task name to (training rows, test rows)
    protocol : Protocol
        Its validation samples leave the test part: numbers were chosen with them.
    unique : bool
        Training rows that are listed several times count once.
    """
    train, test = [], []
    for task, (validation, _) in zip(tasks, _set_aside(tasks, protocol), strict=True):
        of_train, of_test = lists[task.name]
        train.append(of_train.unique() if unique else of_train)
        test.append(of_test[~torch.isin(of_test, validation)])
    return {"train": tasks.select(train), "test": tasks.select(test)}


def _set_aside(tasks: TaskSet, protocol: Protocol) -> list[tuple[Tensor, Tensor]]:
    """Of each task the rows for validation, and the others."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    orders = [torch.randperm(len(task), generator=generator) for task in tasks]
    return [order.tensor_split([round(protocol.validation * len(order))]) for order in orders]


def with_harmful_task(tasks: TaskSet) -> TaskSet:
    """The tasks and one more: half of the first one's samples, their classes moved on by one.

    It looks like its twin and contradicts it: what a model shares with this task is wrong. The
    first task keeps the other half, so that no sample is in both.
    """
    first = tasks[0]
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(VALIDATION_SEED))
    own, other = order.tensor_split(2)
    twin = first.select(other)
    twin = replace(twin, name="harmful", targets=(twin.targets + 1) % first.classes)
    return replace(
        tasks,
        name=f"{tasks.name}, with a harmful task",
        tasks=(first.select(own), *tasks.tasks[1:], twin),
    )


def standardise(parts: Mapping[str, TaskSet]) -> dict[str, TaskSet]:
    """Inputs as vectors, centred, of mean square 1, by the training inputs of all tasks."""
    seen = torch.cat([task.inputs.flatten(1) for task in parts["train"]])
    mean = seen.mean(0)
    scale = (seen - mean).square().mean().sqrt()
    return {
        name: part.map_inputs(lambda x: (x.flatten(1) - mean) / scale)
        for name, part in parts.items()
    }


# Arms


def build_network(
    train: TaskSet, seed: int, hidden: int, shared: Sequence[str] | bool = ()
) -> TaskNetwork:
    """fc7 and fc8 on given features, ``hidden = 0``: fc8 alone.

    Every task's fc7 starts at the same weights, as in the paper, where they are AlexNet's; ours are
    random (He et al. 2015). fc8 starts at 0.01 N(0, 1), as in the released code.
    """
    features = train[0].inputs.shape[1]
    widths, names = ((hidden,), ("fc7", "fc8")) if hidden else ((), ("fc8",))
    network = mlp(
        features,
        train.outputs,
        seed=seed,
        hidden=widths,
        activation=nn.ReLU,
        shared=shared,
        std=1.0,
        names=names,
    )
    with torch.no_grad():
        if hidden:
            w = network.task_layers["fc7"].weight
            w.copy_((w[:1] * math.sqrt(2 / features)).expand_as(w))
        network.head.weight.mul_(0.01)
    return network


def build(
    arm: str,
    train: TaskSet,
    seed: int,
    protocol: Protocol,
    strength: float,
    known: Tensor | None = None,
) -> Method:
    """The method of a deep arm.

    Parameters
    ----------
    arm : str
    train : TaskSet
    seed : int
        Of the initial weights.
    protocol : Protocol
    strength : float
        What ``GRIDS`` lists for the arm.
    known : Tensor, shape ``(T, T)``, optional
        The task covariance, for the arm ``known``.
    """
    shared = {"pooled": True, "hard-sharing": ("fc7",)}.get(arm, ())
    # The released code learns heads on a frozen network: ours, on the features themselves.
    hidden = 0 if arm == "mrn-released" else protocol.hidden
    network = build_network(train, seed, hidden, shared)
    prior = partial(MRN, network, weight=strength, update_every=protocol.update_every)
    if arm == "stl":
        return STL(network, layers=tuple(network.task_layers))
    if arm == "pooled":
        return Pooled(network, tasks=len(train))
    if arm == "hard-sharing":
        return HardSharing(network)
    if arm == "fixed":
        return FixedRelation(network, weight=strength, rho=protocol.rho)
    if arm == "known":
        return _known(network, known, strength)
    if arm == "drn":
        return DRN(network, form="trace-one", weight=strength, update_every=protocol.update_every)
    if arm == "mrn-released":
        return prior(as_released=True)
    if arm == "mrn-once":  # the relation of networks that have been trained without one
        return prior(learn=("task",), update_every=protocol.steps)
    if arm == "mrn-8":
        return prior(layers=("fc8",))
    if arm == "mrn-t":
        return prior(learn=("task",))
    if arm == "mrn":
        return prior()
    raise ValueError(f"arm: expected one of {tuple(GRIDS)}, got {arm!r}")


def _known(network: TaskNetwork, covariance: Tensor, weight: float) -> MRN:
    """MRN_t that is given the task covariance and never learns: the best that there is to learn."""
    method = MRN(network, learn=("task",), weight=weight, max_updates=0)
    for name in method.layers:
        method.set_covariance(name, "task", covariance)
    return method


def optimiser(
    parameters: Iterable[Tensor], *, protocol: Protocol, decay: float
) -> torch.optim.Optimizer:
    """SGD with momentum; weights decay, biases (two axes, not three) do not."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 2]},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=protocol.lr, momentum=protocol.momentum)


@dataclass
class Outcome:
    """What one arm of one repeat reaches.

    Attributes
    ----------
    scores : dict of list of float
        For each part, accuracy in percent (or RMSE) of every task.
    relation : Relation or None
        As the arm has learned it; cosines of the tasks' weights where it learns none.
    probes : list of dict
        ``"step"`` and, for each part, the mean accuracy on the way.
    """

    scores: dict[str, list[float]]
    relation: Relation | None = None
    probes: list[dict[str, float]] = field(default_factory=list)

    def mean(self, part: str) -> float:
        """Mean over tasks."""
        return sum(self.scores[part]) / len(self.scores[part])


def train_arm(
    arm: str,
    parts: Mapping[str, TaskSet],
    repeat: int,
    protocol: Protocol,
    *,
    strength: float,
    known: Tensor | None = None,
    probe_every: int | None = None,
    device: str = "auto",
) -> Outcome:
    """Train one arm of one repeat on ``parts["train"]``, and score it on all other parts.

    Parameters
    ----------
    arm : str
        Of ``GRIDS``.
    parts : mapping of str to TaskSet
        With standardised inputs.
    repeat : int
        Seed of the initial weights and of the order of the samples.
    protocol : Protocol
    strength : float
    known : Tensor, optional
        Of :func:`build`.
    probe_every : int, optional
        Score the parts so often on the way, too: the selection audit.
    device : str
    """
    train, others = parts["train"], {n: p for n, p in parts.items() if n != "train"}
    if arm in SHALLOW:
        return _train_shallow(arm, train, others, strength)
    run = partial(
        fit,
        train=train,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        seed=repeat,
        device=device,
    )
    if arm == "dmtl-tf":
        start = build("stl", train, repeat, protocol, protocol.start)
        run(start, optimizer=partial(optimiser, protocol=protocol, decay=protocol.start))
        method: Method = DMTLTF(start.network, tolerance=strength)
    else:
        method = build(arm, train, repeat, protocol, strength, known)
    decay = strength if arm in ("stl", "pooled", "hard-sharing") else 0.0

    def probe(method: Method) -> dict[str, float]:
        return {name: evaluate(method, part, chunk=2048).mean for name, part in others.items()}

    history = run(
        method,
        optimizer=partial(optimiser, protocol=protocol, decay=decay),
        probe=probe,
        probe_at=range(probe_every, protocol.steps + 1, probe_every) if probe_every else (),
    )
    scores = {name: evaluate(method, part, chunk=2048).per_task for name, part in others.items()}
    return Outcome(scores, method.relation(), history.probes)


def _train_shallow(
    arm: str, train: TaskSet, others: Mapping[str, TaskSet], strength: float
) -> Outcome:
    """A linear model on the features, divided by their length so that one grid fits all sets."""
    length = math.sqrt(train[0].inputs.shape[1])
    model = SHALLOW[arm](strength, max_iterations=300, tolerance=1e-3)
    model.fit([task.inputs / length for task in train], [task.targets for task in train])
    scores = {}
    for name, part in others.items():
        guesses = model.predict([task.inputs / length for task in part])
        scores[name] = [
            _score(guess, task.targets) for guess, task in zip(guesses, part, strict=True)
        ]
    return Outcome(scores, model.relation())


def _score(guess: Tensor, targets: Tensor) -> float:
    if targets.is_floating_point():
        return float((guess - targets).square().mean().sqrt())
    return 100 * float((guess == targets).float().mean())


# Table 1 and its relatives


def compare(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str] = ARMS,
    repeats: Iterable[int],
    protocol: Protocol,
    lists: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    list_repeats: Iterable[int] = range(3),
    device: str = "auto",
) -> None:
    """Choose every arm's number on validation data, then test it in every repeat.

    Metrics end with the training percentage ``p``: ``accuracy_percent/p`` (with every task's);
    ``best_percent/p`` and ``selected_percent/p``, test accuracy at the iteration that is best on
    the *test* part, and at the one that is best on validation data; ``inflation_percent/p``, best
    minus last; with a harmful task, ``honest_percent/p`` of the others. Of a learned relation
    ``correlation/a-b/p`` of tasks a and b, ``least_correlation/p``, ``no_correlation/p`` (0) and,
    where these tasks are there, ``next_correlation/p``, the largest but that of dslr and webcam.
    On given lists, ``lists_percent/p`` and ``unique_lists_percent/p``.

    The validation accuracies stand in ``result.settings["validation"]``, by arm and value, what
    was chosen in ``result.settings["chosen"]``.

    Parameters
    ----------
    result : Result
    tasks : TaskSet
        Tasks with the same classes.
    arms : iterable of str
        Of ``ARMS``.
    repeats : iterable of int
    protocol : Protocol
    lists : mapping, optional
        Of :func:`parts_of_lists`, for one more test, as they are and without repetitions.
    list_repeats : iterable of int
        Seeds of that test, whose split is always the same.
    device : str
    """
    arms = _known_arms(arms)
    if len(set(tasks.outputs)) != 1:
        raise ValueError(f"tasks: expected the same classes in all, got {tasks.outputs} of them")
    tuning = {r: standardise(parts_of(tasks, r, protocol)) for r in TUNING_REPEATS}
    best, tried = tune(tuning, arms=arms, protocol=protocol, device=device)
    suffix = f"/{protocol.percent}"
    result.settings["validation"] = {name + suffix: value for name, value in tried.items()}
    result.settings["chosen"] = {name + suffix: value for name, value in best.items()}
    for repeat in repeats:
        parts = standardise(parts_of(tasks, repeat, protocol))
        for arm in arms:
            every = None if arm in SHALLOW else max(1, protocol.steps // 30)
            outcome = train_arm(
                arm,
                parts,
                repeat,
                protocol,
                strength=best[arm],
                probe_every=every,
                device=device,
            )
            for metric, value, per_task in _measured(arm, outcome, tasks.names):
                result.add(
                    arm=arm,
                    repeat=repeat,
                    seed=repeat,
                    metric=metric + suffix,
                    value=value,
                    per_task=per_task,
                )
    for unique in (False, True) if lists is not None else ():
        parts = standardise(parts_of_lists(tasks, lists, protocol, unique=unique))
        metric = ("unique_lists_percent" if unique else "lists_percent") + suffix
        for repeat in list_repeats:
            for arm in arms:
                outcome = train_arm(arm, parts, repeat, protocol, strength=best[arm], device=device)
                result.add(
                    arm=arm,
                    repeat=repeat,
                    seed=repeat,
                    metric=metric,
                    value=outcome.mean("test"),
                    per_task=[round(x, 3) for x in outcome.scores["test"]],
                )


def _known_arms(arms: Iterable[str]) -> list[str]:
    arms = list(arms)
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms:
        raise ValueError(f"arms: expected some of {ARMS}, got {unknown or arms}")
    return arms


def tune(
    splits: Mapping[int, Mapping[str, TaskSet]],
    *,
    arms: Iterable[str],
    protocol: Protocol,
    known: Tensor | None = None,
    device: str = "auto",
) -> tuple[dict[str, float], dict[str, float]]:
    """The value of each arm with the best mean validation score, the smaller one of a tie.

    Parameters
    ----------
    splits : mapping of repeat to parts
        The tuning splits. Their test parts are not looked at.
    arms : iterable of str
    protocol : Protocol
    known : Tensor, optional
        Of :func:`build`.
    device : str

    Returns
    -------
    best : dict of arm to value
    tried : dict of ``arm@value`` to mean validation score
        Accuracy in percent; for regression minus the root mean squared error.
    """
    best, tried = {}, {}
    for arm in arms:
        score = {}
        for value in GRIDS[arm]:
            found = []
            for repeat, parts in splits.items():
                shown = {name: parts[name] for name in ("train", "validation")}
                regression = parts["train"][0].loss == "mse"
                try:
                    outcome = train_arm(
                        arm, shown, repeat, protocol, strength=value, known=known, device=device
                    )
                except FloatingPointError:  # diverged: worse than a guess
                    found.append(-1e3 if regression else 0.0)
                else:
                    found.append((-1 if regression else 1) * outcome.mean("validation"))
            score[value] = tried[f"{arm}@{value:g}"] = sum(found) / len(found)
        best[arm] = max(score, key=lambda value, of=score: (of[value], -value))
    return best, tried


def _measured(
    arm: str, outcome: Outcome, names: Sequence[str]
) -> list[tuple[str, float, list[float] | None]]:
    """Metrics of one outcome: name, value, and every task's where there is one."""
    per_task = [round(x, 3) for x in outcome.scores["test"]]
    found: list[tuple[str, float, list[float] | None]] = [
        ("accuracy_percent", outcome.mean("test"), per_task)
    ]
    if "harmful" in names:
        scores = dict(zip(names, outcome.scores["test"], strict=True))
        honest = [score for name, score in scores.items() if name != "harmful"]
        found.append(("honest_percent", sum(honest) / len(honest), None))
    if outcome.probes:
        selected = max(outcome.probes, key=lambda seen: seen["validation"])
        best = max(seen["test"] for seen in outcome.probes)
        found.append(("best_percent", best, None))
        found.append(("inflation_percent", best - outcome.mean("test"), None))
        found.append(("selected_percent", selected["test"], None))
    if arm in RELATIONAL:
        matrix = outcome.relation.matrix
        pairs = {
            f"correlation/{names[a]}-{names[b]}": float(matrix[a, b])
            for a, b in combinations(range(len(names)), 2)
        }
        found += [(metric, value, None) for metric, value in pairs.items()]
        found.append(("least_correlation", min(pairs.values()), None))
        found.append(("no_correlation", 0.0, None))
        others = [v for metric, v in pairs.items() if metric != "correlation/dslr-webcam"]
        if len(others) < len(pairs):
            found.append(("next_correlation", max(others), None))
    return found


def chosen(result: Result) -> dict[str, float]:
    """What :func:`compare` chose, by ``arm/percent``, from one run or from a merge of several."""
    flat: dict[str, float] = {}
    for name, value in result.settings["chosen"].items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


# Planted relations: what is there to find, and when does it pay?


@dataclass(frozen=True)
class Plant:
    """Linear regressions whose weights are drawn from a tensor normal with known covariances.

    ``W ~ TN(0, I, I / features, S)`` of shape (outputs, features, T), ``x ~ N(0, I)``,
    ``y = W_t x + noise``.

    Attributes
    ----------
    relation : "uniform" | "groups" | "signs" | "none"
        Correlations of the tasks, T = 6. All alike (0.9); two groups of three that know nothing of
        each other; two groups that are each other's opposite (-0.9); nobody related.
    samples : int
        Of each task, to train on.
    noise : float
        Standard deviation; a noise-free target has 1.
    features, outputs : int
    """

    relation: str = "groups"
    samples: int = 20
    noise: float = 0.5
    features: int = 30
    outputs: int = 5

    def correlation(self) -> Tensor:
        """The tasks' correlations, shape ``(6, 6)``."""
        within, across = {
            "uniform": (0.9, 0.9),
            "groups": (0.9, 0.0),
            "signs": (0.9, -0.9),
            "none": (0.0, 0.0),
        }[self.relation]
        group = torch.arange(6) // 3
        matrix = torch.where(group[:, None] == group, within, across)
        return matrix.fill_diagonal_(1.0)

    def parts(self, repeat: int) -> dict[str, TaskSet]:
        """Training, validation (100 a task) and test samples (500 a task) of one repeat."""
        generator = torch.Generator().manual_seed(repeat)
        normal = partial(torch.randn, generator=generator)
        root = torch.linalg.cholesky(self.correlation())
        tasks = len(root)
        shape = (self.outputs, self.features, tasks)
        weights = normal(shape) @ root.mT / math.sqrt(self.features)
        counts = {"train": self.samples, "validation": 100, "test": 500}
        parts = {}
        for name, count in counts.items():
            made = []
            for t in range(tasks):
                x = normal(count, self.features)
                y = x @ weights[..., t].mT + self.noise * normal(count, self.outputs)
                made.append(Task(f"task {t}", x, y, loss="mse"))
            parts[name] = TaskSet(f"planted: {self.relation}", made, licence="generated")
        return parts


#: Full batches and one layer: convex for every arm but those that learn a relation.
PLANT_PROTOCOL = Protocol(hidden=0, steps=200, batch_size=None, lr=0.1)
PLANT_ARMS = ("stl", "pooled", "fixed", "known", "mrn-t", "mrn", "drn", "mtrl")
PLANTS: dict[str, Plant] = {
    **{relation: Plant(relation) for relation in ("uniform", "groups", "signs", "none")},
    **{f"samples={n}": Plant("signs", samples=n) for n in (10, 40)},
    **{f"noise={noise:g}": Plant("signs", noise=noise) for noise in (0.1, 2.0)},
    "features=100": Plant("signs", features=100),
}


def plant(
    result: Result,
    *,
    plants: Iterable[str],
    arms: Iterable[str] = PLANT_ARMS,
    repeats: Iterable[int],
    protocol: Protocol = PLANT_PROTOCOL,
    device: str = "cpu",
) -> None:
    """How well every arm predicts, and how well it finds the planted relation.

    Records ``rmse/<plant>`` on test samples and, for arms with a relation, ``error/<plant>``, the
    mean absolute error of its correlations. Every arm's number is chosen on the validation samples
    of a problem of its own, for each plant.
    """
    for name in plants:
        of = PLANTS[name]
        tuning = {r: of.parts(r) for r in TUNING_REPEATS[:1]}
        truth = of.correlation()
        best, _ = tune(tuning, arms=arms, protocol=protocol, known=truth, device=device)
        chosen_of = result.settings.setdefault("chosen", {})
        chosen_of |= {f"{arm}/{name}": value for arm, value in best.items()}
        for repeat in repeats:
            parts = of.parts(repeat)
            for arm in arms:
                outcome = train_arm(
                    arm, parts, repeat, protocol, strength=best[arm], known=truth, device=device
                )
                add = partial(result.add, arm=arm, repeat=repeat, seed=repeat)
                add(metric=f"rmse/{name}", value=outcome.mean("test"))
                if outcome.relation is not None and arm not in ("fixed", "known"):
                    add(
                        metric=f"error/{name}", value=relation_error(outcome.relation.matrix, truth)
                    )


def relation_error(found: Tensor, truth: Tensor) -> float:
    """Mean absolute error of the correlations of all pairs of tasks."""
    of_found, of_truth = (
        Relation(matrix.double(), "covariance").normalised().off_diagonal()
        for matrix in (found, truth)
    )
    return float((of_found - of_truth).abs().mean())


#: Shapes (features, classes, tasks) of the tensors whose covariances are to be found.
SHAPES = ((30, 5, 6), (100, 5, 6), (30, 20, 6), (30, 5, 20))


def recover(
    result: Result,
    *,
    samples: Iterable[int] = (1, 2, 5, 20),
    sweeps: Iterable[int] = (1, 4, 16),
    repeats: Iterable[int],
) -> None:
    """The task covariance, found in the weights themselves: no data, no training.

    Tensors are drawn from a tensor normal: autoregressive correlations (0.9, 0.5) of features and
    classes, two groups of opposite tasks. Arms: ``flip-flop``, all three covariances in turn;
    ``task-only``, the other two taken for identities (MRN_t, DRN). Records
    ``error/<features>x<classes>x<tasks>/samples=n/sweeps=k``.
    """
    for repeat in repeats:
        generator = torch.Generator().manual_seed(repeat)
        for shape in SHAPES:
            group = torch.arange(shape[2]) % 2
            truth = torch.where(group[:, None] == group, 0.8, -0.8).fill_diagonal_(1.0).double()
            covariances = [_autoregressive(shape[0], 0.9), _autoregressive(shape[1], 0.5), truth]
            roots = [torch.linalg.cholesky(c) for c in covariances]
            for n in samples:
                noise = torch.randn((n, *shape), generator=generator, dtype=torch.float64)
                drawn = torch.einsum("ai,bj,ct,nijt->nabc", *roots, noise)
                for modes, arm in ((None, "flip-flop"), ((2,), "task-only")):
                    for k in sweeps:
                        found = flip_flop(
                            drawn, [None] * 3, eps=1e-6, relative=True, sweeps=k, modes=modes,
                            scale="trace",
                        )  # fmt: skip
                        result.add(
                            arm=arm,
                            repeat=repeat,
                            seed=repeat,
                            metric=f"error/{'x'.join(map(str, shape))}/samples={n}/sweeps={k}",
                            value=relation_error(found[2], truth),
                        )


def _autoregressive(size: int, correlation: float) -> Tensor:
    """Correlations that fall with the distance, shape ``(size, size)``."""
    position = torch.arange(size, dtype=torch.float64)
    return correlation ** (position[:, None] - position).abs()
