"""How far a run is, for whoever waits for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


class Progress:
    """Tells whoever waits how far the run is: a small file named by MTLBOOK_PROGRESS."""

    def __init__(self, steps: int):
        self.path = os.environ.get("MTLBOOK_PROGRESS")
        self.steps, self.last = steps, 0.0

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self.path and (now - self.last > 1 or done == self.steps):
            self.last = now
            part = Path(f"{self.path}.part")
            part.write_text(json.dumps({"step": done, "steps": self.steps}), encoding="utf-8")
            part.replace(self.path)
