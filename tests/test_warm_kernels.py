"""Kernels that are copies of one process: like others, but for what is imported already."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.posix("fork, and sockets of files")
LAUNCHER = Path(__file__).resolve().parents[1] / "scripts" / "warm" / "ipykernel_launcher.py"

# Starts two kernels and asks them; then ends one as it should, and leaves the other behind.
PROGRAM = """
import os, sys
from jupyter_client.manager import start_new_kernel

def start():
    return start_new_kernel(cwd=sys.argv[1], env={**os.environ, "MINE": "yes"})

def told(client, code):
    found = []
    def hook(message):
        content = message["content"]
        found.append(content.get("text", content.get("ename", "")))
    client.execute_interactive(code, output_hook=hook, timeout=100)
    return "".join(found).strip()

print(os.environ.get("MPLBACKEND"))  # of the program itself: as it was
(manager, one), (_, other) = start(), start()
names = ("torch._dynamo", "mtlbook", "seen")
print(told(one, f"import sys; print([n in sys.modules for n in {names}])"))
print(told(one, "import os; print(os.getcwd(), os.environ['MINE']); sys.modules['seen'] = 1"))
print(told(one, "import matplotlib; print(matplotlib.rcParams['backend'])"))
print(told(other, "import sys; print('seen' in sys.modules)"))
draw = "import numpy, random, torch; print(random.random(), numpy.random.rand(), torch.rand(1))"
print(*set(told(one, draw).split()) & set(told(other, draw).split()))
one.execute("import time; print('asleep', flush=True); time.sleep(100)")
while one.get_iopub_msg(timeout=100)["msg_type"] != "stream":
    pass
manager.interrupt_kernel()
print(one.get_shell_msg(timeout=100)["content"].get("ename"))
print(*[told(client, "import os; print(os.getpid())") for client in (one, other)], flush=True)
manager.shutdown_kernel()
os._exit(7)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels start as always")
def test_kernels_are_copies_that_share_nothing_and_end_with_who_started_them(tmp_path):
    program, folder = tmp_path / "program.py", tmp_path / "a folder"
    program.write_text(PROGRAM)
    folder.mkdir()
    command = [sys.executable, str(LAUNCHER), sys.executable, str(program), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 7, done.stderr
    own, modules, place, backend, other, drawn, interrupted, kernels = done.stdout.splitlines()
    assert own == str(os.environ.get("MPLBACKEND"))
    assert modules == "[True, False, False]"  # with what a first step brings, none of ours
    assert place == f"{folder} yes"
    assert "inline" in backend
    assert other == "False"
    assert drawn == ""  # by one and by the other
    assert interrupted == "KeyboardInterrupt"
    end = time.monotonic() + 100
    for kernel in map(int, kernels.split()):
        while os.path.exists(f"/proc/{kernel}") and time.monotonic() < end:
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{kernel}"), "the kernel outlived who had started it"


def test_a_kernel_without_the_process_to_copy_starts_as_always(tmp_path):
    """What is left in an environment, or run by hand, does no harm."""
    told = {"PYTHONPATH": str(LAUNCHER.parent)}
    environment = {k: v for k, v in os.environ.items() if k != "MTLBOOK_WARM_KERNELS"} | told
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "x.json", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
