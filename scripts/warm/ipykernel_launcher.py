"""Run a command whose kernels begin with the large imports done.

    python scripts/warm/ipykernel_launcher.py COMMAND...

To import torch, matplotlib and IPython takes longer than most cells, and ``make test`` starts fifty
kernels. What others import late counts as well: the first step of any optimiser brings
``torch._dynamo``, three seconds. Here one process imports them, and every kernel that COMMAND
starts is a copy of it, made by ``fork`` before anything of ours is imported: kernels share nothing.

Kernels are started by ``python -m ipykernel_launcher -f FILE``. COMMAND finds this file first under
that name. It asks the process above for a copy and stays in its place: what is told to end it ends
the kernel. Without that process, and elsewhere than on Linux, kernels start as always.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

IMPORTS = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "matplotlib.pyplot",
    "torch",
    "torch._dynamo",
    "pandas",
    "pydantic",
    "scipy.stats",
    "sklearn.datasets",
)
ADDRESS = "MTLBOOK_WARM_KERNELS"  # in the environment of COMMAND: where to ask


def run(command: list[str]) -> int:
    """Run the command, with copies of this process as its kernels; return its exit code."""
    if not sys.platform.startswith("linux"):
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        address = f"{folder}/socket"
        server.bind(address)
        server.listen()
        del sys.path[0]  # where this file would be found in the place of the real one
        path = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
        told = {ADDRESS: address, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        environment = {**os.environ, **told}
        _import()  # before the command begins: who starts a kernel waits for a minute at most
        process = subprocess.Popen(command, env=environment)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells the command, too
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: process.send_signal(number))
        server.settimeout(0.1)
        kernels: list[int] = []
        while process.poll() is None:
            kernels = [pid for pid in kernels if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            kernels.append(os.fork())
            if kernels[-1] == 0:
                server.close()
                _become_kernel(connection)
            connection.close()
        return process.returncode


def _import() -> None:
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel sets it
    for name in IMPORTS:
        importlib.import_module(name)


def _become_kernel(connection: socket.socket) -> None:
    """Be the kernel that was asked for, as long as the one who asked is there; never return."""
    code = 1
    try:
        message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
        while not message.endswith(b"\n"):
            message += connection.recv(1 << 20)
        wanted = json.loads(message)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.setsid()
        os.chdir(wanted["folder"])
        os.environ.clear()
        os.environ.update(wanted["environment"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for module in ("random", "numpy.random", "torch"):  # random numbers of its own
            importlib.import_module(module).seed()
        connection.sendall(f"{os.getpid()}\n".encode())
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        from ipykernel.kernelapp import launch_new_instance

        # 1: the parent of this process is not the one to watch
        launch_new_instance(argv=[*wanted["arguments"], "--IPKernelApp.parent_handle=1"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _end_with(connection: socket.socket) -> None:
    connection.recv(1)
    os._exit(1)


def ask(address: str, arguments: list[str]) -> None:
    """Stay in the place of a copy until it, or who wanted it, ends; pass interrupts on."""
    parent = os.getppid()
    wanted = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        message = json.dumps(wanted).encode() + b"\n"
        sent = socket.send_fds(connection, [message], [0, 1, 2])
        connection.sendall(message[sent:])
        kernel = int(connection.recv(32))
        signal.signal(signal.SIGINT, lambda number, _: os.kill(kernel, number))
        connection.settimeout(1)
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                connection.recv(1)
                return


if __name__ == "__main__":
    if sys.argv[1:2] != ["-f"]:
        os._exit(run(sys.argv[1:]))  # at once: to take torch apart takes a second
    if ADDRESS in os.environ:
        ask(os.environ[ADDRESS], sys.argv[1:])
    else:  # as the real one does
        del sys.path[0]
        from ipykernel.kernelapp import launch_new_instance

        launch_new_instance()
