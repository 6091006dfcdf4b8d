"""One letter, one meaning: `book/symbols.yaml` against the formulas of the chapters.

The table lists every letter of the mathematics once. A letter with `only` belongs to these
chapters. Besides, a chapter declares letters that are its own. The box "Letters in this chapter"
and the table of the page `notation` are written from it (`--write`); without an option the
problems are listed:

- a letter that stands in the table twice, or in a chapter twice,
- a letter of a formula that is in neither, and one that is declared and not used,
- a letter of a chapter's own that the table has for this chapter,
- a box or a table that does not say what the file says.

Accents, primes and indices do not make another letter; calligraphic letters are letters of their
own. Formulas are those of the text, of captions and of the labels of figures. The exponential
e^x, Landau's o( and O(, an upright d and words in \\text, \\mathrm and \\operatorname are none.
"""

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mtlbook.documents import read_yaml
from mtlbook.ledger.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "book" / "symbols.yaml"
CHAPTERS = ("foundations", "methods")
GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "pi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi "
    "Pi Sigma Upsilon Phi Psi Omega ell"
).split()
WORDS = (
    r"\\(?:text|mathrm|operatorname|texttt|begin|end|label)(?![A-Za-z])\s*(?:\{[^{}]*\}|[A-Za-z])"
)
NO_LETTERS = (
    r"\\ell_(?:\{[^{}]*\}|\\infty|\w)|(?<=[}|])_F|\be(?=\^)|\b[oO](?=\s*(?:\\bigl\s*)?\()"
    r"|\\math(?:bf|bb)\s*\{?[A-Za-z1]\}?"
)
FORMULA = r"\$\$.*?\$\$|(?<![\\`$])\$(?!\$)(?:[^$\n]|\n(?!\n))+?\$(?!\$)"
BOX = re.compile(r"^:::\{admonition\} Letters in this chapter\n.*?^:::$", re.DOTALL | re.MULTILINE)
CELL = re.compile(
    r"^(?P<fence>```+)\{code-cell\}[^\n]*\n(?P<head>---\n.*?^---\n|(?::[^\n]*\n)+)?(?P<code>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
SYMBOLS = re.compile(r"(?<=^<!-- symbols -->\n).*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)


def letters(formula: str) -> set[str]:
    """The letters of one formula, as the table writes them: ``T``, ``\\rho``, ``\\mathcal W``."""
    rest = re.sub(r"\\tensor\b", r"\\mathcal", formula)
    rest = re.sub(NO_LETTERS, " ", re.sub(WORDS, " ", rest))
    found = {rf"\mathcal {x}" for x in re.findall(r"\\mathcal\s*\{?\s*([A-Za-z])", rest)}
    rest = re.sub(r"\\mathcal\s*\{?\s*[A-Za-z]+", " ", rest)
    found |= {f"\\{x}" for x in re.findall(r"\\([A-Za-z]+)", rest) if x in GREEK}
    return found | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", rest)))


def formulas(text: str) -> Iterator[str]:
    """The formulas of a chapter: of its text, of captions and of what cells write into figures."""
    text = BOX.sub(
        "", re.sub(r"^`{3,}python\n.*?^`{3,}$", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    for match in CELL.finditer(text):
        yield from re.findall(FORMULA, match["head"] or "", re.DOTALL)
        for node in ast.walk(ast.parse(match["code"])):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            yield from re.findall(r"\$[^$\n]+\$", "".join(map(_constant, parts)))
    yield from re.findall(FORMULA, CELL.sub("", text), re.DOTALL)


def _constant(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def chapters(book: Path) -> dict[str, str]:
    """The texts of the chapters with letters, by the name of the page."""
    return {
        path.relative_to(book).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for folder in CHAPTERS
        for path in sorted((book / folder).glob("*.md"))
    }


def used(text: str, quoted: list[str]) -> set[str]:
    """All letters of a chapter's formulas, but for formulas quoted in somebody's own letters."""
    return set().union(*(letters(f) for f in formulas(text) if f.strip("$ \n") not in quoted))


def rows(name: str, text: str, table: dict) -> tuple[list[dict], list[dict]]:
    """The lines of a chapter's box: letters of the book that it uses, and its own."""
    own = table["chapters"].get(name) or {}
    there = used(text, own.get("quoted", []))
    common = [
        row
        for row in table["symbols"]
        if name in row.get("only", [name]) and there & set(row["letters"])
    ]
    return common, own.get("letters", [])


def box(name: str, text: str, table: dict) -> str:
    """The box at the head of a chapter."""
    common, own = rows(name, text, table)
    lines = [":::{admonition} Letters in this chapter", ":class: letters dropdown"]
    lines += ["| letter | meaning |", "|---|---|"]
    lines += [f"| {row['tex']} | {row['meaning']} |" for row in common]
    if own:
        lines += ["", "In this chapter only:", "", "| letter | meaning |", "|---|---|"]
        lines += [f"| {row['tex']} | {row['meaning']} |" for row in own]
    return "\n".join([*lines, ":::"])


def notation(table: dict) -> str:
    """The table of the page `notation`."""
    lines = ["| symbol | meaning | in `mtlbook` |", "|---|---|---|"]
    for row in table["symbols"]:
        lines.append(f"| {row['tex']} | {row['meaning']} | {row.get('code', '')} |")
    return "\n" + "\n".join(lines) + "\n\n"


def problems(texts: dict[str, str], table: dict, page: str | None = None) -> Iterator[str]:
    """What is wrong, one sentence each."""
    listed = Counter(letter for row in table["symbols"] for letter in row["letters"])
    yield from (f"{letter}: in the table {n} times" for letter, n in listed.items() if n > 1)
    quoted = {n: (table["chapters"].get(n) or {}).get("quoted", []) for n in texts}
    everywhere = set().union(*(used(text, quoted[name]) for name, text in texts.items()))
    for letter in sorted(set(listed) - everywhere):
        yield f"{letter}: in the table, and no chapter uses it"
    for name in sorted(set(table["chapters"]) - set(texts)):
        yield f"{name}: letters of a chapter that is not there"
    for name, text in texts.items():
        _, own = rows(name, text, table)
        of_book = {
            x for row in table["symbols"] if name in row.get("only", [name]) for x in row["letters"]
        }
        of_chapter = Counter(letter for row in own for letter in row["letters"])
        there = used(text, quoted[name])
        for letter in sorted(there - of_book - set(of_chapter)):
            yield f"{name}: {letter} is neither in the table nor a letter of the chapter"
        for letter, n in of_chapter.items():
            if n > 1:
                yield f"{name}: {letter} is declared {n} times"
            if letter in of_book:
                yield f"{name}: {letter} has another meaning in the table"
            if letter not in there:
                yield f"{name}: {letter} is declared and not used"
        for formula in quoted[name]:
            if formula not in (f.strip("$ \n") for f in formulas(text)):
                yield f"{name}: quotes {formula}, which is not there"
        if (match := BOX.search(text)) is None:
            yield f"{name}: has no box of letters"
        elif match[0] != box(name, text, table):
            yield f"{name}: its box of letters is old; scripts/letters.py --write"
    if page is not None and (match := SYMBOLS.search(page)) is None:
        yield "notation: has no table of symbols"
    elif page is not None and match[0] != notation(table):
        yield "notation: its table is old; scripts/letters.py --write"


def write(book: Path, table: dict) -> None:
    """Write all boxes and the table of the page `notation`."""
    for name, text in chapters(book).items():
        new = BOX.sub(lambda _, n=name, t=text: box(n, t, table), text)
        if new != text:
            write_atomically(book / f"{name}.md", new)
    page = (book / "notation.md").read_text(encoding="utf-8")
    write_atomically(book / "notation.md", SYMBOLS.sub(lambda _: notation(table), page))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the boxes and the table")
    options, table = parser.parse_args(), read_yaml(TABLE)
    if options.write:
        write(ROOT / "book", table)
    page = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    found = list(problems(chapters(ROOT / "book"), table, page))
    print(*found, sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
