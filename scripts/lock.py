"""Write requirements.lock: one tested version of every package, for every platform.

``python scripts/lock.py`` keeps the versions that are locked already and adds what is missing;
``python scripts/lock.py --upgrade`` (or ``--upgrade-package torch``) moves them. The indexes that
pip is configured with are handed to uv through its environment, so that no address of a mirror
ends up in the lock.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# uv's name for each of pip's settings
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def uv_environment() -> dict[str, str]:
    """The environment of this process, plus pip's indexes under uv's names."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    # pip takes the first index that has the version; uv does so only when told
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        key = name.split(".", 1)[-1]
        if key in SETTINGS:
            environment[SETTINGS[key]] = value.strip("'").replace("\\n", " ").strip()
    return environment | os.environ


def main(options: list[str]) -> int:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "uv"], check=True)
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "all"]
    command += ["--universal", "--python-version", "3.11", "--output-file", "requirements.lock"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    return subprocess.run(
        [*command, "--quiet", *options], cwd=ROOT, env=uv_environment(), check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
