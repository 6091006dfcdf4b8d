"""CIFAR-MTL of SRDML (Bai and Zhao, KDD 2022): ten one-vs-all tasks, all methods of the table.

An *arm* is what the table compares: a method with its strength. All arms of one repeat share the
split, the initial weights where their shapes agree, and the order of the samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlbook.backbones import Flatten
from mtlbook.layers import TaskNetwork
from mtlbook.methods import (
    L21,
    MRN,
    PLE,
    RMTL,
    SRDML,
    STL,
    Balanced,
    Lasso,
    Method,
    MMoE,
    SharedTrunk,
    TaskHeads,
)
from mtlbook.tasks import TaskSet
from mtlbook.tensors import Ragged
from mtlbook.training import fit, predict

if TYPE_CHECKING:
    from mtlbook.ledger.results import Result

VALIDATION_SEED = 2022  # of the images that are set aside for validation, once and for all
TUNING_REPEAT = 1000  # the split on which strengths are chosen; no repeat of a table uses it
METRICS = ("accuracy_percent", "auc_percent", "precision_percent", "recall_percent")


@dataclass(frozen=True)
class Protocol:
    """What the scripts do, and what we changed to fit a laptop.

    Attributes
    ----------
    trunk : "efficientnet" | "small" | "vgg16"
        ``"vgg16"``: the scripts', on images of 64 px, all of it trained on. ``"efficientnet"``:
        the inputs are maps of a frozen network (:func:`feature_maps`), on which one convolution is
        trained. ``"small"``: two convolutions on grey images, for the stand-in.
    channels, hidden : int
        Of the feature map A, and of each head's hidden layer; the scripts' are 512 and 128.
    train, validation : int
        Images of a class. The scripts train on 2,000 of a class and have no validation.
    test : int
        Images of a class, where the data have no test part of their own.
    epochs, extra_epochs : int
        Of the first and of the second stage; the scripts' are 30 and 30.
    batch_size, second_batch : int
        In the two stages, the scripts'.
    lr : float
        Of Adam, the scripts'.
    """

    trunk: str = "efficientnet"
    channels: int = 64
    hidden: int = 32
    train: int = 500
    validation: int = 200
    test: int = 200
    epochs: int = 4
    extra_epochs: int = 4
    batch_size: int = 100
    second_batch: int = 200
    lr: float = 1e-3


#: One number an arm, five values of it for each: the same budget for all. Arms of the first stage
#: alone (``hard-sharing``) have nothing to tune: the step size is the scripts'.
STEP_SIZES = (0.0003, 0.0006, 0.001, 0.002, 0.004)
GRIDS: dict[str, Sequence[float]] = {
    "stl": STEP_SIZES,
    "lasso": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "l21": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "rmtl": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "mrn": (0.0001, 0.0003, 0.001, 0.003, 0.01),
    "mmoe": STEP_SIZES,
    "ple": STEP_SIZES,
    "mgda": STEP_SIZES,
    "pcgrad": STEP_SIZES,
    "srdml": (0.0001, 0.0003, 0.001, 0.01, 0.1),
    "srdml-pcgrad": (0.0001, 0.0003, 0.001, 0.01, 0.1),
    "hard-sharing-longer": STEP_SIZES,
    "hard-sharing-decay": (0.003, 0.01, 0.03, 0.1, 0.3),
    "srdml-uniform": (0.0001, 0.0003, 0.001, 0.01, 0.1),
    "srdml-fast": (0.1, 1.0, 10.0, 100.0, 1000.0),
}
#: Those that go on from the trained weights of ``hard-sharing``.
SECOND_STAGE = (
    "srdml",
    "srdml-pcgrad",
    "srdml-uniform",
    "srdml-fast",
    "srdml-released",
    "hard-sharing-longer",
    "hard-sharing-decay",
)
SHALLOW = {"lasso": Lasso, "l21": L21, "rmtl": RMTL}
#: The table's rows, then the controls that it lacks.
PAPER_ARMS = (
    "stl",
    "hard-sharing",
    "lasso",
    "l21",
    "rmtl",
    "mrn",
    "mmoe",
    "ple",
    "mgda",
    "pcgrad",
    "srdml",
    "srdml-pcgrad",
)
ARMS = (*PAPER_ARMS, *(arm for arm in GRIDS if arm not in PAPER_ARMS), "srdml-released")
RELEASED_WEIGHT = 0.1  # lambda of the script, on the sum over a batch
FAST_WEIGHT = 0.001  # lambda of ``srdml-fast``, whose number is the step of omega
VEHICLES = ("airplane", "automobile", "ship", "truck")  # of CIFAR-10; the others are animals


# Data


@torch.no_grad()
def feature_maps(tasks: TaskSet, *, size: int = 64, blocks: int = 11, batch: int = 100) -> TaskSet:
    """The images as maps of a frozen EfficientNet-Lite0 with its ImageNet weights.

    The script's images of 64 px (bilinear) through the stem and the first 11 of 16 blocks are maps
    of 112 x 4 x 4, at a sixteenth of the side. They are divided by their standard deviation.
    """
    from mtlbook.datasets.efficientnet import pretrained

    network = pretrained()

    def maps(images: Tensor) -> Tensor:
        parts = []
        for part in images.split(batch):
            x = F.interpolate(part, (size, size), mode="bilinear", align_corners=False)
            x = (x * 255 - 127).div_(128).contiguous(memory_format=torch.channels_last)
            x = network.bn0(network.conv_stem(x)).clamp_(0, 6)
            for block in network.blocks[:blocks]:
                x = block(x)
            parts.append(x.contiguous())
        whole = torch.cat(parts)
        return whole / whole.std()

    return tasks.map_inputs(maps)


def parts_of(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test images of one repeat, balanced over the classes.

    Validation images, and test images where ``groups`` marks none, are the same in all repeats;
    what a repeat trains on is drawn from the others.
    """
    labels = torch.cat([task.targets for task in tasks], 1).argmax(1)
    groups = tasks[0].groups
    rows: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
    fixed = torch.Generator().manual_seed(VALIDATION_SEED)
    drawn = torch.Generator().manual_seed(repeat)
    for label in range(len(tasks)):
        of_class = (labels == label).nonzero().flatten()
        if groups is None:
            order = of_class[torch.randperm(len(of_class), generator=fixed)]
            test, order = order[: protocol.test], order[protocol.test :]
        else:
            test, order = (of_class[groups[of_class] == g] for g in (1, 0))
            order = order[torch.randperm(len(order), generator=fixed)]
        validation, order = order[: protocol.validation], order[protocol.validation :]
        if len(order) < protocol.train:
            raise ValueError(
                f"train: expected at most {len(order)} images of class {label}, got "
                f"{protocol.train}"
            )
        train = order[torch.randperm(len(order), generator=drawn)[: protocol.train]]
        for name, found in zip(rows, (train, validation, test), strict=True):
            rows[name].append(found)
    return {name: tasks.select([torch.cat(found)] * len(tasks)) for name, found in rows.items()}


def scores(outputs: Sequence[Tensor], tasks: TaskSet) -> dict[str, list[float]]:
    """Accuracy, area under the ROC curve, precision and recall of every task, in percent.

    A task is decided at a probability of one half. Precision is 0 where nothing is found. Ties of
    two outputs count half in the area.
    """
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for output, task in zip(outputs, tasks, strict=True):
        output, truth = output.flatten(), task.targets.flatten().to(output.device) > 0.5
        said = output > 0
        positive, negative = output[truth].contiguous(), output[~truth].sort().values
        below = torch.searchsorted(negative, positive) + torch.searchsorted(
            negative, positive, right=True
        )
        values = (
            (said == truth).double().mean(),
            below.double().mean() / (2 * len(negative)),
            (said & truth).sum() / said.sum().clamp(min=1),
            (said & truth).sum() / truth.sum(),
        )
        for metric, value in zip(METRICS, values, strict=True):
            found[metric].append(100 * float(value))
    return found


# Arms


class TrunkNetwork(TaskNetwork):
    """One trunk or T of any kind under T heads: what STL and MRN need.

    Parameters
    ----------
    trunks : sequence of nn.Module
        One, or T.
    heads : TaskHeads
        With one hidden layer; its layers become ``hidden`` and ``head``.
    """

    def __init__(self, trunks: Sequence[nn.Module], heads: TaskHeads):
        hidden, activation, head = heads.layers
        named = [("flatten", Flatten()), ("hidden", hidden), ("activation", activation)]
        super().__init__(named, head)
        self.trunks = nn.ModuleList(trunks)

    def features(self, inputs: Sequence[Tensor]) -> Ragged:
        tasks = len(inputs)
        if len(self.trunks) == 1 and all(x is inputs[0] for x in inputs):
            maps = self.trunks[0](inputs[0])
            maps = maps.expand(tasks, *maps.shape)
        else:
            trunks = [self.trunks[t % len(self.trunks)] for t in range(tasks)]
            maps = torch.stack([trunk(x) for trunk, x in zip(trunks, inputs, strict=True)])
        return Ragged(self.trunk(maps))


def parts_of_network(tasks: TaskSet, protocol: Protocol, seed: int) -> tuple[nn.Module, TaskHeads]:
    """Trunk and heads with their initial weights, the same for all arms of a repeat."""
    inputs, c = tasks[0].inputs, protocol.channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if protocol.trunk == "efficientnet":
            trunk = nn.Sequential(nn.Conv2d(inputs.shape[1], c, 3, padding=1), nn.ReLU())
        elif protocol.trunk == "small":
            trunk = nn.Sequential(
                nn.Conv2d(inputs.shape[1], c // 2, 5, padding=2),
                nn.MaxPool2d(2),
                nn.ReLU(),
                nn.Conv2d(c // 2, c, 3, padding=1),
                nn.MaxPool2d(2),
                nn.ReLU(),
            )
        elif protocol.trunk == "vgg16":
            from torchvision.models import vgg16

            trunk = vgg16(weights="IMAGENET1K_V1").features
        else:
            raise ValueError(
                f"trunk: expected 'efficientnet', 'small' or 'vgg16', got {protocol.trunk!r}"
            )
    with torch.no_grad():
        width = trunk(inputs[:1].cpu()).numel()
    return trunk, TaskHeads(width, tasks.outputs, hidden=(protocol.hidden,), seed=seed)


def build(
    arm: str, trunk: nn.Module, heads: TaskHeads, value: float | None, protocol: Protocol, seed: int
) -> Method:
    """The method of an arm; ``value`` is what ``GRIDS`` lists for it."""
    width, outputs = heads.layers[0].weight.shape[1], [1] * heads.tasks
    if arm == "stl":
        return STL(TrunkNetwork([copy.deepcopy(trunk) for _ in outputs], heads))
    if arm == "mrn":
        return MRN(TrunkNetwork([trunk], heads), ("hidden", "head"), weight=value)
    if arm == "mmoe":
        return MMoE(trunk, width, outputs, experts=4, width=protocol.hidden, seed=seed)
    if arm == "ple":
        return PLE(trunk, width, outputs, width=protocol.hidden, levels=1, seed=seed)
    if arm in ("mgda", "pcgrad"):
        return Balanced(SharedTrunk(trunk, heads), "mgda-ub" if arm == "mgda" else arm)
    if arm.startswith("srdml"):
        of = {
            "srdml": {"weight": value, "as_released": True},
            "srdml-released": {"weight": RELEASED_WEIGHT, "as_released": True},
            "srdml-pcgrad": {"weight": value, "as_released": True, "balancing": "pcgrad"},
            "srdml-uniform": {"weight": value, "reduction": "sum", "omega_step": 0.0},
            "srdml-fast": {"weight": FAST_WEIGHT, "reduction": "sum", "omega_step": value},
        }
        return SRDML(trunk, heads, **of[arm])
    if arm in ("hard-sharing", "hard-sharing-longer", "hard-sharing-decay"):
        return SharedTrunk(trunk, heads)
    raise ValueError(f"arm: expected one of {ARMS}, got {arm!r}")


def train_arm(
    arm: str,
    parts: dict[str, TaskSet],
    repeat: int,
    protocol: Protocol,
    *,
    value: float | None = None,
    start: dict[str, Tensor] | None = None,
    probe: Callable[[Method], dict] | None = None,
    device: str = "auto",
) -> tuple[Method, list[dict]]:
    """Train one deep arm of one repeat.

    Parameters
    ----------
    arm : str
        Of ``ARMS``, the shallow ones excepted.
    parts : dict of TaskSet
    repeat : int
        Seed of the initial weights and of the order of the samples.
    protocol : Protocol
    value : float, optional
        Of the arm's grid.
    start : dict of Tensor, optional
        State of a trained ``hard-sharing``, for the arms of ``SECOND_STAGE``.
    probe : callable, optional
        Asked after every epoch.
    device : str

    Returns
    -------
    method : Method
    probes : list of dict
    """
    if (start is not None) != (arm in SECOND_STAGE):
        raise ValueError(
            f"start: expected trained weights for the arms {SECOND_STAGE} alone, got "
            f"{type(start).__name__} for {arm!r}"
        )
    train = parts["train"]
    trunk, heads = parts_of_network(train, protocol, repeat)
    method = build(arm, trunk, heads, value, protocol, repeat)
    second = arm in SECOND_STAGE
    if second:
        method.load_state_dict(start, strict=False)  # what is not of trunk or heads is omega's
        epochs, batch = protocol.extra_epochs, protocol.second_batch
    else:  # what has no second stage is trained for as long as the two take together
        epochs = protocol.epochs + (protocol.extra_epochs if arm != "hard-sharing" else 0)
        batch = protocol.batch_size
    a_epoch = max(1, len(train[0]) // batch)
    lr = value if GRIDS.get(arm) is STEP_SIZES else protocol.lr
    optimizer = partial(torch.optim.Adam, lr=lr, eps=1e-7)
    if arm == "hard-sharing-decay":
        optimizer = partial(torch.optim.AdamW, lr=lr, eps=1e-7, weight_decay=value)
    history = fit(
        method,
        train,
        steps=epochs * a_epoch,
        batch_size=batch,
        optimizer=optimizer,
        seed=repeat + (10_000 if second else 0),  # another order of samples in the second stage
        device=device,
        probe=probe,
        probe_at=range(a_epoch, epochs * a_epoch + 1, a_epoch) if probe else (),
    )
    return method, history.probes


def fit_shallow(arm: str, parts: dict[str, TaskSet], value: float) -> Callable[[TaskSet], list]:
    """A linear model of the table on the spatial means of the inputs; gives outputs for tasks.

    The table does not say which inputs its shallow rows had; these see what the other arms see,
    without its place in the image.
    """
    train = parts["train"]
    x = _pooled(train)
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    strengths = {"gamma": value} | ({"beta": value} if arm == "rmtl" else {})
    model = SHALLOW[arm](**strengths, loss="logistic", max_iterations=200)
    targets = [2 * task.targets[:, 0] - 1 for task in train]
    model.fit([(x - mean) / std] * len(train), targets)

    def outputs(tasks: TaskSet) -> list[Tensor]:
        return model.decision_function([(_pooled(tasks) - mean) / std] * len(tasks))

    return outputs


def _pooled(tasks: TaskSet) -> Tensor:
    """Inputs ``(n, C, H, W)``: means over space, or the pixels themselves of one channel."""
    inputs = tasks[0].inputs
    return inputs.mean((2, 3)) if inputs.shape[1] > 3 else inputs.flatten(1)


def compare(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str],
    repeats: Iterable[int],
    protocol: Protocol,
    values: Mapping[str, float],
    device: str = "auto",
) -> None:
    """The table and its controls: test scores of every arm in every repeat, into ``result``.

    Records of each metric of ``METRICS``: at the end of training, with every task's, and
    ``best/...``: the best over the epochs *on the test images*, metric by metric, as the script
    reports it. Nothing is selected by it; it is there to be compared. ``curves`` keep the relation
    of each arm that has one.

    Parameters
    ----------
    result : Result
    tasks : TaskSet
        Binary tasks on common inputs.
    arms : iterable of str
        Of ``ARMS``.
    repeats : iterable of int
    protocol : Protocol
    values : mapping of arm to float
        As :func:`chosen` gives it.
    device : str
    """
    arms = _known(arms)
    for repeat in repeats:
        parts = parts_of(tasks, repeat, protocol)

        def look(method: Method, test: TaskSet = parts["test"]) -> dict[str, float]:
            return _means(scores(predict(method, test, chunk=250), test))

        start = None
        for arm in arms:
            if arm in SECOND_STAGE and start is None:
                start = _first_stage(parts, repeat, protocol, device)
            value = values.get(arm)
            if arm in SHALLOW:
                outputs, probes = fit_shallow(arm, parts, value)(parts["test"]), []
            else:
                method, probes = train_arm(
                    arm,
                    parts,
                    repeat,
                    protocol,
                    value=value,
                    start=start if arm in SECOND_STAGE else None,
                    probe=look,
                    device=device,
                )
                outputs = predict(method, parts["test"], chunk=250)
                _keep_relation(result, arm, repeat, method, tasks.names)
            found = scores(outputs, parts["test"])
            add = partial(result.add, arm=arm, repeat=repeat, seed=repeat)
            for metric, of_tasks in found.items():
                mean = sum(of_tasks) / len(of_tasks)
                add(metric=metric, value=mean, per_task=[round(x, 3) for x in of_tasks])
                best = max([mean, *(probe[metric] for probe in probes)])
                add(metric=f"best/{metric}", value=best)


def tune(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str],
    protocol: Protocol,
    device: str = "auto",
) -> None:
    """Validation accuracy of every value of ``GRIDS``, on the tuning split alone."""
    parts = parts_of(tasks, TUNING_REPEAT, protocol)
    validation = parts["validation"]
    start = None
    for arm in _known(arms):
        if arm in SECOND_STAGE and start is None:
            start = _first_stage(parts, TUNING_REPEAT, protocol, device)
        for value in GRIDS.get(arm, ()):
            try:
                if arm in SHALLOW:
                    outputs = fit_shallow(arm, parts, value)(validation)
                else:
                    method, _ = train_arm(
                        arm,
                        parts,
                        TUNING_REPEAT,
                        protocol,
                        value=value,
                        start=start if arm in SECOND_STAGE else None,
                        device=device,
                    )
                    outputs = predict(method, validation, chunk=250)
            except FloatingPointError:  # diverged: the worst there is
                found = dict.fromkeys(METRICS, 0.0)
            else:
                found = _means(scores(outputs, validation))
            for metric, mean in found.items():
                result.add(arm=f"{arm}@{value:g}", metric=f"validation/{metric}", value=mean)


def chosen(tuning: Result, metric: str = "accuracy_percent") -> dict[str, float]:
    """The value of every arm that is best on validation images, the smaller one of a tie."""
    best: dict[str, tuple[float, float]] = {}
    for record in tuning.records:
        if record["metric"] == f"validation/{metric}":
            arm, value = record["arm"].split("@")
            candidate = (record["value"], -float(value))
            best[arm] = max(best.get(arm, candidate), candidate)
    return {arm: -negative for arm, (_, negative) in best.items()}


def _first_stage(
    parts: dict[str, TaskSet], repeat: int, protocol: Protocol, device: str
) -> dict[str, Tensor]:
    method, _ = train_arm("hard-sharing", parts, repeat, protocol, device=device)
    return method.state_dict()


def _known(arms: Iterable[str]) -> list[str]:
    arms = list(arms)
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise ValueError(f"arms: expected some of {ARMS}, got {unknown}")
    return arms


def _means(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {metric: sum(values) / len(values) for metric, values in found.items()}


def _keep_relation(
    result: Result, arm: str, repeat: int, method: Method, names: Sequence[str]
) -> None:
    """The relation of an arm that learns one, and on CIFAR-10 how it orders the pairs."""
    if arm not in ("mrn", "srdml", "srdml-fast"):
        return
    matrix = method.relation().matrix.cpu()
    rows = [[round(float(x), 5) for x in row] for row in matrix]
    result.curves[f"relation/{arm}/{repeat}"] = rows
    if arm == "mrn" or not set(VEHICLES) <= set(names):
        return
    vehicle = torch.tensor([name in VEHICLES for name in names])
    i, j = torch.triu_indices(*matrix.shape, 1)
    omega, alike = matrix[i, j] * len(i), vehicle[i] == vehicle[j]
    for kind, pairs in (("alike", alike), ("unlike", ~alike)):
        value = float(omega[pairs].mean())
        result.add(arm=f"{arm}/{kind}", repeat=repeat, seed=repeat, metric="omega", value=value)
