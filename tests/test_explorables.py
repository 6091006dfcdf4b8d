"""The pictures that a reader moves: their numbers are the package's, and a keyboard moves them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from browser import browser, why_not

from mtlbook import explorables
from mtlbook.kernels import chance_density, chance_tail, chance_threshold
from mtlbook.norms import singular_value_threshold, trace_norm
from mtlbook.priors import apply_precisions, flip_flop, mode_covariance, quadratic_form
from mtlbook.tensors import unfold

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book" / "_static"
FOUNDATIONS = ROOT / "book" / "foundations"


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


A = randn(6, 2) @ randn(2, 6, seed=1) + 0.4 * randn(6, 6, seed=2)
TENSORS = {2: randn(5, 6, 5), 3: randn(1, 6, 5, 4), 4: randn(1, 5, 4, 3, 4)}
STACK = randn(2, 3, 2, 2)
STACKS = {"nothing": STACK, "equal tasks": STACK[..., :1].expand(2, 3, 2, 2)}
DIMENSIONS = [2, 3, 9, 27, 216]


@pytest.fixture(scope="module")
def boxes():
    made = [
        explorables.hover(A),
        explorables.shrinkage(A),
        explorables.two_tasks((1.5, -0.5), (20, 2)),
        explorables.flip_flop_runs(TENSORS, sweeps=5),
        explorables.chance(DIMENSIONS),
        explorables.unfoldings(STACKS),
    ]
    return {box.name: box for box in made}


NAMES = ["hover", "shrinkage", "twotasks", "flipflop", "chance", "unfoldings"]


@pytest.fixture(scope="module")
def window(boxes, tmp_path_factory):
    """A page with all six, at the place that a chapter has."""
    if why := why_not():
        pytest.skip(why)
    book = tmp_path_factory.mktemp("book")
    shutil.copytree(STATIC / "explorables", book / "_static" / "explorables")
    (book / "foundations").mkdir()
    page = book / "foundations" / "page.html"
    page.write_text(
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>All six</title>'
        '<meta name="viewport" content="width=device-width">'
        '<link rel="stylesheet" href="../_static/explorables/explorables.css">'
        + "".join(box._repr_html_() for box in boxes.values()),
        encoding="utf-8",
    )
    with browser() as found:
        found.size(1280, 900)
        found.open(page.as_uri())
        yield found


@pytest.fixture
def compute(window, boxes):
    """``compute(name, **settings)``: what the script makes of its data and these settings."""

    def call(name, **settings):
        return window.js(
            "return Explorables.known[arguments[0]].compute(arguments[1], arguments[2])",
            name,
            json.loads(json.dumps(boxes[name].data)),
            settings,
        )

    return call


def close(values, tolerance=1e-7):
    values = values.tolist() if isinstance(values, torch.Tensor) else values
    return pytest.approx(values, rel=tolerance, abs=tolerance)


# ------------------------------------------------------------------------ numbers of the package


def threshold(matrix, by):
    return singular_value_threshold(matrix, torch.tensor(by, dtype=torch.float64))


@pytest.mark.parametrize(
    ("eta", "gamma", "steps"), [(0.3, 1.2, 40), (0.9, 0.5, 15), (0.06, 2.5, 80), (0.5, 0, 7)]
)
def test_hover(compute, eta, gamma, steps):
    def objective(w):
        return 0.5 * (w - A).square().sum() + gamma * trace_norm(w)

    sub = proximal = A
    for _ in range(steps):
        w = sub.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(w), w)
        sub = sub - eta * gradient
        proximal = threshold(proximal - eta * (proximal - A), eta * gamma)
    best = threshold(A, gamma)
    found = compute("hover", eta=eta, gamma=gamma, steps=steps)
    for name, w in (("sub", sub), ("proximal", proximal)):
        values = sorted(map(abs, found[name][-1]), reverse=True)
        assert values == close(torch.linalg.svdvals(w))
    assert found["least"] == close(float(objective(best)))
    gaps = [float(objective(w) - objective(best)) for w in (sub, proximal)]
    assert found["gaps"] == close(gaps)
    assert found["ranks"][1] == int((torch.linalg.svdvals(proximal) > 1e-9).sum())
    if found.get("bound"):  # of the largest value that should be zero, once it is inside
        low, high = found["bound"]
        which = next(i for i, a in enumerate(torch.linalg.svdvals(A)) if a < gamma)
        assert low <= found["sub"][-1][which] <= high


@pytest.mark.parametrize(("time", "eps"), [(0.3, -1), (1.5, -1), (2.5, -0.5), (5, 0)])
def test_shrinkage(compute, time, eps):
    found = compute("shrinkage", time=time, eps=eps)
    values = torch.linalg.svdvals(A)
    thresholded = threshold(A, time)
    assert found["trace"] == close(torch.linalg.svdvals(thresholded))
    assert found["decay"] == close(torch.exp(torch.tensor(-time)) * values)
    length = A.norm()
    assert found["frobenius"] == close((1 - time / length).clamp(min=0) * values)

    def slope(w):  # -W (W^T W + eps I)^-1, by the covariance of a learned prior
        d = len(w)
        covariance = d * mode_covariance(w, [None, None], 1, eps=10**eps / d, relative=False)
        return -apply_precisions(w, [None, covariance])

    w, steps = A, 150
    for _ in range(steps):  # Runge and Kutta's fourth order
        h = time / steps
        a = slope(w)
        b = slope(w + h / 2 * a)
        c = slope(w + h / 2 * b)
        w = w + h / 6 * (a + 2 * b + 2 * c + slope(w + h * c))
    assert found["logdet"] == close(torch.linalg.svdvals(w), 1e-5)


@pytest.mark.parametrize(
    ("rho", "n", "y"),
    [(0.8, (20, 2), (1.5, -0.5)), (-0.9, (1, 0), (2.0, 1.0)), (0, (3, 7), (-1.0, 0.4))],
)
def test_two_tasks(compute, rho, n, y):
    found = compute("twotasks", rho=rho, n1=n[0], n2=n[1], y1=y[0], y2=y[1])
    prior = torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)
    samples, estimates = (torch.tensor(v, dtype=torch.float64) for v in (n, y))

    mean = torch.tensor(found["mean"], dtype=torch.float64).requires_grad_()
    misfit = (samples * (mean - estimates) ** 2).sum()
    objective = 0.5 * (quadratic_form(mean[None], [None, prior]) + misfit)
    (gradient,) = torch.autograd.grad(objective, mean)
    assert gradient.tolist() == close([0, 0], 1e-9)  # the maximum of the posterior
    (a, b), (_, c) = (prior.inverse() + samples.diag()).inverse().tolist()
    assert found["posterior"] == close([a, b, c])


@pytest.mark.parametrize("modes", TENSORS)
@pytest.mark.parametrize("order", ["sequential", "simultaneous"])
@pytest.mark.parametrize("traces", ["free", "fixed"])
def test_flip_flop(compute, modes, order, traces):
    x, start, sweeps = TENSORS[modes], 0.7, 4
    covariances = [10**start * torch.eye(x.shape[1]).double(), *[None] * (modes - 1)]
    logs = []
    for _ in range(sweeps + 1):
        logs.append(float((quadratic_form(x, covariances).sum() / x.numel()).log10()))
        scale = {"free": "none", "fixed": "trace"}[traces]
        covariances = flip_flop(x, covariances, eps=0, order=order, scale=scale)
    settings = {"modes": str(modes), "order": order, "traces": traces}
    found = compute("flipflop", **settings, start=start, sweeps=sweeps)
    assert found["logs"] == close(logs, 1e-6)


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize(("theta", "pairs"), [(0, 2), (0.2, 3.5), (0.8, 6), (0.99, 8)])
def test_chance(compute, d, theta, pairs):
    at = DIMENSIONS.index(d)
    found = compute("chance", dimension=at, theta=theta, pairs=pairs)
    tail = float(chance_tail(theta, d))
    assert found["d"] == d
    assert found["share"] == pytest.approx(tail, rel=1e-8, abs=0)
    assert found["expected"] == pytest.approx(tail * 10**pairs, rel=1e-8, abs=0)
    assert found["threshold"] == close(chance_threshold(d, 10**-pairs), 1e-9)
    assert tail <= found["bound"] <= 0.5
    grid = torch.tensor(found["grid"], dtype=torch.float64)
    assert grid[:, 1].tolist() == pytest.approx(chance_density(grid[:, 0], d).tolist(), rel=1e-9)


def test_what_was_counted_follows_the_law(boxes):
    data = boxes["chance"].data
    for d, counts in zip(DIMENSIONS, data["counts"], strict=True):
        assert sum(counts) == data["pairs"] == 79_800
        share = sum(counts[35:]) / data["pairs"]  # above 0.4
        tail = float(chance_tail(0.4, d))
        assert abs(share - tail) <= 4 * (tail / data["pairs"]) ** 0.5


def test_unfoldings(compute):
    entries = torch.arange(STACK.numel()).reshape(STACK.shape)
    for name, w in STACKS.items():
        for unfolding, matrix in {
            **{f"mode-{i + 1}": lambda x, i=i: unfold(x, i) for i in range(4)},
            **{f"cut-{i}": lambda x, i=i: x.reshape(x.shape[:i].numel(), -1) for i in (1, 2, 3)},
        }.items():
            found = compute("unfoldings", unfolding=unfolding, place=8, stack=name)
            m = matrix(entries)
            assert found["size"] == list(m.shape)
            assert [int(m[row, column]) for row, column in found["places"]] == list(range(24))
            assert int(m[tuple(found["at"])]) == 8 == int(entries[tuple(found["index"])])
            values = torch.linalg.svdvals(matrix(w))
            assert found["values"] == close(values)
            assert found["rank"] == int(torch.linalg.matrix_rank(matrix(w)))
            assert found["norm"] == close(float(trace_norm(matrix(w))))


def test_what_a_box_holds_is_what_its_functions_give(boxes):
    """Also where no browser is there to compute with it."""
    for name in ("hover", "shrinkage"):
        assert boxes[name].data == {"values": close(torch.linalg.svdvals(A))}
    assert boxes["twotasks"].data == {"estimates": [1.5, -0.5], "samples": [20, 2]}
    for modes, x in TENSORS.items():
        for traces, scale in (("free", "none"), ("fixed", "trace")):
            found, logs = [None] * modes, []
            for _ in range(6):
                logs.append(float((quadratic_form(x, found).sum() / x.numel()).log10()))
                found = flip_flop(x, found, eps=0, order="simultaneous", scale=scale)
            kept = boxes["flipflop"].data["runs"][str(modes)]
            assert kept["simultaneous"][traces] == close(logs)
            assert (kept["sequential"]["free"][1:] == close([0.0] * 5)) and logs[0] != close(0.0)
    data = boxes["unfoldings"].data
    for label, w in STACKS.items():
        spectra = data["stacks"][label]["spectra"]
        assert [name for name, _ in data["unfoldings"]] == list(spectra)
        for i in range(4):
            assert spectra[f"mode-{i + 1}"] == close(torch.linalg.svdvals(unfold(w, i)))
        for i in range(1, 4):
            rows = w.shape[:i].numel()
            assert spectra[f"cut-{i}"] == close(torch.linalg.svdvals(w.reshape(rows, -1)))


def test_stacks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="expected one shape for all"):
        explorables.unfoldings({"one": STACK, "other": STACK[:1]})


# ----------------------------------------------------------------------------- a reader moves it

BOX = "const box = document.querySelector(`[data-explorable=${arguments[0]}]`);"


@pytest.mark.parametrize("name", NAMES)
def test_by_keyboard_alone(window, name):
    """Every control has a name, is reached by Tab, and a key changes what it shows."""
    window.js(f"{BOX} box.querySelector('button').click()", name)
    controls = window.js(f"{BOX} return box.querySelectorAll('input[type=range]').length", name)
    groups = window.js(f"{BOX} return box.querySelectorAll('fieldset').length", name)
    handles = window.js(f"{BOX} return box.querySelectorAll('[role=slider]').length", name)
    window.js(f"{BOX} box.tabIndex = -1; box.focus()", name)
    shown = f"{BOX} return box.querySelector('.drawing').innerHTML + JSON.stringify(box.result)"
    seen = []
    for _ in range(controls + groups + 1 + handles):
        window.press("Tab")
        found = window.js(
            f"{BOX} const now = document.activeElement;"
            "const legend = now.closest('fieldset')?.querySelector('legend').textContent;"
            "return [box.contains(now), legend || now.labels?.[0]?.textContent ||"
            " now.getAttribute('aria-label') || now.textContent, now.type || now.role]",
            name,
        )
        inside, label, kind = found
        assert inside and label.strip(), found
        seen.append(label)
        before = window.js(shown, name)
        if kind in ("range", "radio"):
            at_its_end = window.js(
                "return document.activeElement.value == document.activeElement.max"
            )
            window.press("Left" if at_its_end else "Right")
        elif kind == "slider":
            window.press("Up")
        else:
            window.press("Enter")  # Start again
        assert window.js(shown, name) != before, label
    assert len(set(seen)) == len(seen)
    start = window.js(f"{BOX} return box.settings", name)
    window.js(f"{BOX} box.querySelector('button').click()", name)
    if handles:  # which comes after "Start again" and was moved last
        assert window.js(f"{BOX} return box.settings", name) != start
    assert window.errors() == []


def test_a_finger_drags_the_point_and_goes_on_outside_of_it(window):
    window.js(f"{BOX} box.querySelector('button').click()", "twotasks")
    window.js(f"{BOX} box.scrollIntoView({{block: 'center'}})", "twotasks")
    at = window.js(
        f"{BOX} const r = box.querySelector('.handle').getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]",
        "twotasks",
    )
    touch = "Input.dispatchTouchEvent"
    window.cdp(touch, type="touchStart", touchPoints=[{"x": at[0], "y": at[1]}])
    for step in (1, 2, 3):
        point = {"x": at[0] - 30 * step, "y": at[1] - 20 * step}
        window.cdp(touch, type="touchMove", touchPoints=[point])
    window.cdp(touch, type="touchEnd", touchPoints=[])
    found = window.js(f"{BOX} return box.settings", "twotasks")
    assert 0.5 < found["y1"] < 1.2 and -0.4 < found["y2"] < 0.5  # from 1.5 and -0.5
    label = window.js(f"{BOX} return box.querySelector('.handle').ariaValueText", "twotasks")
    assert label == f"{found['y1']:.2f}, {found['y2']:.2f}".replace("-", "−")


@pytest.mark.parametrize("width", [1280, 390])
def test_fits_and_can_be_read(window, width):
    window.size(width, 844)
    window.until(f"return document.querySelector('.chart').getBoundingClientRect().width < {width}")
    assert window.js("return document.documentElement.scrollWidth") <= width
    small = window.js("""
        return [...document.querySelectorAll(".explorable text")].filter((node) => {
          const svg = node.ownerSVGElement;
          const scale = svg.getBoundingClientRect().width / svg.width.baseVal.value;
          return parseFloat(getComputedStyle(node).fontSize) * scale < 10.9;
        }).map((node) => node.textContent)""")
    assert small == []
    outside = window.js("""
        return [...document.querySelectorAll(".explorable svg > *:not(clipPath):not([clip-path])")]
          .filter((node) => {
            const [a, b] = [node, node.ownerSVGElement].map((n) => n.getBoundingClientRect());
            return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1;
          }).map((node) => node.outerHTML)""")
    assert outside == []
    targets = window.js("""
        return [...document.querySelectorAll(".explorable input[type=range], .explorable button")]
          .map((node) => node.getBoundingClientRect().height)""")
    assert min(targets) >= 24
    window.size(1280, 900)


def test_on_paper_without_controls(window):
    window.media("print")
    visible = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert window.js(visible, ".explorable .controls") == "none"
    assert window.js(visible, ".explorable .chart") == "block"
    window.media()


def test_without_scripts_the_box_says_what_stands_for_it(boxes):
    for box in boxes.values():
        assert re.search(r'<p class="still">[^<]+the figure above stands for it', box._repr_html_())
    odd = explorables.Box("x", "a", {"text": "</script><b>"})
    assert "</script><b>" not in odd._repr_html_()


@pytest.mark.parametrize("path", sorted(FOUNDATIONS.glob("*.md")), ids=lambda path: path.stem)
def test_on_a_page_a_figure_stands_above(path):
    text = path.read_text()
    used = re.findall(r"^explorables\.(\w+)\(", text, re.MULTILINE)
    assert len(used) == text.count("import explorables") <= 1
    if used:
        before = text[: text.index("import explorables")]
        assert before.count("\n    name: fig-") >= 1
        assert (
            f"\n(move-{used[0].replace('flip_flop_runs', 'flip-flop').replace('_', '-')})="
            in before
        )


def test_all_six_are_on_pages():
    text = "".join(path.read_text() for path in FOUNDATIONS.glob("*.md"))
    used = set(re.findall(r"^explorables\.(\w+)\(", text, re.MULTILINE))
    assert used == {"hover", "shrinkage", "two_tasks", "flip_flop_runs", "chance", "unfoldings"}
