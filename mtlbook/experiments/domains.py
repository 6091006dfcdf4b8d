"""Where tasks are alike: the norms of TNRDMTL on domains of one problem, with few labels.

The alphabets of the paper have no class in common. Domains have all of them in common, so here is
the best case for sharing, and one model for all tasks becomes possible. What the norms gain over
their control without coupling is what coupling is worth; what pooling gains is what it could be.
"""

from __future__ import annotations

from dataclasses import replace

from mtlbook.experiments.tnrdmtl import ARMS as OF_ALPHABETS
from mtlbook.experiments.tnrdmtl import TABLE1, Protocol, network, split
from mtlbook.methods import Pooled
from mtlbook.study import Arm, Study, Trial
from mtlbook.tasks import TaskSet

#: Five labels a class and domain to train on, five to choose a strength with, the rest to test.
PROTOCOL = Protocol(train=5, validation=5, steps=100, batch_size=16)


def pooled(trial: Trial) -> Pooled:
    """One model for all tasks, head included."""
    return Pooled(network(trial, True), tasks=len(trial.train))


# Four tasks in place of fifty move the useful range of a strength: the last value of each harms on
# the validation images. Arms with a strength take the step size of the protocol.
ONE_TRUNK = (0.005, 0.01, 0.02, 0.035, 0.05)  # step sizes: 4 losses on one model or trunk
LARGE, SMALL = (0.01, 0.02, 0.05, 0.1, 0.2), (0.002, 0.005, 0.01, 0.02, 0.05)
ARMS: dict[str, Arm] = {
    "stl": OF_ALPHABETS["stl"],
    "pooled": Arm(pooled, ONE_TRUNK, number="lr"),
    **{
        name: replace(OF_ALPHABETS[name], grid=grid)
        for name, grid in {
            "hard-sharing": ONE_TRUNK,
            "laf-tuned": LARGE,
            "tucker-tuned": SMALL,
            "tt-tuned": SMALL,
            "uncoupled-tuned": LARGE,
            "weight-decay-tuned": (0.001, 0.003, 0.01, 0.03, 0.1),
        }.items()
    },
}


def split_domains(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """:func:`mtlbook.experiments.tnrdmtl.split`, of tasks with the same classes."""
    if len(set(tasks.outputs)) != 1:
        raise ValueError(f"tasks: expected the same classes in all, got {tasks.outputs} of them")
    return split(tasks, repeat, protocol)


STUDY: Study = replace(TABLE1, name="domains", arms=ARMS, protocol=PROTOCOL, split=split_domains)
