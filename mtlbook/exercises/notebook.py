"""The cell magic ``%%check``, after ``%load_ext mtlbook``."""

from __future__ import annotations

from typing import Any

from mtlbook.exercises.running import check


def load_ipython_extension(ipython: Any) -> None:
    """Give the notebook ``%%check NAME``: the cell is checked by itself, and then run here."""

    def run(line: str, cell: str) -> None:
        try:
            report = check(line.strip(), f"{cell}\n")
        except ValueError as error:
            print(error)
            return
        print(report)
        # what never ends, or ends the process, would do so here as well
        if report.ended:
            ipython.run_cell(cell)

    ipython.register_magic_function(run, "cell", "check")
