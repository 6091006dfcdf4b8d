"""``data/gpu/``: what ``make gpu`` has measured on a device, read for the book."""

from __future__ import annotations

SCHEMA = 1
FOLDER = "data/gpu"
