"""The solver of the linear models: one accelerated proximal gradient, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlbook.methods.base import Method
from mtlbook.relations import Relation, cosine_relation
from mtlbook.tasks import TaskSet

TINY = 1e-12


class NotConverged(RuntimeWarning):
    """A linear model stopped far from its optimum."""


class LinearTasks(Method):
    """Base of the linear models: T tasks, K outputs each.

    It learns by iterations of its own, :meth:`solve`, which :func:`mtlbook.training.fit` calls in
    place of gradient steps. Its shapes are those of the data.

    Parameters
    ----------
    loss : "squared" | "logistic"
        "logistic" for classes, for binary targets and for targets of -1 and +1.
    features : callable, optional
        What the model sees of its inputs, ``(n, ...) -> (n, D)``; by default they are flattened.
    max_iterations : int
        Of the accelerated proximal gradient.
    tolerance : float
        It stops when no weight moves by more than ``tolerance`` times the largest.
    warn : bool
        Whether to warn (:class:`NotConverged`) where it stops with a ``residual_`` above 0.05.

    Attributes
    ----------
    coef_ : Tensor, shape ``(K, D, T)``
        The axes of ``layer.stack()``: outputs, features, tasks. In float64.
    intercept_ : Tensor, shape ``(K, T)``
        Not regularised.
    n_iter_ : int
    residual_ : float
        How far from optimal: the largest entry of the proximal gradient, in units of each
        feature's deviation, over what it was at zero weights. It does not see the features' scale.
    """

    #: Whether the regulariser does not change when the features are rotated.
    _turns = True

    def __init__(
        self,
        *,
        loss: str = "squared",
        features: Callable[[Tensor], Tensor] | None = None,
        max_iterations: int = 2000,
        tolerance: float = 1e-5,
        warn: bool = True,
    ):
        super().__init__()
        if loss not in ("squared", "logistic"):
            raise ValueError(f"loss: expected 'squared' or 'logistic', got {loss!r}")
        self.loss, self.max_iterations, self.tolerance = loss, max_iterations, tolerance
        self.features, self.warn = features or nn.Flatten(), warn
        self._keep(coef_=torch.zeros(0, 0, 0), intercept_=torch.zeros(0, 0))

    @property
    def tasks(self) -> range:
        return range(self.coef_.shape[-1])

    def solve(self, train: TaskSet) -> bool:
        """Fit the tasks' samples: classes and binary targets as -1 and +1."""
        classes = max(train.outputs)
        targets = [
            _signed(task.targets, classes)
            if task.loss == "cross_entropy"
            else (2 * task.targets - 1 if task.loss == "bce" else task.targets)
            for task in train
        ]
        with torch.no_grad():
            self.fit([self.features(task.inputs) for task in train], targets)
        return True

    def fit(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> LinearTasks:
        """Fit T tasks.

        Parameters
        ----------
        inputs : sequence of T Tensor, shape ``(n_t, D)``
        targets : sequence of T Tensor, shape ``(n_t, K)`` or ``(n_t,)``
            Real numbers, or -1 and +1.
        """
        targets = [y[:, None] if y.ndim == 1 else y for y in targets]
        _check(inputs, targets)
        problem = Problem(inputs, targets, self.loss, self._turns)
        coef, intercept = problem.affine(self._solve(problem))
        self._keep(coef_=coef, intercept_=intercept)
        if self.warn and self.residual_ > 0.05:
            warnings.warn(
                f"{type(self).__name__} stopped after {self.n_iter_} iterations with a residual of "
                f"{self.residual_:.2g}, where 0 is optimal; standardise the features, or lower "
                f"tolerance ({self.tolerance:g}) and raise max_iterations ({self.max_iterations})",
                NotConverged,
                stacklevel=2,
            )
        return self

    def _solve(self, problem: Problem) -> Tensor:
        """Weights ``(K, D + 1, T)``, the intercepts in the last row."""
        step = 1 / problem.lipschitz
        return self._descend(
            problem,
            problem.gradient,
            lambda w: but_intercept(lambda v: self._proximal(v, step), w),
            problem.zeros(),
            step,
        )

    def _proximal(self, coef: Tensor, step: float) -> Tensor:
        """Proximal map of ``step`` times the regulariser, on ``(K, D, T)``."""
        raise NotImplementedError

    def _descend(
        self,
        problem: Problem,
        gradient: Callable[[Tensor], Tensor],
        proximal: Callable[[Tensor], Tensor],
        start: Tensor,
        step: float,
    ) -> Tensor:
        """FISTA (Beck and Teboulle 2009), restarted when momentum points uphill."""
        old, ahead, momentum = start, start, 1.0
        for i in range(1, self.max_iterations + 1):
            new = proximal(ahead - step * gradient(ahead))
            change = new - old
            if float(((ahead - new) * change).sum()) > 0:
                momentum = 1.0  # O'Donoghue and Candes 2015, gradient scheme
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = new + (momentum - 1) / following * change
            old, momentum, self.n_iter_ = new, following, i
            if float(change.abs().amax()) <= self.tolerance * float(new.abs().amax()):
                break
        moved, first = (
            float(((w - proximal(w - step * gradient(w))) / problem.deviation).abs().amax())
            for w in (old, torch.zeros_like(old))
        )
        self.residual_ = moved / first if first > 0 else 0.0
        return old

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Scores of each task, shape ``(n_t, K)``."""
        if len(inputs) != len(self.tasks):
            raise ValueError(f"inputs: expected {len(self.tasks)} tasks, got {len(inputs)}")
        scores = []
        for t, x in enumerate(inputs):
            x = self.features(x)
            kind = x.dtype if x.is_floating_point() else torch.get_default_dtype()
            scores.append((x.double() @ self.coef_[..., t].mT + self.intercept_[:, t]).to(kind))
        return scores

    def relation(self) -> Relation:
        """Cosines of the tasks' weights."""
        return cosine_relation(self.coef_.flatten(0, 1).mT)

    def _keep(self, **tensors: Tensor) -> None:
        """Store what was learned: parameters that no optimiser steps."""
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor.double(), requires_grad=False))

    def _load_from_state_dict(self, state, prefix, *arguments):
        names = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
        own = [name for name in names if name in self._parameters]
        self._keep(**{name: torch.empty_like(state[prefix + name]) for name in own})
        super()._load_from_state_dict(state, prefix, *arguments)


class Problem:
    """The smooth part: padded and centred data, gradient, Lipschitz constant. In float64."""

    def __init__(self, inputs, targets, loss: str, turns: bool):
        pad = torch.nn.utils.rnn.pad_sequence
        signed = all(bool((t.abs() == 1).all()) for t in targets)
        if loss == "logistic" and not signed:
            raise ValueError("targets: expected classes or -1 and +1 with loss 'logistic'")
        self.loss = loss
        self.means = torch.stack([x.double().mean(0) for x in inputs])  # (T, D)
        # Centred inputs make the intercept orthogonal to all else.
        centred = [x.double() - mean for x, mean in zip(inputs, self.means, strict=True)]
        samples, self.basis = torch.cat(centred), None
        if turns and len(samples) < samples.shape[1]:
            # The weights lie in the span of the samples, so its coordinates are enough.
            self.basis = torch.linalg.qr(samples.mT).Q  # (D, samples)
            centred = [x @ self.basis for x in centred]
        self.x = pad(centred, batch_first=True)  # (T, n, D), zeros below
        self.y = pad([t.double() for t in targets], batch_first=True)  # (T, n, K)
        self.counts = torch.tensor([len(x) for x in inputs]).to(self.x)  # (T,)
        gram = self.x @ self.x.mT if self.x.shape[1] < self.x.shape[2] else self.x.mT @ self.x
        largest = float((torch.linalg.eigvalsh(gram)[:, -1] / self.counts).max())
        # The intercept's column gets the length that costs no smaller step.
        self.one = largest**0.5 if largest > 0 else 1.0
        lengths = torch.cat(centred).square().mean(0).sqrt()  # (D,)
        largest = lengths.max().clamp(min=TINY)
        self.deviation = torch.cat([lengths.clamp(min=1e-6 * largest), largest[None]])[:, None]
        ones = pad([x.new_full((len(x), 1), self.one) for x in centred], batch_first=True)
        self.x = torch.cat([self.x, ones], 2)
        self.lipschitz = self.one**2 * (0.25 if loss == "logistic" else 1.0)

    def affine(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients ``(K, D, T)`` and intercepts ``(K, T)`` for inputs as they came."""
        coef, shifted = weights[:, :-1], weights[:, -1] * self.one
        coef = coef if self.basis is None else self.basis @ coef
        return coef, shifted - torch.einsum("td,kdt->kt", self.means, coef)

    def zeros(self) -> Tensor:
        """Weights ``(K, D + 1, T)``."""
        return self.x.new_zeros(self.y.shape[2], self.x.shape[2], len(self.x))

    def gradient(self, weights: Tensor) -> Tensor:
        """Of the sum of the tasks' mean losses; padded rows of ``x`` are zero and add nothing."""
        scores = self.x @ weights.permute(2, 1, 0)  # (T, n, K)
        if self.loss == "squared":
            slope = scores - self.y
        else:
            slope = -self.y * torch.sigmoid(-self.y * scores)
        return (self.x.mT @ (slope / self.counts[:, None, None])).permute(2, 1, 0)


def but_intercept(function: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    return torch.cat([function(weights[:, :-1]), weights[:, -1:]], 1)


def _signed(targets: Tensor, classes: int) -> Tensor:
    """Class numbers ``(n,)`` to one column per class, +1 for it and -1 for the rest."""
    return 2.0 * F.one_hot(targets.long(), classes).double() - 1


def _check(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    if not len(inputs) or len(inputs) != len(targets):
        raise ValueError(
            f"targets: expected one tensor for each of {len(inputs)} tasks, got {len(targets)}"
        )
    shapes = [tuple(x.shape) for x in inputs]
    if any(len(s) != 2 or s[0] < 1 or s[1] != shapes[0][1] for s in shapes):
        raise ValueError(f"inputs: expected shapes (n_t, D) with one D, got {shapes}")
    found = [tuple(y.shape) for y in targets]
    if found != [(s[0], found[0][1]) for s in shapes]:
        raise ValueError(
            f"targets: expected shapes (n_t, K) with one K and {[s[0] for s in shapes]} rows, got "
            f"{found}"
        )
