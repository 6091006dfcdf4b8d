"""How far other rounding moves a result: its runs made again with other kernels of the processor.

    export ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 MTLBOOK_RUNS=elsewhere
    mtlbook reproduce --profile paper --only mtal-embedded
    python scripts/rounding.py elsewhere/paper/mtal-embedded.json --write data/rounding.json

Code, data, seeds and settings are the committed ones; sums are added in another order. Accuracies
are compared, arm by arm and repeat by repeat, and the verdicts of all claims on the experiment.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from mtlbook.ledger.agreement import instructions
from mtlbook.ledger.audit import audit
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.results import Result
from mtlbook.ledger.statistics import mean_interval

ROOT = Path(__file__).resolve().parents[1]
METRIC = "accuracy_percent"


def compare(committed: Result, again: Result, claims: Path) -> dict[str, Any]:
    """What moved, in points of accuracy, and whose verdict.

    ``moved`` is the root mean square of the differences of single accuracies, ``repeats`` that of
    the same accuracies around their arm's mean over the repeats: what the intervals are made of.
    ``shift`` is the mean difference, with an interval over the repeats' means.
    """
    arms = sorted(
        {r["arm"] for r in again.records if r["metric"] == METRIC and "@" not in r["arm"]}
    )
    moved: dict[tuple[str, int], float] = {}
    spread = []
    for arm in arms:
        before, after = committed.values(arm, METRIC), again.values(arm, METRIC)
        if set(before) != set(after):
            raise ValueError(f"{arm}: expected the repeats {sorted(before)}, got {sorted(after)}")
        centre = statistics.mean(before.values())
        for repeat, value in before.items():
            moved[arm, repeat] = after[repeat] - value
            spread.append(value - centre)
    every, most = list(moved.values()), max(moved, key=lambda of: abs(moved[of]))
    repeats = dict.fromkeys(repeat for _, repeat in moved)
    shifts = [statistics.mean(x for (_, r), x in moved.items() if r == of) for of in repeats]
    verdicts = [
        {
            row["claim"]: row["verdict"]
            for row in audit(claims, {result.experiment: result})
            if row["n"]
        }
        for result in (committed, again)
    ]
    judged = [c for c in verdicts[0] if c in verdicts[1]]
    return {
        "experiment": committed.experiment,
        "instructions": [instructions(result) for result in (committed, again)],
        "numbers": len(every),
        "equal": every.count(0),
        "largest": abs(moved[most]),
        "whose": " repeat ".join(map(str, most)),
        "moved": math.sqrt(statistics.mean(x * x for x in every)),
        "repeats": math.sqrt(sum(x * x for x in spread) / (len(spread) - len(arms))),
        "shift": mean_interval(shifts)._asdict(),
        "claims": len(judged),
        "other verdicts": {
            claim: pair for claim in judged if len(set(pair := [of[claim] for of in verdicts])) > 1
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("again", metavar="RESULT", type=Path)
    parser.add_argument("--write", metavar="FILE", type=Path)
    options = parser.parse_args(arguments)
    again = Result.load(options.again)
    committed = Result.load(ROOT / "data" / "results" / f"{again.experiment}.json")
    found = compare(committed, again, ROOT / "data" / "claims")
    print(json.dumps(found, indent=1))
    if options.write:
        rows = (
            json.loads(options.write.read_text(encoding="utf-8")) if options.write.is_file() else []
        )
        rows = [row for row in rows if row["experiment"] != again.experiment] + [found]
        write_atomically(options.write, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
