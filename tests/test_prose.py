"""What the pages of the book say: formulas that stay formulas, and numbers that a cell asserts."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
HTML = ROOT / "_build" / "html"
CHAPTERS = sorted(BOOK.rglob("*.md"))
COURSE = [
    p
    for p in CHAPTERS
    if p.parent.name in ("foundations", "methods") or p.stem in ("when-tasks-help", "teaching")
]


def chapter_name(path: Path) -> str:
    return path.relative_to(BOOK).with_suffix("").as_posix()


# ------------------------------------------------------------------ formulas that stay formulas

# what ends a paragraph and begins a list, a heading or a quotation, if it stands first in a line
BLOCK = re.compile(r"\s{0,3}(?:[-+*]\s|\d{1,9}[.)]\s|#{1,6}\s|>|=+\s*$|-+\s*$)")


def blank(match: re.Match) -> str:
    return re.sub(r"[^\n]+", "", match[0])


def prose(text: str) -> str:
    """The text without front matter, code and displayed formulas; its lines keep their numbers."""
    text = re.sub(r"\A---\n.*?^---$", blank, text, flags=re.DOTALL | re.MULTILINE)
    code = r"^(`{3,})(?:\{?code|python\b).*?^\1$"
    text = re.sub(code, blank, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\s*\$\$$.*?^\s*\$\$[^$\n]*$", blank, text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^%.*$", blank, text, flags=re.MULTILINE)


def broken_formulas(text: str) -> list[int]:
    """Numbers of the lines that Markdown reads as a new block in the middle of a formula."""
    found, inside = [], False
    for number, line in enumerate(prose(text).splitlines(), 1):
        if inside and BLOCK.match(line):
            found.append(number)
        if not line.strip() or re.match(r"\s*(:::|```|\|)", line):
            inside = False  # a formula does not reach over the end of a paragraph
            continue
        code_free = re.sub(r"(`+).*?\1", "", line)
        inside ^= len(re.findall(r"(?<!\\)\$", code_free)) % 2 == 1
    return found


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("the rest is $a\n+ b$, whose", [2]),
        ("the rest is\n$a + b$, whose", []),
        ("of $x_1$ and $y\n- z$", [2]),
        ("of $x$:\n\n- one $y$\n- two", []),
        ("as $a\n= b$ and $c\n> d$", [3]),
        ("as $a\n=\nb$", [2]),
        ("$$\na\n+ b\n$$ (eq)", []),
        ("```{code-cell} python\nprice = '$'\n- x\n```", []),
        ("```python\nprice = '$'\n- x\n```", []),
        ("in code `$`\n- an item that interrupts", []),
    ],
)
def test_broken_formulas(text, lines):
    assert broken_formulas(text) == lines


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
def test_no_formula_is_broken_by_its_line_breaks(path):
    assert broken_formulas(path.read_text()) == []


CODE = ("script", "style", "pre", "code", "title")


class _Text(HTMLParser):
    """Collects what a reader sees as text: no code, no formulas, no scripts."""

    def __init__(self):
        super().__init__()
        self.hidden, self.parts = [], []

    def handle_starttag(self, tag, attrs):
        classes = (dict(attrs).get("class") or "").split()
        if self.hidden:
            self.hidden.append(tag)
        elif tag in CODE or {"math", "dataframe"} & {*classes}:
            self.hidden = [tag]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag in self.hidden:
            while self.hidden.pop() != tag:
                pass

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


# Besides markup: percentages without their space, and numbers below zero with the hyphen of code,
# or below zero by no digit that is shown.
RAW = re.compile(
    r"\\[a-zA-Z]+|\$[^$\n]*\$|\^\{[^}]*\}|_\{[^}]*\}|`[^`\n]*|(?<=[\s\[(])-\d[\d.]*"
    r"|−0(?:\.0+)?(?![\d.])|\b\d+%"
)


def raw(html: str) -> list[str]:
    """What a built page shows as text and should not: TeX, Markdown, numbers as code has them."""
    parser = _Text()
    parser.feed(html)
    return RAW.findall("\n".join(parser.parts))


@pytest.mark.parametrize(
    ("html", "found"),
    [
        (r'<p>of <span class="math notranslate">\(a_{1}\)</span></p>', []),
        (r"<p>the rest is $a</p><ul><li>\varepsilon$</li></ul>", [r"\varepsilon"]),
        ("<p>that is $x_1$ to you</p>", ["$x_1$"]),
        (r"<pre>print('\alpha')</pre><p>and <code>\beta</code>, done</p>", []),
        (r'<div class="math"><br>\gamma<span>\delta</span></div><p>\eta</p>', [r"\eta"]),
        ("<p>is `(a / (2</p><ul><li>m)`, so</li></ul>", ["`(a / (2", "`, so"]),
        ("<td>[-0.06, 0.2]</td><td>-1.8</td><td>−0.06, or a-1</td>", ["-0.06", "-1.8"]),
        ("<td>[−0.23, −0.00]</td><td>−0.01 of 6% and 5 %</td>", ["−0.00", "6%"]),
    ],
)
def test_raw(html, found):
    assert raw(html) == found


@pytest.mark.book
@pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="not built: make book")
@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
def test_no_page_shows_markup_or_numbers_as_code_prints_them(path):
    found = raw((HTML / f"{chapter_name(path)}.html").read_text())
    if path.stem == "api":  # docstrings speak code
        found = [one for one in found if not one.startswith("-")]
    assert found == []


# ------------------------------------------------------------------- numbers that a cell asserts

CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(---\n.*?^---\n)?((?::[^\n]*\n)*)(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# not a measurement: an address, an equation or section of a paper, a version
NAMES = re.compile(
    r"\d{4}\.\d{4,5}(v\d)?|(?:eqs?\.|equations?|sections?|version|figures?|tables?) \d[\d., ]*"
)


def sentences(text: str) -> list[str]:
    """What a page states in words: its prose without tables and code spans, and its captions."""
    captions = [c[1] or "" for c in CELL.finditer(text)]
    lines = [line for line in prose(text).splitlines() if not line.lstrip().startswith("|")]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines)) + captions
    return [NAMES.sub("", re.sub(r"(`+).*?\1", "", p, flags=re.DOTALL)) for p in paragraphs]


NUMBER = re.compile(
    r"(?<![\w.^{-])(\d+\.\d+)(?!\d|\.\d)(?: *\\cdot 10\^\{?(-?\d+))?"
    r"|(?<![\w.])(\d+)(?=\s*(?:\\,)?(?:\\?%|per cent))"
)


def decimals(text: str) -> list[float]:
    """Numbers with a decimal point, and percentages."""
    return [float(f"{a or b}e{power or 0}") for a, power, b in NUMBER.findall(text)]


def value(node: ast.expr) -> float | None:
    """The number that ``node`` writes down, if it does."""
    try:
        constant = eval(compile(ast.Expression(node), "assert", "eval"), {"__builtins__": {}})
    except Exception:
        return None
    return constant if isinstance(constant, (int, float)) else None


def asserted(text: str) -> tuple[set[float], list[tuple[float, float]]]:
    """Numbers that the cells of a page write down, and the intervals that they assert."""
    literals, intervals = set(), []
    for cell in CELL.finditer(text):
        tree = ast.parse(cell[3])
        asserts = [n for n in ast.walk(tree) if isinstance(n, ast.Assert)]
        compared = [n for a in asserts for n in ast.walk(a) if isinstance(n, ast.Compare)]
        bounds = set()  # the ends of `x < 0.1` and the like, which say nothing of where x is
        for node in compared:
            sides = [node.left, *node.comparators]
            if len(sides) == 2 and isinstance(node.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE)):
                bounds |= {id(c) for s in sides if value(s) is not None for c in ast.walk(s)}
            elif len(ends := [v for s in sides if (v := value(s)) is not None]) > 1:
                intervals.append((min(ends), max(ends)))
        literals |= {
            float(n.value)
            for n in ast.walk(tree)
            if isinstance(n, ast.Constant)
            and isinstance(n.value, (int, float))
            and id(n) not in bounds
        }
    return literals, intervals


def unfounded(text: str) -> list[float]:
    """Numbers in words that the cells neither take as given nor assert on two sides."""
    literals, intervals = asserted(text)
    return [
        number
        for sentence in sentences(text)
        for number in decimals(sentence)
        if not {number, number / 100} & literals
        and not any(low <= x <= high for low, high in intervals for x in (number, number / 100))
    ]


PAGE = "The error is {0}.\n\n```{{code-cell}} python\nstep = 0.25\n{1}\n```\n"


@pytest.mark.parametrize(
    ("number", "cell", "found"),
    [
        ("0.12", "assert 0.1 < error < 0.15", []),
        ("0.12", "assert error < 0.2", [0.12]),
        ("0.12", "assert 0.3 < error < 0.4", [0.12]),
        ("0.1", "assert error < 0.1", [0.1]),  # a bound from one side says nothing of where it is
        ("12 per cent", "assert 0.1 < error < 0.15", []),
        ("12 %", "assert error > 0.1 and loss < 1", [12.0]),
        ("0.12", "assert abs(error - 0.12) < 0.005", []),
        ("given, 0.25", "assert error < 1", []),
        ("`0.12` in code, or in arXiv 1606.04038", "pass", []),
        ("in eq. 0.12", "pass", []),
    ],
)
def test_unfounded(number, cell, found):
    assert unfounded(PAGE.format(number, cell)) == found


@pytest.mark.parametrize("path", COURSE, ids=chapter_name)
def test_numbers_in_words_are_given_or_asserted_on_two_sides(path):
    assert unfounded(path.read_text()) == []


# --------------------------------------------------------------------------------------- English

COUNTED = (
    r"\d+|one|two|three|numbers?|rows?|columns?|curves?|dots?|images|weights|samples|points|bytes"
    r"|seconds|milliseconds|sessions?|drawings|values?|repeats?|cop(?:y|ies)"
)
EACH = (
    "task|layer|pair|step|sweep|component|alphabet|mode|repeat|class|column|row|strength|estimator"
    "|method|domain|head|page|chapter|kernel|unit|claim|optimiser"
)
RATE = re.compile(
    rf"\b(?:{COUNTED})(?: (?!of|in|is|with|to|as|for|that)\w+)? an? (?:{EACH})\b", re.IGNORECASE
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the matrix with one row a task", True),
        ("8 images a step", True),
        ("one row per task", False),
        ("the weights of a layer", False),
        ("each row is an alphabet", False),
    ],
)
def test_rate(text, found):
    assert bool(RATE.search(text)) == found


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
def test_so_many_per_task_not_a_task(path):
    """So many a task, for so many per task, is how another language says it."""
    assert RATE.findall(path.read_text()) == []


def test_the_package_says_so_too():
    """Docstrings are the pages of the reference; deviations are tables of the chapters."""
    texts = {path: path.read_text() for path in (ROOT / "mtlbook").rglob("*.py")}
    texts[ROOT / "data" / "deviations.yaml"] = (ROOT / "data" / "deviations.yaml").read_text()
    found = {str(path): RATE.findall(text) for path, text in texts.items()}
    assert {path: rates for path, rates in found.items() if rates} == {}


# ------------------------------------------------------------------ code that fits beside its text


def too_large(text: str) -> list[str]:
    """Lines over 72 characters of the cells that a reader sees, and the first of those over 24."""
    found = []
    for front, options, body in CELL.findall(text):
        if re.search(r"(?:hide|remove)-(?:input|cell)", front + options):
            continue
        lines = body.strip("\n").splitlines()
        found += [line for line in lines if len(line) > 72]
        found += [f"{len(lines)} lines from: {lines[0]}"] if len(lines) > 24 else []
    return found


@pytest.mark.parametrize(
    ("options", "body", "found"),
    [
        ("", "x = 1\n", 0),
        ("", "x = 1  # " + "a" * 64 + "\n", 1),
        (":tags: [hide-input]\n", "x = 1  # " + "a" * 64 + "\n", 0),
        (":tags: [hide-output]\n", "x = 1\n" * 25, 1),
        ("---\ntags: [remove-cell]\n---\n", "x = 1\n" * 25, 0),
        ("", "x = 1\n" * 24, 0),
    ],
)
def test_too_large(options, body, found):
    text = f"Text.\n\n```{{code-cell}} python\n{options}{body}```\n"
    assert len(too_large(text)) == found


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
def test_code_that_is_seen_is_narrow_and_short(path):
    assert too_large(path.read_text(encoding="utf-8")) == []
