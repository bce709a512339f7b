"""Mutants: small mistakes that somebody could make in clipkd, each of which a test must notice.

`python -m tests.mutants [WORD ...] [--jobs N]` makes each mistake of tests/mutants.yaml (those whose name holds a WORD)
in a copy of the project, and runs the test files that should see it. It prints those that no test noticed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests/mutants.yaml"
PRELOADED = ("numpy", "pandas", "scipy.stats", "torch", "torch._dynamo", "torch.utils.tensorboard", "transformers")
"""What costs most to import; nothing of clipkd, which differs."""
SECONDS = 900
"""A mutant that keeps its tests busy for so long is noticed: by whoever waits."""


@dataclass(frozen=True)
class Mutant:
    """One mistake."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Files, or single tests of slow ones."""

    def of(self, text: str) -> str:
        """Return the file's text with the mistake; ValueError where `old` is not there, or not once."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: {self.file} has {text.count(self.old)} times: {self.old!r}; follow it in {LIST.name}"
            )
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """Return the list."""
    found = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return [Mutant(name, one["file"], one["old"], one["new"], tuple(one["tests"])) for name, one in found.items()]


def copy_project(folder: Path) -> None:
    """Copy the files that git knows."""
    names = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def tested(folder: Path, tests: tuple[str, ...], log: Path) -> int:
    """Fork a process that runs tests in a copy of the project, up to the first that fails; return its id."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.path[:] = [str(folder), *(path for path in sys.path if path not in {"", str(ROOT)})]
    for name in [name for name in sys.modules if name.partition(".")[0] in {"clipkd", "tests"}]:
        del sys.modules[name]
    # What an editable installation adds would still find the original.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
    code = 70
    try:
        import pytest

        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", str(folder / "tmp")]
        code = int(pytest.main([*options, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(chosen: list[Mutant], jobs: int, folder: Path) -> dict[str, str]:
    """Return what became of each mutant: `killed`, `survived`, or what is wrong with its tests."""
    for name in PRELOADED:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    copies = [folder / str(number) for number in range(jobs)]
    for copy in copies:
        copy_project(copy)
    waiting, at_work, found = deque(chosen), {}, {}
    while waiting or at_work:
        while waiting and copies:
            mutant, copy = waiting.popleft(), copies.pop()
            right = (copy / mutant.file).read_text(encoding="utf-8")
            (copy / mutant.file).write_text(mutant.of(right), encoding="utf-8")
            log = folder / f"{mutant.name.replace(' ', '-').replace('/', '-')}.log"
            at_work[tested(copy, mutant.tests, log)] = (mutant, copy, right, time.monotonic())
        time.sleep(0.1)
        for child, (mutant, copy, right, start) in list(at_work.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            seconds = time.monotonic() - start
            if not done and seconds < SECONDS:
                continue
            if not done:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status) if done else 1
            found[mutant.name] = {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}")
            print(f"{found[mutant.name]:9} {seconds:5.0f} s  {mutant.name}", flush=True)
            (copy / mutant.file).write_text(right, encoding="utf-8")
            shutil.rmtree(copy / "tmp", ignore_errors=True)
            copies.append(copy)
            del at_work[child]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [one for one in mutants() if not options.words or any(word in one.name for word in options.words)]
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    found = run(chosen, options.jobs, folder)
    left = [name for name, what in found.items() if what != "killed"]
    print(f"{len(found) - len(left)} of {len(found)} killed; logs in {folder}")
    print("\n".join(f"not killed: {name} ({found[name]})" for name in left))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
