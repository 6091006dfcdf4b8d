"""The experiments of TNRDMTL (arXiv 1606.04038v1, section 3), and the ones it lacks.

An *arm* is what a table compares: a method with its strength. All arms of one repeat share the
split, the initial weights where their shapes agree, and the order of the samples, so differences
are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from mtlbook.backbones import convnet, mlp
from mtlbook.layers import TaskNetwork
from mtlbook.methods import STL, TNRDMTL, HardSharing, Method, NetworkMethod
from mtlbook.methods.tnrdmtl import layer_alignment
from mtlbook.norms import uncoupled_norm
from mtlbook.tasks import Task, TaskSet, split_per_class
from mtlbook.training import History, OptimizerFactory, evaluate, fit

if TYPE_CHECKING:
    from mtlbook.ledger.results import Result

VALIDATION_SEED = 2016  # of the drawings that are set aside for validation, once and for all
TUNING_REPEAT = 1000  # the split on which strengths are chosen; no repeat of a table uses it


@dataclass(frozen=True)
class Protocol:
    """What the paper does, and what it leaves open and we chose.

    Attributes
    ----------
    train : int
        Drawings of a character to train on: 2 of 20, the paper's 10 %.
    validation : int
        Drawings of a character that no repeat trains or tests on (ours: the paper does not say
        how its settings were chosen, and 2 of 20 keep the choice clean); 16 are left for the test.
    steps, batch_size, lr, momentum, optimizer
        Not stated in the paper. ``lr`` was chosen for STL on validation data.
    gamma, reduction
        The paper's 0.01, summed over layers and components as in its text.
    """

    train: int = 2
    validation: int = 2
    steps: int = 400
    batch_size: int | None = 8
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    gamma: float = 0.01
    reduction: str = "sum"
    axis_order: str = "tensorflow"
    padding: str = "same"

    def optimiser(self, lr: float | None = None) -> OptimizerFactory:
        """The optimiser, at the protocol's step size or another."""
        lr = self.lr if lr is None else lr
        if self.optimizer == "adam":
            return partial(torch.optim.Adam, lr=lr)
        return partial(torch.optim.SGD, lr=lr, momentum=self.momentum)


# What may be tuned, one number an arm and five values of it for each: the same budget for all.
GRIDS: dict[str, Sequence[float]] = {
    "stl": (0.01, 0.02, 0.035, 0.05, 0.07),  # step size
    "hard-sharing": (0.0005, 0.001, 0.002, 0.005, 0.01),  # step size: 50 losses on one trunk
    "laf-tuned": (0.003, 0.01, 0.03, 0.1, 0.3),
    "tucker-tuned": (0.001, 0.003, 0.01, 0.03, 0.1),
    "tt-tuned": (0.001, 0.003, 0.01, 0.03, 0.1),
    "uncoupled-tuned": (0.003, 0.01, 0.03, 0.1, 0.3),
    "weight-decay-tuned": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "proximal-tuned": (0.003, 0.01, 0.03, 0.1, 0.3),
}
PAPER_ARMS = ("stl", "laf", "tucker", "tt")
ARMS = (*PAPER_ARMS, *(arm for arm in GRIDS if arm not in PAPER_ARMS))
# Another reading of the objective: losses are averaged over tasks, norms over components and
# layers, as in the authors' demonstration and first code. In units of ours gamma is T times as
# large, and divided by the number of norms. With the control, at the strength of LAF.
AVERAGED_ARMS = ("laf-averaged", "tucker-averaged", "tt-averaged", "uncoupled-averaged")
TRUNK = ("conv1", "conv2", "conv3", "fc1")


def parts_of(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test parts of one repeat.

    The validation drawings are the same in all repeats and drawn first, so that no repeat tests on
    a drawing that a strength was chosen with.
    """
    first = split_per_class(
        tasks, {"validation": protocol.validation}, seed=VALIDATION_SEED, rest="rest"
    )
    rest = split_per_class(first["rest"], {"train": protocol.train}, seed=repeat)
    return {"train": rest["train"], "validation": first["validation"], "test": rest["test"]}


def build(
    arm: str,
    network: TaskNetwork,
    protocol: Protocol,
    strength: float | None = None,
    stl: STL | None = None,
) -> Method:
    """The method of an arm; ``strength`` is what ``GRIDS`` lists for it."""
    kind = arm.removesuffix("-tuned")
    if kind == "stl":
        return STL(network)
    if kind == "hard-sharing":
        return HardSharing(network)
    if strength is None:
        if arm not in (*PAPER_ARMS, *AVERAGED_ARMS):
            raise ValueError(f"strength: expected a number for arm {arm!r}, got None")
        strength = protocol.gamma
    if kind == "weight-decay":
        return STL(network, weight_decay=strength)
    if kind == "proximal":
        step_size = protocol.lr / (1 - protocol.momentum)
        return TNRDMTL(network, gamma=strength, proximal=True, step_size=step_size)
    reduction = protocol.reduction
    if arm in AVERAGED_ARMS:
        kind, reduction = arm.removesuffix("-averaged"), "mean"
        strength *= network.head.tasks
    return TNRDMTL(
        network,
        kind=kind,
        gamma=strength,
        reduction=reduction,
        axis_order=protocol.axis_order,
        init="random" if stl is None else "stl",
        stl=stl,
    )


def train_arm(
    arm: str,
    parts: dict[str, TaskSet],
    repeat: int,
    protocol: Protocol,
    *,
    strength: float | None = None,
    stl: STL | None = None,
    device: str = "auto",
    **options: Any,
) -> tuple[Method, History, dict[str, float]]:
    """Train one arm of one repeat; ``options`` go to :func:`mtlbook.training.fit`.

    Returns
    -------
    method : Method
    history : History
    lengths : dict
        :func:`layer_lengths` before training.
    """
    if arm not in (*ARMS, *AVERAGED_ARMS):
        raise ValueError(f"arm: expected one of {(*ARMS, *AVERAGED_ARMS)}, got {arm!r}")
    train = parts["train"]
    network = convnet(
        train[0].inputs.shape[1:],
        train.outputs,
        seed=repeat,
        padding=protocol.padding,
        shared=TRUNK if arm == "hard-sharing" else (),
    )
    method = build(arm, network, protocol, strength, stl)
    lengths = layer_lengths(method)
    lr = strength if arm in ("stl", "hard-sharing") else None
    history = fit(
        method,
        train,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        optimizer=protocol.optimiser(lr),
        seed=repeat,
        device=device,
        **options,
    )
    return method, history, lengths


def layer_lengths(method: NetworkMethod) -> dict[str, float]:
    """Sum of the tasks' Frobenius norms of every layer with a copy for each task."""
    return {
        name: float(uncoupled_norm(layer.stack().detach()))
        for name, layer in method.regularised.items()
    }


def table1(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str],
    repeats: Iterable[int],
    protocol: Protocol,
    strengths: dict[str, float],
    device: str = "auto",
) -> None:
    """Table 1 and its controls: test accuracy of every arm in every repeat, into ``result``.

    Records, besides ``accuracy_percent`` (with every task's) and ``train_cross_entropy``, for each
    layer ``l`` with a copy for each task: ``alignment/l`` (sharing, free of shrinkage),
    ``length/l`` (final over initial sum of the tasks' Frobenius norms: shrinkage alone) and, for
    the arms with a norm, ``sharing_strength/l`` (both at once).
    """
    for repeat in repeats:
        parts = parts_of(tasks, repeat, protocol)
        for arm in arms:
            strength = strengths.get(arm)
            method, _, before = train_arm(
                arm, parts, repeat, protocol, strength=strength, device=device
            )
            add = partial(result.add, arm=arm, repeat=repeat, seed=repeat)
            add_scores(add, method, parts, before)


def add_scores(
    add: Callable[..., None],
    method: Method,
    parts: dict[str, TaskSet],
    before: dict[str, float],
) -> None:
    """Record a trained method by ``add``: accuracy and losses, and how its layers have changed."""
    test, train = evaluate(method, parts["test"]), evaluate(method, parts["train"])
    add(metric=test.metric, value=test.mean, per_task=[round(x, 3) for x in test.per_task])
    add(metric="train_cross_entropy", value=train.mean_loss)
    add(metric="test_cross_entropy", value=test.mean_loss)
    for name, length in layer_lengths(method).items():
        add(metric=f"length/{name}", value=length / before[name])
    for name, value in layer_alignment(method).items():
        add(metric=f"alignment/{name}", value=value)
    if isinstance(method, TNRDMTL):
        for name, value in method.sharing_strength().items():
            add(metric=f"sharing_strength/{name}", value=value)


def tune(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str],
    protocol: Protocol,
    device: str = "auto",
    grids: Mapping[str, Sequence[float]] = GRIDS,
    train: Callable[..., tuple] = train_arm,
) -> None:
    """Validation accuracy of every value of ``grids``, on the tuning split alone."""
    parts = parts_of(tasks, TUNING_REPEAT, protocol)
    for arm in arms:
        for strength in grids[arm]:
            try:
                method, *_ = train(
                    arm, parts, TUNING_REPEAT, protocol, strength=strength, device=device
                )
            except FloatingPointError:  # diverged: the worst there is
                accuracy = 0.0
            else:
                accuracy = evaluate(method, parts["validation"]).mean
            result.add(arm=f"{arm}@{strength:g}", metric="validation_percent", value=accuracy)


def chosen(tuning: Result) -> dict[str, float]:
    """The value of every arm with the best validation accuracy, the weaker one of a tie."""
    best: dict[str, tuple[float, float]] = {}
    for record in tuning.records:
        arm, strength = record["arm"].split("@")
        candidate = (record["value"], -float(strength))
        best[arm] = max(best.get(arm, candidate), candidate)
    return {arm: -negative for arm, (_, negative) in best.items()}


# Optimisers that the paper may have used for figure 1: settings of Protocol.
OPTIMISERS: dict[str, dict[str, Any]] = {
    f"{optimizer}-{lr:g}-batch-{batch}": {
        "optimizer": optimizer,
        "lr": lr,
        "batch_size": batch,
    }
    for optimizer, steps in (("adam", (0.0005, 0.001)), ("sgd", (0.02, 0.03)))
    for lr in steps
    for batch in (16, 32)
}


def calibrate(
    result: Result,
    tasks: TaskSet,
    *,
    optimisers: Iterable[str],
    protocol: Protocol,
    device: str = "auto",
) -> None:
    """STL's training cross-entropy under every optimiser, on the tuning split: which one is near
    the curve that the paper prints? Records as :func:`figure1`; the arm is the optimiser."""
    parts = parts_of(tasks, TUNING_REPEAT, protocol)
    for name in optimisers:
        _, history, _ = train_arm(
            "stl",
            parts,
            TUNING_REPEAT,
            replace(protocol, **OPTIMISERS[name]),
            device=device,
            probe=lambda method: {"loss": evaluate(method, parts["train"]).mean_loss},
            probe_at=range(0, protocol.steps + 1, 25),
        )
        for seen in history.probes:
            result.add(
                arm=name, metric="train_cross_entropy", value=seen["loss"], step=seen["step"]
            )


def nearest(calibration: Result, printed: dict[int, float]) -> str:
    """The optimiser whose curve has the least median relative deviation from the printed one."""
    deviations: dict[str, list[float]] = {}
    for record in calibration.records:
        if record["step"] in printed:
            target = printed[record["step"]]
            deviation = abs(record["value"] - target) / target
            deviations.setdefault(record["arm"], []).append(deviation)
    return min(deviations, key=lambda arm: median(deviations[arm]))


def figure1(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str],
    repeats: Iterable[int],
    protocol: Protocol,
    device: str = "auto",
) -> None:
    """Figure 1: training cross-entropy and norm against the iteration, and the test at the end.

    ``train_cross_entropy`` is of the whole training part, ``norm`` the mean over layers of the
    mean over components (which norm: the arm's own; LAF for STL, which the figure does not show).
    """
    at = (0, 5, *range(25, protocol.steps + 1, 25))
    for repeat in repeats:
        parts = parts_of(tasks, repeat, protocol)
        for arm in arms:
            add = partial(result.add, arm=arm, repeat=repeat, seed=repeat)

            def probe(method: Method, train=parts["train"], arm=arm) -> dict[str, float]:
                meter = TNRDMTL(method.network) if arm == "stl" else method
                loss = evaluate(method, train).mean_loss
                return {"loss": loss, "norm": float(meter.mean_norm().detach())}

            method, history, before = train_arm(
                arm, parts, repeat, protocol, device=device, probe=probe, probe_at=at
            )
            add_scores(add, method, parts, before)
            for seen in history.probes:
                if seen["step"] == 0:
                    add(metric="initial_norm", value=seen["norm"])
                add(metric="train_cross_entropy", value=seen["loss"], step=seen["step"])
                add(metric="norm", value=seen["norm"], step=seen["step"])


def demo_tasks(seed: int, *, samples: int = 100, features: int = 20) -> TaskSet:
    """The authors' demonstration: three noise-free linear regressions of one X, 3, 2 and 5 outputs.

    ``X ~ N(0, 1)``, ``Y_t = X A_t``, ``A_t ~ N(0, 1)``.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator)
    tasks = [
        Task(f"{k} outputs", x, x @ torch.randn(features, k, generator=generator), loss="mse")
        for k in (3, 2, 5)
    ]
    return TaskSet("tnrdmtl-demo", tasks, licence="generated")


def demo(
    result: Result, *, repeats: Iterable[int], steps: int = 1000, device: str = "auto"
) -> None:
    """The authors' demonstration: STL against LAF, training loss every 100 full-batch steps.

    An MLP 20-10-k with sigmoid units, truncated normal weights of deviation 1, Adam at 0.01; the
    loss is the *mean* over tasks plus 0.001 times the LAF norm of the first layer. Ours sums over
    tasks, so gamma is three times 0.001, and the loss is divided by three.
    """
    for repeat in repeats:
        tasks = demo_tasks(repeat)
        for arm in ("stl", "laf"):
            network = mlp(tasks[0].inputs.shape[1], tasks.outputs, seed=repeat)
            method = STL(network) if arm == "stl" else TNRDMTL(network, gamma=0.001 * len(tasks))
            history = fit(
                method,
                tasks,
                steps=steps,
                optimizer=partial(torch.optim.Adam, lr=0.01),
                device=device,
            )
            total = (history.loss.sum(1) + history.penalty) / len(tasks)
            add = partial(result.add, arm=arm, repeat=repeat, seed=repeat, metric="train_loss")
            for step in range(0, steps, 100):
                add(value=float(total[step]), step=step)
            last = (steps - 1) // 100 * 100
            add(value=float(total[last]))


# The ambiguities of the paper: each changes one thing of one arm.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "laf-mean-norms": ("laf", {"reduction": "mean"}),
    "tucker-mean-norms": ("tucker", {"reduction": "mean"}),
    "tt-mean-norms": ("tt", {"reduction": "mean"}),
    "tt-torch-order": ("tt", {"axis_order": "torch"}),
    "laf-stl-start": ("laf", {}),
    "stl-800-steps": ("stl", {"steps": 800}),  # as many steps as the start at STL has in all
    "stl-52px": ("stl", {"padding": "valid"}),
    "laf-52px": ("laf", {"padding": "valid"}),
}


def ambiguity(
    result: Result,
    tasks: TaskSet,
    *,
    variants: Iterable[str],
    repeats: Iterable[int],
    protocol: Protocol,
    strengths: dict[str, float],
    device: str = "auto",
) -> None:
    """Test accuracy where the paper can be read in two ways; compare with :func:`table1`."""
    for repeat in repeats:
        for variant in variants:
            arm, changes = VARIANTS[variant]
            changed = replace(protocol, **changes)
            parts = parts_of(tasks, repeat, changed)
            run = partial(train_arm, parts=parts, repeat=repeat, protocol=changed, device=device)
            start = "stl" if variant == "laf-stl-start" else arm
            method, *_ = run(start, strength=strengths.get(start))
            if start != arm:
                method, *_ = run(arm, strength=strengths.get(arm), stl=method)
            scores = evaluate(method, parts["test"])
            result.add(
                arm=variant, repeat=repeat, seed=repeat, metric=scores.metric, value=scores.mean
            )
