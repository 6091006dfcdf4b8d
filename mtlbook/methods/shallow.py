r"""Linear multi-task models on given features, in scikit-learn's manner.

OBJECTIVE   :math:`\min_W \sum_t \frac{1}{n_t} \sum_j \ell(y_{tj}, f_{tj}) + \Omega(W)`,
            :math:`f_{tj} = w_t^\top x_{tj} + b_t`, :math:`W = [w_1, \dots, w_T]` of shape (D, T)

with :math:`\ell(y, f) = \tfrac12 (y - f)^2` or :math:`\ln(1 + e^{-yf})`. Classes are learned one
against the rest, each with a matrix of its own. The problems are convex; one accelerated proximal
gradient solves them all, and a model is its proximal map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook.norms import singular_value_threshold
from mtlbook.relations import Relation, cosine_relation


class LinearTasks:
    """Base of the linear models: T tasks, K outputs each.

    Parameters
    ----------
    loss : "squared" | "logistic"
        "logistic" for classes and for targets of -1 and +1.
    max_iterations : int
        Of the accelerated proximal gradient.
    tolerance : float
        It stops when no weight moves by more than ``tolerance`` times the largest.

    Attributes
    ----------
    coef_ : Tensor, shape ``(K, D, T)``
        The axes of ``layer.stack()``: outputs, features, tasks. In float64.
    intercept_ : Tensor, shape ``(K, T)``
        Not regularised.
    n_iter_ : int
    """

    #: Whether the regulariser does not change when the features are rotated.
    _turns = True

    def __init__(
        self, *, loss: str = "squared", max_iterations: int = 2000, tolerance: float = 1e-5
    ):
        if loss not in ("squared", "logistic"):
            raise ValueError(f"loss: expected 'squared' or 'logistic', got {loss!r}")
        self.loss, self.max_iterations, self.tolerance = loss, max_iterations, tolerance

    def fit(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> LinearTasks:
        """Fit T tasks.

        Parameters
        ----------
        inputs : sequence of T Tensor, shape ``(n_t, D)``
        targets : sequence of T Tensor
            ``(n_t,)`` integers: classes, one against the rest. ``(n_t,)`` or ``(n_t, K)``
            floating: real targets, or -1 and +1.
        """
        _check(inputs, targets)
        self.classes_ = not targets[0].is_floating_point()
        problem = _Problem(
            inputs, _signed(targets) if self.classes_ else targets, self.loss, self._turns
        )
        self.coef_, self.intercept_ = problem.affine(self._solve(problem))
        return self

    def _solve(self, problem: _Problem) -> Tensor:
        """Weights ``(K, D + 1, T)``, the intercepts in the last row."""
        step = 1 / problem.lipschitz
        return self._descend(
            problem.gradient,
            lambda w: _but_intercept(lambda v: self._proximal(v, step), w),
            problem.zeros(),
            step,
        )

    def _proximal(self, coef: Tensor, step: float) -> Tensor:
        """Proximal map of ``step`` times the regulariser, on ``(K, D, T)``."""
        raise NotImplementedError

    def _descend(
        self,
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
        return old

    def decision_function(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Scores of each task, shape ``(n_t, K)``."""
        if len(inputs) != self.coef_.shape[-1]:
            raise ValueError(f"inputs: expected {self.coef_.shape[-1]} tasks, got {len(inputs)}")
        return [
            (x.double() @ self.coef_[..., t].mT + self.intercept_[:, t]).to(x.dtype)
            for t, x in enumerate(inputs)
        ]

    def predict(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Class numbers ``(n_t,)`` where classes were fitted, else scores ``(n_t, K)``."""
        scores = self.decision_function(inputs)
        return [s.argmax(1) for s in scores] if self.classes_ else scores

    def relation(self) -> Relation:
        """Cosines of the tasks' weights."""
        return cosine_relation(self.coef_.flatten(0, 1).mT)


class Lasso(LinearTasks):
    r"""Sparse tasks that do not meet: :math:`\Omega(W) = \gamma \sum_{dt} |w_{dt}|`.

    Parameters
    ----------
    gamma : float
    **options
        Of :class:`mtlbook.methods.shallow.LinearTasks`.

    References
    ----------
    Tibshirani, R., *Regression shrinkage and selection via the lasso*, J. R. Stat. Soc. B, 1996.
    """

    _turns = False

    def __init__(self, gamma: float = 0.1, **options):
        super().__init__(**options)
        self.gamma = _strength("gamma", gamma)

    def _proximal(self, coef: Tensor, step: float) -> Tensor:
        return F.softshrink(coef, step * self.gamma)


class L21(LinearTasks):
    r"""Tasks that use the same features:
    :math:`\Omega(W) = \gamma \sum_d (\sum_t w_{dt}^2)^{1/2}`.

    scikit-learn's ``MultiTaskLasso`` where all tasks have the same inputs.

    Parameters
    ----------
    gamma : float
    **options
        Of :class:`mtlbook.methods.shallow.LinearTasks`.

    References
    ----------
    Obozinski, G., Taskar, B. and Jordan, M. I., *Joint covariate selection and joint subspace
    selection for multiple classification problems*, Stat. Comput. 20, 2010.
    """

    _turns = False

    def __init__(self, gamma: float = 0.1, **options):
        super().__init__(**options)
        self.gamma = _strength("gamma", gamma)

    def _proximal(self, coef: Tensor, step: float) -> Tensor:
        return _shrink_groups(coef, step * self.gamma, dim=-1)


class MTFL(LinearTasks):
    r"""Multi-task feature learning: :math:`\Omega(W) = \gamma \norm{W}_*`.

    Argyriou et al. minimise over features and weights, :math:`\gamma' \inf_D \sum_t w_t^\top
    D^{-1} w_t` with :math:`\tr D \le 1`, which is :math:`\gamma' \norm{W}_*^2` (their theorem 1):
    the same solutions, at :math:`\gamma = 2 \gamma' \norm{W}_*`.

    Parameters
    ----------
    gamma : float
    **options
        Of :class:`mtlbook.methods.shallow.LinearTasks`.

    References
    ----------
    Argyriou, A., Evgeniou, T. and Pontil, M., *Convex multi-task feature learning*, Machine
    Learning 73, 2008.
    """

    def __init__(self, gamma: float = 0.1, **options):
        super().__init__(**options)
        self.gamma = _strength("gamma", gamma)

    def _proximal(self, coef: Tensor, step: float) -> Tensor:
        return singular_value_threshold(coef, step * self.gamma)


class RMTL(LinearTasks):
    r"""Robust multi-task learning: a few directions in common, and tasks that stand apart.

    :math:`\Omega(W) = \min_{L + S = W} \gamma \norm{L}_* + \beta \sum_t \norm{s_t}_2`

    Parameters
    ----------
    gamma : float
        Of the low-rank part.
    beta : float
        Of the part of outlying tasks; a column of S is zero unless its task does not fit.
    **options
        Of :class:`mtlbook.methods.shallow.LinearTasks`.

    Attributes
    ----------
    low_rank_, outliers_ : Tensor, shape ``(K, D, T)``
        L and S; their sum is ``coef_``.

    References
    ----------
    Chen, J., Zhou, J. and Ye, J., *Integrating low-rank and group-sparse structures for robust
    multi-task learning*, KDD 2011.
    """

    def __init__(self, gamma: float = 0.1, beta: float = 0.1, **options):
        super().__init__(**options)
        self.gamma, self.beta = _strength("gamma", gamma), _strength("beta", beta)

    def _solve(self, problem: _Problem) -> Tensor:
        step = 1 / (2 * problem.lipschitz)  # L and S see the same gradient: twice the curvature

        def gradient(parts: Tensor) -> Tensor:
            return problem.gradient(parts.sum(0)).expand_as(parts)

        def proximal(parts: Tensor) -> Tensor:
            low_rank, outliers = parts
            return torch.stack(
                [
                    _but_intercept(
                        lambda v: singular_value_threshold(v, step * self.gamma), low_rank
                    ),
                    _but_intercept(lambda v: _shrink_groups(v, step * self.beta, dim=-2), outliers),
                ]
            )

        parts = self._descend(gradient, proximal, problem.zeros().expand(2, -1, -1, -1), step)
        self.low_rank_, self.outliers_ = (problem.affine(part)[0] for part in parts)
        return parts.sum(0)


class MTRL(LinearTasks):
    r"""Multi-task relationship learning: a covariance of the tasks, learned with the weights.

    :math:`\Omega(W) = \min_{\Omega \succeq 0,\, \tr \Omega = 1}
    \tfrac{\lambda_1}{2} \norm{W}_F^2 + \tfrac{\lambda_2}{2} \tr(W \Omega^{-1} W^\top)`

    Weights and relation in turn; the second has the closed form
    :math:`\Omega = (W^\top W)^{1/2} / \tr (W^\top W)^{1/2}`. Jointly convex.

    Parameters
    ----------
    lambda1, lambda2 : float
    rounds : int
        Updates of the relation; 0 keeps the tasks unrelated, :math:`\Omega = I / T`.
    **options
        Of :class:`mtlbook.methods.shallow.LinearTasks`.

    Attributes
    ----------
    covariance_ : Tensor, shape ``(K, T, T)``
        Of each output.

    References
    ----------
    Zhang, Y. and Yeung, D.-Y., *A convex formulation for learning task relationships in multi-task
    learning*, UAI 2010.
    """

    def __init__(
        self, lambda1: float = 0.01, lambda2: float = 0.01, *, rounds: int = 10, **options
    ):
        super().__init__(**options)
        self.lambda1 = _strength("lambda1", lambda1)
        self.lambda2 = _strength("lambda2", lambda2)
        self.rounds = rounds

    def _solve(self, problem: _Problem) -> Tensor:
        weights, step = problem.zeros(), 1 / problem.lipschitz
        outputs, _, tasks = weights.shape
        identity = torch.eye(tasks).to(weights)
        self.covariance_ = (identity / tasks).expand(outputs, -1, -1)
        for i in range(self.rounds + 1):
            # The proximal map of the quadratic, Omega ((1 + s l1) Omega + s l2 I)^-1: no inverse
            # of Omega, so a covariance that has lost rank needs no ridge.
            omega = self.covariance_
            shrink = torch.linalg.solve(
                (1 + step * self.lambda1) * omega + (step * self.lambda2 + _TINY) * identity, omega
            )
            weights = self._descend(
                problem.gradient,
                lambda w, shrink=shrink: _but_intercept(lambda v: v @ shrink, w),
                weights,
                step,
            )
            if i < self.rounds:
                self.covariance_ = _square_root_relation(weights[:, :-1], omega)
        return weights

    def relation(self) -> Relation:
        """Correlations of the covariance, mean over outputs."""
        relation = Relation(
            self.covariance_.mean(0), "correlation of the tasks' weights in MTRL, -1 to 1"
        )
        matrix = relation.normalised().matrix.fill_diagonal_(1)  # also of a task without weights
        return Relation(matrix, relation.meaning)


_TINY = 1e-12


class _Problem:
    """The smooth part: padded and centred data, gradient, Lipschitz constant. In float64."""

    def __init__(self, inputs, targets, loss: str, turns: bool):
        pad = torch.nn.utils.rnn.pad_sequence
        y = [t[:, None] if t.ndim == 1 else t for t in targets]
        signed = all(bool((t.abs() == 1).all()) for t in y)
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
        self.y = pad([t.double() for t in y], batch_first=True)  # (T, n, K)
        self.counts = torch.tensor([len(x) for x in inputs]).to(self.x)  # (T,)
        gram = self.x @ self.x.mT if self.x.shape[1] < self.x.shape[2] else self.x.mT @ self.x
        largest = float((torch.linalg.eigvalsh(gram)[:, -1] / self.counts).max())
        # The intercept's column gets the length that costs no smaller step.
        self.one = largest**0.5 if largest > 0 else 1.0
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


def _but_intercept(function: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    return torch.cat([function(weights[:, :-1]), weights[:, -1:]], 1)


def _shrink_groups(x: Tensor, threshold: float, dim: int) -> Tensor:
    """Proximal map of a sum of Euclidean norms along an axis."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    factor = (length - threshold).clamp(min=0) / torch.where(length > 0, length, 1)
    return x * factor


def _square_root_relation(coef: Tensor, previous: Tensor) -> Tensor:
    """``(W^T W)^(1/2)`` of trace one for each output, ``(K, D, T)`` to ``(K, T, T)``.

    An output whose weights are all zero keeps what it had.
    """
    values, vectors = torch.linalg.eigh(coef.mT @ coef)
    roots = values.clamp(min=0).sqrt()
    trace = roots.sum(-1)[:, None, None]
    root = (vectors * roots[:, None, :]) @ vectors.mT
    return torch.where(trace > 0, root / torch.where(trace > 0, trace, 1), previous)


def _signed(targets: Sequence[Tensor]) -> list[Tensor]:
    """Class numbers to one column a class, +1 for it and -1 for the rest."""
    classes = int(max(y.max() for y in targets)) + 1
    return [2.0 * F.one_hot(y.long(), classes).double() - 1 for y in targets]


def _check(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    if not len(inputs) or len(inputs) != len(targets):
        raise ValueError(
            f"targets: expected one tensor for each of {len(inputs)} tasks, got {len(targets)}"
        )
    shapes = [tuple(x.shape) for x in inputs]
    if any(len(s) != 2 or s[0] < 1 or s[1] != shapes[0][1] for s in shapes):
        raise ValueError(f"inputs: expected shapes (n_t, D) with one D, got {shapes}")
    if [len(y) for y in targets] != [s[0] for s in shapes]:
        raise ValueError(
            f"targets: expected {[s[0] for s in shapes]} rows, got {[len(y) for y in targets]}"
        )
    kinds = {y.is_floating_point() for y in targets}
    widths = {tuple(y.shape[1:]) for y in targets}
    if len(kinds) != 1 or len(widths) != 1 or (kinds == {False} and widths != {()}):
        raise ValueError(
            "targets: expected classes (n_t,) or real targets (n_t,) or (n_t, K) in all tasks, "
            f"got {[(y.dtype, tuple(y.shape)) for y in targets]}"
        )


def _strength(argument: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{argument}: expected a number >= 0, got {value}")
    return float(value)
