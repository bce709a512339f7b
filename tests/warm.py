"""`clipkd`, `snakemake` and `dvc` as processes of their own that have imported already what takes long: forked from a
server that pytest starts once.

For tests of what a run does, and for workflows and their jobs (`command`). A client hands on the signals that it gets;
where it is killed, so is the process that works for it. Tests of the command line itself, of imports, and of settings
that libraries read when they are imported (but those of huggingface_hub) start the program afresh.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import multiprocessing.util
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = {
    "clipkd": [
        "clipkd.*", "transformers", "torch._dynamo", "torch.utils.tensorboard",
        "matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "scipy.stats",
    ],
    "snakemake": [
        "snakemake.cli", "snakemake.report.html_reporter", "smart_open", "yte", "clipkd.plugins.*", "clipkd.spec.*",
        "clipkd.workflow.*", "clipkd.embeddings.prepare", "clipkd.export.measures", "clipkd.report.figures",
        "clipkd.tables",
    ],
    "warm-python": [],
    "dvc": ["dvc.cli.parser", "dvc.commands.*", "dvc.repo", "dvc_data.index", "sqlalchemy"],
}  # fmt: skip
"""Program -> what the server imports when it is first asked for; `.*`: every module of a package."""
SHARED = "CLIPKD_TESTS_WARM"
"""Environment variable: the folder of the server that pytest has started for all its workers."""
SPAWN = multiprocessing.util.spawnv_passfds  # type: ignore[attr-defined]
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
CLIENT = f"""\
#!{sys.executable} -IS
import json, os, signal, socket, sys
signals = {[int(number) for number in SIGNALS]}
ignored = [number for number in signals if signal.getsignal(number) is signal.SIG_IGN]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({{path!r}})
    socket.send_fds(server, [b" "], [0, 1, 2])
    asked = [os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ), ignored]
    server.sendall(json.dumps(asked).encode() + b"\\n")
    answers = server.makefile()
    child = int(answers.readline())
    for number in signals:
        if number not in ignored:
            signal.signal(number, lambda number, frame: os.kill(child, number))
    code = int(answers.readline() or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def command() -> Path:
    """Return an executable named `clipkd` that works in a fork of the server, which is started here.

    Beside it lie `snakemake` and `dvc`, for PATH, and what `python` returns.
    """
    if SHARED in os.environ:
        return Path(os.environ[SHARED]) / "clipkd"
    folder = Path(tempfile.mkdtemp())
    path = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline(), "the server of warm processes did not start"
    atexit.register(server.kill)  # should pytest be killed itself, the server reads the end of its stdin
    for program in PRELOADED:
        (folder / program).write_text(CLIENT.format(path=str(path)))
        (folder / program).chmod(0o755)
    return folder / "clipkd"


def python() -> Path:
    """Return what runs `-c CODE`, `-m MODULE` and files as Python does, in a fork of the server."""
    return command().with_name("warm-python")


def clipkd(
    *words: object, cwd: Path | None = None, check: bool = True, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command as `subprocess.run` does; AssertionError where it fails and `check` is True."""
    line = [str(command()), *map(str, words)]
    answer = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    if check:
        assert answer.returncode == 0, answer.stderr
    return answer


def serve(path: str) -> None:
    """Fork a process for each connection, until the process that started this one is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            _, streams, _, _ = socket.recv_fds(connection, 1, 3)
            with connection.makefile("rb") as stream:
                program, words, cwd, environment, ignored = json.loads(stream.readline())
            preload(program)
            if os.fork() == 0:
                listening.close()
                for number, descriptor in enumerate(streams):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                os.environ.clear()
                os.environ.update(environment)
                os.chdir(cwd)
                read_again(environment)
                sys.argv = [str(Path(sys.executable).with_name(program)), *words]
                work(connection, ignored)
            for descriptor in (*streams, connection.detach()):
                os.close(descriptor)


@functools.cache
def preload(program: str) -> None:
    """Import what a program needs, and keep the garbage collectors of its forks from touching it: that copies it."""
    for name in PRELOADED[program] or PRELOADED["clipkd"]:
        package = importlib.import_module(name.removesuffix(".*"))
        if name.endswith(".*"):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def read_again(environment: dict[str, str]) -> None:
    """Heed variables that Python and huggingface_hub read when they start."""
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if "huggingface_hub.constants" in sys.modules:
        importlib.reload(sys.modules["huggingface_hub.constants"])


def work(client: socket.socket, ignored: list[int]) -> None:
    """Do what `sys.argv` says in a child; answer with its number and exit code. It is killed when the client is."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        client.close()
        os.setsid()
        for number in SIGNALS:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if number in ignored else default)
        multiprocessing.util.spawnv_passfds = spawned  # type: ignore[attr-defined]
        sys.exit(call())

    def watch() -> None:
        if not client.recv(1):
            os.kill(child, signal.SIGKILL)

    with contextlib.suppress(OSError):  # nobody waits for it any more
        client.sendall(f"{child}\n".encode())
        threading.Thread(target=watch, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        client.sendall(str(code).encode())
    os._exit(0)


def call() -> object:
    """Do what `sys.argv` says; return the exit code."""
    program, words = Path(sys.argv[0]).name, sys.argv[1:]
    if program == "clipkd":
        return importlib.import_module("clipkd.__main__").run()
    if program != "warm-python":
        return importlib.import_module(f"{program}.cli").main(words)
    sys.argv = words = words[1:] if words[0] == "-u" else words
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
    return 0


def spawned(path: str, arguments: list[str], kept: list[int]) -> int:
    """Start a process of multiprocessing; its fork server as a fork, so that it need not import torch."""
    if "forkserver" not in arguments[-1]:
        return SPAWN(path, arguments, kept)
    child = os.fork()
    if child:
        return child
    try:
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        open_ones = sorted({0, 1, 2, *map(int, kept)})
        for low, high in zip(open_ones, [*open_ones[1:], 4096], strict=True):
            os.closerange(low + 1, high)
        exec(arguments[-1], {"__name__": "__main__"})
    finally:
        os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
