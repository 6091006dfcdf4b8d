"""What no source shows is never printed as a paper's statement."""

import json
import re
from pathlib import Path

import pytest

from mtlbook.ledger import audit, chain, page, report

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "book").rglob("*.md"), ROOT / "README.md"])
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# A sentence that stood in the book without support, as a pattern, and why it must not come back.
UNSUPPORTED = {
    "of DRN a figure is known, too": r"of DRN and MTAL we know the abstracts",
    "an arm without a number has no such budget": r"same budget",
    "no source names them": r"domains and digits that the papers use",
    "SRDML's body was never seen": r"papers whose tables we could read",
    "so little is known of DRN, MTAL and SRDML": r"(as|what) the paper compares",
}
# Of these no text of the paper could be read: a sentence on what the paper does is a guess.
WITHOUT_TEXT = ("drn", "srdml", "mtal")
GUESS = re.compile(
    r"[Tt]he paper('s)? (has no|does not have|starts|prints|uses|compares|trains|shows|reports|"
    r"chooses|Theorem|experiments?|data\b|network)"
)


def prose(path):
    """The text of a page, or of a notebook, in one line, without its cells' code."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    else:
        text = re.sub(r"(?ms)^(`{3,})\{code-cell\}.*?^\1$", "", path.read_text(encoding="utf-8"))
    return " ".join(text.split())


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda p: p.name)
def test_sentences_without_support_stay_away(path):
    for why, pattern in UNSUPPORTED.items():
        assert not re.search(pattern, " ".join(path.read_text(encoding="utf-8").split())), why


@pytest.mark.parametrize(
    "path",
    [p for p in [*PAGES, *NOTEBOOKS] if p.stem.partition("_")[0] in WITHOUT_TEXT],
    ids=lambda p: f"{p.parent.name}-{p.name}",
)
def test_no_text_is_put_into_a_paper_that_nobody_read(path):
    found = [
        m
        for m in GUESS.finditer(prose(path))
        if "we do not know" not in prose(path)[m.start() : m.end() + 60]
    ]
    assert [prose(path)[m.start() : m.end() + 60] for m in found] == []


def test_the_guess_is_recognised():
    assert GUESS.search("The paper has no such experiment.")
    assert GUESS.search("The paper's Theorem 2 says")
    assert not GUESS.search("The poster prints no spread")


def test_models_of_ours_say_so_in_titles_and_counts():
    for name, words in (("drn", "(our model)"), ("mtal", "(a reconstruction)")):
        title = re.search(r"(?m)^# .*$", (ROOT / "book" / "methods" / f"{name}.md").read_text())[0]
        assert title.endswith(words), title
    rows = audit.audit(ROOT / "data" / "claims", {})
    text = report.readme(rows, "<!-- results:begin -->\n<!-- results:end -->\n")
    labels = set(re.findall(r"(?m)^\| ([A-Z]+[^|:]*?)(?: \|\s|: )", text))
    assert {"DRN (our model)", "MTAL (reconstruction)", "MRN"} <= labels
    assert not {"DRN", "MTAL"} & labels


def test_memory_is_marked_wherever_it_is_shown():
    rows = [r for r in audit.audit(ROOT / "data" / "claims", {}) if r["known"] == "memory"]
    assert rows
    for row in rows:
        assert row["printed"] is None
        assert row["statement"].startswith(
            "[reported from memory, not verified; not the paper's words]"
        )
        assert "from memory" in page.page(chain.chains(ROOT, {}, [row]))
    # the one thing that the book remembers, in the text beside the formula
    text = prose(ROOT / "book" / "methods" / "tnrdmtl.md")
    assert "take the attribution as unverified" in text and "eq. 9, is another measure" in text
