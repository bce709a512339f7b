"""Write requirements/run.txt, the part of lock.txt that clipkd runs with: `python requirements/run.py [--check]`.

Followed from pyproject.toml through the metadata of what is installed here, so run it where lock.txt is installed
(`make install`). The rest of lock.txt are development tools.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK, RUN = ROOT / "requirements/lock.txt", ROOT / "requirements/run.txt"
EXTRAS = ("workflow", "onnx", "hub-datasets", "slurm")
"""What the container holds beside the package's own dependencies."""
HEADER = "# What clipkd runs with, without development tools: a part of lock.txt. Made by: make hashes\n"


def name_of(text: str) -> str:
    """Return a package's name as PyPI spells it, of a line such as `Name.x==1.0`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~;\[ ]", text.strip(), maxsplit=1)[0]).lower()


def needed() -> set[str]:
    """Return the names of all packages that clipkd with EXTRAS asks for, directly or not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    left, found = [Requirement(line) for line in direct], set()
    while left:
        one = left.pop()
        key = (name_of(one.name), frozenset(one.extras))
        if key in found:
            continue
        found.add(key)
        try:
            asked = [Requirement(line) for line in requires(one.name) or []]
        except PackageNotFoundError:
            continue  # for another platform, or not in lock.txt
        environments = [{"extra": extra} for extra in ("", *one.extras)]
        left += [r for r in asked if not r.marker or any(r.marker.evaluate(e) for e in environments)]
    return {name for name, _ in found}


if __name__ == "__main__":
    names = needed()
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if name_of(line) in names]
    text = HEADER + "\n".join(lines) + "\n"
    if "--check" not in sys.argv[1:]:
        RUN.write_text(text, encoding="utf-8")
    elif RUN.read_text(encoding="utf-8") != text:
        sys.exit("requirements/run.txt is out of date: run `make hashes`")
