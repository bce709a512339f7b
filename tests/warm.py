"""`clipkd` as a process of its own that has torch imported already: forked from a server that pytest starts once.

For tests of what a run does, and for the jobs of workflows (`command`). Tests of the command line itself, of imports,
of kills, and of settings that libraries read when they are imported start the program afresh.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = ["clipkd.cli", "clipkd.runs.assignment", "clipkd.core.vision", "transformers", "torch._dynamo"]
CLIENT = f"""\
#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({{path!r}})
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16) or 1))
"""


@functools.cache
def command() -> Path:
    """Return an executable named `clipkd` that works in a fork of the server, which is started here."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline(), "the server of warm processes did not start"
    atexit.register(server.kill)  # should pytest be killed itself, the server reads the end of its stdin
    script = folder / "clipkd"
    script.write_text(CLIENT.format(path=str(path)))
    script.chmod(0o755)
    return script


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
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                work(connection)
            connection.close()


def work(client: socket.socket) -> None:
    """Do the client's command with its streams, in its folder and environment; answer with the exit code."""
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as stream:
        words, cwd, environment = json.load(stream)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    child = os.fork()
    if child == 0:
        client.close()
        from clipkd.cli import main

        sys.exit(main(words))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        client.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
