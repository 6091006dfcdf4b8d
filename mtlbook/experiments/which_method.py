"""Which method when: every arm that applies, on one trunk, with one budget, under one protocol.

No two of the five papers share a data set, a baseline or a budget of tuning. Here all arms train
for as many steps on the same samples, choose among as many settings drawn at random on the same
tuning splits, and are tested on the same samples, repeat by repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from mtlbook.comparison import arms as table
from mtlbook.comparison import running
from mtlbook.experiments.problems import REAL, TEACHERS
from mtlbook.ledger.results import Result
from mtlbook.methods import MRN, SRDML, Balanced, CrossStitch, Method, SharedTrunk
from mtlbook.methods.base import NetworkMethod
from mtlbook.relations import Relation, cosine_relation
from mtlbook.study import Add, Arm, Outcome, Parts, Study, Trial, choices, configurations
from mtlbook.tasks import TaskSet

TRIALS = 10  # settings of every arm


@dataclass(frozen=True)
class Protocol(table.Protocol):
    """:class:`mtlbook.comparison.arms.Protocol` with a network that small problems allow.

    Attributes
    ----------
    own : float
        Start of the weight of one's own activations in cross-stitch.
    """

    hidden: int = 32
    batch_size: int | None = 32
    own: float = 0.9


def uniform(trial: Trial) -> SRDML:
    """SRDML whose pair weights nobody learns."""
    return table.saliency(replace(trial, protocol=replace(trial.protocol, omega_step=0.0)))


def deep(trial: Trial) -> SharedTrunk:
    """Hard sharing with the heads of SRDML and of gradient balancing: their reference."""
    return SharedTrunk(table.trunk(trial), table.heads(trial))


class TrunkDecay(SharedTrunk):
    """One trunk with weight decay of its own, ``extra``, beside what the optimiser gives all."""

    def __init__(self, trunk: nn.Module, heads: nn.Module, extra: float):
        super().__init__(trunk, heads)
        self.extra = extra

    def penalty(self) -> Tensor:
        return self.extra / 2 * sum(w.square().sum() for w in self.trunk.parameters())


def reweighted(trial: Trial, *, step: bool, decay: bool) -> Method:
    r"""The sum of the gradients with one half, both or none of what a mean changes on the trunk.

    With step size :math:`\eta` and decay :math:`\lambda` the sum moves a trunk :math:`w` along
    :math:`\eta\,(\sum_t g_t + \lambda w)`, the mean along
    :math:`\frac \eta T (\sum_t g_t + T \lambda w)`: it has T-times shorter steps (``step``), and a
    T-times heavier decay (``decay``).
    """
    tasks, own = len(trial.train), trial.protocol.decay
    wanted = own * (tasks if decay else 1) / (tasks if step else 1)
    method = TrunkDecay(table.trunk(trial), table.heads(trial), wanted - own)
    return Balanced(method, "mean") if step else method


def stitched(trial: Trial) -> CrossStitch:
    """Networks that read mixtures of each other's hidden units."""
    return CrossStitch(table.network(trial), own=trial.protocol.own)


def oracle(trial: Trial, covariance: Tensor) -> MRN:
    """Told the truth of a teacher: one hidden layer, and heads of this covariance."""
    own = table.network(trial)
    network, head = table.network(trial, own.shareable), own.head_name
    method = MRN(network, [head], learn=("task",), weight=trial.protocol.weight, max_updates=0)
    method.set_covariance(head, "task", covariance.to(network.head.weight))
    return method


DECAY, WEIGHT = table.DECAY, table.WEIGHT
TRUNK = {"trunk": ["own", "shared"]}  # relate the weights of all layers, or of the heads
NETWORK = {"network": ["linear", "mlp"]}

#: Of SRDML: 0 is hard sharing, whose decay it may have, too.
LAMBDA = {"weight": [0.0, 0.001, 0.01, 0.1, 1.0]} | DECAY

Row = tuple[Callable[[Trial], Method], Mapping[str, Any]]
_OWN: dict[str, Row] = {
    "stl-plain": (table.stl, {}),
    "hard-deep": (deep, DECAY),
    "uniform": (uniform, LAMBDA),
    "srdml": (table.saliency, LAMBDA | {"omega_step": (0.1, 100.0)}),
    "upgrad": (partial(table.balanced, kind="upgrad"), DECAY),
    "mean": (partial(table.balanced, kind="mean"), DECAY),  # everything of it but the projection
    "trunk-step": (partial(reweighted, step=True, decay=False), DECAY),  # the one half of the mean
    "trunk-decay": (partial(reweighted, step=False, decay=True), DECAY),  # and the other
    "cross-stitch": (stitched, DECAY | {"own": (0.5, 0.99)}),
    "cross-stitch-same": (stitched, table.STEP | DECAY),  # settings of hard sharing, and own = 0.9
}
SINGLE = ("stl", "stl-plain", "pooled")
RELATED = ("fixed", "mrn-t", "drn", "mrn", "uncoupled", "laf", "tucker", "tt")
HARD = (
    "hard-sharing",
    "hard-deep",
    "cross-stitch",
    "cross-stitch-same",
    "uniform",
    "srdml",
    "pcgrad",
    "mgda",
    "upgrad",
    "mean",
    "trunk-step",
    "trunk-decay",
)
SHALLOW = ("mtfl", "rmtl", "mtrl")
NORMS = ("uncoupled", "laf", "tucker", "tt", "dmtl-tf")
ARMS = (*SINGLE, *RELATED, "dmtl-tf", *HARD, *SHALLOW, "mmoe", "oracle")
#: What one run of the experiments trains. A group whose ranges change takes another name: the runs
#: that are current are those of the listed names. (Of "norms", which is gone, the weight ended at
#: 0.3, which more than half of the choices were next to.)
GROUPS: dict[str, Sequence[str]] = {
    "all": ARMS,
    "few": ("stl", "mrn-t", "srdml"),
    "simple": (*SINGLE, "hard-sharing", "hard-deep", *SHALLOW, "mmoe", "oracle"),
    "priors": ("fixed", "mrn-t", "drn", "mrn"),
    "trace-norms": NORMS,
    "strong": ("stl", "pooled", "fixed", "mrn-t", "drn", "mrn"),
    "saliency": ("uniform", "srdml"),
    "balancing": ("pcgrad", "mgda"),
    "added": ("cross-stitch", "upgrad"),  # to the study, when all others had been measured
    "controls": ("cross-stitch-same", "mean"),  # of those
    "stitched": ("hard-sharing", "cross-stitch-same"),
    "trunk": ("hard-deep", "upgrad", "mean", "trunk-step", "trunk-decay"),
    "redrawn": (
        *(a for a in (*SINGLE, *RELATED) if a != "stl-plain"),
        "hard-sharing",
        "cross-stitch",
    ),
    "again": (
        *("stl", "pooled", "fixed", "hard-sharing", "mrn-t", "drn", "mrn", "uncoupled", "laf"),
        "cross-stitch-same",
    ),
    "strong-norms": ("stl", "hard-sharing", "mrn", "uncoupled", "laf"),
}
#: What cannot take part at all, and why.
LEFT_OUT = {"mtal": "it pairs kernels of convolutions"}
#: Of School's second trial, in whose first the priors, all linear, chose the largest weight drawn.
STRONG: dict[str, tuple[float, float]] = {"lr": (0.001, 0.02), "weight": (0.1, 100.0)}
#: Of the norms' second trial, in whose first LAF and the tasks' own norms chose the largest weight
#: drawn, on a trunk in common. All arms draw twice as many settings.
STRONG_NORMS: dict[str, tuple[float, float]] = {"lr": (0.001, 0.05), "gamma": (0.3, 30.0)}
_A_PASS_A_TASK = (*GROUPS["saliency"], *GROUPS["balancing"], "upgrad", "mean", "trunk-step")
FLOOR = -100.0  # of a task's score: where a model has gone astray, how far does not matter


def steps_of(tasks: int) -> dict[str, tuple[float, float]]:
    """The range of step sizes: what all tasks share gets the sum of their gradients."""
    low, high = table.STEP["lr"]
    return {"lr": (low * 4 / max(tasks, 4), high)}


def refusal(arm: str, problem: str, tasks: int) -> str | None:
    """Why an arm takes no part in a problem; None if it does."""
    planted = problem in TEACHERS
    if arm in SHALLOW and planted:
        return "a linear model, and the teachers are not"
    if arm in ("mean", "trunk-step", "trunk-decay") and not planted:
        return "UPGrad's control, on teachers"
    if arm == "oracle" and not planted:
        return "nobody knows the true relation"
    if arm == "mmoe" and not problem.startswith("sarcos"):
        return "its experts want all tasks to look at the same samples"
    if arm in _A_PASS_A_TASK and tasks > 32:
        return f"a backward pass per task is too much for {tasks} tasks"
    return None


def arms_of(problem: str, tasks: int, trials: int | None = None) -> dict[str, Arm]:
    """The table of arms of a problem, with the first ``trials`` settings of each (by default all).

    On real features an arm that can do without a hidden layer also chooses whether to have one.
    """
    planted, arms = problem in TEACHERS, {}
    search = (TEACHERS if planted else REAL)[problem].search
    for name in ARMS:
        if refusal(name, problem, tasks):
            continue
        if name == "oracle":
            truth = TEACHERS[problem].correlation()
            build, ranges = partial(oracle, covariance=truth), WEIGHT
        elif name in _OWN:
            build, ranges = _OWN[name]
        else:
            build, ranges = table.CANDIDATES[name].build, table.CANDIDATES[name].ranges
        if name not in SHALLOW:
            ranges = {**ranges, **steps_of(tasks)}
        if name in RELATED:
            ranges = ranges | TRUNK
        if not planted and name in (*SINGLE, *RELATED):
            ranges = ranges | NETWORK
        given = {}
        if search.ranges == "strong" and name in GROUPS["priors"]:
            ranges = {of: ranges[of] for of in ranges if of not in TRUNK | NETWORK} | STRONG
            given = {"network": "linear"}
        if search.ranges == "norms" and name in NORMS:
            ranges = STRONG_NORMS
            given = {"trunk": "shared"} | ({} if planted else {"network": "linear"})
        start = "stl-start" if name == "dmtl-tf" else None
        drawn = configurations(search.count, search.draw, **ranges)[:trials]
        arms[name] = Arm(build, configurations=drawn, start=start, protocol=given)
    linear = {} if planted else {"network": "linear"}
    return arms | {"stl-start": Arm(table.stl, number="decay", value=0.01, protocol=linear)}


def seen(method: Method) -> Relation | None:
    """What a trained method holds of its tasks: of its heads, where these can be compared."""
    if isinstance(method, NetworkMethod) and not isinstance(method, MRN):
        head = method.network.head
        return cosine_relation(head.weight.detach().flatten(1)) if head.tasks > 1 else None
    return method.relation()


def recovery(found: Relation, groups: Sequence[int]) -> float:
    """How surely a pair within a group is held for closer than one across, in percent.

    The area under the ROC curve of all pairs: 50 says nothing, 100 all. The scale of a relation
    does not matter, nor what its numbers mean, as long as closer tasks have larger ones.
    """
    from sklearn.metrics import roc_auc_score  # of the extras

    matrix = found.matrix
    found = found.normalised() if bool((matrix.diagonal() > 0).all()) else found
    of_pairs = found.off_diagonal().double().cpu().numpy()
    i, j = torch.triu_indices(len(groups), len(groups), 1)
    group = torch.tensor(groups)
    within = (group[i] == group[j]).numpy()
    if within.all() or not within.any():
        raise ValueError(f"groups: expected pairs within and across some, got {list(groups)}")
    return float(100 * roc_auc_score(within, of_pairs))


def groups_of(problem: str, tasks: int) -> Sequence[int] | None:
    """Of each task its group, where there are pairs within and across; else None."""
    if problem in TEACHERS:
        teacher = TEACHERS[problem]
        return None if teacher.unrelated or teacher.across == 1 or tasks < 4 else teacher.groups
    of = REAL[problem].groups
    return None if of is None else of(tasks)


def measure(add: Add, outcome: Outcome, parts: Parts, *, problem: str) -> None:
    """``score``, ``worst`` (of a task), ``loss``; of a relation ``recovery`` and, once, itself."""
    per_task, loss = running.scores(outcome.method, parts["test"])
    per_task = [max(score, FLOOR) for score in per_task]
    add(metric="score", value=sum(per_task) / len(per_task))
    add(metric="worst", value=min(per_task))
    add(metric="loss", value=loss)
    relation, groups = seen(outcome.method), groups_of(problem, len(per_task))
    if relation is None or not bool(relation.matrix.isfinite().all()):
        return
    if groups is not None:
        add(metric="recovery", value=recovery(relation, groups))
    if add.repeat == 0 and len(per_task) <= 10:
        rows = [[round(x, 3) for x in row] for row in relation.matrix.tolist()]
        add.curve("relation", rows)


def study_of(
    problem: str,
    tasks: TaskSet | None = None,
    *,
    trials: int = TRIALS,
    splits: int = 2,
    **changes: Any,
) -> Study:
    """The study of one problem; the names of its metrics end with the problem's.

    Parameters
    ----------
    problem : str
        A name of ``TEACHERS`` or ``REAL``.
    tasks : TaskSet, optional
        Of a real problem, as :meth:`mtlbook.experiments.problems.Real.made` gives them.
    trials : int
        Settings of every arm that are tried.
    splits : int
        On which they are.
    **changes
        Of the protocol.
    """
    if problem not in (*TEACHERS, *REAL):
        raise ValueError(f"problem: expected one of {[*TEACHERS, *REAL]}, got {problem!r}")
    planted = problem in TEACHERS

    @lru_cache(maxsize=splits + 1)  # every arm asks for them anew
    def parts(tasks: TaskSet | None, repeat: int) -> Parts:
        return TEACHERS[problem].parts(repeat) if planted else REAL[problem].parts(tasks, repeat)

    return Study(
        name="which_method",
        arms=arms_of(problem, TEACHERS[problem].tasks if planted else len(tasks), trials),
        protocol=Protocol(**changes),
        split=lambda tasks, repeat, protocol: parts(tasks, repeat),
        training=running.training,
        measure=partial(measure, problem=problem),
        score=running.score,
        tuning_splits=range(1000, 1000 + splits),
        suffix=f"/{problem}",
    )


def run(
    study: Study,
    result: Result,
    tasks: TaskSet | None,
    *,
    arms: Iterable[str],
    repeats: Iterable[int],
    device: str = "auto",
) -> None:
    """Tune and compare arm by arm; also ``seconds``, CPU time of a training and its test.

    A model that diverges in a repeat, at numbers that did not in tuning, scores as a guess does:
    ``failed`` is 1 then.
    """
    for arm in arms:
        value = study.tune(result, tasks, arms=[arm], device=device)
        for repeat in repeats:
            add, start = Add(result, arm, repeat, study.suffix), time.process_time()
            try:
                study.compare(
                    result, tasks, arms=[arm], repeats=[repeat], values=value, device=device
                )
            except FloatingPointError:
                test = study.split(tasks, repeat, study.protocol)["test"]
                guess = [0.0 if t.loss == "mse" else 100 / t.outputs for t in test]
                for metric, score in (("score", sum(guess) / len(guess)), ("worst", min(guess))):
                    add(metric=metric, value=score)
                add(metric="failed", value=1)
            add(metric="seconds", value=time.process_time() - start)


def setting(study: Study, result: Result, arm: str) -> Mapping[str, Any]:
    """What an arm has chosen."""
    return study.arms[arm].configurations[int(choices(result)[arm + study.suffix])]
