"""The experiments of MTAL (arXiv 2101.12431): a reconstruction on data of our own choice.

Of the paper only the abstract is known: no data set, network, threshold or number. So nothing here
repeats a printed protocol. The abstract's claims are put to the test on *twofold heterogeneous*
task sets, tasks that differ in their images and in their labels.

An *arm* is what a table compares: a method with its strength. All arms of one repeat share the
split, the initial weights and the order of the samples, so differences are paired.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook import datasets
from mtlbook.kernels import cosine_similarity, pair_share
from mtlbook.methods import MTAL, STL, TNRDMTL, CrossStitch, HardSharing, NetworkMethod
from mtlbook.methods.heterogeneous import TaskConvnets, kernel_networks
from mtlbook.methods.mtal import units
from mtlbook.tasks import TaskSet, split_per_class
from mtlbook.training import evaluate, fit

if TYPE_CHECKING:
    from mtlbook.ledger.results import Result

VALIDATION_SEED = 2021  # of the images that are set aside for validation, once and for all
TUNING_REPEATS = (1000, 1001)  # the splits on which things are chosen; no table uses them
#: Said of every result, so that every verdict says it: there is nothing printed to compare with.
UNKNOWN = "the paper's task sets, which are not known: no printed number could be obtained"

#: The task sets. A name is a data set, or a data set and one alphabet of it.
TASK_SETS: dict[str, tuple[str, ...]] = {
    "all": (
        "mnist5k",
        "usps_16",
        "cifar10_12k",
        "notmnist",
        "omniglot_28: Blackfoot_(Canadian_Aboriginal_Syllabics)",
        "omniglot_28: Tifinagh",
    ),
    "digits": ("mnist5k", "usps_16"),  # the nearest pair: the same ten digits at two sizes
    "letters": ("usps_16", "notmnist"),
    "strokes": ("usps_16", "omniglot_28: Tifinagh"),
    "embedded": ("digits", "mnist5k", "glyphs: Greek small"),
}


@dataclass(frozen=True)
class Protocol:
    """What all arms of a comparison have in common; all of it is our choice.

    Attributes
    ----------
    train : int
        Images of a class to train on, at most half of what there is: 10 of Omniglot's 20.
    validation : int
        Images of a class that no repeat trains or tests on, at most a fifth of what there is.
    test : int
        Images of a class to test on, at most what is left.
    steps, batch_size, lr, momentum
        Of stochastic gradient descent; ``lr`` is tuned for STL and kept by all arms but those
        whose step size is tuned too.
    channels : tuple of int
        Filters of the convolutions, 3 x 3, of every network.
    init : str
        A key of ``COMMON``: how alike the tasks start.
    """

    train: int = 30
    validation: int = 50
    test: int = 100
    steps: int = 200
    batch_size: int = 32
    lr: float = 0.035
    momentum: float = 0.9
    channels: tuple[int, ...] = (8, 16, 16)
    init: str = "independent"


def assemble(names: Sequence[str]) -> TaskSet:
    """One task of each name: tasks whose images differ in size, channels and classes.

    Parameters
    ----------
    names : sequence of str
        Names of data sets of one task, or ``"data set: alphabet"``.

    Returns
    -------
    TaskSet
        Its tier is the least accessible of the parts; its hash that of the parts' hashes.
    """
    parts = []
    for name in names:
        source, _, alphabet = name.partition(": ")
        parts.append(datasets.load(source, **({"alphabets": [alphabet]} if alphabet else {})))
    tiers = ("embedded", "fetched", "gated")
    hashes = "\n".join(part.sha256 for part in parts)
    return TaskSet(
        name=" + ".join(names),
        tasks=[task for part in parts for task in part],
        tier=max((part.tier for part in parts), key=tiers.index),
        stand_in_for=UNKNOWN,
        licence="; ".join(dict.fromkeys(part.licence for part in parts)),
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
    )


def parts_of(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test parts of one repeat, the same number of every class.

    The validation images are the same in all repeats and drawn first, so that no repeat tests on
    an image that anything was chosen with.
    """
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    for task in tasks:
        alone = replace(tasks, tasks=(task,))
        least = int(task.targets.bincount(minlength=task.outputs).min())
        validation = min(protocol.validation, least // 5)
        train = min(protocol.train, least // 2)
        test = min(protocol.test, least - validation - train)
        first = split_per_class(
            alone, {"validation": validation}, seed=VALIDATION_SEED, rest="rest"
        )
        counts = {"train": train, "test": test}
        rest = split_per_class(first["rest"], counts, seed=repeat, rest="unused")
        for name, part in (first | rest).items():
            if name in parts:
                parts[name].extend(part)
    return {name: replace(tasks, tasks=tuple(part)) for name, part in parts.items()}


# Arms. A tuned one has one number and five values of it: the same budget for all.
GRIDS: dict[str, Sequence[float]] = {
    "stl": (0.01, 0.02, 0.035, 0.05, 0.07),  # step size
    "weight-decay": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "laf": (0.0003, 0.001, 0.003, 0.01, 0.03),  # TNRDMTL's norm, where shapes agree
    "hard-sharing": (0.005, 0.01, 0.02, 0.035, 0.05),  # step size: T losses on the upper layers
    "cross-stitch": (0.5, 0.7, 0.8, 0.9, 0.95),  # start of the weight of one's own activations
    "mtal": (0.2, 0.3, 0.5, 0.7, 0.9),  # rho
}
#: MTAL's control: as many pairs, of as high a weight, but strangers. It takes over MTAL's rho.
CONTROL = "random-pairs"
ARMS = (*GRIDS, CONTROL)
COUNTERPARTS = ("weight-decay", "laf", "hard-sharing", "cross-stitch")
#: One trunk: every convolution shared whose shapes agree, the first one included.
REGIME_ARMS = ("stl", "hard-sharing", "one-trunk", "mtal", CONTROL)

#: How alike the tasks start: the cosine of their kernels of one number, where shapes agree.
COMMON = {"independent": 0.0, "half-common": 0.5, "common": 1.0, "pretrained": 0.0}
PRETRAINED_ON = ("glyphs: Hebrew",)  # embedded, and no task of any set
COSINES = (0.3, 0.5, 0.8)  # where shares of similar pairs are read


@dataclass(frozen=True)
class Arm:
    """A method with its strength.

    Attributes
    ----------
    method : str
        Of ``ARMS``, or ``"one-trunk"``.
    value : float, optional
        What ``GRIDS`` lists for it; STL without one keeps the protocol's step size.
    switches : mapping
        Further arguments of :class:`mtlbook.methods.MTAL`.
    speed : float
        Factor on the step size. Two kernels that start alike and are mixed with equal weights move
        half as far in a step as one kernel that two tasks share, T of them a T-th as far.
    """

    method: str
    value: float | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    speed: float = 1.0

    def lr(self, otherwise: float) -> float:
        """The step size: the arm's own number if it is that, else the protocol's."""
        own = self.method in ("stl", "hard-sharing", "one-trunk") and self.value is not None
        return self.speed * (self.value if own else otherwise)


def arms_at(
    names: Iterable[str], values: Mapping[str, float], suffix: str = "", like: Arm | None = None
) -> dict[str, Arm]:
    """Arms by ``name + suffix``, at chosen values; a control takes over that of its model.

    MTAL and its control are ``like`` the arm that is given.
    """
    like = like or Arm("mtal", values.get("mtal"))
    values = {"one-trunk": values.get("hard-sharing"), **values}
    return {
        name + suffix: replace(like, method=name)
        if name in ("mtal", CONTROL)
        else Arm(name, values.get(name))
        for name in names
    }


def start(
    tasks: TaskSet, repeat: int, protocol: Protocol, shared: Collection[str] = ()
) -> TaskConvnets:
    """The networks of one repeat before training.

    Layers that tasks share start as the first task's own does, so that all arms start alike.
    """
    build = partial(
        kernel_networks,
        [task.inputs.shape[1:] for task in tasks],
        tasks.outputs,
        seed=repeat,
        channels=protocol.channels,
    )
    own = build(common=COMMON[protocol.init])
    if protocol.init == "pretrained":
        for name, kernels in pretrained(repeat, protocol).items():
            fits = [kernels if k.shape == kernels.shape else k for k in own.kernels(name)]
            own.set_kernels(name, fits)
    if not shared:
        return own
    networks = build(shared=shared)
    for name in networks.convolutions:
        kernels = own.kernels(name)
        networks.set_kernels(name, kernels[:1] if name in shared else kernels)
    return networks


@cache
def pretrained(repeat: int, protocol: Protocol) -> dict[str, Tensor]:
    """The kernels of a network trained on rendered letters: a start in common."""
    tasks = assemble(PRETRAINED_ON)
    source = replace(protocol, init="independent")
    train = parts_of(tasks, repeat, source)["train"]
    networks = train_arm(Arm("stl"), train, repeat, source, device="cpu").network
    return {name: networks.kernels(name)[0].detach() for name in networks.convolutions}


def build(arm: Arm, tasks: TaskSet, repeat: int, protocol: Protocol) -> NetworkMethod:
    """The method of an arm, before training."""
    networks, value = start(tasks, repeat, protocol), arm.value
    if arm.method not in (*ARMS, "one-trunk"):
        raise ValueError(f"arm: expected one of {(*ARMS, 'one-trunk')}, got {arm.method!r}")
    if arm.method == "stl":
        return STL(networks)
    if value is None:
        raise ValueError(f"value: expected a number for arm {arm.method!r}, got None")
    if arm.method == "weight-decay":
        return STL(networks, weight_decay=value)
    if arm.method == "laf":
        return TNRDMTL(networks, kind="laf", gamma=value)
    if arm.method == "cross-stitch":
        return CrossStitch(networks, own=value)
    if arm.method in ("hard-sharing", "one-trunk"):
        upper = [name for name in networks.shareable if name != "conv1"]
        shared = upper if arm.method == "hard-sharing" else networks.shareable
        return HardSharing(start(tasks, repeat, protocol, shared))
    switches = dict(arm.switches)
    if arm.method == CONTROL:
        switches |= {"pairs": "random", "like": switches.get("pairs", "all"), "seed": repeat}
    return MTAL(networks, value, **switches)


def train_arm(
    arm: Arm, train: TaskSet, repeat: int, protocol: Protocol, *, device: str = "auto"
) -> NetworkMethod:
    """Train one arm of one repeat."""
    method = build(arm, train, repeat, protocol)
    fit(
        method,
        train,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        optimizer=partial(torch.optim.SGD, lr=arm.lr(protocol.lr), momentum=protocol.momentum),
        seed=repeat,
        device=device,
    )
    return method


def score(
    arm: Arm, parts: dict[str, TaskSet], repeat: int, protocol: Protocol, device: str = "auto"
) -> float:
    """Validation accuracy of an arm trained; 0 where it diverges."""
    try:
        method = train_arm(arm, parts["train"], repeat, protocol, device=device)
    except FloatingPointError:
        return 0.0
    return evaluate(method, parts["validation"]).mean


def tune(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str],
    protocol: Protocol,
    device: str = "auto",
) -> None:
    """Validation accuracy of every value of ``GRIDS``, on the tuning splits alone.

    STL comes first; the arms without a step size of their own take over the best of its five.
    """
    parts = {repeat: parts_of(tasks, repeat, protocol) for repeat in TUNING_REPEATS}
    for arm in ("stl", *(arm for arm in arms if arm != "stl")):
        _try(result, arm, GRIDS[arm], parts, protocol, device)
        if arm == "stl":
            protocol = replace(protocol, lr=chosen(result)["stl"])


def _try(result, arm, values, parts, protocol, device, suffix="") -> None:
    """Validation accuracy of an arm at every value, recorded as ``arm + suffix @ value``."""
    for value in values:
        for repeat in TUNING_REPEATS:
            accuracy = score(Arm(arm, value), parts[repeat], repeat, protocol, device)
            add = partial(result.add, arm=f"{arm}{suffix}@{value:g}", repeat=repeat)
            add(metric="validation_percent", value=accuracy)


def chosen(tuning: Result) -> dict[str, float]:
    """The value of every arm with the best validation accuracy; the first of the grid in a tie."""
    best: dict[str, tuple[float, float]] = {}
    for name, accuracy in _means(tuning, "validation_percent").items():
        arm, value = name.split("@")
        if arm not in best or accuracy > best[arm][0]:
            best[arm] = accuracy, float(value)
    return {arm: value for arm, (_, value) in best.items()}


def _means(result: Result, metric: str) -> dict[str, float]:
    """Mean over repeats of a metric, by arm."""
    of: dict[str, list[float]] = {}
    for record in result.records:
        if record["metric"] == metric:
            of.setdefault(record["arm"], []).append(record["value"])
    return {arm: sum(values) / len(values) for arm, values in of.items()}


# The search: is there a regime in which sharing helps? All of it on validation images.

INITS = tuple(COMMON)
SHARINGS: tuple[dict[str, Any], ...] = (
    {"rho": 0.5, "unit": "filter"},
    {"rho": 0.7, "unit": "filter"},
    {"rho": 0.3, "unit": "filter", "speed": 2},
    {"rho": 0.5, "unit": "filter", "speed": 2},
    {"rho": 0.8, "unit": "slice"},
)
#: Each changes one thing of the best found so far; ``warmup`` is a part of the steps.
CHANGES: tuple[dict[str, Any], ...] = (
    {"pairs": "cross-task"},
    {"pairs": "mutual-best"},
    {"weights": "learned"},
    {"similarity": "pearson"},
    {"similarity": "gaussian"},
    {"warmup": 0.5},
    {"steps": 3},
)


def search(
    result: Result,
    tasks: TaskSet,
    *,
    samples: int,
    protocol: Protocol,
    device: str = "auto",
) -> None:
    """Where does sharing gain over STL? First every start and threshold; then the switches.

    STL's step size is chosen anew for every start, and MTAL keeps it; a baseline that a start
    throws off balance is none. Records, for every configuration (its name is JSON) and tuning
    split, ``gain_points``: validation accuracy less that of STL from the same start. At last the
    step sizes of the hard sharing arms are chosen for the best start, as ``hard-sharing/start@lr``.
    """
    parts = {
        repeat: parts_of(tasks, repeat, replace(protocol, train=samples))
        for repeat in TUNING_REPEATS
    }

    @cache
    def stl(repeat: int, here: Protocol) -> float:
        return score(Arm("stl"), parts[repeat], repeat, here, device)

    def gains(configuration: dict[str, Any]) -> float:
        here, mtal = unfold(configuration, protocol)
        here = replace(here, lr=chosen(result)[f"stl/{here.init}"])
        found = []
        for repeat in TUNING_REPEATS:
            found.append(score(mtal, parts[repeat], repeat, here, device) - stl(repeat, here))
            name = json.dumps(configuration, sort_keys=True)
            result.add(arm=name, repeat=repeat, metric="gain_points", value=found[-1])
        return sum(found) / len(found)

    tried = []
    for init in INITS:
        here = replace(protocol, init=init, train=samples)
        _try(result, "stl", GRIDS["stl"][:4], parts, here, device, f"/{init}")
        for sharing in SHARINGS:
            configuration = {"init": init, "train": samples, **sharing}
            tried.append((gains(configuration), configuration))
    best = max(tried, key=lambda trial: trial[0])[1]
    for change in CHANGES:
        gains(best | change)
    init = best_of(result)["init"]
    here = replace(protocol, init=init, train=samples)
    for arm in ("hard-sharing", "one-trunk"):
        _try(result, arm, GRIDS["hard-sharing"], parts, here, device, f"/{init}")


def unfold(configuration: Mapping[str, Any], protocol: Protocol) -> tuple[Protocol, Arm]:
    """What a configuration of the search means: a protocol, and MTAL with its switches."""
    switches = dict(configuration)
    here = replace(
        protocol,
        init=switches.pop("init"),
        train=switches.pop("train"),
        steps=protocol.steps * switches.pop("steps", 1),
    )
    if "warmup" in switches:
        switches["warmup"] = int(switches["warmup"] * here.steps)
    return here, Arm("mtal", switches.pop("rho"), speed=switches.pop("speed", 1), switches=switches)


def best_of(found: Result) -> dict[str, Any]:
    """The configuration of a search with the largest mean gain."""
    gains = _means(found, "gain_points")
    return json.loads(max(gains, key=gains.get))


def values_at(found: Result, init: str) -> dict[str, float]:
    """The values that a search chose for one start."""
    values = chosen(found)
    arms = (arm for arm in REGIME_ARMS if f"{arm}/{init}" in values)
    return {arm: values[f"{arm}/{init}"] for arm in arms}


# The comparisons.


def regime(name: str, protocol: Protocol) -> Protocol:
    """The protocol of ``"start/images of a class"``, for example ``"common/10"``."""
    init, _, train = name.partition("/")
    if init not in COMMON or not train.isdecimal():
        raise ValueError(
            f"regime: expected a start of {tuple(COMMON)} and a number, like 'common/10', "
            f"got {name!r}"
        )
    return replace(protocol, init=init, train=int(train))


def compare(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Mapping[str, Arm],
    repeats: Iterable[int],
    protocol: Protocol,
    suffix: str = "",
    device: str = "auto",
) -> None:
    """Test every arm in every repeat.

    Records ``accuracy_percent`` (with every task's), ``validation_percent``, the cross-entropies of
    training and test part, and :func:`likeness` of the kernels that the networks compute with; in
    full for STL and for the networks before training, an arm named ``"untrained" + suffix``.
    """
    for repeat in repeats:
        parts = parts_of(tasks, repeat, protocol)
        untrained = STL(start(parts["train"], repeat, protocol))
        _add_likeness(partial(result.add, arm=f"untrained{suffix}", repeat=repeat), untrained, True)
        for name, arm in arms.items():
            method = train_arm(arm, parts["train"], repeat, protocol, device=device)
            add = partial(result.add, arm=name, repeat=repeat, seed=repeat)
            test, seen = evaluate(method, parts["test"]), evaluate(method, parts["train"])
            add(metric=test.metric, value=test.mean, per_task=[round(x, 3) for x in test.per_task])
            add(metric="validation_percent", value=evaluate(method, parts["validation"]).mean)
            add(metric="train_cross_entropy", value=seen.mean_loss)
            add(metric="test_cross_entropy", value=test.mean_loss)
            _add_likeness(add, method, in_full=arm.method == "stl")


def _add_likeness(add, method: NetworkMethod, in_full: bool) -> None:
    for metric, value in likeness(method).items():
        if in_full or not metric.startswith(("within", "across")):
            add(metric=metric, value=value)


@torch.no_grad()
def likeness(method: NetworkMethod) -> dict[str, float]:
    """How alike the kernels are with which the networks compute.

    Returns
    -------
    dict
        ``redundancy``: cosine of a filter with the most similar one of its own network and layer,
        mean over filters, networks and layers; it needs no threshold. ``rank``: effective rank of a
        layer's filters over the largest possible, mean over networks and layers
        (:func:`effective_rank`); 1 where they are orthogonal. For layers with filters of each
        task's own, ``within/l@c`` and ``across/l@c``: share of the pairs of filters (slices, where
        their shapes differ) of one task, and of two tasks, with a cosine above ``c``. For MTAL and
        its control ``joined/l``: share of all pairs that are joined at the end.
    """
    networks = method.freeze() if isinstance(method, MTAL) else method.network
    kernels = [k for name in networks.convolutions for k in networks.kernels(name)]
    nearest = [cosine_similarity(k).fill_diagonal_(-1).amax(1).mean() for k in kernels]
    found = {
        "redundancy": float(sum(nearest)) / len(nearest),
        "rank": sum(map(effective_rank, kernels)) / len(kernels),
    }
    for name in networks.kernel_layers:
        parts = units(networks.kernels(name))
        owner = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(p) for p in parts]))
        similarity = cosine_similarity(torch.cat(parts))
        for cosine in COSINES:
            for which in ("within", "across"):
                share = pair_share(similarity, cosine, owner.to(similarity.device), which)
                found[f"{which}/{name}@{cosine:g}"] = float(share)
    if isinstance(method, MTAL):
        shares = method.sharing().items()
        found |= {k.replace("share/", "joined/"): v for k, v in shares if k.startswith("share/")}
    return found


def effective_rank(kernels: Tensor) -> float:
    r"""``exp`` of the entropy of the normalised singular values, over the largest possible rank.

    Of the kernels at unit length, ``(P, ...)``: how many directions they use, whatever their
    lengths. Roy and Vetterli (2007).
    """
    rows = F.normalize(kernels.flatten(1).double(), dim=1)
    values = torch.linalg.svdvals(rows)
    part = values / values.sum()
    return float(torch.special.entr(part).sum().exp() / len(values))


# The switches of the reconstruction: what changes against the default, and rho.
DEFAULT_RHO = 0.5
RHOS = (0.2, 0.3, 0.5, 0.7, 0.9)


def variants(steps: int) -> dict[str, Arm]:
    """The arms of the comparison: STL, MTAL and its control at every rho, and one switch each."""
    switched: dict[str, dict[str, Any]] = {
        "cross-task pairs": {"pairs": "cross-task"},
        "mutual-best pairs": {"pairs": "mutual-best"},
        "slices": {"unit": "slice"},
        "learned weights": {"weights": "learned"},
        "Pearson": {"similarity": "pearson"},
        "Gaussian": {"similarity": "gaussian"},
        "warm-up": {"warmup": steps // 2},
    }
    return {
        "stl": Arm("stl"),
        **{f"mtal, rho {rho:g}": Arm("mtal", rho) for rho in RHOS},
        **{f"{CONTROL}, rho {rho:g}": Arm(CONTROL, rho) for rho in (0.3, 0.5)},
        **{name: Arm("mtal", DEFAULT_RHO, switches) for name, switches in switched.items()},
        "slices, rho 0.8": Arm("mtal", 0.8, {"unit": "slice"}),
        "twice the step size": Arm("mtal", DEFAULT_RHO, speed=2),
    }
