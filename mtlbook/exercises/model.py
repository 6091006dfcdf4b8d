"""What an exercise is: a signature, checks with hints, and wrong answers that are recognised.

A check is a function of the reader's function. The first line of its docstring says what must
hold, the rest is the hint for whoever fails it, which names the place to look at and not the
answer. It raises `Failed` through the helpers below.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = ("warm-up", "derive and check", "project")
WARM_UP, DERIVE, PROJECT = LEVELS


class Failed(Exception):
    """A check that does not hold: what was expected and what came, both as text."""

    def __init__(self, expected: str, came: str, hint: str = ""):
        super().__init__(f"expected {expected}, came {came}")
        self.expected, self.came, self.hint = expected, came, hint


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer: the hint for those who gave it, and its function.

    The function answers to the same arguments as the reader's. It recognises an answer, which
    fails and gives what it gives; and it tests the checks, which must fail it.
    """

    hint: str
    function: Callable


@dataclass(frozen=True)
class Exercise:
    """One exercise of the book.

    Attributes
    ----------
    name : str
        Its label on the page.
    title : str
    level : str
        One of `LEVELS`.
    chapter : str
        The page, for example ``foundations/trace-norm``.
    signature : str
        Of the function that is checked, ``name(argument, ...)``; empty where none is.
    shapes : str
        What the arguments are and what is returned.
    checks : tuple of callable
    mistakes : tuple of Mistake
    """

    name: str
    title: str
    level: str
    chapter: str
    signature: str = ""
    shapes: str = ""
    checks: tuple[Callable[[Answer], None], ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def function(self) -> str:
        """The name of the function that is checked; empty where none is."""
        return self.signature.partition("(")[0]

    @property
    def arguments(self) -> list[str]:
        """The names of its arguments."""
        inside = self.signature.partition("(")[2].rstrip(")")
        return [name.strip() for name in inside.split(",") if name.strip()]


class Answer:
    """The reader's function, called with copies, its calls kept.

    Raises `Failed` where it raises, returns nothing or NaN, or changes what it was given.
    """

    def __init__(self, function: Callable, *, file: str = ""):
        self.function, self.file = function, file
        self.calls: list[tuple[tuple, Any]] = []

    def __call__(self, *args):
        given = copied(args)
        output = self._run(given, args)
        if output is None or output is Ellipsis:
            raise Failed("a result", f"{output}", "Is the function written, and does it return?")
        if not _same(given, args):
            raise Failed(
                "arguments that are left as they were",
                "an argument that was changed in place",
                "Work on a copy: `x = x.clone()`, or an operation without a final underscore.",
            )
        self.calls.append((copied(args), output))
        _refuse_nan(output)
        return output

    def gradient(self, *args, of: int = 0) -> tuple[Tensor, Tensor]:
        """The value, a scalar, and by automatic differentiation its gradient in argument ``of``."""
        given = list(copied(args))
        at = given[of] = given[of].requires_grad_()
        value = self._run(given, args)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise Failed(
                "a scalar tensor that can be differentiated",
                describe(value),
                "Compute with torch throughout: `float()`, `.item()` and NumPy cut the graph.",
            )
        (gradient,) = torch.autograd.grad(value, at)
        self.calls.append((copied(args), value.detach()))
        return value.detach(), gradient

    def _run(self, given, args):
        try:
            return self.function(*given)
        except NotImplementedError as error:
            raise Failed("a function", "NotImplementedError", "It is not written yet.") from error
        except Failed:
            raise
        except Exception as error:
            self.calls.append((copied(args), error))
            raise Failed("a result", raised(error, self.file)) from error


def raised(error: BaseException, file: str = "") -> str:
    """An exception in a line, with the last line of ``file`` on the way to it."""
    where, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            where = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{where}"


def title(check: Callable) -> str:
    """What a check says must hold: the first line of its docstring."""
    return (inspect.getdoc(check) or check.__name__).partition("\n")[0]


def hint(check: Callable) -> str:
    """The hint of a check: its docstring after the first line, on one line."""
    return " ".join((inspect.getdoc(check) or "").partition("\n")[2].split())


# ---------------------------------------------------------------------------- for the checks


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def covariance(d: int, seed: int = 0) -> Tensor:
    """A random covariance, positive definite, trace ``d``."""
    x = randn(d, 2 * d, seed=seed)
    s = x @ x.mT
    return s * d / s.trace()


def require(holds: Any, expected: str, came: str) -> None:
    """Fail unless it holds."""
    if not holds:
        raise Failed(expected, came)


def shaped(came: Any, shape: Sequence[int], what: str = "the result", like: Tensor | None = None):
    """Fail unless ``came`` is a tensor of that shape, and of the dtype of ``like``."""
    if not isinstance(came, Tensor) or came.shape != torch.Size(shape):
        raise Failed(f"{what}: a tensor of shape {tuple(shape)}", describe(came))
    if like is not None and came.dtype != like.dtype:
        raise Failed(
            f"{what}: {like.dtype}, as what was given",
            f"{came.dtype}",
            "Take over the dtype: `torch.eye(n, dtype=x.dtype)`, `torch.zeros_like(x)`.",
        )


def close(came: Any, expected: Any, what: str = "the result", *, rtol=1e-6, atol=1e-8) -> None:
    """Fail unless ``came`` is ``expected``: a tensor, a number, or a tuple or list of these."""
    if isinstance(expected, (tuple, list)):
        if not isinstance(came, (tuple, list)) or len(came) != len(expected):
            raise Failed(f"{what}: {len(expected)} of them", describe(came))
        for i, (one, other) in enumerate(zip(came, expected, strict=True)):
            close(one, other, f"{what}, number {i}", rtol=rtol, atol=atol)
        return
    if isinstance(expected, Tensor) and expected.ndim:
        shaped(came, expected.shape, what, expected)
    else:
        came, expected = number(came, what), float(expected)
    one, other = (torch.as_tensor(x, dtype=torch.float64) for x in (came, expected))
    if not torch.allclose(one, other, rtol=rtol, atol=atol):
        raise Failed(f"{what}: {describe(expected)}", describe(came), _likeness(one, other))


def number(came: Any, what: str = "the result") -> float:
    """``came`` as a float, or fail: a Python number, or an array or tensor without axes."""
    if tuple(getattr(came, "shape", ())) == ():
        try:
            return float(came.detach() if isinstance(came, Tensor) else came)
        except (TypeError, ValueError):
            pass
    raise Failed(f"{what}: one number", describe(came))


def describe(x: Any) -> str:
    """A value in a line: numbers in full, tensors by shape, dtype and their first entries."""
    if isinstance(x, Tensor):
        if x.ndim == 0:
            return f"{x.item():.6g}"
        first = ", ".join(f"{v:.4g}" for v in x.detach().flatten()[:4].tolist())
        more = ", ..." if x.numel() > 4 else ""
        return f"shape {tuple(x.shape)}, {str(x.dtype).removeprefix('torch.')}: {first}{more}"
    if isinstance(x, float):
        return f"{x:.6g}"
    if isinstance(x, (tuple, list)) and len(x) < 5:
        return f"{type(x).__name__} of {len(x)}: " + "; ".join(map(describe, x))
    text = repr(x)
    return f"{type(x).__name__} {text[:80]}{'...' if len(text) > 80 else ''}"


def _likeness(came: Tensor, expected: Tensor) -> str:
    """A remark on two tensors that differ by something simple."""
    nonzero = expected.abs() > 1e-9 * expected.abs().max()
    if bool(nonzero.any()):
        ratio = came[nonzero] / expected[nonzero]
        factor = float(ratio.flatten()[0])
        if torch.allclose(ratio, ratio.new_tensor(factor)) and abs(factor) > 1e-9:
            if abs(factor + 1) < 1e-6:
                return "Everything has the wrong sign."
            return f"Everything is {factor:.4g} times what was expected."
    if came.ndim == 2 and len(came) == came.shape[1] and torch.allclose(came.mT, expected):
        return "It is the transpose of what was expected."
    return ""


def copied(x: Any) -> Any:
    """A copy of an argument, however it is nested; a generator with the same numbers to come."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, (tuple, list)):
        return type(x)(map(copied, x))
    if isinstance(x, dict):
        return {key: copied(value) for key, value in x.items()}
    if isinstance(x, torch.Generator):
        return torch.Generator().set_state(x.get_state())
    return x.copy() if type(x).__module__ == "numpy" else x


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal, entry by entry."""
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, torch.Generator):
        return True  # it is there to be drawn from
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool((a == b).all()) if type(a).__module__ == "numpy" else a is b or a == b


def alike(a: Any, b: Any) -> bool:
    """Whether two outputs are one answer, up to rounding, or two errors of one kind."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b)
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        return alike(*([[p, p.requires_grad] for p in x.parameters()] for x in (a, b)))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(alike, a, b))
    try:
        a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
    except (TypeError, ValueError, RuntimeError):
        return type(a) is type(b) and a == b
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=True)


def _refuse_nan(output: Any) -> None:
    for x in output if isinstance(output, (tuple, list)) else [output]:
        if isinstance(x, (float, Tensor)):
            bad = torch.as_tensor(x).isnan()
            if bool(bad.any()):
                raise Failed("numbers", f"NaN in {int(bad.sum())} of {bad.numel()} entries")
