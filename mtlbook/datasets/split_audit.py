"""What split lists really hold: true fraction, repeats, overlap, missing items, class balance.

`audit_split` is a pure function of two lists; `audit_lists` applies it to all lists of a set and
compares them with each other. `read_pair`, `read_folder` and `office_caltech10` bring lists in that
form.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mtlbook.datasets import cache, office
from mtlbook.datasets.registry import entry

Item = tuple[Hashable, Hashable]  # what names a sample, and its label
Lists = Mapping[float, tuple[Sequence[Item], Sequence[Item]]]  # percent -> train, test
NAMED = re.compile(r"(train|test)_(\d+(?:\.\d+)?)\.txt")
LIKE_IT = re.compile(r"(train|test).*\.(txt|lst|csv)", re.IGNORECASE)
LINE = re.compile(r"(.*\S)\s+(-?\d{1,18})")
ROOTED = re.compile(r"/|[A-Za-z]:/")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a pair of lists holds.

    Attributes
    ----------
    task : str
    percent : float or None
        Of the samples that the training list is said to hold.
    total : int
        Samples that there are.
    train_rows, train_items, test_rows, test_items : int
        Lines of a list, and different samples in it.
    true_percent : float
        ``100 train_items / total``.
    repeats : dict
        How often a sample stands in the training list -> number of such samples.
    overlap, missing, unknown : int
        Samples in both lists; in neither; in a list but not among those that there are.
    relabelled : int
        Samples that the lists, or the lists and the data, give two labels.
    alike : int
        Names that another one equals but for capitals or letters written as ``%20``: on some
        systems, or for whoever wrote the lists, the same file.
    train_classes, test_classes : dict
        Label -> number of different samples; all labels, also those with none.
    stratified : bool
        Every class has its share of the different training samples, to within one sample.
    findings : tuple of str
        What is wrong, in words; empty where nothing is.
    """

    task: str
    percent: float | None
    total: int
    train_rows: int
    train_items: int
    test_rows: int
    test_items: int
    true_percent: float
    repeats: dict[int, int]
    overlap: int
    missing: int
    unknown: int
    relabelled: int
    alike: int
    train_classes: dict[Hashable, int]
    test_classes: dict[Hashable, int]
    stratified: bool
    findings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        return asdict(self)


def audit_split(
    train: Sequence[Item],
    test: Sequence[Item],
    *,
    items: Mapping[Hashable, Hashable] | None = None,
    percent: float | None = None,
    task: str = "",
    tolerance: float = 0.3,
) -> Audit:
    """Audit a training and a test list.

    Parameters
    ----------
    train, test : sequence of (item, label)
        The lists, line by line.
    items : mapping of item to label, optional
        All samples that there are; default those of the two lists, of which none can be missing.
    percent : float, optional
        What the training list is said to hold.
    task : str
    tolerance : float
        The true percentage is a finding where it is off by more than this part of the named one.

    Examples
    --------
    >>> found = audit_split([("a", 0), ("a", 0)], [("b", 0)], items={"a": 0, "b": 0, "c": 0})
    >>> found.repeats, found.missing
    ({2: 1}, 1)
    >>> found.findings[1]
    'samples in neither list: 1 of 3'
    """
    if not train or not test:
        raise ValueError(f"train, test: expected lines, got {len(train)} and {len(test)}")
    labels: dict[Hashable, set[Hashable]] = {}
    for item, label in (*train, *test, *(() if items is None else items.items())):
        labels.setdefault(item, set()).add(label)
    known = dict((*test, *train)) if items is None else dict(items)
    counts = Counter(item for item, _ in train)
    in_train, in_test = set(counts), {item for item, _ in test}
    classes = sorted(set(known.values()), key=str)
    of_all = Counter(known.values())
    of_train, of_test = (
        Counter(known[item] for item in part & known.keys()) for part in (in_train, in_test)
    )
    share = of_train.total() / len(known)
    audit = Audit(
        task=task,
        percent=percent,
        total=len(known),
        train_rows=len(train),
        train_items=len(in_train),
        test_rows=len(test),
        test_items=len(in_test),
        true_percent=100 * len(in_train) / len(known),
        repeats=dict(sorted(Counter(counts.values()).items())),
        overlap=len(in_train & in_test),
        missing=len(known.keys() - in_train - in_test),
        unknown=len((in_train | in_test) - known.keys()),
        relabelled=sum(len(of_item) > 1 for of_item in labels.values()),
        alike=_alike(labels),
        train_classes={c: of_train[c] for c in classes},
        test_classes={c: of_test[c] for c in classes},
        stratified=all(abs(of_train[c] - share * of_all[c]) <= 1 for c in classes),
        findings=(),
    )
    return replace(audit, findings=tuple(_findings(audit, tolerance)))


def _alike(items: Iterable[Hashable]) -> int:
    names = {item for item in items if isinstance(item, str)}
    return len(names) - len({unquote(name).casefold() for name in names})


def audit_lists(
    lists: Mapping[str, Lists], items: Mapping[str, Mapping[Hashable, Hashable]] | None = None
) -> list[Audit]:
    """Audit all lists of a set, task by task, and compare those of a task with each other.

    Parameters
    ----------
    lists : mapping of task to {percent: (train, test)}
        Lines are (item, label).
    items : mapping of task to {item: label}, optional
        All samples that there are; default those of any of the task's lists.

    Returns
    -------
    list of Audit
        By task and percent. A test list with the very samples of an earlier one is a finding.
    """
    audits = []
    for task, splits in lists.items():
        known = dict(pair for parts in splits.values() for part in parts for pair in part)
        if items is not None:
            known = dict(items[task])
        earlier: dict[frozenset, float] = {}  # samples of a test list -> its percentage
        for percent, (train, test) in sorted(splits.items()):
            audit = audit_split(train, test, items=known, percent=percent, task=task)
            tested = frozenset(item for item, _ in test)
            if tested in earlier:
                same = f"the test list holds the samples of that for {earlier[tested]:g} %"
                audit = replace(audit, findings=(*audit.findings, same))
            earlier.setdefault(tested, percent)
            audits.append(audit)
    return audits


def read_list(path: Path, task: str = "") -> list[Item]:
    """The lines "path label" of a text file, each path in one spelling.

    A byte-order mark, ``./``, doubled or backward slashes, Unicode's several forms of a letter or a
    blank, letters that nobody sees and quotation marks around a path make no other sample.

    Parameters
    ----------
    path : Path
    task : str
        What stands before the last folder of this name is left out of the paths, which in released
        lists often begin with a folder of their authors'.

    Raises
    ------
    ValueError
        The file is not UTF-8 text, has no lines, or a line is not a path and one whole number.
    """
    try:
        text = path.read_text(encoding="utf-8").replace("\ufeff", "")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error})") from error
    items = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        if not match:
            raise ValueError(f'{path}:{number}: expected "path label", got {line!r}')
        name, label = match.groups()
        if LINE.fullmatch(name):
            raise ValueError(
                f'{path}:{number}: expected "path label", got several numbers: {line!r}'
            )
        items.append((_spelt(name, task), int(label)))
    if not items:
        raise ValueError(f'{path}: expected lines "path label", found none')
    return items


def _spelt(name: str, task: str) -> str:
    kinds = {"Cf": "", "Zs": " "}  # what nobody sees, and blanks of any width
    name = "".join(kinds.get(unicodedata.category(letter), letter) for letter in name).strip()
    if len(name) > 2 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    name = posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    if not task:
        return name
    task = unicodedata.normalize("NFC", task)
    _, found, inside = f"/{name}".rpartition(f"/{task}/")
    return inside if found else name


def read_pair(train: Path, test: Path, task: str = "") -> tuple[list[Item], list[Item]]:
    """A training and a test list, as `read_list` reads each.

    Raises
    ------
    ValueError
        As `read_list`, or if one list has paths from the root and the other has not: what stands in
        both would not be seen.
    """
    pair = read_list(train, task), read_list(test, task)
    kinds = {bool(ROOTED.match(str(name))) for part in pair for name, _ in part}
    if len(kinds) > 1:
        raise ValueError(
            f"{train}, {test}: expected paths that all begin at the root, or none that does; got "
            f"both, such as {pair[0][0][0]} and {pair[1][0][0]}"
        )
    return pair


def read_folder(folder: Path) -> dict[str, Lists]:
    """The lists ``<task>/train_<percent>.txt`` and ``<task>/test_<percent>.txt`` of a folder.

    A task has the name of its folder, or its path where another folder has the same name.

    Raises
    ------
    ValueError
        There are none, one of a pair is missing, or two are for one percentage.
    """
    named = [path for path in sorted(folder.rglob("*.txt")) if NAMED.fullmatch(path.name)]
    folders = sorted({path.parent for path in named})
    often = Counter(path.name for path in folders)
    lists: dict[str, Lists] = {}
    for inside in folders:
        own = inside.resolve().name
        task = own if often[inside.name] == 1 else inside.relative_to(folder).as_posix()
        lists[task] = _pairs(folder, [path for path in named if path.parent == inside], own)
    if not lists:
        raise ValueError(f"{folder}: expected <task>/train_<percent>.txt and test_<percent>.txt")
    return lists


def unread(folder: Path) -> list[Path]:
    """Files of a folder that look like lists, and have names that `read_folder` passes over."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if LIKE_IT.fullmatch(path.name) and not NAMED.fullmatch(path.name)
    ]


def _pairs(folder: Path, paths: Sequence[Path], task: str) -> Lists:
    """The pairs of lists that lie in one folder, by percentage."""
    found: dict[float, tuple[list[Item], list[Item]]] = {}
    for percent in sorted({NAMED.fullmatch(path.name)[2] for path in paths}):
        train, test = (paths[0].with_name(f"{part}_{percent}.txt") for part in ("train", "test"))
        for path, other in ((train, test), (test, train)):
            if not path.is_file():
                raise ValueError(
                    f"{folder}: expected {path} beside {other.name}, found no such file"
                )
        if float(percent) in found:
            raise ValueError(f"{train.parent}: expected one pair of lists for {percent} %, got two")
        found[float(percent)] = read_pair(train, test, task)
    return found


def office_caltech10() -> tuple[dict[str, Lists], dict[str, dict[str, int]]]:
    """The lists that were released with MRN for Office-Caltech10, and all images of each task.

    Raises
    ------
    DataError
        The data set is not in the cache.
    """
    path = cache.verified(entry("office_caltech10"))
    arrays = cache.read(path, ("paths", "label", "domain", "domains"))
    published = {percent: office.published_splits(percent) for percent in office.PERCENT}
    pairs = list(zip(arrays["paths"].tolist(), arrays["label"].tolist(), strict=True))
    lists: dict[str, dict[float, tuple[list[Item], list[Item]]]] = {}
    items = {}
    for index, task in enumerate(arrays["domains"].tolist()):
        of_task = [pairs[row] for row in (arrays["domain"] == index).nonzero()[0]]
        items[task] = dict(of_task)
        for percent, splits in published.items():
            pair = tuple([of_task[row] for row in part] for part in splits[task])
            lists.setdefault(task, {})[percent] = pair
    return lists, items


#: Lists that are known by name.
PUBLISHED = {"office_caltech10": office_caltech10}


def table(audits: Sequence[Audit]) -> str:
    """One line per pair of lists, and under it what is wrong."""
    lines = [
        f"{'task':<12}{'named':>7}{'true':>7}  {'train rows':>10}{'items':>7}  "
        f"{'test rows':>9}{'items':>7}{'both':>6}{'neither':>8}  train a class"
    ]
    for a in audits:
        named = "" if a.percent is None else f"{a.percent:g} %"
        each = list(a.train_classes.values())
        lines.append(
            f"{a.task:<12}{named:>7}{a.true_percent:>5.1f} %  {a.train_rows:>10}{a.train_items:>7}"
            f"  {a.test_rows:>9}{a.test_items:>7}{a.overlap:>6}{a.missing:>8}  "
            f"{min(each)} to {max(each)}"
        )
        lines += [f"    {finding}" for finding in a.findings]
    return "\n".join(lines)


def _findings(a: Audit, tolerance: float):
    """What is wrong with a pair of lists, one sentence each."""
    if a.percent is not None and abs(a.true_percent - a.percent) > tolerance * a.percent:
        yield (
            f"the training list holds {a.true_percent:.1f} % of the samples "
            f"({a.train_items} of {a.total}), not {a.percent:g} %"
        )
    if a.train_rows > a.train_items:
        often = " or ".join(map(str, a.repeats))
        yield f"{a.train_rows} training lines hold {a.train_items} samples, each {often} times"
    if a.test_rows > a.test_items:
        yield f"{a.test_rows} test lines hold {a.test_items} samples"
    if a.overlap:
        yield f"samples in both lists: {a.overlap}"
    if a.missing:
        yield f"samples in neither list: {a.missing} of {a.total}"
    if a.unknown:
        yield f"samples that are not there: {a.unknown}"
    if a.relabelled:
        yield f"samples with two labels: {a.relabelled}"
    if a.alike:
        yield f"names that differ in capitals or in letters such as %20 alone: {a.alike}"
    if empty := [str(c) for c, count in a.train_classes.items() if not count]:
        yield f"no training sample of class {', '.join(empty)}"
    if not a.stratified:
        each = a.train_classes.values()
        yield f"not stratified: {min(each)} to {max(each)} training samples per class"
