"""One letter has one meaning: `book/symbols.yaml` against the formulas of the chapters."""

import pytest
import yaml


@pytest.fixture(scope="module")
def letters(script):
    return script("letters")


def test_letters_of_the_book(letters, root):
    table = yaml.safe_load((root / "book" / "symbols.yaml").read_text())
    texts = letters.chapters(root / "book")
    assert len(texts) >= 14 and len(table["symbols"]) > 40
    page = (root / "book" / "notation.md").read_text()
    assert list(letters.problems(texts, table, page)) == []


@pytest.mark.parametrize(
    ("formula", "found"),
    [
        (r"\tensor{W} \times_i L_k", {r"\mathcal W", "i", "L", "k"}),
        (r"\tensor W, \mathcal L_t, \mathrm{MN}(0)", {r"\mathcal W", r"\mathcal L", "t"}),
        (r"\norm{X}_F + \norm{x}_{\ell_1} + \ell", {"X", "x", r"\ell"}),
        (r"e^{-x} + o(u) + O\bigl(n) + e_t", {"x", "u", "n", "e", "t"}),
        (r"\int_0^1 \hat f'(r)\, \mathrm dr \text{ for } \E x \in \R^d", {"f", "r", "x", "d"}),
        (r"\mathbf 1^\top \operatorname{dist}(a, b)", {"a", "b"}),
    ],
)
def test_letters_of_a_formula(letters, formula, found):
    assert letters.letters(formula) == found


PAGE = """\
# One

:::{admonition} Letters in this chapter
:::

Of $T$ tasks, $c > 0$, and `$HOME`, at a price of \\$5:

$$
x = c \\rho
$$

```python
price = "$Z$"
```

```{code-cell} python
---
mystnb:
  figure:
    caption: |
      The rank $r$.
---
print(f"$\\\\mu = {len('$Q$')}$")
```
"""
ROW = {"tex": "$T$", "meaning": "number of tasks", "letters": ["T"]}


def test_formulas_are_those_of_text_captions_and_labels(letters):
    assert letters.used(PAGE, []) == {"T", "c", "x", r"\rho", "r", r"\mu", "Q"}
    assert letters.used(PAGE, [r"x = c \rho"]) == {"T", "c", "r", r"\mu", "Q"}


def table(*own, quoted=(), common=()):
    """A table that fits `PAGE` with what differs."""
    rows = [{"letters": [x], "tex": x, "meaning": x} for x in ("c", "x", r"\rho", "r", r"\mu", "Q")]
    own = [{"letters": [x], "tex": x, "meaning": x} for x in own]
    rows = [row for row in rows if not any(row["letters"] == o["letters"] for o in own)]
    chapter = {"letters": own, "quoted": list(quoted)}
    return {"symbols": [ROW, *rows, *common], "chapters": {"foundations/one": chapter}}


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (table(), None),
        (table("c"), None),
        (table(common=[ROW]), "T: in the table 2 times"),
        (table("T"), "T has another meaning in the table"),
        (table("c", "c"), "c is declared 2 times"),
        (table("z"), "z is declared and not used"),
        (table(common=[{**ROW, "letters": ["K"]}]), "K: in the table, and no chapter uses it"),
        (table(quoted=["y"]), "quotes y, which is not there"),
        ({"symbols": [ROW], "chapters": {}}, "r is neither in the table nor a letter of the"),
        ({**table(), "chapters": {"foundations/two": None}}, "a chapter that is not there"),
    ],
)
def test_what_is_wrong_is_named(letters, said, problem):
    page = letters.BOX.sub(lambda _: letters.box("foundations/one", PAGE, said), PAGE)
    found = list(letters.problems({"foundations/one": page}, said))
    assert (found == []) if problem is None else any(problem in sentence for sentence in found)


def test_a_letter_kept_for_another_chapter_is_free(letters):
    said = table("c", common=[{**ROW, "letters": ["c"], "only": ["foundations/two"]}])
    page = letters.BOX.sub(lambda _: letters.box("foundations/one", PAGE, said), PAGE)
    other = page.replace("# One", "# Two")
    said["chapters"]["foundations/two"] = None
    found = letters.problems({"foundations/one": page, "foundations/two": other}, said)
    assert not [sentence for sentence in found if sentence.startswith("foundations/one")]


def test_an_old_box_and_an_old_table_are_named(letters, tmp_path):
    said = table()
    assert "its box of letters is old" in " ".join(
        letters.problems({"foundations/one": PAGE}, said, "<!-- symbols -->\n\n<!-- end -->\n")
    )
    (tmp_path / "foundations").mkdir()
    (tmp_path / "foundations" / "one.md").write_text(PAGE)
    (tmp_path / "notation.md").write_text("# N\n\n<!-- symbols -->\nold\n<!-- end -->\n")
    letters.write(tmp_path, said)
    page = (tmp_path / "notation.md").read_text()
    assert list(letters.problems(letters.chapters(tmp_path), said, page)) == []
    letters.write(tmp_path, said)
    assert (tmp_path / "notation.md").read_text() == page
