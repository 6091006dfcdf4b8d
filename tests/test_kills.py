"""Kill -9 at any moment: nothing that is finished is lost or made again, and nothing stays behind.

Each case is killed at random moments (of a seeded generator) until it comes through by itself. The
victims are forks of a process that has imported everything, so that the moments fall on the work.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtlbook.datasets import registry
from tests import loopback

for module in ("yaml", "pooch", "filelock"):
    pytest.importorskip(module)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks and signals of POSIX")
ROOT = Path(__file__).resolve().parents[1]

LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np

PARTS = 6

def log(*words):
    with open("log", "a") as stream:
        print(*words, file=stream)

def until_it_comes_through(work, check, longest, seed):
    moments = random.Random(seed)
    for kills in range(200):
        check.before()
        pid = os.fork()
        if not pid:
            try:
                work()
            except BaseException as error:
                log("error", repr(error))
                os._exit(1)
            os._exit(0)
        longest *= 1.03  # so that it comes through on a slow machine, too
        end = time.monotonic() + moments.uniform(0, longest)
        done = 0
        while not done and time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002)
        if not done:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        check.after()
        if not os.WIFSIGNALED(status):
            assert status == 0, open("log").read()
            return kills
    raise AssertionError("never came through")

def begun():
    path = Path("log")
    return path.read_text().split("\\n")[:-1] if path.exists() else []
"""

FETCH = """
from dataclasses import replace
import filelock, pooch, requests, tqdm
from mtlbook import datasets
from mtlbook.datasets import cache, registry, workplace

url, size = sys.argv[1], int(sys.argv[2])
file = registry.Download(url=url, path="school.mat", size=size)
nothing = dict.fromkeys(("sha256", "content_sha256", "size", "unpacked"))
registry.entries()["school"] = replace(registry.entry("school"), downloads=(file,), **nothing)

def part(rows):
    log(rows.start)
    time.sleep(0.05)
    return np.arange(rows.start, rows.stop)

def make(scratch):
    total = sum((scratch / "school.mat").read_bytes())
    y = workplace.in_parts(scratch, PARTS, part, size=1)
    return {"X": np.full((PARTS, 28), total), "y": y, "task": np.zeros(PARTS, dtype=np.int16)}

datasets.FETCHERS["school"] = make
folder = Path("cache")

class Check:
    def before(self):
        self.there = {int(p.name[:8]) for p in folder.glob(".fetch/school/parts/0*.npy")}
        self.seen = len(begun())

    def after(self):
        again = self.there & {int(line) for line in begun()[self.seen:]}
        assert not again, f"made again: {again}"
        cache._checked.clear()
        assert datasets.status("school") in ("missing", "cached")

seed = int(sys.argv[3])
kills = until_it_comes_through(lambda: datasets.fetch("school"), Check(), 0.35, seed)
assert datasets.verify("school")[0]["ok"]
assert cache.read(folder / "school.npz")["y"].tolist() == list(range(PARTS))
left = {path.name for path in folder.rglob("*") if path.is_file()}
# the lock's file, of one who was killed when all else was done
assert left <= {"school.npz", "school.npz.content_sha256", ".verified.json", ".fetch.lock"}, left
print(kills)
"""

DERIVE = """
from mtlbook.datasets import derived

folder = Path("cache/derived")

def make():
    log("made")
    time.sleep(0.02)
    return {"numbers": np.arange(200_000)}

def work():
    arrays = derived.derived("numbers", make, files=[], packages=[])
    assert arrays["numbers"].tolist() == list(range(200_000))

class Check:
    def before(self):
        self.there, self.seen = list(folder.glob("*.npz")), len(begun())

    def after(self):
        assert not (self.there and begun()[self.seen:]), "made again"

kills = until_it_comes_through(work, Check(), 0.05, int(sys.argv[1]))
assert len(list(folder.glob("*.npz"))) == 1
for path in folder.glob(".making-*"):
    os.utime(path, (1, 1))
derived._keep(folder / "other.npz", {"numbers": np.arange(3)})
assert not list(folder.glob(".making-*")), "scratch of the killed"
print(kills)
"""


def killed(tmp_path, code, *arguments):
    """How often the work was killed before it came through."""
    environment = {
        **os.environ,
        "MTLBOOK_DATA": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error::UserWarning",  # of a damaged entry
    }
    command = [sys.executable, "-c", LOOP + code, *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 150, "env": environment}
    done = subprocess.run(command, cwd=tmp_path, **options)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("seed", range(1))
def test_fetch(tmp_path, monkeypatch, seed):
    """The download goes on where it was, and parts that are computed are kept."""
    body, url = bytes(range(256)) * 16, "https://files.example/school.mat"
    with loopback.running() as server:
        server.put(url, loopback.trickling(body, pause=0.01, step=64))
        monkeypatch.setenv("MTLBOOK_MIRROR", server.address)
        assert killed(tmp_path, FETCH, url, len(body), seed) > 0
        starts = [int((of or "bytes=0-")[len("bytes=") : -1]) for _, of in server.asked]
    assert starts[0] == 0 and starts == sorted(starts)
    assert starts[-1] > 0, "never killed in the middle of the download"


@pytest.mark.parametrize("seed", range(1))
def test_derive(tmp_path, seed):
    assert killed(tmp_path, DERIVE, seed) >= 0


def test_the_registry_names_what_is_fetched_here():
    assert registry.entry("school").tier == "fetched"
