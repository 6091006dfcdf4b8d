"""``mtlbook compare``: which method helps on your own tasks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def compare(options: argparse.Namespace) -> int:
    """Compare, print the table, say where the report is."""
    from mtlbook.comparison import compare as run

    name = Path(options.data).resolve().name.partition(".")[0]
    output = Path(options.output or f"compare-{name}")

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    wanted = options.target or ["target"]
    target = wanted[0] if len(wanted) == 1 else wanted
    done = run(
        options.data,
        arms=options.arms,
        network=options.network,
        repeats=options.repeats,
        trials=options.trials,
        anew=options.anew,
        output=output,
        margin=options.margin,
        device=options.device,
        tell=tell,
        protocol=dict(map(_field, options.protocol)),
        task=options.task,
        target=target,
        group=options.group,
        drop=options.drop,
        without=options.without,
        kind=options.kind,
        images=options.images,
        size=options.size,
    )
    print(done)
    print(f"report: {output / 'report.html'}")
    return 0


def _field(text: str) -> tuple[str, Any]:
    """``steps=600``."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"protocol: expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
