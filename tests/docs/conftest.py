"""A reader's copy of the project, in which the commands of the pages are typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))  # the scripts that make the documentation
NOT_COPIED = (
    *(".git", ".venv", ".snakemake", ".hypothesis", ".*_cache", "__pycache__", "*.egg-info"),
    *("logs", "build", "tmp", "cache", "images", "teachers.lock.json"),
)
MADE = shutil.ignore_patterns(*NOT_COPIED)


class Reader:
    """Somebody who copied the project and types."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        path = os.pathsep.join(map(str, (warm.command().parent, folder / ".venv/bin", os.environ["PATH"])))
        people = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
        folders = ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "XDG_CACHE_HOME", "HF_HOME")
        self.environment = (
            os.environ
            | dict.fromkeys(people, "reader@example.org")
            | {name: str(home / name.lower()) for name in folders}
            | {"GIT_CONFIG_GLOBAL": os.devnull, "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            # Pagers and prompts would wait for somebody.
            | {"PAGER": "cat", "GIT_TERMINAL_PROMPT": "0", "PATH": path}
        )

    def types(self, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command in a shell that remembers `NAME=value`; after `timeout` s kill it and all that it started."""
        if re.fullmatch(r"[A-Z_]+=\S+", command):
            name, _, value = command.partition("=")
            self.environment[name] = value
            return subprocess.CompletedProcess(command, 0, "")
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            said = f"{process.communicate()[0]}\n(killed after {timeout:.0f} s)"
        return subprocess.CompletedProcess(command, process.returncode, said)


def copy_project(folder: Path) -> Path:
    """Copy what git tracks, without what was made; `.venv` stands for this one, ready for `make`."""
    folder.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if entry.name in {"data", "results", *MADE(str(ROOT), [entry.name])}:
            continue
        copy = shutil.copytree if entry.is_dir() else shutil.copy2
        copy(entry, folder / entry.name, **({"ignore": MADE} if entry.is_dir() else {}))
    (folder / "data").mkdir()
    shutil.copy2(ROOT / "data/README.md", folder / "data")
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".venv/.installed").touch()
    return folder


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    root = tmp_path_factory.mktemp("reader")
    yield Reader(copy_project(root / "clipkd"), root / "home")
    shutil.rmtree(root, ignore_errors=True)
