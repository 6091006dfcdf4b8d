"""The audit of split lists: each fault by itself, then the published lists."""

import json
import shutil

import pytest

from mtlbook import cli, datasets
from mtlbook.datasets.split_audit import (
    audit_lists,
    audit_split,
    office_caltech10,
    read_folder,
    read_list,
)

pytestmark = pytest.mark.disable_socket

#: Twenty samples of two classes, and a clean split of them: 10 % of each class.
ITEMS = {f"{number:02d}.jpg": number % 2 for number in range(20)}
TRAIN = [("00.jpg", 0), ("01.jpg", 1)]
TEST = [pair for pair in ITEMS.items() if pair not in TRAIN]
ALIKE = "names that differ in capitals or in letters such as %20 alone: 1"
HALF = "the training list holds 10.0 % of the samples (2 of 20), not 20 %"


def test_clean_lists_have_no_findings():
    audit = audit_split(TRAIN, TEST, items=ITEMS, percent=10, task="art")
    assert audit.findings == ()
    assert (audit.task, audit.total, audit.true_percent) == ("art", 20, 10)
    assert (audit.train_rows, audit.train_items, audit.test_rows, audit.test_items) == (
        2,
        2,
        18,
        18,
    )
    assert audit.repeats == {1: 2} and audit.stratified
    assert audit.train_classes == {0: 1, 1: 1} and audit.test_classes == {0: 9, 1: 9}


@pytest.mark.parametrize(
    "train, test, items, percent, finding",
    [
        (TRAIN, TEST, ITEMS, 20, HALF),
        (3 * TRAIN, TEST, ITEMS, 10, "6 training lines hold 2 samples, each 3 times"),
        ([*TRAIN, TRAIN[0]], TEST, ITEMS, 10, "3 training lines hold 2 samples, each 1 or 2 times"),
        (TRAIN, [*TEST, TEST[0]], ITEMS, 10, "19 test lines hold 18 samples"),
        (TRAIN, [*TEST, TRAIN[1]], ITEMS, 10, "samples in both lists: 1"),
        (TRAIN, TEST[3:], ITEMS, 10, "samples in neither list: 3 of 20"),
        (TRAIN, [*TEST, ("99.jpg", 0)], ITEMS, 10, "samples that are not there: 1"),
        (TRAIN, [*TEST[:-1], (TEST[-1][0], 0)], ITEMS, 10, "samples with two labels: 1"),
        ([("A b", 0), ("c", 1)], [("a b", 0), ("d", 1)], None, 50, ALIKE),
        ([("a%20b", 0), ("c", 1)], [("a b", 0), ("d", 1)], None, 50, ALIKE),
    ],
)  # fmt: skip
def test_each_fault_is_found_by_itself(train, test, items, percent, finding):
    assert audit_split(train, test, items=items, percent=percent).findings == (finding,)


def test_empty_class_and_uneven_classes():
    train = [pair for pair in ITEMS.items() if pair[1] == 0][:6]
    test = [pair for pair in ITEMS.items() if pair not in train]
    audit = audit_split(train, test)  # all samples are those of the lists
    assert audit.train_classes == {0: 6, 1: 0} and audit.test_classes == {0: 4, 1: 10}
    assert audit.findings == (
        "no training sample of class 1",
        "not stratified: 0 to 6 training samples per class",
    )


def test_an_empty_list_is_an_error():
    with pytest.raises(ValueError, match="train, test: expected lines, got 0 and 18"):
        audit_split([], TEST)


def test_lists_of_a_task_are_compared():
    other = [("02.jpg", 0), ("03.jpg", 1)]
    lists = {"art": {10: (TRAIN, TEST[2:]), 20: ([*TRAIN, *other], TEST[2:])}}
    first, second = audit_lists(lists)
    assert (first.percent, second.percent, second.total) == (10, 20, 20)
    assert first.findings == ("samples in neither list: 2 of 20",)
    assert second.findings == ("the test list holds the samples of that for 10 %",)


@pytest.fixture
def folder(tmp_path):
    """A task ``art`` with clean lists for 10 %, in the layout of the released ones."""
    (tmp_path / "art").mkdir()
    for name, part in (("train_10.txt", TRAIN), ("test_10.txt", TEST)):
        lines = [f"/their/own disk/images/art/{item} {label}\n" for item, label in part]
        (tmp_path / "art" / name).write_text("".join(lines))
    return tmp_path


def test_lists_are_read_without_their_authors_folders(folder):
    (folder / "art" / "train.txt").write_text("not a list\n")  # has no percentage: not read
    lists = read_folder(folder)
    assert lists == {"art": {10: (TRAIN, TEST)}}
    assert read_list(folder / "art" / "train_10.txt")[0] == ("/their/own disk/images/art/00.jpg", 0)


def test_broken_lists_are_named(folder):
    (folder / "art" / "train_10.txt").write_text("a.jpg 0\n\nb.jpg one\n")
    with pytest.raises(
        ValueError, match=r'train_10\.txt:3: expected "path label", got \'b.jpg one'
    ):
        read_folder(folder)
    (folder / "art" / "test_10.txt").unlink()
    with pytest.raises(ValueError, match=r"expected .*test_10\.txt beside train_10\.txt"):
        read_folder(folder)
    (folder / "art" / "train_10.txt").unlink()
    with pytest.raises(ValueError, match=r"expected <task>/train_<percent>\.txt"):
        read_folder(folder)


SPELLINGS = {
    "a byte-order mark": "\ufeffart/\u00e9.jpg 0",
    "a byte-order mark inside, as of joined files": "art/\u00e9.jpg\ufeff 0",
    "a point": "./art/.//\u00e9.jpg 0",
    "up and down": "art/../art/\u00e9.jpg 0",
    "backward": "art\\\u00e9.jpg 0",
    "another form of the letter": "art/e\u0301.jpg 0",
    "a tab, and lines of Windows": "art/\u00e9.jpg\t0\r",
    "blanks": "  art/\u00e9.jpg   0  ",
    "letters that nobody sees": "art/\u200b\u00e9\u00ad.jpg\u200e 0",
    "quotation marks": '"art/\u00e9.jpg" 0',
    "blanks of another width": "art/\u00e9.jpg\u00a0\u2009 0",
}


@pytest.mark.parametrize("line", SPELLINGS.values(), ids=SPELLINGS)
def test_a_path_spelt_otherwise_is_the_same_sample(tmp_path, line, capsys):
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("art/\u00e9.jpg 0\nart/b.jpg 1\n", encoding="utf-8")
    test.write_bytes(f"{line}\nart/c.jpg 1\n".encode())
    assert cli.main(["audit-split", str(train), str(test), "--format", "json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row["overlap"] == 1 and row["total"] == 3


def test_a_blank_in_a_path_is_part_of_it(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("real world/a b 1.jpg 0\nc\u2028d.jpg 1\n", encoding="utf-8")
    assert read_list(path) == [("real world/a b 1.jpg", 0), ("c\u2028d.jpg", 1)]


REFUSED = {
    "several labels": (b"a.jpg 0 1\n", r"list\.txt:1: .*several numbers"),
    "no label": (b"a.jpg\n", r"list\.txt:1: expected .path label"),
    "no lines": (b"", "expected lines .path label., found none"),
    "blank lines": (b"\n \r\n", "expected lines .path label., found none"),
    "not UTF-8": (b"caf\xe9.jpg 0\n", r"list\.txt: expected text in UTF-8"),
    "a label without end": (b"a.jpg " + b"9" * 5000, r"list\.txt:1: expected .path label"),
    "UTF-16": ("a.jpg 0\n".encode("utf-16"), r"list\.txt: expected text in UTF-8"),
}


@pytest.mark.parametrize("content, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_list_is_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / "list.txt")


def test_paths_from_the_root_are_not_compared_with_others(tmp_path, capsys):
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("/data/art/a.jpg 0\n")
    test.write_text("art/a.jpg 0\n")
    assert cli.main(["audit-split", str(train), str(test)]) == 2
    assert "expected paths that all begin at the root" in capsys.readouterr().err


def test_lists_that_begin_at_the_folder_of_the_task(folder):
    lines = [f"art/{item} {label}\n" for item, label in TEST]
    (folder / "art" / "test_10.txt").write_text("".join(lines))
    assert read_folder(folder) == {"art": {10: (TRAIN, TEST)}}


def test_folders_of_one_name_are_all_read(folder):
    for seed in ("seed0", "seed1"):
        (folder / seed).mkdir()
        shutil.copytree(folder / "art", folder / seed / "art")
    shutil.copytree(folder / "art", folder / "seed1" / "clip")
    lists = read_folder(folder)
    assert list(lists) == ["art", "seed0/art", "seed1/art", "clip"]
    assert all(of[10] == (TRAIN, TEST) for name, of in lists.items() if name != "clip")
    assert list(read_folder(folder / "seed0" / "art")) == ["art"]


def test_no_list_is_dropped_without_a_word(folder):
    for part in ("train", "test"):
        shutil.copy(folder / "art" / f"{part}_10.txt", folder / "art" / f"{part}_2.5.txt")
    assert sorted(read_folder(folder)["art"]) == [2.5, 10]
    (folder / "art" / "train_2.5.txt").unlink()
    with pytest.raises(ValueError, match=r"expected .*train_2\.5\.txt beside test_2\.5\.txt"):
        read_folder(folder)
    (folder / "art" / "test_2.5.txt").unlink()
    for part in ("train", "test"):
        shutil.copy(folder / "art" / f"{part}_10.txt", folder / "art" / f"{part}_010.txt")
    with pytest.raises(ValueError, match="expected one pair of lists for 10 %, got two"):
        read_folder(folder)


def test_command(folder, capsys):
    assert cli.main(["audit-split", str(folder)]) == 0
    assert "art" in capsys.readouterr().out
    pair = [str(folder / "art" / f"{part}_10.txt") for part in ("train", "test")]
    everything = folder / "all.txt"
    everything.write_text(
        "".join(f"/their/own disk/images/art/{i} {c}\n" for i, c in ITEMS.items())
    )
    assert cli.main(["audit-split", *pair, "--items", str(everything)]) == 0
    with open(pair[1], "a") as test:
        test.write("/their/own disk/images/art/00.jpg 0\n")
    capsys.readouterr()
    assert cli.main(["audit-split", *pair, "--format", "json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row["overlap"] == 1 and row["findings"] == ["samples in both lists: 1"]


def test_lists_of_other_names_are_not_passed_over_without_a_word(folder, capsys):
    cli.main(["audit-split", str(folder)])
    assert capsys.readouterr().err == ""
    for name in ("train.txt", "Test_10.TXT", "training.md"):
        (folder / "art" / name).write_text("a.jpg 0\n")
    cli.main(["audit-split", str(folder)])
    told = capsys.readouterr().err
    assert "not read:" in told and "Test_10.TXT and 1 more; expected the names train_" in told


def test_command_says_what_it_takes(folder, capsys):
    assert cli.main(["audit-split", "office"]) == 2
    assert "LISTS: expected office_caltech10, a folder, or" in capsys.readouterr().err
    assert cli.main(["audit-split", str(folder), "--items", "x"]) == 2
    assert "--items: goes with" in capsys.readouterr().err


def test_command_without_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    assert cli.main(["audit-split", "office_caltech10"]) == 1
    assert "office_caltech10.npz is missing" in capsys.readouterr().err


@pytest.mark.skipif(
    not datasets.available("office_caltech10"), reason="Office-Caltech10 is not in the cache"
)
def test_published_lists():
    """What section A3.1 of our notes on MRN lists, all of it."""
    audits = {(a.task, a.percent): a for a in audit_lists(*office_caltech10())}
    assert [audits[task, 5].total for task in ("amazon", "caltech10", "dslr", "webcam")] == [
        958, 1123, 157, 295,
    ]  # fmt: skip
    rows = {key: (a.train_rows, a.train_items, a.test_rows) for key, a in audits.items()}
    assert rows == {
        ("amazon", 5): (48, 24, 934), ("amazon", 10): (48, 48, 910), ("amazon", 20): (96, 96, 862),
        ("caltech10", 5): (58, 29, 1094), ("caltech10", 10): (57, 57, 1066),
        ("caltech10", 20): (113, 113, 1010),
        ("dslr", 5): (40, 10, 140), ("dslr", 10): (32, 16, 140), ("dslr", 20): (32, 32, 125),
        ("webcam", 5): (45, 15, 265), ("webcam", 10): (30, 30, 265), ("webcam", 20): (59, 59, 236),
    }  # fmt: skip
    halved = {key for key, a in audits.items() if any(", not " in f for f in a.findings)}
    assert halved == {(task, p) for task in ("amazon", "caltech10") for p in (5, 10, 20)}
    for task, percent in halved:
        assert audits[task, percent].true_percent == pytest.approx(percent / 2, rel=0.05)
    repeated = {key: a.repeats for key, a in audits.items() if a.train_rows > a.train_items}
    assert repeated == {
        ("amazon", 5): {2: 24}, ("caltech10", 5): {2: 29}, ("webcam", 5): {3: 15},
        ("dslr", 5): {4: 10}, ("dslr", 10): {2: 16},
    }  # fmt: skip
    same = {key for key, a in audits.items() if any("that for 5 %" in f for f in a.findings)}
    assert same == {("dslr", 10), ("webcam", 10)}
    missing = {key: a.missing for key, a in audits.items() if a.missing}
    assert missing == {("dslr", 5): 7, ("dslr", 10): 1, ("webcam", 5): 15}
    assert not any(a.overlap or a.unknown or a.relabelled for a in audits.values())
    amazon = audits["amazon", 10].train_classes.values()
    assert (min(amazon), max(amazon)) == (1, 10) and not audits["amazon", 10].stratified
