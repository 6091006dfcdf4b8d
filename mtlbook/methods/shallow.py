r"""Linear multi-task models on given features.

OBJECTIVE   :math:`\min_W \sum_t \frac{1}{n_t} \sum_j \ell(y_{tj}, f_{tj}) + \Omega(W)`,
            :math:`f_{tj} = w_t^\top x_{tj} + b_t`, :math:`W = [w_1, \dots, w_T]` of shape (D, T)

with :math:`\ell(y, f) = \tfrac12 (y - f)^2` or :math:`\ln(1 + e^{-yf})`. Classes are learned one
against the rest, each with a matrix of its own. The problems are convex; one accelerated proximal
gradient solves them all, and a model is its proximal map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook.methods.linear import TINY, LinearTasks, Problem, but_intercept
from mtlbook.norms import singular_value_threshold
from mtlbook.relations import Relation


class Lasso(LinearTasks):
    r"""Sparse tasks that do not meet: :math:`\Omega(W) = \gamma \sum_{dt} |w_{dt}|`.

    Parameters
    ----------
    gamma : float
    **options
        Of :class:`mtlbook.methods.linear.LinearTasks`.

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
        Of :class:`mtlbook.methods.linear.LinearTasks`.

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
        Of :class:`mtlbook.methods.linear.LinearTasks`.

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
        Of :class:`mtlbook.methods.linear.LinearTasks`.

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
        self._keep(low_rank_=self.coef_, outliers_=self.coef_)

    def _solve(self, problem: Problem) -> Tensor:
        step = 1 / (2 * problem.lipschitz)  # L and S see the same gradient: twice the curvature

        def gradient(parts: Tensor) -> Tensor:
            return problem.gradient(parts.sum(0)).expand_as(parts)

        def proximal(parts: Tensor) -> Tensor:
            low_rank, outliers = parts
            return torch.stack(
                [
                    but_intercept(
                        lambda v: singular_value_threshold(v, step * self.gamma), low_rank
                    ),
                    but_intercept(lambda v: _shrink_groups(v, step * self.beta, dim=-2), outliers),
                ]
            )

        start = problem.zeros().expand(2, -1, -1, -1)
        parts = self._descend(problem, gradient, proximal, start, step)
        low_rank, outliers = (problem.affine(part)[0] for part in parts)
        self._keep(low_rank_=low_rank, outliers_=outliers)
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
        Of :class:`mtlbook.methods.linear.LinearTasks`.

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
        self._keep(covariance_=self.coef_)

    def _solve(self, problem: Problem) -> Tensor:
        weights, step = problem.zeros(), 1 / problem.lipschitz
        outputs, _, tasks = weights.shape
        identity = torch.eye(tasks).to(weights)
        omega = (identity / tasks).expand(outputs, -1, -1)
        for i in range(self.rounds + 1):
            # The proximal map of the quadratic, Omega ((1 + s l1) Omega + s l2 I)^-1: no inverse
            # of Omega, so a covariance that has lost rank needs no ridge.
            shrink = torch.linalg.solve(
                (1 + step * self.lambda1) * omega + (step * self.lambda2 + TINY) * identity, omega
            )
            weights = self._descend(
                problem,
                problem.gradient,
                lambda w, shrink=shrink: but_intercept(lambda v: v @ shrink, w),
                weights,
                step,
            )
            if i < self.rounds:
                omega = _square_root_relation(weights[:, :-1], omega)
        self._keep(covariance_=omega)
        return weights

    def relation(self) -> Relation:
        """Correlations of the covariance, mean over outputs."""
        relation = Relation(
            self.covariance_.mean(0), "correlation of the tasks' weights in MTRL, -1 to 1"
        )
        matrix = relation.normalised().matrix.fill_diagonal_(1)  # also of a task without weights
        return Relation(matrix, relation.meaning)


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


def _strength(argument: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{argument}: expected a number >= 0, got {value}")
    return float(value)
