"""Exercises of the chapter on tensors."""

from functools import partial

import torch

from mtlbook.exercises.model import (
    DERIVE,
    WARM_UP,
    Exercise,
    Failed,
    Mistake,
    close,
    randn,
    require,
    shaped,
)
from mtlbook.tensors import mode_product, unfold

exercise = partial(Exercise, chapter="foundations/tensors")

# ------------------------------------------------------------------------------------- unfolding


def counts(f):
    """Unfolding a 2 x 3 x 2 tensor that counts from 0 along its second axis

    Which index do the rows carry, and which of the others advances from one column to the next?
    """
    x = torch.arange(12.0, dtype=torch.float64).reshape(2, 3, 2)
    rows = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    close(f(x, 1), torch.tensor(rows, dtype=torch.float64), "the unfolding")


def from_the_end(f):
    """Mode -1 is the last axis, the tasks

    Code counts axes from the end, too: a list of "all axes but `mode`" must know that.
    """
    x = randn(2, 3, 4, 5)
    close(f(x, -1), unfold(x, 3), "the unfolding")


def _column_major(x, mode):
    rest = [k for k in range(x.ndim) if k != mode % x.ndim]
    return x.permute(mode % x.ndim, *reversed(rest)).reshape(x.shape[mode], -1)


def _without_the_end(x, mode):
    return x.permute(mode, *(k for k in range(x.ndim) if k != mode)).reshape(x.shape[mode], -1)


# ------------------------------------------------------------------------------- scaled networks


def of_features(f):
    """The singular values of W_(i), i < N, are those of one layer times a number

    Compare W_(i) W_(i)^T with w_(i) w_(i)^T: every column of w_(i) stands in W_(i) T times.
    """
    w, a = randn(3, 4, 5), randn(6, seed=1)
    came = f(w, a)
    require(isinstance(came, (list, tuple)) and len(came) == 4, "a list of 4 tensors", f"{came}")
    expected = [torch.linalg.svdvals(unfold(w[..., None] * a, i)) for i in range(3)]
    close(list(came[:3]), expected, "singular values")


def of_tasks(f):
    """W_(N) has one singular value that is not zero

    W_(N) is an outer product of two vectors. Which norm of w is the length of vec(w)?
    """
    w, a = randn(3, 4, 5), randn(6, seed=1)
    expected = torch.linalg.svdvals(unfold(w[..., None] * a, -1))[:1]
    close(f(w, a)[3], expected, "the singular value of W_(N), in a tensor of one entry")


def _scaled(factor, length):
    def answer(w, a):
        values = [torch.linalg.svdvals(unfold(w, i)) * factor(a) for i in range(w.ndim)]
        return [*values, (a.norm() * length(w))[None]]

    return answer


def _trace(w):
    return torch.linalg.svdvals(unfold(w, 0)).sum()


# ------------------------------------------------------------------------- Tucker decomposition

_STACK = mode_product(mode_product(randn(3, 6, 2), randn(5, 3, seed=1), 0), randn(8, 2, seed=2), 2)


def gives_back(f):
    """Core and bases give the tensor back

    U_i U_i^T must leave W_(i) as it is. With which of U_i and U_i^T is the core made?
    """
    core, bases = _pair(f(_STACK))
    again = core
    for mode, basis in enumerate(bases):
        again = mode_product(again, basis, mode)
    close(again, _STACK, "core times bases")


def orthonormal(f):
    """The columns of every basis are orthonormal

    The singular *vectors* are asked for; what belongs to their sizes goes into the core.
    """
    for mode, basis in enumerate(_pair(f(_STACK))[1]):
        close(basis.mT @ basis, torch.eye(basis.shape[1]).double(), f"U^T U of mode {mode}")


def as_small_as_the_ranks(f):
    """The core is as small as the ranks of the unfoldings allow

    Singular values that are zero come out of the computer as something like 1e-16.
    """
    core = _pair(f(_STACK))[0]
    require(core.shape == (3, 6, 2), "a core of shape (3, 6, 2)", f"shape {tuple(core.shape)}")


def _pair(came):
    if not isinstance(came, tuple) or len(came) != 2 or len(came[1]) != 3:
        raise Failed("a core and a list of three bases", f"{type(came).__name__}")
    shaped(came[0], [basis.shape[1] for basis in came[1]], "the core")
    return came


def _tucker(cut, scale=False, transpose=True):
    def answer(w):
        bases, core = [], w
        for mode in range(w.ndim):
            u, s, _ = torch.linalg.svd(unfold(w, mode), full_matrices=False)
            kept = s > cut * s[0]
            basis = u[:, kept] * (s[kept] if scale else 1)
            bases.append(basis)
            back = torch.linalg.pinv(basis) if transpose else basis.mT * 0.5
            core = mode_product(core, back, mode)
        return core, bases

    return answer


EXERCISES = (
    exercise(
        "ex-tensors-unfold",
        "Unfold by hand",
        WARM_UP,
        signature="unfolding(x, mode)",
        shapes="x of shape (d_0, ..., d_N-1), mode from 0 or negative -> (d_mode, all others)",
        checks=(counts, from_the_end),
        mistakes=(
            Mistake(
                "`reshape` alone never moves an axis: it reads the entries in the order in which "
                "they are stored. Bring the axis of the rows to the front first.",
                lambda x, mode: x.reshape(x.shape[mode], -1),
            ),
            Mistake(
                "The columns are there, in another order: the *first* of the remaining axes runs "
                "fastest in yours, as in many texts; here it is the last.",
                _column_major,
            ),
            Mistake(
                "Rows and columns are exchanged: the chosen axis counts the rows.",
                lambda x, mode: unfold(x, mode).mT,
            ),
            Mistake("The axis -1 must be the last one.", _without_the_end),
        ),
    ),
    exercise(
        "ex-tensors-scale",
        "Related by scale",
        DERIVE,
        signature="scaled_spectra(w, a)",
        shapes="w (d_1, ..., d_N-1), a (T,) -> list of N tensors: the singular values of W_(1), "
        "..., W_(N-1), and of W_(N) the one that is not zero",
        checks=(of_features, of_tasks),
        mistakes=(
            Mistake(
                "The factors add up *squared*, because W W^T is a sum over tasks.",
                _scaled(torch.sum, torch.linalg.vector_norm),
            ),
            Mistake(
                "A factor belongs to the squares of the singular values: take its root.",
                _scaled(lambda a: a.square().sum(), torch.linalg.vector_norm),
            ),
            Mistake(
                "The trace norm of w_(1) is not the length of vec(w): W_(N) has w in one long row.",
                _scaled(torch.linalg.vector_norm, _trace),
            ),
        ),
    ),
    exercise(
        "ex-tensors-tucker",
        "The Tucker decomposition",
        DERIVE,
        signature="tucker(w)",
        shapes="w (d_1, ..., d_N) -> (core (r_1, ..., r_N), list of N bases (d_i, r_i))",
        checks=(gives_back, orthonormal, as_small_as_the_ranks),
        mistakes=(
            Mistake("The core is not W in the bases.", _tucker(1e-10, transpose=False)),
            Mistake(
                "The bases carry the singular values, which the core must carry.",
                _tucker(1e-10, scale=True),
            ),
            Mistake(
                "All singular vectors are kept, also those of singular values that are zero up to "
                "rounding: compare with the largest.",
                _tucker(-1.0),
            ),
        ),
    ),
)
