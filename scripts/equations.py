"""List the equations that code relies on, the code and its tests, and fail on an orphan.

The table "From the equations to the code" of a chapter links each such equation to the function
that computes it and names a test. The docstring of the function links back. What is missing on
either side is a problem, and so is a public function of the mathematics that names no equation.
"""

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MATHEMATICS = ("tensors", "norms", "priors", "saliency", "kernels")
WITHOUT = {  # what computes no equation, and why
    "tensors.Ragged": "a container",
    "norms.uncoupled_norms": "a control of the reproduction, derived in the method's chapter",
    "tensors.exact": "how many digits a computation keeps",
    "norms.tensorflow_order": "an order of axes",
    "tensors.symmetric_product": "arithmetic",
    "priors.Cholesky": "a factorisation that every book has",
    "priors.Inverted": "a view of a covariance",
    "priors.StoredCovariance": "a container",
    "priors.check_covariance": "a check",
    "priors.decompose": "a change of representation",
    "priors.normalise_trace": "a convention",
    "priors.proximal_step": "solved in an exercise",
    "priors.reciprocal": "arithmetic",
    "priors.whiten": "half of apply_precisions",
    "kernels.pair_share": "a count",
}


class Row(NamedTuple):
    """One line of a chapter's table."""

    page: str
    equations: tuple[str, ...]
    code: tuple[str, ...]
    tests: tuple[str, ...]


def rows(book: Path) -> list[Row]:
    """The lines of all tables "From the equations to the code"."""
    found = []
    for path in sorted(book.rglob("*.md")):
        for table in re.findall(
            r"^:::\{admonition\} From the equations to the code\n(.*?)^:::$",
            path.read_text(encoding="utf-8"),
            re.DOTALL | re.MULTILINE,
        ):
            for line in table.splitlines():
                equations = tuple(re.findall(r"\{eq\}`([^`]+)`", line))
                code = tuple(re.findall(r"\{py:\w+\}`([^`]+)`", line))
                tests = tuple(re.findall(r"`(tests/[^`]+)`", line))
                if equations or code:
                    page = path.relative_to(book).with_suffix("").as_posix()
                    found.append(Row(page, equations, code, tests))
    return found


def labels(book: Path) -> set[str]:
    """The labels of all displayed equations."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(book.rglob("*.md")))
    return set(re.findall(r"^\$\$ \(([^)]+)\)$", text, re.MULTILINE))


def public() -> dict[str, set[str]]:
    """The equations that the docstring of each public function of the mathematics names."""
    found = {}
    for name in MATHEMATICS:
        module = importlib.import_module(f"mtlbook.{name}")
        members = getattr(module, "__all__", None) or [
            key
            for key, member in vars(module).items()
            if not key.startswith("_") and getattr(member, "__module__", "") == module.__name__
        ]
        for key in members:
            member = getattr(module, key)
            if callable(member) and getattr(member, "__module__", "").startswith(module.__name__):
                found[f"{name}.{key}"] = set(re.findall(r":eq:`([^`]+)`", member.__doc__ or ""))
    return found


def is_there(test: str, root: Path) -> bool:
    """Whether ``tests/file.py::[Class::]name`` is a test of the repository."""
    file, *names = test.split("::")
    path = root / file
    nodes = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    for name in names:
        inside = next((node for node in nodes if getattr(node, "name", None) == name), None)
        if inside is None:
            return False
        nodes = inside.body
    return bool(nodes and names)


def problems(table: list[Row], known: set[str], code: dict[str, set[str]], root: Path = ROOT):
    """What is wrong, one sentence each; an empty list when nothing is."""
    linked: dict[str, set[str]] = {}
    for row in table:
        for name in row.code:
            linked.setdefault(name.removeprefix("mtlbook."), set()).update(row.equations)
        yield from (f"{row.page}: no equation {e}" for e in row.equations if e not in known)
        yield from (f"{row.page}: no test {t}" for t in row.tests if not is_there(t, root))
        if not (row.equations and row.code and row.tests):
            yield f"{row.page}: a line needs an equation, code and a test: {row}"
    for name, equations in linked.items():
        if name not in code:
            yield f"{name}: linked by a chapter and not public code of the mathematics"
        elif lost := equations - code[name]:
            yield f"{name}: its docstring does not link back to {', '.join(sorted(lost))}"
    for name, equations in code.items():
        if lost := equations - linked.get(name, set()):
            yield f"{name}: no chapter links {', '.join(sorted(lost))} to it"
        if not equations and name not in WITHOUT:
            yield f"{name}: names no equation of the book"


def main() -> int:
    table = rows(ROOT / "book")
    for row in table:
        print(f"{', '.join(row.equations)}\n    {', '.join(row.code)}\n    {', '.join(row.tests)}")
    found = list(problems(table, labels(ROOT / "book"), public()))
    print(*found, sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
