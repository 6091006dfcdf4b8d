"""A table, one row per sample, as arrays."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import unicodedata
import zlib
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # of a table that is text
LEVELS = 30  # of a column of text that becomes indicators
CODES = 10  # texts at most of a column in which some are numbers, such as 0, 1, 2, 3+
MINUS = "\N{MINUS SIGN}"  # as typeset tables have it
COMMA = re.compile(rf"[-+{MINUS}]?(\d+(,\d*)?|,\d+)([eE][-+]?\d+)?")


def suffix(path: Path) -> str:
    """What a file is by its name, packed or not: ``.csv`` of ``a.CSV.gz``."""
    found = path.suffix.lower()
    return Path(path.stem).suffix.lower() if found in PACKED else found


def read_table(
    source: Any, task: str, target: str | Sequence[str], group: str | None, drop: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, list[str], list[str]]:
    """Inputs, targets, tasks and groups of all rows, notes, and the names of the inputs.

    Parameters
    ----------
    source : Path or pandas.DataFrame
    task, target, group, drop
        As in :func:`mtlbook.comparison.read`.
    """
    notes: list[str] = []
    of_file = isinstance(source, Path)
    table, separator = _load(source) if of_file else (source.copy(), ",")
    file = source.name if of_file else "the table"
    commas: list[str] | None = None if separator == "," else []
    wanted = [target] if isinstance(target, str) else list(target)
    if not wanted:
        raise ValueError("target: expected one column or more, got none")
    table = _named(file, table, {task, *wanted, group}, notes)
    for option, names in (
        ("task", [task]),
        ("target", wanted),
        ("group", [group] if group else []),
    ):
        if missing := [name for name in names if name not in table.columns]:
            raise ValueError(
                f"{option}: expected a column among {list(table.columns)}, got {missing[0]!r}"
            )
    if unknown := [name for name in drop if name not in table.columns]:
        raise ValueError(f"drop: expected columns among {list(table.columns)}, got {unknown}")
    roles = [task, *wanted, *([group] if group else [])]
    if len(set(roles)) < len(roles):
        raise ValueError(f"task, target, group: expected different columns, got {roles}")
    if used := [name for name in drop if name in roles]:
        raise ValueError(f"drop: expected columns of inputs, got {used[0]!r}, which is asked for")
    inputs = [c for c in table.columns if c not in {*roles, *drop}]
    empty = {c: n for c in [*roles, *inputs] if (n := int(_empty(table[c]).sum()))}
    if empty:
        raise ValueError(
            f"{file}: expected a value in every cell, got empty ones by column: {empty} (NA, "
            "NaN, None and null count as empty); fill them, or drop the rows or the columns"
        )
    if not inputs:
        raise ValueError(f"{file}: expected columns of inputs, got none besides {roles}")
    columns = [_inputs_of(table[c], c, commas, notes) for c in inputs]
    more = ", ..." if len(inputs) > 12 else ""
    notes.insert(0, f"inputs: {len(inputs)} columns: {', '.join(inputs[:12])}{more}")
    y = np.stack([_values(table[c], c, commas) for c in wanted], axis=1)
    if commas:
        notes.append(f"the comma was taken for the decimal point of {', '.join(commas)}")
    groups = None if group is None else _texts(table[group])
    x = np.concatenate([values for _, values in columns], axis=1)
    names = [name for of, _ in columns for name in of]
    y = y if len(wanted) > 1 else y[:, 0]
    return x, y, _texts(table[task]), groups, notes, names


def _load(path: Path) -> tuple[Any, str]:
    """The file as a frame, and what separates its cells, where it is text."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas: pip install pandas", name="pandas") from error
    try:
        if suffix(path) == ".parquet":
            return pandas.read_parquet(path), ","
        opened = PACKED.get(path.suffix.lower(), open)
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            text = file.read()
        text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
        first, _, rest = text.partition("\n")
        if told := re.fullmatch(r"sep=(.)", first, re.IGNORECASE):  # Excel's own line
            separator, text = told[1], rest
        else:
            separator = "\t" if suffix(path) == ".tsv" else _separator(first)
        table = pandas.read_csv(io.StringIO(text), sep=separator, engine="python")
        _refuse_longer_rows(table)
        return table, separator
    except ImportError as error:
        raise ImportError(
            f"{path.name}: Parquet needs pyarrow, pip install 'mtlbook[parquet]'; or save a .csv",
            name="pyarrow",
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name}: expected text in UTF-8 (save it as such), got other bytes: {error}"
        ) from error
    except (
        *(ValueError, OSError, EOFError, csv.Error, pandas.errors.ParserError),
        *(zlib.error, lzma.LZMAError),  # of what is not packed as its name says
    ) as error:
        raise ValueError(f"{path.name}: expected a table, got: {error}") from error


def _refuse_longer_rows(table: Any) -> None:
    """Rows with more cells than the first line has names, whose values would all be shifted.

    What stands before the first column is then taken for names of rows, as R writes them: those are
    there once each.
    """
    if table.index.nlevels > 1 or table.index.has_duplicates:
        names = len(table.columns)
        raise ValueError(
            f"{names + table.index.nlevels} cells in a row where the first line has {names} names; "
            "a decimal comma without quotes does that, or a separator at the end of every row"
        )


def _empty(column: Any) -> Any:
    """Which cells hold nothing, or nothing but blanks."""
    blank = column.map(lambda value: isinstance(value, str) and not value.strip())
    return column.isna() | blank.astype(bool)


def _separator(line: str) -> str:
    """What divides the names in the first line; blanks only for want of anything else."""
    line = re.sub(r'"[^"]*"', "", line)
    often = max(",;\t|", key=line.count)
    return often if often in line else r"\s+"


def _named(file: str, table: Any, asked: set[str | None], notes: list[str]) -> Any:
    """The table with a name for every column, and without those that only number the rows."""
    if any(name is not None and name in asked for name in table.index.names):  # of Parquet
        table = table.reset_index()
    if table.empty:
        size = f"{len(table)} rows and {len(table.columns)} columns"
        raise ValueError(f"{file}: expected one row per sample, got {size}")
    table.columns = [str(name).strip() for name in table.columns]
    if len(set(table.columns)) < len(table.columns):
        raise ValueError(f"{file}: expected different names, got {list(table.columns)}")
    for name in table.columns:
        nameless = re.fullmatch(r"(Unnamed: \d+|)", name) and name not in asked
        if nameless and (table[name].isna().all() or _counts(table[name])):
            table = table.drop(columns=name)
            note = "columns without a name that are empty or number the rows were left out"
            notes.extend([note] if note not in notes else [])
        elif name not in asked and _counts(table[name]):
            notes.append(f"column {name} numbers the rows: with --drop {name} it is no input")
    return table


def _counts(column: Any) -> bool:
    """Whether the values are consecutive whole numbers, each once, in whatever order."""
    if column.dtype.kind not in "iu" or len(column) < 2:
        return False
    return bool(column.is_unique and int(column.max()) - int(column.min()) == len(column) - 1)


def _inputs_of(
    column: Any, name: str, commas: list[str] | None, notes: list[str]
) -> tuple[list[str], np.ndarray]:
    """The names and numbers of one column: as it is, or indicators of its texts."""
    values = _values(column, name, commas)
    if values.dtype.kind in "iufb":
        return [name], values.astype(np.float64)[:, None]
    levels, codes = np.unique(values, return_inverse=True)
    if len(levels) > LEVELS:
        raise ValueError(
            f"column {name!r}: expected numbers, or a text with at most {LEVELS} different values, "
            f"got {len(levels)} such as {str(levels[0])!r}; leave it out with --drop {name}"
        )
    some = ", ".join(map(str, levels[:6])) + (", ..." if len(levels) > 6 else "")
    notes.append(f"column {name}: {len(levels)} texts became indicators ({some})")
    return [f"{name}={level}" for level in levels], np.eye(len(levels))[codes]


def _values(column: Any, name: str, commas: list[str] | None) -> np.ndarray:
    """The values of a column as numbers or texts, whatever the table holds them in."""
    values = column.to_numpy()
    if values.dtype.kind == "O":  # nullable integers, decimals, texts
        if all(isinstance(value, Real | Decimal) for value in values):
            kinds = {type(value) for value in values}
            if kinds == {bool}:
                return values.astype(bool)
            whole = all(issubclass(kind, int | np.integer) for kind in kinds) and bool not in kinds
            whole = whole and all(abs(int(value)) < 2**63 for value in values)
            return values.astype(np.int64 if whole else np.float64)
        odd = (list, tuple, dict, np.ndarray, bytes)
        if (found := next((v for v in values if isinstance(v, odd)), None)) is not None:
            raise ValueError(
                f"column {name!r}: expected a number or a text in every cell, got "
                f"{type(found).__name__}; give each of its entries a column"
            )
    if values.dtype.kind in "iufb":
        return values
    return _numbers_in(_texts(column), name, commas)


def _texts(column: Any) -> np.ndarray:
    """Without blanks at the ends, which nobody means; letters with accents in one spelling."""
    texts = column.astype(str).map(lambda text: unicodedata.normalize("NFC", text).strip())
    return texts.to_numpy().astype(str)


def _numbers_in(texts: np.ndarray, name: str, commas: list[str] | None) -> np.ndarray:
    """Numbers in other letters as numbers; a few texts among numbers are refused."""
    levels = np.unique(texts).tolist()
    odd = [level for level in levels if not _is_number(level)]
    if odd and all(_is_number(level.replace(MINUS, "-")) for level in levels):
        return np.char.replace(texts, MINUS, "-").astype(np.float64)
    if odd and all(COMMA.fullmatch(level) and level for level in levels):
        if commas is None:
            raise ValueError(
                f"column {name!r}: expected numbers, got texts such as {odd[0]!r}; write its "
                f"numbers with a decimal point, or leave it out with --drop {name}"
            )
        commas.append(name)
        return np.char.replace(np.char.replace(texts, ",", "."), MINUS, "-").astype(np.float64)
    if len(levels) > CODES and not odd:
        return texts.astype(np.float64)
    if len(levels) > CODES and len(odd) < len(levels) / 2:
        number = int(np.isin(texts, odd).sum())
        raise ValueError(
            f"column {name!r}: expected numbers as in most cells, got {number} others such as "
            f"{odd[0]!r}; fill them, or drop the rows or the column"
        )
    return texts


def _is_number(text: str) -> bool:
    """Also of 1e3 and inf; 1_000 is a number to Python alone."""
    if "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
