"""``make gpu`` rehearsed on a CPU: what it measures, what fails, what the page reads of it."""

import copy
import json
import re
import sys
import warnings
from pathlib import Path

import IPython.display
import pytest
import torch
from device_checks import NoCopies
from test_protocol import STEPPED

from mtlbook.ledger import devices
from mtlbook.priors import LowRankPlusDiagonal

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book/yours/gpu.md"
CPU = torch.device("cpu")
SOME = ("STL", "MRN_t", "SRDML", "MTAL, slices, every 10th")


@pytest.fixture(scope="module")
def benchmark():
    """The script and its parts; they find each other as they do when it is run."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gpu
        import gpu_cases
        import gpu_laws
        import gpu_sections
        import on_device
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return gpu, gpu_cases, gpu_laws, gpu_sections, on_device


@pytest.fixture(scope="module")
def rehearsal(benchmark, tmp_path_factory):
    """A rehearsal of every section with some of the methods; its file."""
    gpu, cases, laws, sections, _ = benchmark
    out = tmp_path_factory.mktemp("gpu") / "rehearsal.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "CASES", {name: cases.CASES[name] for name in SOME})
        patch.setattr(sections, "PLANT_ARMS", ("stl", "mrn-t"))
        patch.setattr(sections, "COMPILED", ("MTAL, slices, every 10th",))
        patch.setattr(laws, "LAWS", dict(list(laws.LAWS.items())[:2]))
        assert gpu.main(["--device", "cpu", "--quick", "--out", str(out)]) == 0
    return out


@pytest.fixture
def measured(rehearsal, tmp_path):
    """The rehearsal, as if it were a measurement."""
    found = json.loads(rehearsal.read_text()) | {"quick": False}
    path = tmp_path / "made-up.json"
    path.write_text(json.dumps(found))
    return path


def test_every_method_that_learns_by_steps_is_a_case_and_takes_a_step(benchmark):
    _, cases, *_ = benchmark
    seen = set()
    for case in cases.CASES.values():
        of = cases.Steps(case.make("small"), cases.SETTINGS[case.setting].tasks("small"), CPU)
        assert of.step().isfinite().all()
        seen.add(type(of.module).__name__)
    assert seen == set(STEPPED)


@pytest.mark.parametrize("name", ["omniglot", "office", "cifar", "unlike"])
def test_bare_networks_take_a_step(benchmark, name):
    _, cases, *_ = benchmark
    setting = cases.SETTINGS[name]
    of = cases.Steps(setting.bare("small"), setting.tasks("small"), CPU, lr=0.1)
    before = of.bare().sum()
    for _ in range(5):
        after = of.bare().sum()
    assert after < before


def test_the_rehearsal_measures_every_section(rehearsal, measured, benchmark):
    found = devices.load(measured)
    assert list(found["sections"]) == list(devices.ROWS) == list(benchmark[3].SECTIONS)
    for section in found["sections"].values():
        assert section["rows"] and not section["errors"] and not section["left_out"]
    rows = devices.rows(found, "methods")
    assert list(rows) == list(SOME)
    assert all(row["ratio"]["float32"] > 0 and not row["errors"] for row in rows.values())
    assert rows["MRN_t"]["update_every"] == 100 and rows["MRN_t"]["amortised"] > 0
    for row in devices.rows(found, "agreement").values():  # a CPU agrees with itself
        assert row["float64"] == {"loss": 0.0, "weights": 0.0}
    with pytest.raises(ValueError, match="expected a measurement, got a rehearsal"):
        devices.load(rehearsal)


def test_a_failure_is_recorded_and_the_others_go_on(benchmark, monkeypatch, tmp_path, capsys):
    gpu, out = benchmark[0], tmp_path / "failed.json"

    def broken():
        raise RuntimeError("no such kernel")

    def jobs(run):
        yield "broken", broken
        yield "not a number", lambda: {"metric": float("nan"), "of": [torch.inf, 1 / 3]}
        raise ValueError("no more jobs")

    monkeypatch.setitem(gpu.SECTIONS, "table", jobs)
    assert gpu.main(["--device", "cpu", "--quick", "--sections", "table", "--out", str(out)]) == 1
    section = json.loads(out.read_text())["sections"]["table"]
    assert section["rows"] == {"not a number": {"metric": None, "of": [None, 0.33333]}}
    assert section["errors"]["broken"].endswith("RuntimeError: no such kernel\n")
    assert "no more jobs" in section["errors"][""]
    assert "FAILED: RuntimeError: no such kernel" in capsys.readouterr().out


def test_a_budget_that_is_spent_leaves_out_and_names(benchmark, tmp_path):
    gpu, cases, *_ = benchmark
    out = tmp_path / "late.json"
    options = ["--device", "cpu", "--quick", "--budget", "0", "--out", str(out)]
    assert gpu.main([*options, "--sections", "methods", "growth"]) == 0
    sections = json.loads(out.read_text())["sections"]
    assert sections["methods"]["left_out"] == list(cases.CASES)
    assert not sections["methods"]["rows"] and len(sections["growth"]["left_out"]) == 3


def test_without_a_device_it_says_what_to_do(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark[0].main([]) == 1
    assert "expected a CUDA device, found none" in (said := capsys.readouterr().err)
    assert "--device cpu --quick" in said


def test_a_trace_is_counted(benchmark):
    on_device = benchmark[-1]
    events = [
        *[{"cat": "kernel", "name": "k", "dur": 500.0}] * 6,
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD", "dur": 1.0},
        {"cat": "gpu_memset", "name": "Memset", "dur": 1.0},
        *[{"cat": "cuda_runtime", "name": "cudaStreamSynchronize", "dur": 9.0}] * 4,
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
        {"ph": "M", "name": "process_name"},
    ]
    assert on_device.count(events, 2) == {
        "kernels": 3.0, "copies": 1.0, "kernel_ms": 1.5, "driver_waits": 2.0
    }  # fmt: skip


def test_waits_are_counted_by_their_line(benchmark, monkeypatch):
    on_device, modes = benchmark[-1], []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)

    def way():
        for _ in range(2):
            warnings.warn(on_device.SYNC, stacklevel=1)
        warnings.warn("of something else", stacklevel=1)

    with pytest.warns(UserWarning):
        found = on_device.waits(way, torch.device("cuda"))
    assert list(found.values()) == [2] and next(iter(found)).startswith("test_gpu.py:")
    assert modes == ["warn", "default"]


@pytest.mark.parametrize(
    ("sizes", "values", "slope"),
    [
        ((1, 2, 4, 8, 16, 32), (5, 5, 5, 3 * 64, 3 * 256, 3 * 1024), 2),
        ((10, 100), (1.0, 10.0), 1),
        ((1, 2, 3), (None, None, None), None),
    ],
)
def test_exponents(benchmark, sizes, values, slope):
    assert benchmark[-1].exponent(sizes, values) == pytest.approx(slope)


# ------------------------------------------------------------------ the file and the page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found | {"schema": 0}, "expected measurements of schema 1, got 0"),
        (lambda found: [], "expected measurements of schema 1, got list"),
        (lambda found: found | {"day": None}, "expected a str under 'day', got None"),
        (
            lambda found: found | {"sections": {"speed": {}}},
            r"expected sections among \['methods', .* got 'speed'",
        ),
        (
            lambda found: found | {"sections": {"laws": {"rows": {}}}},
            "expected rows, errors and left_out in section 'laws'",
        ),
        (
            lambda found: (
                found
                | {
                    "sections": {
                        "table": {"rows": {"stl": {"cpu": []}}, "errors": {}, "left_out": []}
                    }
                }
            ),
            r"expected \['metric', .*\] in row 'stl' of section 'table'",
        ),
    ],
)
def test_a_broken_file_is_refused(measured, change, message):
    measured.write_text(json.dumps(change(json.loads(measured.read_text()))))
    with pytest.raises(ValueError, match=rf"made-up\.json: {message}.*make gpu"):
        devices.load(measured)


@pytest.mark.parametrize("text", ['{"schema": 1', '{"schema": NaN}'])
def test_what_is_no_json_is_refused(measured, text):
    measured.write_text(text)
    with pytest.raises(ValueError, match=r"made-up\.json: expected JSON with finite numbers"):
        devices.load(measured)


def test_what_is_committed_can_be_read():
    for found in devices.measured(ROOT):
        assert found["sections"]


def shown(monkeypatch, files):
    """Texts and figures of the page's cells, with these files in ``data/gpu``."""
    import matplotlib.pyplot as plt

    texts, figures = [], []
    monkeypatch.setattr(devices, "measured", lambda repository: files)
    monkeypatch.setattr(IPython.display, "display", lambda made: texts.append(made.data))
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()) or plt.close())
    cell_text = r"^```\{code-cell\}[^\n]*\n(?::tags:[^\n]*\n)?(.*?)^```"
    cells = re.findall(cell_text, PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    for cell in cells:
        exec(cell, names)
    return [names["missing"]] if not files else texts, figures


def test_the_page_shows_what_was_measured(measured, monkeypatch):
    found = json.loads(measured.read_text())
    found["sections"]["methods"]["rows"]["STL"]["waits"] = {"norms.py:285": 4}
    found["sections"]["methods"]["left_out"] = ["PLE"]
    found["sections"]["table"]["errors"] = {"drn": "Traceback\n  ...\nRuntimeError: a | b\n"}
    found |= {"tests": {"passed": 7, "failed": 2, "error": 1}, "driver": "580.1"}
    texts, figures = shown(monkeypatch, [found])
    whole = "\n".join([*texts, devices.about(found)])
    assert len(figures) == 4  # that of a CPU among them
    assert "| STL | 4 | - | 0 | `norms.py:285` |" in whole
    assert f"on {found['day']} with torch {found['torch']}, driver 580.1" in whole
    assert "that need a device 7 passed and 3 failed. Not reached in the time: PLE." in whole
    assert "| MTAL, slices, every 10th | 0 | 0 | equal |" in whole
    assert "Run twice, 4 of 4 rows are equal to the last bit" in whole
    assert "| table | drn | RuntimeError: a &#124; b |" in whole


def test_the_page_tells_what_differs_from_file_to_file(measured):
    found = json.loads(measured.read_text())
    found["sections"] = {"methods": {"rows": {}, "errors": {}, "left_out": []}}
    assert devices.steps(found) == devices.steps_in_words(found) == ""
    assert devices.agreement_in_words(found) == devices.growth_in_words(found) == ""
    assert devices.failures(found) == "Nothing failed."
    assert devices.waits(found) == "No method makes the host wait for the device."
    row = {"ratio": {"float32": 2.0}, "ms": {"float32": 4.0}, "kernel_ms": 1.0}
    dear = {"ratio": {"float32": 3.0}, "ms": {"float32": 4.0}, "kernel_ms": 3.0, "amortised": 8.0}
    found["sections"]["methods"]["rows"] = {"a": row, "b": dear, "c": {"ratio": {}}}
    found["sections"]["growth"] = {
        "rows": {"stacked": {"tasks": [4, 8], "ms": [2.0, 3.0], "kernels": [5, 20]}}
    }
    assert devices.steps_in_words(found) == (
        "Updates counted, 0 of 2 rows stay below one and a half times their bare networks; the "
        "dearest is b, 8 times. Kernels run for 25 % of the step of a, and for 75 % of that of b."
    )
    assert devices.growth_in_words(found) == (
        "- stacked: from 4 to 8 tasks the step's time grows 1.5 times, the number of its kernels "
        "4.0 times."
    )


def test_without_a_file_the_page_says_so(monkeypatch):
    texts, figures = shown(monkeypatch, [])
    assert "Not measured yet" in texts[0] and len(figures) == 1  # that of a CPU


# ------------------------------------------------------------------ what was found


def test_a_pooling_that_ties_within_rounding_explains_the_largest_difference(
    benchmark, monkeypatch
):
    """On a CPU in float64: inputs disturbed by 1e-7 give the difference that the H200 shows."""
    _, cases, _, sections, _ = benchmark
    choices, pool = [], torch.nn.functional.max_pool2d_with_indices

    def recorded(x, *args, **options):
        pooled, at = pool(x, *args, **options)
        choices.append(at)
        return pooled

    monkeypatch.setattr(torch.nn.functional, "max_pool2d", recorded)
    tasks, generator = cases.omniglot_tasks("middle"), torch.Generator().manual_seed(0)

    def disturbed(x):
        return x * (1 + 1e-7 * torch.randn(x.shape, generator=generator))

    name, found = "TNRDMTL, uncoupled", []
    method = cases.CASES[name].make("middle")
    for of in (tasks, tasks.map_inputs(disturbed)):
        found.append(sections._three_steps(copy.deepcopy(method), of, CPU, torch.float64))
    before, after = choices[: len(choices) // 2], choices[len(choices) // 2 :]
    assert sum(int((a != b).sum()) for a, b in zip(before, after, strict=True)) == 1
    measured = json.loads((ROOT / "data/gpu/nvidia-h200.json").read_text())
    there = devices.rows(measured, "agreement")[name]["float32"]["weights"]
    assert sections._difference(*found)["weights"] == pytest.approx(there, rel=0.02)


def test_a_copy_from_the_host_is_refused():
    with NoCopies(), pytest.raises(RuntimeError, match=r"copy of \(2, 2\) from the host"):
        torch.eye(2).to("meta")
    with NoCopies():
        torch.eye(2, device="meta").to(torch.float64)


def test_the_covariance_of_a_whole_layer_starts_without_a_square():
    """4 x 1,048,576: a square identity would take four terabytes."""
    start = LowRankPlusDiagonal.identity(2**20, 4, like=torch.empty(4, 2**20))
    assert start.basis.shape == (2**20, 4) and float(start.basis.sum()) == 4
