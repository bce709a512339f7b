"""Generated blocks of Markdown files: a script writes the text between two markers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(path: Path, name: str, text: str, description: str) -> int:
    """Write `text` between the markers `<!-- name:start -->` and `<!-- name:end -->`; with --check only compare.

    Returns:
        The exit code: 1 if --check finds a different text, 2 if the file has no such markers.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the block is out of date")
    options = parser.parse_args()
    shown = path.relative_to(ROOT)
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    found = path.read_text(encoding="utf-8")
    if found.count(start) != 1 or found.count(end) != 1 or found.index(end) < found.index(start):
        print(f"{shown} must contain {start} and, after it, {end}, once each", file=sys.stderr)
        return 2
    before, rest = found.split(start)
    wanted = f"{before}{start}\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}"
    if wanted == found:
        return 0
    if options.check:
        print(f"{shown}: the block '{name}' is out of date; run python docs/{Path(sys.argv[0]).name}")
        return 1
    path.write_text(wanted, encoding="utf-8")
    print(f"{shown}: block '{name}' written")
    return 0
