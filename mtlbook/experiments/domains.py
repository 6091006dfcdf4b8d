"""Where tasks are alike: the norms of TNRDMTL on domains of one problem, with few labels.

The alphabets of the paper have no class in common. Domains have all of them in common, so here is
the best case for sharing, and one model for all tasks becomes possible. What the norms gain over
their control without coupling is what coupling is worth; what pooling gains is what it could be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from mtlbook.backbones import convnet
from mtlbook.experiments import tnrdmtl
from mtlbook.experiments.tnrdmtl import Protocol
from mtlbook.ledger.results import Result
from mtlbook.methods import Method, Pooled
from mtlbook.tasks import TaskSet
from mtlbook.training import History, fit

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
    strengths: Mapping[str, float] | None = None,
    device: str = "auto",
) -> None:
    """Tune every arm on validation images of the tuning split, then test it in every repeat.

    Records are those of :func:`mtlbook.experiments.tnrdmtl.table1`. The validation accuracies stand
    in ``result.settings["validation"]``, by arm and value, and what was chosen in
    ``result.settings["chosen"]``.

    Parameters
    ----------
    result : Result
    tasks : TaskSet
        Tasks with the same classes.
    arms : iterable of str
        Of :data:`ARMS`.
    repeats : iterable of int
    protocol : Protocol
    strengths : mapping, optional
        The value of each arm where it is chosen already; then nothing is tuned.
    device : str
    """
    arms = list(arms)
    unknown = [arm for arm in arms if arm not in GRIDS]
    if unknown:
        raise ValueError(f"arms: expected some of {ARMS}, got {unknown}")
    if len(set(tasks.outputs)) != 1:
        raise ValueError(f"tasks: expected the same classes in all, got {tasks.outputs} of them")
    if strengths is None:
        trials = Result("tuning", {})
        tnrdmtl.tune(
            trials, tasks, arms=arms, protocol=protocol, device=device, grids=GRIDS, train=train
        )
        result.settings["validation"] = {trial["arm"]: trial["value"] for trial in trials.records}
        strengths = tnrdmtl.chosen(trials)
    result.settings["chosen"] = {arm: strengths[arm] for arm in arms}
    for repeat in repeats:
        parts = tnrdmtl.parts_of(tasks, repeat, protocol)
        for arm in arms:
            method, _, before = train(
                arm, parts, repeat, protocol, strength=strengths[arm], device=device
            )
            add = partial(result.add, arm=arm, repeat=repeat, seed=repeat)
            tnrdmtl.add_scores(add, method, parts, before)


def chosen(result: Result) -> dict[str, float]:
    """What :func:`compare` chose for every arm, from one run or from a merge of several."""
    strengths: dict[str, float] = {}
    for name, value in result.settings["chosen"].items():
        strengths |= value if isinstance(value, Mapping) else {name: value}
    return strengths


def train(
    arm: str,
    parts: dict[str, TaskSet],
    repeat: int,
    protocol: Protocol,
    *,
    strength: float,
    device: str = "auto",
) -> tuple[Method, History, dict[str, float]]:
    """:func:`mtlbook.experiments.tnrdmtl.train_arm`, and one more arm: ``pooled``."""
    if arm != "pooled":
        return tnrdmtl.train_arm(arm, parts, repeat, protocol, strength=strength, device=device)
    tasks = parts["train"]
    network = convnet(
        tasks[0].inputs.shape[1:],
        tasks.outputs,
        seed=repeat,
        padding=protocol.padding,
        shared=True,
    )
    method = Pooled(network, tasks=len(tasks))
    history = fit(
        method,
        tasks,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        optimizer=protocol.optimiser(strength),
        seed=repeat,
        device=device,
    )
    return method, history, {}
