"""The ledger page: what stands in it, how it looks, and what a reader can do with it."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from browser import Browser, browser, why_not
from made_up_ledger import build, commit, git

from mtlbook.cli import parsing
from mtlbook.ledger import matrices, numbers, page
from mtlbook.ledger.chain import _machine, chains
from mtlbook.ledger.claims import load_all
from mtlbook.ledger.repository import root as repository

CLAIMS = repository() / "data" / "claims"
HOSTILE = [
    "<script>hacked = 1</script>",
    "</script><script>hacked = 2</script>",
    "\"quoted\" & 'quoted' &lt;b&gt;",
    "]]> <!-- <![CDATA[ -->",
    '<img src=x onerror="hacked = 3">',
    "a\u2028line\\u003c and a backslash \\",
]


class Reader(HTMLParser):
    """Texts of rows, the JSON, and every tag."""

    def __init__(self):
        super().__init__()
        self.tags, self.rows, self.scripts, self._in = [], {}, [], None

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "tr":
            self._in = attributes.get("id")
            self.rows.setdefault(self._in, "")
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, text):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += text
        elif self._in:
            self.rows[self._in] += text


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def known():
    return chains(repository())


@pytest.fixture(scope="module")
def text(known):
    return page.page(known, book="audit.html")


# numbers


@pytest.mark.parametrize(
    ("value", "like", "signed", "expected"),
    [
        (None, None, None, "-"),
        (1.005, None, None, "1.00"),
        (-1.5, None, None, "−1.50"),
        (1.5, "+1.1", None, "+1.5"),
        (1.5, "-0.114", None, "+1.500"),
        (1.5, "34.11", None, "1.50"),
        (0.004, "+1.54", None, "0.00"),
        (-0.004, None, True, "0.00"),
        (0.4, None, True, "+0.40"),
    ],
)
def test_a_number(value, like, signed, expected):
    assert numbers.number(value, like, signed=signed) == expected


def row_of(**changes):
    row = {"ours": -0.5, "low": -1.0, "high": 0.25, "printed": None, "unit": "points"}
    return row | {"known": "printed", "two_way": None, "rule": "a minus b, paired"} | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "−0.50 [−1.00, +0.25]"),
        ({"rule": "the mean of a"}, "−0.50 [−1.00, 0.25]"),
        ({"printed": "-0.114"}, "−0.500 [−1.000, +0.250]"),
        ({"low": None, "high": None}, "−0.50"),
        ({"ours": 0.5, "low": None, "high": None}, "+0.50"),
        ({"ours": None, "low": None, "high": None}, "-"),
        ({"ours": 0.01, "low": 0.004, "high": 0.02}, "+0.01 [0.00, +0.02]"),
        ({"ours": 0.01, "low": 0.005, "high": 0.02, "unit": ""}, "+0.0100 [+0.0050, +0.0200]"),
    ],
)
def test_an_interval_has_one_minus_one_sign_and_the_decimals_of_the_print(changes, expected):
    assert numbers.interval(row_of(**changes)) == expected


def test_what_is_printed_has_the_same_minus():
    assert numbers.printed(row_of(printed="-0.1")) == "−0.1"
    assert numbers.printed(row_of(known="digitised")) == "curve"
    assert numbers.printed(row_of(known=None)) == "no claim"


# matrices


def claim(name, rule="m of a minus b, paired over repeats", **changes):
    return row_of(**{"claim": name, "rule": rule, "asked_by": "paper", "verdict": "direction"}) | {
        "statement": f"{name} holds",
        "n": 5,
        **changes,
    }


def fraction(p):
    return f"accuracy_percent/{p} of a minus b, paired over repeats"


def test_claims_that_differ_in_the_column_alone_share_a_line():
    rows = [
        claim("p.table1.mrn-over-stl-5", fraction(5)),
        claim("p.table1.mrn-over-stl-20", fraction(20)),
        claim("p.table1.full-over-mrn-t-20", fraction(20)),
        claim("p.table1.full-over-mrn-t-10", fraction(10)),
        claim("p.table1.alone-5", fraction(5)),
        claim("p.digits.over-stl-10"),  # ten of something else
        claim("p.digits.over-stl-5"),
    ]
    (found,), rest = matrices.arrange(rows)
    assert (found.paper, found.family, found.columns) == ("p", "table1", ("5 %", "10 %", "20 %"))
    assert found.lines == (
        ("MRN over STL", (rows[0], None, rows[1])),
        ("MRN over MRN_t", (None, rows[3], rows[2])),
    )
    assert rest == rows[4:]


def test_the_papers_claims_and_our_questions_have_matrices_of_their_own():
    rows = [
        claim("p.x.a-laf"),
        claim("p.x.a-tt"),
        claim("p.x.b-laf", asked_by="us"),
        claim("p.x.b-tucker", asked_by="us"),
    ]
    first, second = matrices.arrange(rows)[0]
    assert (first.kind, first.columns) == ("paper", ("LAF", "TT"))
    assert (second.kind, second.columns) == ("us", ("LAF", "Tucker"))


def test_a_column_may_be_the_absence_of_a_word():
    rows = [claim("p.harmful.mrn-over-stl"), claim("p.harmful.surf-mrn-over-stl")]
    (found,), rest = matrices.arrange([*rows, claim("p.harmful.mrn-over-pooled")])
    assert found.columns == ("EfficientNet-Lite0", "SURF")
    assert found.lines == (("MRN over STL", tuple(rows)),)
    assert [row["claim"] for row in rest] == ["p.harmful.mrn-over-pooled"]


def test_where_the_column_says_it_all_the_line_names_the_arms():
    rows = [claim(f"p.control.{x}", f"m of {x}-tuned minus stl, paired") for x in ("laf", "tt")]
    (found,), _ = matrices.arrange(rows)
    assert [label for label, _ in found.lines] == ["…-tuned minus stl"]


def test_lines_have_the_names_of_the_arms():
    ids = [
        "x.over-hard-sharing-5",
        "x.surf-over-fixed-5",
        "x.srdml-pcgrad-over-l21-5",
        "x.highest-5",
    ]
    rows = [claim(f"p.{one[:-1]}{p}", fraction(p)) for one in ids for p in (5, 20)]
    (found,), _ = matrices.arrange(rows)
    assert [label for label, _ in found.lines] == [
        "a over hard sharing",
        "SURF: a over a fixed relation",
        "SRDML with PCGrad over L21",
        "MRN over every other",
    ]


def test_matrices_as_markdown_lead_to_the_ledger():
    rows = [claim("p.x.a-laf", printed="-1.0"), claim("p.x.a-tt"), claim("p.x.other")]
    text = matrices.markdown(rows, "../ledger.html")
    assert (
        '<a href="../ledger.html#p.x.a-laf">direction</a><br>−0.5 [−1.0, +0.2]<br>paper −1.0'
        in text
    )
    assert "| p.x.other holds | text | −0.50 [−1.00, +0.25] | 5 |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| a ")}
    assert widths == {4}


# the chain


def test_the_chain_has_every_link(known):
    of = {one["claim"]: one for one in known["claims"]}
    one = of["tnrdmtl.table1.laf-over-stl"]
    assert one["commit"]["hash"] and re.fullmatch(r"\d{4}-\d\d-\d\d", one["commit"]["day"])
    assert "0.38 and 0.60 over 10 repeats" in one["spread"] and "± 0.51" in one["spread"]
    (series,) = one["series"]
    assert len(series["values"]) == one["n"] == 10
    assert series["mean"] == pytest.approx(one["ours"], rel=1e-5)
    assert series["interval"] == pytest.approx([one["low"], one["high"]], rel=1e-5)
    run = known["experiments"][one["experiment"]]
    assert run["notebook"].endswith(".ipynb") and run["runs"] > 0 and run["content_sha256"]
    assert all(data["sha256"] for data in run["data"]) and run["machines"] and run["versions"]
    # some of its runs were made of a checkout with changes, which the page does not keep to itself
    result = json.loads((repository() / run["file"]).read_text(encoding="utf-8"))
    expected = {
        f"{of['git_commit'][:10]}{', with uncommitted changes' * of['git_dirty']}"
        for of in result["provenance"]["runs"]
    }
    assert set(run["commits"]) == expected


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({}, "? (?)"),
        ({"device": "cpu", "platform": {"processor": "Toy"}}, "Toy (cpu)"),
        (
            {"device": "cpu", "platform": {"processor": "Toy", "instructions": "AVX2"}},
            "Toy (cpu, AVX2)",
        ),
        (
            {"device": "cuda", "device_name": "GPU", "platform": {"instructions": "AVX2"}},
            "GPU (cuda, AVX2)",
        ),
    ],
)
def test_a_machine_is_named_by_what_its_numbers_depend_on(run, expected):
    assert _machine(run) == expected


def test_rules_that_compare_arms_say_that_they_pair_them(known):
    """By which a number has a sign, and a chart its zero; also of too few repeats for a test."""
    kinds = {claim.id: claim.rule.kind for of in load_all(CLAIMS) for claim in of.claims}
    for one in known["claims"]:
        compares = kinds[one["claim"]] in ("difference", "order", "bound")
        assert numbers.is_difference(one) == one["difference"] == compares
        assert compares or one["p"] is None


def test_values_are_those_that_the_verdict_rests_on(known):
    """A difference has one series, whose mean is the verdict's; of many, one has it."""
    for one in known["claims"]:
        if one["ours"] is not None and one["difference"]:
            means = [series["mean"] for series in one["series"]]
            assert any(mean == pytest.approx(one["ours"], rel=1e-4, abs=1e-9) for mean in means), (
                one
            )


def test_every_command_is_one_that_the_command_line_takes(known):
    parser = parsing.parser()
    for one in known["claims"]:
        profiles = known["experiments"].get(one["experiment"], {"profiles": []})["profiles"]
        if one["command"] is None:  # an experiment that nobody has written, or none
            assert profiles == [] and (not one["experiment"] or one["n"] == 0)
            continue
        options = parser.parse_args(one["command"].split()[1:])
        assert (options.claim, options.profile in profiles) == (one["claim"], True)


def test_without_a_history_the_chain_says_so(tmp_path):
    build(tmp_path)
    shutil.rmtree(tmp_path / ".git")
    found = chains(tmp_path)
    assert "git has no history here" in found["no_history"]
    assert {one["commit"] for one in found["claims"]} == {None}


def test_a_rule_is_as_old_as_its_last_change(tmp_path):
    build(tmp_path)
    before = {one["claim"]: one["commit"] for one in chains(tmp_path)["claims"]}
    path = tmp_path / "data" / "claims" / "toy.yaml"
    path.write_text(path.read_text().replace("level, as the paper says", "level, otherwise"))
    assert {c["claim"]: c["commit"] for c in chains(tmp_path)["claims"]}["toy.level"] == {}
    new = commit(tmp_path, "changed")
    after = {one["claim"]: one["commit"] for one in chains(tmp_path)["claims"]}
    assert after.pop("toy.level") == {
        "hash": new,
        "day": git(tmp_path, "show", "--no-patch", "--format=%cs", new),
    }
    assert before.pop("toy.level")["hash"] != new
    assert after == before


# the page as a file


def test_the_page_loads_nothing(text, script):
    assert script("build_book").external_loads(text) == []
    assert script("build_book").local_loads(text) == []


def test_every_claim_is_in_the_tables_without_javascript(known, text):
    rows = read(text).rows
    for one in known["claims"]:
        for part in ("statement", "verdict", "interval_text", "printed_text", "tier"):
            assert one[part] in rows[one["claim"]], one["claim"]


def test_tables_have_captions_and_heads(known, text):
    tags = read(text).tags
    assert sum(tag == "caption" for tag, _ in tags) == sum(tag == "table" for tag, _ in tags) > 2
    heads = [attrs for tag, attrs in tags if tag == "th"]
    assert {attrs["scope"] for attrs in heads} == {"col", "row"}
    assert sum("data-sort" in attrs and attrs["aria-sort"] == "none" for attrs in heads) == (
        6 * len({one["kind"] for one in known["claims"]})
    )
    fields = [attrs for tag, attrs in tags if tag in ("input", "select")]
    assert len(fields) == sum(tag == "label" for tag, _ in tags) == 6


def hostile(known, statement):
    one = next(c for c in known["claims"] if c["series"] and c["asked_by"] == "paper")
    texts = dict.fromkeys(("statement", "where", "unit", "rule", "why", "revised"), statement)
    paper = {"title": statement, "source": statement, "label": statement}
    return {
        **known,
        "claims": [one | texts | {"stand_in": statement}],
        "papers": {one["paper"]: paper},
    }


@pytest.mark.parametrize("statement", HOSTILE)
def test_a_hostile_text_is_text(known, statement):
    of = hostile(known, statement)
    found = read(page.page(of))
    assert statement in found.rows[of["claims"][0]["claim"]]
    assert len(found.scripts) == 2 and not [t for t, _ in found.tags if t in ("img", "b>")]
    assert json.loads(found.scripts[0])["claims"] == of["claims"]
    assert "<" not in found.scripts[0] and "]]>" not in found.scripts[0]


# colours


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_right():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_in_both_schemes(scheme):
    """WCAG AA: 4.5 for text, 3 for marks, borders of controls and the focus."""
    css = (page.ASSETS / "ledger.css").read_text()
    pairs = re.findall(r"--([a-z]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    colours = {name: (light, dark)[scheme] for name, light, dark in pairs}
    assert len(colours) == 13
    for background in ("page", "raised"):
        for name in ("text", "quiet", "link"):
            assert contrast(colours[name], colours[background]) >= 4.5, (name, background)
        for name in ("control", "focus", "held", "sign", "equal", "against", "open"):
            assert contrast(colours[name], colours[background]) >= 3, (name, background)


# the page in a browser


@pytest.fixture(scope="module")
def window():
    if why := why_not():
        pytest.skip(why)
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "ledger.html"
    path.write_text(text)
    return path.as_uri()


@pytest.fixture
def ledger(window, address) -> Browser:
    window.size(1280, 900)
    window.media()
    window.open("about:blank")
    window.open(address)
    # after it has loaded the page reads its address once more, which a key could come before
    window.js("return new Promise(done => setTimeout(() => setTimeout(done)))")
    return window


SHOWN = (
    "return [...document.querySelectorAll('tr.claim')].filter(r => r.offsetParent).map(r => r.id)"
)
FOCUS = "return document.activeElement.closest('tr')?.id"


def choose(window, name, value):
    window.js(
        "const e = document.querySelector(`[name=${arguments[0]}]`); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


def test_filters(known, ledger):
    assert len(ledger.js(SHOWN)) == len(known["claims"])
    wanted = {"paper": "mrn", "kind": "us", "verdict": "yes", "tier": "fetched"}
    for name, value in wanted.items():
        choose(ledger, name, value)
    expected = [c["claim"] for c in known["claims"] if all(c[k] == v for k, v in wanted.items())]
    assert expected
    ledger.comes(SHOWN, expected)
    status = ledger.js("return document.querySelector('[role=status]').textContent")
    assert status == (
        f"{len(expected)} of {len(known['claims'])} shown "
        f"(questions of our own: {len(expected)} yes)."
    )
    there = ledger.js("return location.href")
    ledger.open("about:blank")
    ledger.open(there)  # the address keeps the choice
    ledger.comes(SHOWN, expected)
    ledger.click("button[type=reset]")
    ledger.until(f"{SHOWN}.length == {len(known['claims'])}")
    assert ledger.errors() == []


def test_search_takes_all_words_of_statement_rule_and_reason(known, ledger):
    ledger.press("/")
    ledger.press(*"tucker excludes")
    ledger.until("return document.querySelector('[name=q]').value === 'tucker excludes'")
    expected = [
        c["claim"]
        for c in known["claims"]
        if all(
            word in " ".join(map(str, (*c.values(), known["papers"][c["paper"]]["title"]))).lower()
            for word in ("tucker", "excludes")
        )
    ]
    shown = ledger.js(SHOWN)
    assert 0 < len(shown) < len(known["claims"]) and set(shown) <= set(expected)
    choose(ledger, "q", "no such word")
    ledger.comes(SHOWN, [])
    text = ledger.js("return document.querySelector('[role=status]').textContent")
    assert text == f"0 of {len(known['claims'])} shown."


def test_sorting_says_so(known, ledger):
    head = "section[data-kind=us] th[data-sort=ours]"
    of = {c["claim"]: c["ours"] for c in known["claims"] if c["asked_by"] == "us"}
    for word in ("ascending", "descending"):
        ledger.click(f"{head} button")
        ledger.comes(f"return document.querySelector('{head}').ariaSort", word)
        shown = [of[name] for name in ledger.js(SHOWN) if name in of]
        values = [value for value in shown if value is not None]
        assert values == sorted(values, reverse=word == "descending")
        assert shown[: len(values)] == values  # what has no value comes last
    ledger.comes("return document.querySelectorAll('[aria-sort=descending]').length", 1)


def test_a_row_opens_its_chain_by_keyboard_and_closes(known, ledger):
    name = "tnrdmtl.table1.laf-over-stl"
    one = next(c for c in known["claims"] if c["claim"] == name)
    ledger.js("document.getElementById(arguments[0]).querySelector('button').focus()", name)
    ledger.press("Enter")
    text = ledger.js("return document.getElementById(`chain-${arguments[0]}`).innerText", name)
    run = known["experiments"][one["experiment"]]
    for part in (
        *(one["rule"], one["spread"], one["why"], one["command"], one["interval_text"]),
        *(one["commit"]["hash"], run["title"], run["notebook"], run["content_sha256"]),
        *(run["versions"][0], run["commits"][0], run["data"][0]["sha256"]),
        known["papers"]["tnrdmtl"]["source"],
    ):
        assert part in text
    dots = "return document.querySelectorAll('.chain circle.dot').length"
    ledger.comes(dots, one["n"])
    label = ledger.js("return document.querySelector('.chain svg').getAttribute('aria-label')")
    assert label == "laf minus stl: 10 values, mean +0.12, 95 % interval +0.03 to +0.21"
    expanded = "return document.querySelectorAll('[aria-expanded=true]').length"
    ledger.comes(expanded, 1)
    ledger.press("Escape")
    ledger.comes(expanded, 0)
    ledger.comes(FOCUS, name)
    ledger.press("Down")
    shown = ledger.js(SHOWN)
    ledger.comes(FOCUS, shown[shown.index(name) + 1])
    ledger.press("Up", "Enter", "Enter")
    ledger.comes(expanded, 0)
    ledger.comes(FOCUS, name)
    assert ledger.errors() == []


def test_no_chart_hides_a_value(known, ledger):
    """Every dot, interval, zero and printed number of every claim lies within its axis."""
    found = ledger.js("""
        const hidden = new Set();
        for (const { claim } of rows) {
          charts(claim, 340).forEach((svg, i) => {
            const number = (node, name) => Number(node.getAttribute(name) ?? 0);
            const marks = [...svg.querySelectorAll("circle, line")];
            const places = marks.flatMap((node) => ["cx", "x1", "x2"].map((n) => number(node, n)));
            if (!places.every((x) => x >= 0 && x <= 340)) hidden.add(`${claim.claim}: cut off`);
            const paper = svg.querySelector(".printed") || svg.textContent.includes("paper");
            const alone = claim.printed !== null && claim.series.length === 1;
            if (alone && !paper) hidden.add(`${claim.claim}: no printed number`);
            const { values } = claim.series[i];
            const zero = svg.querySelector(".zero");
            if (claim.difference && !zero) hidden.add(`${claim.claim}: no zero`);
            const dots = [...svg.querySelectorAll(".dot")].map((node) => number(node, "cx"));
            if (dots.length !== values.length) hidden.add(`${claim.claim}: not every value`);
            const flat = Math.max(...dots) - Math.min(...dots) < 3;
            if (flat && new Set(values).size > 1) hidden.add(`${claim.claim}: one blot`);
          });
        }
        return [...hidden]""")
    assert found == []


def test_an_address_opens_a_row(ledger, address):
    ledger.open("about:blank")
    ledger.open(f"{address}#srdml.cifar.best")
    ledger.comes(FOCUS, "srdml.cifar.best")
    top = ledger.js(
        "return document.getElementById('srdml.cifar.best').getBoundingClientRect().top"
    )
    assert -1 < top < 900
    ledger.comes("return document.querySelectorAll('.chain').length", 1)


def test_matrices_lead_to_rows(ledger):
    choose(ledger, "view", "matrices")
    choose(ledger, "paper", "mrn")
    ledger.comes(SHOWN, [])
    visible = "return [...document.querySelectorAll('[data-matrix]')].filter(m => m.offsetParent)"
    assert set(ledger.js(f"{visible}.map(m => m.dataset.paper)")) == {"mrn"}
    ledger.click("[data-paper=mrn] td a")
    ledger.until(f"{FOCUS} == 'mrn.table1.mrn-over-stl-5'")


def test_on_a_phone_the_number_comes_first_and_nothing_runs_over(ledger):
    ledger.size(390, 844)
    order = ledger.js("""
        const row = document.querySelector("tr.claim");
        openRow(rows[0]);
        return [...row.children].map((c) => [c.className, c.getBoundingClientRect().top])""")
    first = min(order, key=lambda cell: cell[1])
    assert first[0] == "ours number" and sum(top == first[1] for _, top in order) == 1
    ledger.comes("return document.documentElement.scrollWidth", 390)
    wide = ledger.js("""
        return [...document.querySelectorAll(".chain *, tr.claim:first-child *")]
          .filter((node) => node.getBoundingClientRect().right > 390).length""")
    assert wide == 0
    roles = ledger.js("return [...document.querySelectorAll('table.claims')].map(t => t.role)")
    assert set(roles) == {"table"}  # which the layout would take from them


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(ledger, scheme):
    background = "return getComputedStyle(document.body).backgroundColor"
    expected = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}
    other = {"light": "dark", "dark": "light"}[scheme]
    ledger.media(prefers_color_scheme=scheme)
    ledger.comes(background, expected[scheme])
    while other not in ledger.js("return document.querySelector('.theme').textContent"):
        ledger.click(".theme")
    ledger.comes(background, expected[other])
    ledger.comes("return localStorage.getItem('mode')", other)  # where the book keeps it
    ledger.js("localStorage.clear()")


def test_on_paper_there_are_no_controls(ledger):
    ledger.js("openRow(rows[0])")
    ledger.media("print", prefers_color_scheme="dark")
    hidden = "return getComputedStyle(document.querySelector(arguments[0])).display"
    for selector in ("form", ".theme"):
        assert ledger.js(hidden, selector) == "none"
    assert ledger.js("return document.querySelector('.chain').offsetHeight") > 200
    ledger.comes("return getComputedStyle(document.body).color", "rgb(27, 31, 36)")


@pytest.mark.parametrize("statement", HOSTILE)
def test_a_hostile_text_does_nothing_in_a_browser(known, window, tmp_path, statement):
    of = hostile(known, statement)
    path = tmp_path / "hostile.html"
    path.write_text(page.page(of))
    window.media()
    window.open(path.as_uri())
    text = window.js("""
        openRow(rows[0]);
        const shown = document.querySelector("tr.claim th div");
        return [shown.textContent, rows[0].chain.textContent]""")
    assert text[0] == statement and text[1].count(statement) >= 6
    assert window.js("return window.hacked ?? null") is None
    assert window.js("return document.querySelectorAll('script').length") == 2
    assert window.errors() == []
