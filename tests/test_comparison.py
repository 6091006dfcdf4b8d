"""``mtlbook compare``: from somebody's file to a report, and what it refuses."""

import bz2
import csv
import gzip
import json
import lzma
import os
import re
import zipfile
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mtlbook
from mtlbook.cli import main
from mtlbook.cli.parsing import parser
from mtlbook.comparison import CANDIDATES, Data, Protocol, check, compare, read, train
from mtlbook.comparison.arms import NEEDS, choose
from mtlbook.comparison.checks import sample_keys
from mtlbook.comparison.judging import judge, resampled_interval, verdict_of
from mtlbook.comparison.report import number, signed
from mtlbook.comparison.running import guess, run, scores, searches
from mtlbook.comparison.splits import Shares, parts_of, standardise, units_of
from mtlbook.ledger.results import Result
from mtlbook.ledger.statistics import Interval, mean_interval
from mtlbook.methods import Method
from mtlbook.tasks import Task, TaskSet

FAST = {"steps": 4, "hidden": 6}


def rows(tasks=3, n=24, kind="number", seed=0):
    """Lines of a table: tasks that have most of their weights in common."""
    generator = np.random.default_rng(seed)
    w = generator.normal(size=4)
    lines = []
    for t in range(tasks):
        own = w + 0.2 * generator.normal(size=4)
        for i in range(n):
            x = generator.normal(size=4)
            y = float(x @ own)
            target = round(y, 4) if kind == "number" else ("high" if y > 0 else "low")
            lines.append(
                [f"shop {t}", *x.round(4), ["red", "blue"][i % 2], target, 100 * t + i // 2]
            )
    return lines


HEADER = ["task", "a", "b", "c", "d", "colour", "target", "client"]


def table(path, lines, header=HEADER, **options):
    with open(path, "w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        csv.writer(file, **options).writerows([header, *lines])
    return path


def taskset(outputs=(2, 2, 2), n=24, loss="cross_entropy", groups=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for t, k in enumerate(outputs):
        x = torch.randn(n, 5, generator=generator)
        if loss == "cross_entropy":
            y, options = torch.arange(n) % k, {"classes": k}
        else:
            y, options = x[:, :k] + 0.1 * torch.randn(n, k, generator=generator), {"loss": loss}
        if groups:
            options["groups"] = torch.arange(n) // 3 + 50 * t
        tasks.append(Task(f"t{t}", x, y, **options))
    return TaskSet("made up", tasks)


# Reading


def test_a_table_becomes_tasks(tmp_path):
    found = read(table(tmp_path / "x.csv", rows()), group="client")
    assert found.tasks.names == ["shop 0", "shop 1", "shop 2"]
    assert found.features == ["a", "b", "c", "d", "colour=blue", "colour=red"]
    assert [len(task) for task in found.tasks] == [24] * 3 and found.tasks[0].loss == "mse"
    assert found.tasks[1].groups is not None and found.tasks[0].inputs[:, 4:].sum(1).eq(1).all()
    expected = torch.tensor([line[-2] for line in rows()[24:48]])
    torch.testing.assert_close(found.tasks[1].targets[:, 0], expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.csv", {"delimiter": ";"}),
        ("x.tsv", {"delimiter": "\t"}),
        ("x.csv", {"encoding": "utf-8-sig"}),
        ("umlaut ä.csv", {}),
    ],
)
def test_dialects_of_tables(tmp_path, name, options):
    found = read(table(tmp_path / name, rows(kind="text"), **options), drop=["client"])
    assert len(found.tasks) == 3 and found.tasks.outputs == [2, 2, 2]


def same_data(a, b):
    for one, two in zip(a.tasks, b.tasks, strict=True):
        assert torch.equal(one.inputs, two.inputs) and torch.equal(one.targets, two.targets)
        assert (one.groups is None) == (two.groups is None)
    return (a.features, a.labels, a.tasks.names) == (b.features, b.labels, b.tasks.names)


@pytest.mark.parametrize(
    ("name", "pack", "delimiter"),
    [
        ("x.csv.gz", gzip, ","),
        ("X.CSV.GZ", gzip, ";"),
        ("x.tsv.bz2", bz2, "\t"),
        ("x.csv.xz", lzma, ","),
    ],
)
def test_packed_tables(tmp_path, name, pack, delimiter):
    plain = table(tmp_path / "plain.csv", rows())
    written = table(tmp_path / "x", rows(), delimiter=delimiter, encoding="utf-8-sig")
    (tmp_path / name).write_bytes(pack.compress(written.read_bytes()))
    assert same_data(read(tmp_path / name, group="client"), read(plain, group="client"))
    whole = (tmp_path / name).read_bytes()
    for broken in (whole[: len(whole) // 2], written.read_bytes(), whole[:20] + b"?" + whole[21:]):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(ValueError, match=rf"^{re.escape(name)}: expected (a table|text)"):
            read(tmp_path / name)
    other = tmp_path / "x.txt.gz"
    other.write_bytes(whole)
    with pytest.raises(ValueError, match=r"^data: expected .*\.csv\.gz.*, got x\.txt\.gz"):
        read(other)


def test_a_frame_is_a_table(tmp_path):
    path = table(tmp_path / "x.csv", rows())
    frame = pandas.read_csv(path)
    before = frame.copy()
    assert same_data(read(frame, group="client"), read(path, group="client"))
    pandas.testing.assert_frame_equal(frame, before)  # of the reader's own nothing changes
    assert same_data(read(frame.set_index("task"), drop="client"), read(path, drop="client"))
    categories = frame.astype({"colour": "category", "task": "category"})
    assert same_data(read(categories, drop="client"), read(path, drop="client"))
    with pytest.raises(ValueError, match=r"^the table: expected a value in every cell, .*'a': 1"):
        read(frame.assign(a=[None, *frame.a[1:]]))
    with pytest.raises(ValueError, match=r"^the table: expected one row per sample, got 0 rows"):
        read(frame[:0])
    found = compare(
        frame, drop="client", arms=["pooled"], trials=1, repeats=5, protocol={"steps": 2}
    )
    assert "mtlbook.compare(table, " in found.html and "train(table, " in found.html


def test_arrays_become_tasks(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 3 + 1
    np.savez(tmp_path / "one.npz", x=x, y=y, task=np.repeat(["a", "b"], 15), group=np.arange(30))
    np.savez(tmp_path / "two.npz", x_a=x[:15], y_a=y[:15], x_b=x[15:], y_b=y[15:])
    one, two = (read(tmp_path / name).tasks for name in ("one.npz", "two.npz"))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
    assert one.outputs == [3, 3] and int(one[0].targets.min()) == 0


def test_a_folder_of_images_becomes_tasks(tmp_path):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for task in ("photo", "sketch"):
        for k, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / task / name).mkdir(parents=True)
            for i in range(5):
                pixels = generator.integers(0, 120, (20, 17, 3), dtype=np.uint8) + 100 * k
                image.fromarray(pixels.astype(np.uint8)).save(
                    tmp_path / "set" / task / name / f"{i}.png"
                )
    (tmp_path / "set" / "photo" / "bird").mkdir()
    (tmp_path / "set" / "photo" / "stray.png").touch()
    told = []
    found = read(tmp_path / "set", images="pixels", size=8, tell=told.append)
    assert told == ["20 of 20 images read"]
    assert "1 images that are in no folder of a class were left out" in found.notes
    assert "folders without an image: photo/bird" in found.notes
    assert found.tasks.names == ["photo", "sketch"] and found.tasks.outputs == [2, 2]
    assert found.tasks[0].inputs.shape == (10, 3, 8, 8) and float(found.tasks[0].inputs.max()) <= 1
    done = compare(found, arms=["hard-sharing", "laf"], repeats=5, trials=1, protocol=FAST)
    assert done.result.parameters["protocol"]["network"] == "convnet"


def test_classes_in_common_make_one_space_of_labels(tmp_path):
    same = [["a", 1.0 * i, "xyz"[i % 3]] for i in range(12)]
    fewer = [["b", 1.0 * i, "xy"[i % 2]] for i in range(12)]
    other = [["b", 1.0 * i, "uvw"[i % 3]] for i in range(12)]
    header = ["task", "f", "target"]
    found = read(table(tmp_path / "x.csv", same + fewer, header))
    assert found.tasks.outputs == [3, 3] and any("no sample of" in note for note in found.notes)
    found = read(table(tmp_path / "y.csv", same + other, header))
    assert found.tasks.outputs == [3, 3] and any("of its own" in note for note in found.notes)


def broken(change):
    """A way to spoil the lines of a table."""

    def lines():
        made = rows()
        change(made)
        return made

    return lines


def put(line, column, value):
    return broken(lambda made: made[line].__setitem__(column, value))


BROKEN_TABLES = {
    "integers beyond 64 bits": (
        put(3, 6, 10**25),
        {"kind": "classification"},
        "classes, got numbers",
    ),
    "a question mark among numbers": (
        put(3, 1, "?"),
        {},
        "as in most cells, got 1 others such as '?'",
    ),
    "a class that pandas takes for nothing": (
        put(3, 5, "None"),
        {},
        "None and null count as empty",
    ),
    "names that differ in a blank": (
        rows,
        {"header": ["task", "a", "a ", *HEADER[3:]]},
        "expected different names, got",
    ),
    "few decimal commas": (
        broken(lambda made: [line.__setitem__(1, f"{i % 3},5") for i, line in enumerate(made)]),
        {},
        "such as '0,5'; write its numbers with a decimal point",
    ),
    "times in seconds as inputs": (
        broken(lambda made: [line.__setitem__(1, 1.7e9 + i) for i, line in enumerate(made)]),
        {},
        "inputs that single precision (7 digits) tells apart, got ['a']",
    ),
    "times in seconds as targets": (
        broken(lambda made: [line.__setitem__(6, 1.7e9 + i) for i, line in enumerate(made)]),
        {},
        "targets that single precision (7 digits) tells apart",
    ),
    "a cell of blanks": (put(3, 5, " "), {}, "empty ones by column: {'colour': 1}"),
    "a target of blanks": (put(3, 6, "  "), {}, "empty ones by column: {'target': 1}"),
    "more cells than names": (
        broken(lambda made: [line.insert(2, 5) for line in made]),
        {},
        "9 cells in a row where the first line has 8 names; a decimal comma without quotes",
    ),
    "two more cells than names": (
        broken(lambda made: [line.extend([5, 6]) for line in made]),
        {},
        "10 cells in a row where the first line has 8 names",
    ),
    "an empty cell": (
        put(3, 1, ""),
        {},
        "a value in every cell, got empty ones by column: {'a': 1}",
    ),
    "nan": (put(3, 2, "nan"), {}, "got empty ones by column"),
    "infinity": (put(3, 2, "inf"), {}, "finite numbers, got NaN or infinity by task: shop 0: 1"),
    "no such task column": (rows, {"task": "store"}, "task: expected a column among"),
    "no such target": (rows, {"target": "sales"}, "target: expected a column among"),
    "no such group": (rows, {"group": "who"}, "group: expected a column among"),
    "no such column to drop": (rows, {"drop": ["zip"]}, "drop: expected columns among"),
    "no such task to leave out": (rows, {"without": ["shop 9"]}, "without: expected names among"),
    "one task": (rows, {"without": ["shop 0", "shop 1"]}, "expected at least two"),
    "no tasks": (rows, {"without": ["shop 0", "shop 1", "shop 2"]}, "expected to leave some"),
    "text that is no class of things": (
        broken(lambda made: [line.__setitem__(5, f"c{i}") for i, line in enumerate(made)]),
        {},
        "at most 30 different values",
    ),
    "one sample of a task": (
        broken(lambda made: made.append(["shop 9", 1, 2, 3, 4, "red", 1.0, 900])),
        {},
        "at least 8 samples in each, got shop 9: 1",
    ),
    "a constant target": (
        broken(lambda made: [line.__setitem__(6, 1.5) for line in made[:24]]),
        {},
        "two values or more in every task, got one in ['shop 0']",
    ),
    "text as a number": (
        rows,
        {"kind": "regression", "target": "colour"},
        "expected numbers as targets of a regression, got text such as 'red'",
    ),
    "numbers as classes": (rows, {"kind": "classification"}, "expected classes, got numbers"),
    "names of samples as classes": (
        broken(lambda made: [line.__setitem__(6, f"p{i}") for i, line in enumerate(made)]),
        {},
        "classes with several samples, got classes of a single one by task: shop 0: 24",
    ),
    "decimal commas": (
        broken(lambda made: [line.__setitem__(1, f"{i},5") for i, line in enumerate(made)]),
        {},
        "such as '0,5'; write its numbers with a decimal point, or leave it out with --drop a",
    ),
    "the task as the target": (rows, {"target": "task"}, "expected different columns, got"),
    "the task as the group": (rows, {"group": "task"}, "expected different columns, got"),
    "the target dropped": (rows, {"drop": ["target"]}, "columns of inputs, got 'target'"),
    "a group without a name": (put(3, 7, ""), {"group": "client"}, "by column: {'client': 1}"),
    "too few groups": (
        broken(lambda made: [line.__setitem__(7, i % 2) for i, line in enumerate(made)]),
        {"group": "client"},
        "at least 3 in every task, to learn from, to choose numbers with and to test on",
    ),
    "targets beyond single precision": (
        broken(lambda made: [line.__setitem__(6, 1e200 * (i + 1)) for i, line in enumerate(made)]),
        {},
        "targets of at most 3.4e38",
    ),
    "no rows": (list, {}, "expected one row per sample, got 0 rows and 8 columns"),
    "an unknown kind": (rows, {"kind": "ranking"}, "kind: expected auto"),
}


def test_texts_that_look_like_numbers(tmp_path):
    """Codes with an underscore, signs and ICD's E10 are texts, numbers held as texts numbers."""
    made = rows()
    signs, codes = ("+", "-"), ("E10", "E11", "E66")
    for i, line in enumerate(made):
        line[1], line[5], line[6] = f"{i % 12}_{i % 5}", codes[i % 3], signs[i % 2]
    for delimiter in (",", ";"):
        path = table(tmp_path / "x.csv", made, delimiter=delimiter)
        with pytest.raises(
            ValueError, match="column 'a': expected numbers, or a text with at most"
        ):
            read(path)
        found = read(path, drop=["a"])
        assert set(found.labels[0]) == {"+", "-"} and "colour=E10" in found.features
    frame = pandas.read_csv(table(tmp_path / "y.csv", rows()))
    as_texts, as_numbers = read(frame.astype(str)), read(frame)
    assert as_texts.features == as_numbers.features
    for a, b in zip(as_texts.tasks, as_numbers.tasks, strict=True):
        torch.testing.assert_close(a.inputs, b.inputs)
        torch.testing.assert_close(a.targets, b.targets)


def test_whole_numbers_are_classes_whatever_holds_them(tmp_path):
    """Where a column once had gaps, pandas holds 0 and 1 as 0.0 and 1.0."""
    made = rows()
    for i, line in enumerate(made):
        line[6] = f"{i % 2}.0"
    assert read(table(tmp_path / "x.csv", made)).tasks[0].classes == 2
    for y in (np.arange(20.0) % 2, (np.arange(20) % 2)[:, None]):
        np.savez(tmp_path / "x.npz", **arrays(y=y))
        assert read(tmp_path / "x.npz").tasks[0].classes == 2
    np.savez(tmp_path / "x.npz", **arrays(y=np.arange(20) % 2 + 0.5))
    assert read(tmp_path / "x.npz").tasks[0].loss == "mse"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\n\n" + text,
        lambda text: "sep=,\n" + text,
        lambda text: text.replace("\r\n", "\n").replace("\n", "\r"),
        lambda text: "sep=;\n" + text.replace(",", ";"),
    ],
)
def test_first_lines_and_ends_of_lines(tmp_path, change):
    path = table(tmp_path / "x.csv", rows())
    expected, text = read(path), path.read_text()
    path.write_bytes(change(text).encode())
    found = read(path)
    assert found.features == expected.features
    assert torch.equal(found.tasks[1].inputs, expected.tasks[1].inputs)


def test_names_of_rows_are_no_column(tmp_path):
    """As R writes them, before the first column and without a name of their own."""
    path = table(tmp_path / "x.csv", [[f"row {i}", *line] for i, line in enumerate(rows())])
    assert read(path).features == read(table(tmp_path / "y.csv", rows())).features


def test_accents_have_one_spelling(tmp_path):
    made = rows()
    for i, line in enumerate(made):
        line[5] = ("caf\u00e9", "cafe\u0301", "tea")[i % 3]
    found = read(table(tmp_path / "x.csv", made))
    assert [f for f in found.features if f.startswith("colour")] == [
        "colour=caf\u00e9",
        "colour=tea",
    ]


def test_zero_and_minus_zero_are_copies():
    keys = sample_keys(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]))
    assert keys[0] == keys[1] != keys[2]


def test_options_given_twice_add_up():
    """The last one alone would make an input of an outcome that was to be dropped."""
    given = "compare x.csv --drop a --drop b c --target y --target z --protocol steps=3"
    options = parser().parse_args([*given.split(), "--protocol", "hidden=4", "--arms", "laf"])
    assert options.drop == ["a", "b", "c"] and options.target == ["y", "z"]
    assert options.protocol == ["steps=3", "hidden=4"] and options.arms == ["laf"]
    assert parser().parse_args(["compare", "x.csv"]).drop == []


@pytest.mark.parametrize("name", BROKEN_TABLES)
def test_broken_tables_are_refused(tmp_path, name):
    lines, options, message = BROKEN_TABLES[name]
    options = dict(options)
    path = table(tmp_path / "x.csv", lines(), options.pop("header", HEADER))
    with pytest.raises(ValueError, match=re.escape(message)):
        check(read(path, **options))


def arrays(**changes):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    return {"x": x, "y": y, "task": np.repeat(["a", "b"], 10)} | changes


BROKEN_ARRAYS = {
    "groups in a column": (arrays(group=np.arange(20)[:, None]), "a group for every sample"),
    "groups that nobody knows": (arrays(group=np.full(20, np.nan)), "with NaN"),
    "no samples": (
        arrays(x=np.zeros((0, 3)), y=[], task=[]),
        r"samples with features, got .*\(0, 3",
    ),
    "no features": (arrays(x=np.zeros((20, 0))), r"samples with features, got inputs \(20, 0\)"),
    "images without channels": (arrays(x=np.zeros((20, 8, 8))), "channels, height, width"),
    "channels last": (arrays(x=np.zeros((20, 8, 8, 3))), r"np\.moveaxis\(x, -1, 1\)"),
    "infinity among classes": (
        arrays(y=np.where(np.arange(20) == 3, np.inf, np.arange(20) % 2)),
        "expected classes, got numbers such as inf",
    ),
    "groups of another length": (
        {"x_a": np.zeros((9, 2)), "y_a": np.zeros(9), "group_a": np.zeros(8)},
        r"a group for every sample, got another number of \['a'\]",
    ),
    "copies alone": (arrays(x=np.zeros((20, 3))), "enough samples that are no copies"),
    "objects": (arrays(x=np.array([{}] * 20)), "plain arrays"),
    "other names": ({"data": np.zeros(3)}, "x_NAME and y_NAME"),
    "lengths": (arrays(y=np.zeros(3)), "of one length"),
    "a task without targets": ({"x_a": np.zeros((9, 2))}, "x_NAME and y_NAME"),
    "lengths of a task": ({"x_a": np.zeros((9, 2)), "y_a": np.zeros(8)}, "as many x as y"),
    "shapes": (
        {"x_a": np.zeros((9, 2)), "y_a": np.zeros(9), "x_b": np.zeros((9, 3)), "y_b": np.zeros(9)},
        "inputs of one shape in all tasks, got .* bring images to one size",
    ),
    "groups of one task": (
        {"x_a": np.zeros((9, 2)), "y_a": np.zeros(9), "group_a": np.zeros(9)}
        | {"x_b": np.zeros((9, 2)), "y_b": np.zeros(9)},
        "group_NAME of every task",
    ),
    "negative labels": (arrays(y=np.arange(20) % 3 - 1), "classes from 0 on, got -1"),
    "-100": (arrays(y=np.where(np.arange(20) == 3, -100, 1)), "classes from 0 on, got -100"),
    "two classes a sample": (arrays(y=np.array([["a", "b"]] * 20)), "number"),
    "one column a class": (arrays(y=np.array([["a", "b"]] * 20)), "got text such as 'a'"),
    "no array of samples": ({"x": 3.0, "y": 1, "task": 0}, "one entry per sample, got"),
    "a task for every entry": (arrays(task=np.zeros((20, 2), int)), r"of shape \(20, 2\)"),
    "samples of no task": (arrays(task=np.array([np.nan] * 20)), "with NaN"),
    "targets without samples": (
        {"x_a": np.zeros((9, 2)), "y_a": np.zeros(9), "y_b": np.zeros(9)},
        "x_NAME and y_NAME of every task",
    ),
    "targets of two shapes": (
        {"x_a": np.zeros((9, 2)), "y_a": np.linspace(0, 1, 9)}
        | {"x_b": np.zeros((9, 2)), "y_b": np.zeros((9, 2))},
        "targets of one shape in all tasks",
    ),
    "targets of two kinds": (
        {"x_a": np.zeros((9, 2)), "y_a": np.linspace(0, 1, 9)}
        | {"x_b": np.zeros((9, 2)), "y_b": np.zeros(9, dtype=int)},
        "of one kind in all tasks, got {'a': 'regression', 'b': 'classification'}",
    ),
    "not an archive": (None, "plain arrays"),
    "an archive of something else": ("hello.txt", "plain arrays, got: other files"),
}


@pytest.mark.parametrize("name", BROKEN_ARRAYS)
def test_broken_arrays_are_refused(tmp_path, name):
    content, message = BROKEN_ARRAYS[name]
    path = tmp_path / "x.npz"
    if content is None:
        path.write_bytes(b"PK but no zip")
    elif isinstance(content, str):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(content, "hello")
    else:
        np.savez(path, **content)
    kind = "classification" if "infinity" in name else "auto"
    with pytest.raises(ValueError, match=message):
        tasks = read(path, kind=kind)
        check(tasks)
        parts_of(tasks.tasks, 0, Shares())


def test_tasks_of_unlike_inputs_are_refused_with_what_can_be_done():
    y = torch.zeros(9, 1)
    made = TaskSet("x", [Task(str(n), torch.zeros(9, n), y, loss="mse") for n in (2, 3)])
    with pytest.raises(
        ValueError, match=r"got {'2': \(2,\), '3': \(3,\)}; .*one first layer.*attach"
    ):
        check(read(made))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.xlsx").write_text("")
    for path, message in (
        (tmp_path / "x.xlsx", "got x.xlsx"),
        (tmp_path / "none.csv", "got no file"),
        (tmp_path, "got 0 images, none at that depth"),
    ):
        with pytest.raises(ValueError, match=message):
            read(path)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "old.csv").write_bytes("task,f,target\nü,1,2\n".encode("latin-1"))
    for name, message in (("empty.csv", "expected a table, got"), ("old.csv", "text in UTF-8")):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/b/c.png"], "expected an image"),  # a file without content
        (["a/c.png", "b/c.png"], "got 2 images such as a/c.png, none at that depth"),
        (["train/a/b/c.png"], "got train/a/b/c.png; compare the folder that holds the tasks"),
    ],
)
def test_broken_folders_are_refused(tmp_path, files, message):
    for file in files:
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / file).touch()
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "set", images="pixels")


@pytest.mark.parametrize("file", ["cells.parquet", "broken.parquet"])
def test_parquet(tmp_path, file):
    """Nullable integers, decimals and categories are numbers and texts like any other."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(rows(kind="text"), columns=HEADER)
    frame["task"] = frame.task.astype("category")
    frame["a"] = [Decimal(str(x)) for x in frame.a]
    frame["client"] = frame.client.astype("Int64")
    path = tmp_path / file
    if file == "broken.parquet":
        frame["b"] = [[1.0, 2.0]] * len(frame)
        frame.to_parquet(path)
        with pytest.raises(ValueError, match="column 'b': expected a number or a text in every"):
            read(path)
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(ValueError, match=r"broken\.parquet: expected a table, got"):
            read(path)
        return
    frame.to_parquet(path)
    found = read(path, group="client").tasks
    same = read(table(tmp_path / "cells.csv", rows(kind="text")), group="client").tasks
    for a, b in zip(found, same, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)


# Checks


@pytest.mark.parametrize("factor", [1.0, -2.0])
def test_a_feature_that_gives_the_target_away_is_named_whatever_its_sign(tmp_path, factor):
    lines = rows()
    for line in lines:
        line[4] = factor * line[6]
    found = check(read(table(tmp_path / "x.csv", lines), drop=["client"]))
    assert any("give the target away: d" in line for line in found)


def test_what_does_not_forbid_a_comparison_is_named(tmp_path):
    lines = rows()
    for line in lines:
        line[3] = 7.0  # never changes
        line[4] = line[6]  # gives the target away
    lines.append(list(lines[0]))  # a copy
    lines.append([*lines[1][:4], 9.0, lines[1][5], 9.0, 0])  # the same but for d, so no copy
    path = table(tmp_path / "x.csv", lines)
    found = " | ".join(check(read(path, drop=["client"])))
    assert "1 of 6 features never change" in found and "give the target away: d" in found
    assert "1 samples repeat another one, 0 of them in another task" in found
    assert "two different targets" not in found
    lines.append([*lines[2][:6], "other" if isinstance(lines[2][6], str) else -99.0, 0])
    found = " | ".join(check(read(table(tmp_path / "y.csv", lines), drop=["client"])))
    assert "2 samples repeat" in found and "1 have two different targets in one task" in found


def test_rare_classes_and_uneven_tasks_are_named():
    y = torch.zeros(40, dtype=torch.long)
    y[:2] = 1
    tasks = TaskSet("x", [Task(n, torch.randn(40, 2), y, classes=2) for n in ("a", "b")])
    found = " | ".join(check(read(tasks)))
    assert "one or two samples" in found and "95 %" in found


# Splits


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_parts_are_disjoint_and_as_large_as_asked(kind):
    tasks = taskset(n=40, loss=kind)
    first, second = (parts_of(tasks, repeat, Shares(0.5, 0.2)) for repeat in (0, 1))
    for task in range(3):
        held = [set(map(tuple, part[task].inputs.tolist())) for part in first.values()]
        assert sum(map(len, held)) == len(set.union(*held)) == 40
        assert [len(x) for x in held] == pytest.approx([20, 8, 12], abs=1)
        if kind == "cross_entropy":
            shares = [float(part[task].targets.float().mean()) for part in first.values()]
            assert max(abs(share - 0.5) for share in shares) < 0.1
    assert torch.equal(first["validation"][0].inputs, second["validation"][0].inputs)
    assert not torch.equal(first["test"][0].inputs, second["test"][0].inputs)
    again = parts_of(tasks, 1, Shares(0.5, 0.2))
    assert torch.equal(again["test"][2].inputs, second["test"][2].inputs)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_a_group_is_never_divided(seed, size):
    generator = torch.Generator().manual_seed(seed)
    tasks = TaskSet(
        "x",
        [
            Task(
                str(t),
                torch.randn(40, 2, generator=generator),
                torch.randn(40, 1, generator=generator),
                loss="mse",
                groups=torch.randint(40 // size, (40,), generator=generator),  # in both tasks
            )
            for t in range(2)
        ],
    )
    parts = parts_of(tasks, seed, Shares())
    held = [{int(g) for task in part for g in task.groups} for part in parts.values()]
    assert sum(map(len, held)) == len(set.union(*held))
    assert all(len(task) for part in parts.values() for task in part)


def test_copies_stay_on_one_side_whatever_their_groups():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    tasks = TaskSet("x", [Task(n, x.clone(), torch.arange(20) % 2, classes=2) for n in ("a", "b")])
    a, b = units_of(tasks)
    assert torch.equal(a, b)  # the copy in the other task is the same unit
    parts = parts_of(tasks, 0, Shares())
    assert torch.equal(parts["test"][0].inputs, parts["test"][1].inputs)
    twice = TaskSet("y", [Task("a", torch.cat([x, x]), torch.arange(40) % 2, classes=2)] * 2)
    for part in parts_of(twice, 0, Shares()).values():
        assert len(part[0].inputs.unique(dim=0)) * 2 == len(part[0])


def test_too_few_groups_are_refused():
    x = torch.randn(20, 2)
    tasks = TaskSet(
        "x",
        [
            Task(n, x + i, torch.randn(20, 1), loss="mse", groups=torch.zeros(20))
            for i, n in enumerate("ab")
        ],
    )
    with pytest.raises(ValueError, match="expected enough groups"):
        parts_of(tasks, 0, Shares())


def test_standardisation_sees_the_training_part_alone():
    tasks = taskset(loss="mse", outputs=(1, 1))
    parts = parts_of(tasks, 0, Shares())
    made = standardise(parts)
    torch.testing.assert_close(made["train"][0].targets.mean(0), torch.zeros(1), atol=1e-6, rtol=0)
    x = torch.cat([task.inputs for task in made["train"]])
    torch.testing.assert_close(x.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    moved = {n: (p if n == "train" else p.map_inputs(lambda x: x + 100)) for n, p in parts.items()}
    for a, b in zip(standardise(moved)["train"], made["train"], strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)


def test_images_are_standardised_by_channel_over_samples_and_places():
    generator = torch.Generator().manual_seed(0)
    place = 10 * torch.rand(2, 3, 3, generator=generator)  # a mean of its own in every place
    tasks = [
        Task(
            n,
            place + torch.randn(30, 2, 3, 3, generator=generator),
            torch.arange(30) % 2,
            classes=2,
        )
        for n in "ab"
    ]
    made = standardise(parts_of(TaskSet("x", tasks), 0, Shares()))["train"]
    channels = torch.cat([task.inputs for task in made]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(channels.std(1, correction=0), torch.ones(2))
    assert float(made[0].inputs.mean(0).std()) > 0.3  # the places still differ


def test_a_feature_that_the_training_part_does_not_know_to_vary_stays_in_its_unit():
    parts = parts_of(taskset(), 0, Shares())
    moved = {"train": 7.0, "validation": 7.0, "test": 9.0}
    parts = {
        name: part.map_inputs(
            lambda x, v=moved[name]: torch.cat([x, x.new_full((len(x), 1), v)], 1)
        )
        for name, part in parts.items()
    }
    made = standardise(parts)
    assert {name: float(part[1].inputs[:, 5].mean()) for name, part in made.items()} == {
        "train": 0, "validation": 0, "test": 2
    }  # fmt: skip


def test_targets_of_one_unit_are_standardised_together():
    tasks = [
        Task(str(t), torch.randn(30, 2), 10 * t + (1 + t) * torch.randn(30, 1), loss="mse")
        for t in range(2)
    ]
    parts = parts_of(TaskSet("x", tasks), 0, Shares())
    for common in (False, True):
        made = [task.targets for task in standardise(parts, common=common)["train"]]
        for y in [torch.cat(made)] if common else made:
            torch.testing.assert_close(y.mean(0), torch.zeros(1), atol=1e-5, rtol=0)
            torch.testing.assert_close(y.std(0, correction=0), torch.ones(1))
        assert (abs(float(made[0].mean())) > 0.5) == common


# Arms


@pytest.mark.parametrize("outputs", [(2, 2, 2), (2, 3, 4)])
@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_every_arm_that_applies_trains_and_says_its_scores(outputs, network):
    done = compare(taskset(outputs), network=network, repeats=5, trials=1, protocol=FAST)
    names = {row.arm for row in done.judgement.rows} | set(done.judgement.failed)
    left_out = done.result.settings["left_out"]
    assert names | set(left_out) == set(CANDIDATES) and not names & set(left_out)
    assert ("pooled" in names) == (len(set(outputs)) == 1)
    assert ("hard-sharing" in names) == (network == "mlp")
    assert not done.judgement.failed
    for name in ("pooled", "mrn-t"):
        if name in left_out:
            assert left_out[name] in {why for _, why in NEEDS.values()}


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_other_kinds_of_targets(loss):
    tasks = taskset((1, 1), loss="mse")
    if loss == "bce":
        made = [Task(t.name, t.inputs, (t.targets > 0).float(), loss="bce") for t in tasks]
        tasks = TaskSet("binary", made)
    done = compare(tasks, repeats=5, trials=1, protocol=FAST)
    assert {"pooled", "mrn", "srdml", "laf"} <= {row.arm for row in done.judgement.rows}


def test_experts_want_tasks_on_the_same_samples():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    tasks = TaskSet("x", [Task(str(t), x, (x[:, t] > 0).long(), classes=2) for t in range(3)])
    assert "mmoe" in choose(tasks, "mlp", 1).arms
    assert "mmoe" in choose(taskset(), "mlp", 1).left_out
    done = compare(tasks, arms=["mmoe"], repeats=5, trials=1, protocol=FAST)
    assert [row.arm for row in done.judgement.rows] == ["stl", "mmoe"]


def test_all_arms_get_the_same_number_of_trials():
    arms = choose(taskset(), "mlp", 6).arms
    assert {len(arm.configurations) for arm in arms.values()} == {6}
    fields = set(vars(Protocol()))
    assert all(set(drawn) <= fields for arm in arms.values() for drawn in arm.configurations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ["nothing"]}, "arms: expected names among"),
        ({"arms": ["mmoe"]}, "look at the same samples"),
        ({"network": "rnn"}, "network: expected auto"),
        ({"network": "convnet"}, "expected images"),
        ({"repeats": 4}, "at least 5"),
        ({"trials": 0}, "trials: expected at least 1"),
        ({"margin": -1.0}, "margin: expected points from 0 on, got -1.0"),
        ({"margin": float("nan")}, "margin: expected points from 0 on, got nan"),
        ({"device": "banana"}, "device: expected auto or one that is here, got 'banana'"),
        ({"output": __file__}, "output: expected a folder for a report, got .* which is a file"),
        ({"network": "linear", "arms": ["hard-sharing"]}, r"no trunk \(network mlp has\)"),
        ({"protocol": {"epochs": 3}}, "protocol: expected fields"),
        ({"protocol": {"network": "mlp"}}, "protocol: expected fields"),
        ({"protocol": {"steps": "abc"}}, "expected a whole number from 1 on as steps, got 'abc'"),
        ({"protocol": {"hidden": 0}}, "expected a whole number from 1 on as hidden, got 0"),
        (
            {"protocol": {"momentum": -0.5}},
            "expected a number from 0 on, below 1, as momentum, got -0.5",
        ),
        ({"protocol": {"trunk": "mine"}}, "expected own or shared as trunk, got 'mine'"),
        ({"protocol": {"lr": 0.1}}, "fields that no arm chooses, got lr"),
        ({"protocol": {"train": 0.9}}, "a rest of at least 5 %"),
    ],
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compare(taskset(), **{"repeats": 5, "trials": 1, "protocol": FAST, **options})


# Running


def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path):
    options = {"arms": ["pooled"], "repeats": 5, "trials": 2, "protocol": FAST}
    whole = compare(taskset(), **options)
    said = []

    def stop(text):
        said.append(text)
        if len(said) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(taskset(), output=tmp_path, tell=stop, **options)
    before = Result.load(tmp_path / "result.json").records
    assert 0 < len(before) < len(whole.result.records)
    resumed = compare(taskset(), output=tmp_path, **options)
    assert resumed.result.records[: len(before)] == before
    assert (tmp_path / "report.html").exists()

    def measured(result):
        return [r for r in result.records if r["metric"] != "seconds"]

    assert measured(resumed.result) == measured(whole.result)
    with pytest.raises(ValueError, match="another one"):
        compare(taskset(seed=1), output=tmp_path, **options)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match="--output"):
        compare(taskset(), output=tmp_path, **options)


def test_numbers_may_be_chosen_anew_for_every_repeat(tmp_path):
    """Other settings, on what the repeat trains on, for that repeat alone; and all is resumed."""
    options = {"arms": ["pooled", "dmtl-tf"], "repeats": 5, "trials": 2, "protocol": FAST}
    options |= {"anew": True, "device": "cpu"}
    done = compare(taskset(), output=tmp_path / "whole", **options)
    settings = done.result.settings
    keys = [f"{arm}/{repeat}" for arm in ("stl", "pooled", "dmtl-tf") for repeat in range(5)]
    assert set(settings["chosen"]) == set(settings["configurations"]) == set(keys)
    for arm in ("stl", "pooled", "dmtl-tf"):
        assert len({str(settings["configurations"][f"{arm}/{repeat}"]) for repeat in range(5)}) == 5
    tuned = {(r["metric"], r["repeat"]) for r in done.result.records if "@" in r["arm"]}
    assert tuned == {(f"validation_percent/{k}", k) for k in range(5)}
    # each repeat is trained at what its own search has chosen
    choice = choose(taskset(), "mlp", 2, ["pooled", "dmtl-tf"])
    protocol = Protocol(network="mlp", **FAST)
    for study, (repeat,) in searches(choice, protocol, repeats=5, trials=2, anew=True):
        parts = study.split(taskset(), repeat, protocol)
        for arm in choice.arms:
            place = settings["chosen"][f"{arm}/{repeat}"]
            outcome = study.train(arm, parts, repeat, place, device="cpu")
            score = np.mean(scores(outcome.method, parts["test"])[0])
            assert done.result.values(arm, "score")[repeat] == pytest.approx(score, abs=1e-3)
            found = study.score(outcome.method, parts["validation"])[0]
            name = f"{arm}@{place:g}/{repeat}"
            assert settings["validation"][name] == pytest.approx(found, abs=1e-3)
    # the advised settings are those that validation liked best of all
    liked = {k: v for k, v in settings["validation"].items() if k.startswith("pooled@")}
    name, _, repeat = max(liked, key=liked.get).partition("/")
    best = settings["configurations"][f"pooled/{repeat}"][int(name.partition("@")[2])]
    row = next(row for row in done.judgement.rows if row.arm == "pooled")
    assert max(liked.values()) == liked[f"{name}/{repeat}"] and row.settings == best
    assert "numbers were chosen anew" in done.html and "anew for each" in done.html
    assert "liked best of all searches" in done.html and "times the samples" not in done.html
    assert "anew=True" in done.html
    once = compare(taskset(), **options | {"anew": False})
    assert "do not hold the luck of that search" in once.html and "anew=False" in once.html

    def stop(text):
        if "repeat 3" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(taskset(), output=tmp_path / "cut", tell=stop, **options)
    resumed = compare(taskset(), output=tmp_path / "cut", **options).result
    kept = [[r for r in x.records if r["metric"] != "seconds"] for x in (done.result, resumed)]
    assert kept[0] == kept[1] and resumed.settings == settings
    with pytest.raises(ValueError, match="another one"):
        compare(taskset(), output=tmp_path / "cut", **options | {"anew": False})


@pytest.mark.parametrize("anew", [False, True])
def test_a_comparison_with_less_than_was_measured_judges_what_is_asked(tmp_path, anew):
    options = {"trials": 2, "protocol": FAST, "device": "cpu", "anew": anew}
    compare(taskset(), output=tmp_path, arms=["pooled", "laf"], repeats=6, **options)
    less = compare(taskset(), output=tmp_path, arms=["pooled"], repeats=5, **options)
    alone = compare(taskset(), arms=["pooled"], repeats=5, **options)
    assert [row.arm for row in less.judgement.rows] == ["stl", "pooled"]
    assert "laf" not in less.html and "repeats=5" in less.html
    for a, b in zip(less.judgement.rows, alone.judgement.rows, strict=True):
        assert (a.mean, a.gain, a.settings) == (b.mean, b.gain, b.settings) and a.mean.n == 5
    assert less.result.settings["chosen"] == alone.result.settings["chosen"]
    assert less.result.settings["validation"] == alone.result.settings["validation"]
    kept = Result.load(tmp_path / "result.json")  # nothing measured is lost
    assert len(kept.values("laf", "score")) == 6


def test_a_sum_in_another_order_is_no_other_data(tmp_path):
    """The last digit of a fingerprint hangs on the number of threads; other data do not pass."""
    options = {"arms": ["pooled"], "repeats": 5, "trials": 1, "protocol": FAST, "device": "cpu"}
    compare(taskset(), output=tmp_path, **options)
    path = tmp_path / "result.json"
    for factor, refused in ((1 + 1e-13, False), (1 + 1e-6, True)):
        result = Result.load(path)
        result.data["fingerprint"] = [x * factor for x in result.data["fingerprint"]]
        result.save(path)
        if refused:
            with pytest.raises(ValueError, match="another one, of other data; delete it"):
                compare(taskset(), output=tmp_path, **options)
        else:
            compare(taskset(), output=tmp_path, **options)


def test_no_number_is_chosen_on_a_sample_that_is_tested():
    """Wrong targets in the test parts change no choice and no weight."""
    tasks = taskset(n=30)
    choice, protocol = choose(tasks, "mlp", 3, ["pooled"]), Protocol(**FAST)
    kept = []
    for flip in (False, True):
        import mtlbook.comparison.running as running

        original = running.parts_of

        def split(tasks, repeat, shares, flip=flip, original=original):
            parts = original(tasks, repeat, shares)
            if flip:
                wrong = [Task(t.name, t.inputs, 1 - t.targets, classes=2) for t in parts["test"]]
                parts["test"] = TaskSet("x", wrong)
            return parts

        running.parts_of = split
        try:
            result = run(tasks, choice, protocol, repeats=5, trials=3, path=None, device="cpu")
        finally:
            running.parts_of = original
        kept.append(result)
    assert kept[0].settings["chosen"] == kept[1].settings["chosen"]
    assert kept[0].settings["validation"] == kept[1].settings["validation"]
    for repeat, score in kept[0].values("stl", "score").items():
        assert kept[1].values("stl", "score")[repeat] == pytest.approx(100 - score)


# Judging


def test_the_interval_of_resampled_splits_keeps_its_word():
    """Splits of one sample share its samples: the plain t interval covers half as often as it says.

    The truth is known: two guesses, of which the first is right with probability .6, the other with
    .5, on samples of 100; a split tests 40 of them, and nothing is learned.
    """
    generator = np.random.default_rng(0)
    inside = {"plain": 0, "honest": 0}
    worlds = 400
    for _ in range(worlds):
        difference = 100.0 * (
            (generator.random(100) < 0.6).astype(float) - (generator.random(100) < 0.5)
        )
        splits = [difference[generator.permutation(100)[:40]].mean() for _ in range(10)]
        for name, interval in (
            ("plain", mean_interval(splits)),
            ("honest", resampled_interval(splits, 40 / 60)),
        ):
            inside[name] += interval.low <= 10 <= interval.high
    assert 0.40 < inside["plain"] / worlds < 0.75
    assert 0.90 < inside["honest"] / worlds <= 1.0


def test_the_resampled_interval():
    plain = mean_interval([1.0, 2.0, 4.0])
    assert resampled_interval([1.0, 2.0, 4.0], 0.0) == pytest.approx(plain)
    with pytest.raises(ValueError, match="ratio"):
        resampled_interval([1.0, 2.0], -0.1)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.1, 3), "helps"),
        ((-3, -0.1), "hurts"),
        ((-0.9, 0.9), "equal"),
        ((-0.9, 1.1), "undecided"),
    ],
)
def test_verdicts(ends, verdict):
    assert verdict_of(Interval(sum(ends) / 2, *ends, 5), 1.0) == verdict


def made_up(scores):
    """A result with these scores: arm to one value a repeat."""
    result = Result("comparison", {}, data={"train": 60, "test": 30})
    result.settings = {"chosen": {}, "configurations": {}}
    for arm, values in scores.items():
        result.settings["chosen"][arm] = 0
        result.settings["configurations"][arm] = [{"lr": 0.1}]
        for repeat, value in enumerate(values):
            of = value if isinstance(value, list) else [value] * 2
            result.add(arm=arm, repeat=repeat, metric="score", value=np.mean(of), per_task=of)
            result.add(arm=arm, repeat=repeat, metric="loss", value=1.0)
            result.add(arm=arm, repeat=repeat, metric="seconds", value=2.0)
    return result


def test_the_advice_follows_its_rule():
    base = [50.0, 52.0, 51.0, 49.0, 50.0]
    better = [x + 5 + e for x, e in zip(base, (0.1, -0.1, 0.2, 0.0, -0.2), strict=True)]
    close = [x + 0.3 for x in better]
    found = judge(made_up({"stl": base, "pooled": better, "mrn": close}))
    assert found.advised == "pooled" and "beyond doubt" in found.reason  # simpler, as good
    assert {row.arm: row.verdict for row in found.rows}["mrn"] == "helps"
    found = judge(made_up({"stl": base, "pooled": [x + 0.5 for x in base]}))
    assert found.advised == "stl"
    noisy = [x + e for x, e in zip(base, (9, -7, 8, -6, 7), strict=True)]
    found = judge(made_up({"stl": base, "pooled": noisy}))
    assert found.advised == "pooled" and "not certain" in found.reason
    assert found.rows[1].verdict == "undecided" and found.rows[1].needed > 1
    with pytest.raises(ValueError, match="at least 5"):
        judge(made_up({"stl": base[:3]}))


def test_a_row_says_who_loses_how_sure_it_is_and_what_would_decide():
    gains = [[4, -3], [-1, -2], [3, 1], [0, 1], [4, 3]]  # of two tasks, 2 and 0 on average
    scores = [[50.0 + a, 60.0 + b] for a, b in gains]
    found = judge(made_up({"stl": [[50.0, 60.0]] * 5, "pooled": scores}))
    row, of_repeats = found.rows[1], np.mean(gains, 1)
    assert (row.worst, row.gain.mean, row.verdict) == (0, 1, "undecided")
    assert row.gain == resampled_interval(of_repeats, 30 / 60)  # test over training samples
    assert row.here == mean_interval(of_repeats)
    # so many times the samples, and the interval would end at 0
    assert (row.gain.high - 1) / row.needed**0.5 == pytest.approx(1)


def test_p_values_are_corrected_for_all_arms():
    base = np.array([50.0, 52.0, 51.0, 49.0, 50.0])
    gains = {"pooled": np.add(base, [2, 3, 1, 2, 4]), "laf": np.add(base, [1, -1, 2, 1, 0])}
    alone = [judge(made_up({"stl": base, arm: found})).rows[1].p for arm, found in gains.items()]
    rows = judge(made_up({"stl": base, **gains})).rows[1:]
    assert [row.arm for row in rows] == ["pooled", "laf"] and alone[0] < alone[1] / 2 < 0.5
    assert [row.p for row in rows] == pytest.approx([2 * alone[0], alone[1]])


def test_an_arm_that_diverges_is_named():
    choice = choose(taskset(), "mlp", 1, ["pooled"])
    choice.arms["pooled"] = replace(choice.arms["pooled"], configurations=[{"lr": 1e30}])
    options = {"repeats": 5, "trials": 1, "path": None, "device": "cpu"}
    result = run(taskset(), choice, Protocol(**FAST), **options)
    assert judge(result).failed == {"pooled": 5}
    result = made_up({"stl": [50.0] * 5, "laf": [51.0] * 4})
    result.add(arm="laf", repeat=4, metric="failed", value=1)
    found = judge(result)
    assert found.failed == {"laf": 1} and [row.arm for row in found.rows] == ["stl"]
    result = made_up({"stl": [50.0] * 5, "laf": [52.0, 51, 51, 51, 51, 99]})
    result.add(arm="stl", repeat=5, metric="failed", value=1)  # nothing to compare 99 with
    found = judge(result)
    assert found.failed == {"stl": 1} and found.rows[1].gain.mean == pytest.approx(1.2)
    assert found.rows[1].mean.n == found.rows[1].gain.n == 5


# The report


class Page(HTMLParser):
    """Collects the text, and complains of tags that are not closed."""

    void = ("meta", "br", "line", "circle", "link")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_whole_escaped_and_alone(tmp_path):
    names = ["<script>alert(1)</script>", 'a "b" & c', "plain"]
    tasks = taskset()
    tasks = TaskSet(
        "<b>bold</b>",
        [Task(n, t.inputs, t.targets, classes=2) for n, t in zip(names, tasks, strict=True)],
    )
    done = compare(
        tasks, arms=["pooled", "mrn-t"], repeats=5, trials=1, protocol=FAST, output=tmp_path
    )
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html == done.html and "<script" not in html and "<b>" not in html
    page = Page()
    page.feed(html)
    assert page.open == [] and page.sources == []
    text = " ".join(page.text)
    for row in done.judgement.rows:
        assert number(row.mean.mean) in text
        if row.gain is not None:
            assert signed(row.gain.mean) in text
    assert all(name in text for name in names) and done.judgement.advised in str(done)


def test_numbers_have_true_signs():
    assert [number(-0.001), number(-1.5), signed(0.0), signed(2.0), signed(-0.004)] == [
        "0.00",
        "−1.50",
        "0.00",
        "+2.00",
        "0.00",
    ]


def test_the_command_line_and_the_code_of_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "shops.csv", rows(kind="text"))
    command = "compare shops.csv --group client --arms pooled mrn-t --repeats 5 --trials 2"
    assert main([*command.split(), "--protocol", "steps=4", "hidden=6"]) == 0
    out = capsys.readouterr()
    assert "take: " in out.out and "report: compare-shops" in out.out and "100 %" in out.err
    html = (tmp_path / "compare-shops" / "report.html").read_text(encoding="utf-8")
    code, again = (
        re.sub("&#x27;", "'", x).replace("&quot;", '"')
        for x in re.findall(r"<pre><code>(.*?)</code></pre>", html, re.S)
    )
    namespace = {}
    exec(code, namespace)  # the code trains the advised arm
    trained = namespace["trained"]
    assert isinstance(trained.method, Method) and trained.labels == [["high", "low"]] * 3
    assert [out.shape for out in trained([torch.zeros(2, 6)] * 3)] == [(2, 2)] * 3
    assert again.startswith("mtlbook compare shops.csv") and "--protocol steps=4 hidden=6" in again
    first = json.loads((tmp_path / "compare-shops" / "result.json").read_text())["records"]
    assert main([*again.split()[1:], "--output", "other"]) == 0  # the command repeats it
    second = json.loads((tmp_path / "other" / "result.json").read_text())["records"]
    kept = [[r for r in records if r["metric"] != "seconds"] for records in (first, second)]
    assert kept[0] == kept[1]
    assert (
        main([*command.split(), "--protocol", "steps=4", "hidden=6", "--anew", "--output", "anew"])
        == 0
    )
    html = (tmp_path / "anew" / "report.html").read_text(encoding="utf-8")
    assert "--anew --output anew" in html and "numbers were chosen anew" in html
    capsys.readouterr()
    assert main(["compare", "nothing.csv"]) == 2
    assert "got no file" in capsys.readouterr().err


def test_from_python():
    assert mtlbook.compare is compare
    with pytest.raises(AttributeError, match="nothing"):
        _ = mtlbook.nothing
    trained = train(taskset((1, 1), loss="mse"), "laf", {"gamma": 0.1, "lr": 0.01}, protocol=FAST)
    assert trained.method.penalty() > 0


# What others have on their disks


def test_tables_of_other_countries_and_programs(tmp_path):
    """Semicolons and decimal commas, blanks at the ends, an index without a name, empty columns."""
    lines = rows()
    same = read(table(tmp_path / "same.csv", lines), drop=["client"])
    for i, line in enumerate(lines):
        line[0] += " " * (i % 2)
        line[1:5] = [str(x).replace(".", ",") for x in line[1:5]]
        line[6] = str(line[6]).replace(".", ",").replace("-", "−")
    lines = [[i, *line, ""] for i, line in enumerate(lines)]
    path = table(tmp_path / "x.csv", lines, ["", *HEADER, ""], delimiter=";", encoding="utf-8-sig")
    found = read(path, drop=["client"])
    assert found.tasks.names == same.tasks.names and found.features == same.features
    for a, b in zip(found.tasks, same.tasks, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
    assert "the comma was taken for the decimal point of a, b, c, d, target" in found.notes
    assert "inputs: 5 columns: a, b, c, d, colour" in found.notes
    assert any("columns without a name" in note for note in found.notes)


def test_typeset_minus_signs_are_signs(tmp_path):
    lines = [
        [line[0], *(str(x).replace("-", "−") for x in line[1:5]), *line[5:]] for line in rows()
    ]
    found, same = (read(table(tmp_path / "x.csv", of)).tasks for of in (lines, rows()))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(found, same, strict=True))


def test_the_first_line_says_what_separates(tmp_path):
    """A letter that is as frequent as the separator is none, and neither is a blank in a name."""
    lines = [[f"t{i % 2}", i * 0.1, i % 3] for i in range(20)]
    for name, separator, header in (
        ("pipes", "|", ["task", "a", "target"]),
        ("blanks", ",", ["task", "sepal length (cm)", "target"]),
        ("gaps", " ", ["task", "a", "target"]),
    ):
        found = read(table(tmp_path / f"{name}.csv", lines, header, delimiter=separator))
        assert found.features == [header[1]] and found.tasks.names == ["t0", "t1"]


def test_columns_that_are_hardly_inputs_are_named(tmp_path):
    lines = [[*line, i] for i, line in enumerate(rows())]
    found = read(table(tmp_path / "x.csv", lines, [*HEADER, "id"]))
    assert "column id numbers the rows: with --drop id it is no input" in found.notes
    assert "column colour: 2 texts became indicators (blue, red)" in found.notes


def test_an_index_of_parquet_may_be_the_task(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(rows(), columns=HEADER).set_index("task").to_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").tasks.names == ["shop 0", "shop 1", "shop 2"]


def pictures(folder, make, ending="png"):
    """Two tasks of two classes, five pictures each."""
    for task in ("one", "two"):
        for name in ("cat", "dog"):
            (folder / task / name).mkdir(parents=True)
            for i in range(5):
                make(i).save(folder / task / name / f"{i}.{ending}")
    return folder


def test_pictures_are_read_as_a_viewer_shows_them(tmp_path):
    image = pytest.importorskip("PIL.Image")
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[2:4, :, 3] = 255  # black lines on nothing
    upside_down = image.Exif()
    upside_down[0x112] = 3
    half = image.fromarray(np.repeat(np.array([0, 255], np.uint8), 32).reshape(8, 8))
    seen = {}
    for name, ending, make in (
        ("16 bits", "png", lambda i: image.fromarray(np.full((8, 8), 32896, np.uint16))),
        ("transparent", "png", lambda i: image.fromarray(drawing)),
        ("turned", "jpg", lambda i: half),
    ):
        folder = pictures(tmp_path / name, make, ending)
        if name == "turned":
            half.save(folder / "one" / "cat" / "0.jpg", exif=upside_down)
        seen[name] = read(folder, images="pixels", size=8).tasks[0].inputs[0]
    assert float(seen["16 bits"].mean()) == pytest.approx(128 / 255)
    assert float(seen["transparent"].mean()) == pytest.approx(0.75)
    assert float(seen["turned"][:, :3].mean()) > 0.9 and float(seen["turned"][:, 5:].mean()) < 0.1
    folder = pictures(tmp_path / "F", lambda i: image.new("F", (8, 8)), "tif")
    with pytest.raises(ValueError, match=r"cat.0\.tif: expected an image, got: floating-point"):
        read(folder, images="pixels")


@pytest.mark.posix("links, and names that are no UTF-8")
def test_links_are_followed_and_no_folder_is_lost(tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = pictures(tmp_path / "set", lambda i: image.new("L", (4, 4), 9 * i))
    (folder / "one" / "cat").rename(tmp_path / "cat")
    (folder / "one" / "cat").symlink_to(tmp_path / "cat")
    (folder / "two").rename(tmp_path / "two")
    (folder / "two").symlink_to(tmp_path / "two")
    (folder / "one" / "loop").symlink_to(folder)
    (folder / "one" / "cat" / "notes.txt").touch()
    found = read(folder, images="pixels", size=4)
    assert found.tasks.names == ["one", "two"] and [len(task) for task in found.tasks] == [10, 10]
    assert "1 files with other endings were left out, such as notes.txt" in found.notes
    with suppress(OSError):  # a file system that wants UTF-8
        (folder / "one").rename(os.fsdecode(os.fsencode(folder) + b"/\xff"))
        assert read(folder, images="pixels", size=4).tasks.names == ["\\xff", "two"]


def test_what_has_been_trained_takes_and_gives_the_units_of_the_data(tmp_path):
    """Not standardised numbers, which only the training saw."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(90, 3)) * [1, 50, 0.01] + [0, 1000, 3]
    y = 200 + 5 * (x[:, 0] + (x[:, 1] - 1000) / 50)
    of = np.repeat(["a", "b", "c"], 30)
    np.savez(tmp_path / "x.npz", x=x, y=y + 40 * (of == "b"), task=of)
    options = {"network": "linear", "steps": 200}
    for arm, chosen in (("fixed", {"lr": 0.03, "weight": 1e-3}), ("mtfl", {"weight": 1e-5})):
        trained = train(tmp_path / "x.npz", arm, chosen, protocol=options)
        outputs = trained([torch.from_numpy(x)] * 3)
        for out, shift in zip(outputs, (0, 40, 0), strict=True):
            assert float((out[:, 0] - torch.from_numpy(y + shift)).abs().max()) < 3
    # a checkpoint holds the scaling: in a model of other data's units it gives the same outputs
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    np.savez(tmp_path / "other.npz", x=3 * x + 1, y=7 * y - 20, task=of)
    other = train(tmp_path / "other.npz", "mtfl", {"weight": 1e-5}, protocol=options)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for a, b in zip(outputs, other([torch.from_numpy(x)] * 3), strict=True):
        assert torch.equal(a, b)
    np.savez(tmp_path / "y.npz", x=x, y=np.where(y > 200, "high", "below"), task=of)
    trained = train(tmp_path / "y.npz", "pooled", {"lr": 0.05}, protocol=options)
    assert trained.labels == [["below", "high"]] * 3 and trained.tasks == ["a", "b", "c"]
    right = trained([torch.from_numpy(x)] * 3)[0].argmax(1).numpy() == (y > 200)
    assert right.mean() > 0.9


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(ValueError, match=r"output: expected a folder for a report, got .*file"):
            compare(taskset(), output=tmp_path / place)


def test_arms_that_are_no_better_than_a_guess_are_not_praised():
    result = made_up({"stl": [-60.0, -50, -70, -65, -55], "pooled": [-3.0, -2, -5, -4, -1]})
    result.settings["guess"] = 0.0
    found = judge(result)
    assert found.advised == "pooled" and found.rows[1].verdict == "helps"
    assert "no arm scores more than a guess without any inputs (0.00) would" in found.reason
    result.settings["guess"] = -3.5
    assert "a guess" not in judge(result).reason


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_a_guess_takes_the_largest_class(loss):
    y = torch.arange(8) % 4 == 0
    targets, classes = (y.long(), 2) if loss == "cross_entropy" else (y[:, None].float(), None)
    task = Task("t", torch.zeros(8, 1), targets, loss=loss, classes=classes)
    assert guess(TaskSet("x", [task, replace(task, targets=1 - task.targets)])) == 75


UNITS = {
    "float64": lambda x: x.double(),
    "half": lambda x: x.half(),
    "bytes": lambda x: (40 * x + 128).byte(),
    "integers": lambda x: (9 * x).long(),
    "truth values": lambda x: x > 0,
    "a graph": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("kind", UNITS)
def test_tasks_in_other_types_are_compared_in_single_precision(kind):
    made = [replace(task, inputs=UNITS[kind](task.inputs)) for task in taskset()]
    mixed = [made[0], *list(taskset())[1:]]
    for tasks in (made, mixed):
        found = read(tasks).tasks
        check(Data(found))
        assert all(t.inputs.dtype == torch.float32 and t.inputs.is_leaf for t in found)
    one = TaskSet("one", [replace(t, inputs=made[0].inputs) for t in made])
    assert read(one).tasks.shared_inputs


NO_DATA = {
    "a dict": ({"a": 1}, {}, "expected the path of a folder .* or a TaskSet; got dict"),
    "nothing": (None, {}, "got NoneType"),
    "one number a sample": ("x", {"x": torch.zeros(24)}, r"\(samples, features\).* \(24,\)"),
    "sequences": ("x", {"x": torch.zeros(24, 5, 3)}, r"got torch.float32 \(24, 5, 3\)"),
    "complex": ("x", {"x": torch.zeros(24, 3, dtype=torch.cfloat)}, "dense real inputs"),
    "sparse": ("x", {"x": torch.zeros(24, 3).to_sparse()}, "dense real inputs.*sparse"),
    "unlike numbers of targets": ("y", {}, r"as many numbers in all tasks, got {'a': 1, 'b': 2}"),
    "groups of one task alone": ("g", {}, r"at least 3 in every task.* a: 1"),
    "half a split": (None, {"repeats": 5.5}, "repeats: expected at least 5.* got 5.5"),
    "settings in words": (None, {"trials": "8"}, "trials: expected at least 1, got '8'"),
    "no size": (None, {"size": 0}, "size: expected a whole number from 1 on, got 0"),
}


@pytest.mark.parametrize("name", NO_DATA)
def test_what_is_no_data_in_python_is_refused(name):
    data, options, message = NO_DATA[name]
    y = torch.arange(24) % 2
    if data == "x":
        data, options = [Task(n, options["x"], y, classes=2) for n in "ab"], {}
    elif data == "y":
        x = torch.randn(24, 3)
        data = [Task(n, x, torch.randn(24, k), loss="mse") for k, n in enumerate("ab", 1)]
    elif data == "g":
        x = torch.randn(24, 3)
        data = [Task("a", x, y, classes=2, groups=y * 0), Task("b", x, y, classes=2)]
    with pytest.raises(ValueError, match=message):
        compare(data, **options)


def test_one_name_is_a_list_of_one(tmp_path):
    path = table(tmp_path / "x.csv", rows())
    found = read(path, drop="client", without="shop 1")
    assert found.tasks.names == ["shop 0", "shop 2"] and "client" not in found.features
    assert read([Task(3, *[torch.zeros(9, 1)] * 2, loss="mse")]).tasks.names == ["3"]


def test_where_single_task_learning_diverges_that_is_said():
    result = Result("comparison", {}, data={"test": 1, "train": 1}, settings={"chosen": {}})
    for repeat in range(5):
        metric = "failed" if repeat else "score"
        result.add(arm="stl", repeat=repeat, metric=metric, value=1)
    with pytest.raises(ValueError, match="got 1; it diverged in 4 others"):
        judge(result)
