"""Where tasks are alike: the norms of TNRDMTL on domains of one problem, with few labels.

The alphabets of the paper have no class in common. Domains have all of them in common, so here is
the best case for sharing, and one model for all tasks becomes possible. What the norms gain over
their control without coupling is what coupling is worth; what pooling gains is what it could be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from mtlbook.backbones import convnet
from mtlbook.experiments import tnrdmtl
from mtlbook.experiments.tnrdmtl import Protocol
from mtlbook.ledger.results import Result
from mtlbook.methods import Method, Pooled
from mtlbook.tasks import TaskSet
from mtlbook.training import evaluate, fit

#: Five labels a class and domain to train on, five to choose a strength with, the rest to test.
PROTOCOL = Protocol(train=5, validation=5, steps=100, batch_size=16)

# As tnrdmtl.GRIDS: one number an arm, five values of it for each; arms with a strength take the
# step size of the protocol. Four tasks in place of fifty move the useful range of a strength: the
# last value of each harms on the validation images.
GRIDS: dict[str, Sequence[float]] = {
    "stl": tnrdmtl.GRIDS["stl"],  # step size
    "pooled": (0.005, 0.01, 0.02, 0.035, 0.05),  # step size: 4 losses on one model
    "hard-sharing": (0.005, 0.01, 0.02, 0.035, 0.05),  # step size: 4 losses on one trunk
    "laf-tuned": (0.01, 0.02, 0.05, 0.1, 0.2),
    "tucker-tuned": (0.002, 0.005, 0.01, 0.02, 0.05),
    "tt-tuned": (0.002, 0.005, 0.01, 0.02, 0.05),
    "uncoupled-tuned": (0.01, 0.02, 0.05, 0.1, 0.2),
    "weight-decay-tuned": (0.001, 0.003, 0.01, 0.03, 0.1),
}
ARMS = tuple(GRIDS)
STEP_SIZE_ARMS = ("stl", "pooled", "hard-sharing")  # what is tuned is the step size itself


def compare(
    result: Result,
    tasks: TaskSet,
    *,
    arms: Iterable[str] = ARMS,
    repeats: Iterable[int],
    protocol: Protocol = PROTOCOL,
    device: str = "auto",
) -> None:
    """Tune every arm on validation images of the tuning split, then test it in every repeat.

    Records are those of :func:`mtlbook.experiments.tnrdmtl.table1` but ``sharing_strength``. The
    validation accuracies stand in ``result.settings["validation"]``, by arm and value, and what
    was chosen in ``result.settings["chosen"]``.

    Parameters
    ----------
    result : Result
    tasks : TaskSet
        Tasks with the same classes.
    arms : iterable of str
        Of :data:`ARMS`.
    repeats : iterable of int
    protocol : Protocol
    device : str
    """
    arms = list(arms)
    unknown = [arm for arm in arms if arm not in GRIDS]
    if unknown:
        raise ValueError(f"arms: expected some of {ARMS}, got {unknown}")
    if len(set(tasks.outputs)) != 1:
        raise ValueError(f"tasks: expected the same classes in all, got {tasks.outputs} of them")
    trials = tune(tasks, arms=arms, protocol=protocol, device=device)
    best = tnrdmtl.chosen(trials)
    result.settings["validation"] = {trial["arm"]: trial["value"] for trial in trials.records}
    result.settings["chosen"] = best
    for repeat in repeats:
        parts = tnrdmtl.parts_of(tasks, repeat, protocol)
        for arm in arms:
            method, before = train(arm, best[arm], parts, repeat, protocol, device)
            add = partial(result.add, arm=arm, repeat=repeat, seed=repeat)
            test, seen = evaluate(method, parts["test"]), evaluate(method, parts["train"])
            add(metric=test.metric, value=test.mean, per_task=[round(x, 3) for x in test.per_task])
            add(metric="test_cross_entropy", value=test.mean_loss)
            add(metric="train_cross_entropy", value=seen.mean_loss)
            for name, length in tnrdmtl.layer_lengths(method).items():
                add(metric=f"length/{name}", value=length / before[name])
            for name, value in tnrdmtl.layer_alignment(method).items():
                add(metric=f"alignment/{name}", value=value)


def tune(
    tasks: TaskSet, *, arms: Iterable[str], protocol: Protocol, device: str = "auto"
) -> Result:
    """Validation accuracy of every value of :data:`GRIDS`, on the tuning split alone.

    Returns
    -------
    Result
        As :func:`mtlbook.experiments.tnrdmtl.tune` fills it and ``chosen`` reads it.
    """
    parts = tnrdmtl.parts_of(tasks, tnrdmtl.TUNING_REPEAT, protocol)
    trials = Result("tuning", {})
    for arm in arms:
        for value in GRIDS[arm]:
            try:
                method, _ = train(arm, value, parts, tnrdmtl.TUNING_REPEAT, protocol, device)
            except FloatingPointError:  # diverged: the worst there is
                accuracy = 0.0
            else:
                accuracy = evaluate(method, parts["validation"]).mean
            trials.add(arm=f"{arm}@{value:g}", metric="validation_percent", value=accuracy)
    return trials


def train(
    arm: str,
    value: float,
    parts: dict[str, TaskSet],
    repeat: int,
    protocol: Protocol,
    device: str = "auto",
) -> tuple[Method, dict[str, float]]:
    """Train one arm of one repeat: :func:`mtlbook.experiments.tnrdmtl.train_arm`, and ``pooled``.

    Parameters
    ----------
    arm : str
    value : float
        Of the arm's grid.
    parts : dict of TaskSet
    repeat : int
    protocol : Protocol
    device : str

    Returns
    -------
    method : Method
    lengths : dict
        :func:`mtlbook.experiments.tnrdmtl.layer_lengths` before training.
    """
    if arm != "pooled":
        method, _, lengths = tnrdmtl.train_arm(
            arm, parts, repeat, protocol, strength=value, device=device
        )
        return method, lengths
    tasks = parts["train"]
    network = convnet(
        tasks[0].inputs.shape[1:],
        tasks.outputs,
        seed=repeat,
        padding=protocol.padding,
        shared=True,
    )
    method = Pooled(network, tasks=len(tasks))
    fit(
        method,
        tasks,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        optimizer=protocol.optimiser(value),
        seed=repeat,
        device=device,
    )
    return method, {}
