"""Write the list in docs/faults.md from docs/faults.yaml and the tests: `python docs/faults.py [--check]`.

The tests of a row are those in tests/faults whose `@fault(...)` names it, or whose name begins with it
(`test_c08_...`), and those listed in docs/faults.yaml. `make test-faults` writes the numbers of cases to
docs/faults.json.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import dataclass, field
from typing import Any

import yaml
from generated import ROOT, main

COUNTS = ROOT / "docs/faults.json"
NO_ANCHOR = "none known"
GROUPS = {
    "C": "Config and command line",
    "D": "Downloads and datasets",
    "T": "Teacher checkpoints",
    "M": "Embedding store",
    "R": "Training",
    "S": "Snakemake and SLURM",
    "V": "DVC",
    "G": "Tables",
    "X": "Security",
}
ROWS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docs/faults.yaml").read_text(encoding="utf-8"))


@dataclass
class Found:
    """The tests of a row: their paths, and the protections that their controls remove."""

    tests: dict[str, str] = field(default_factory=dict)
    controls: list[str] = field(default_factory=list)


def scan() -> dict[str, Found]:
    """Return the tests of each row, parsed from the source of tests/faults."""
    found = {name: Found() for name in ROWS}
    for path in sorted((ROOT / "tests/faults").glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            rows, controls = marked(node)
            own = re.match(r"test_([a-z]\d\d)_", node.name)
            for row in [*rows, *([own[1].upper()] if own else [])]:
                found[row].tests[f"tests/faults/{path.name}::{node.name}"] = node.name
                found[row].controls += controls
    for name, row in ROWS.items():
        for place in row.get("tests", []):
            test = place.partition("::")[2]
            found[name].tests[place] = test
            found[name].controls += [words(test)] if re.match(r"test_(control|without)_", test) else []
    return found


def marked(node: ast.FunctionDef) -> tuple[list[str], list[str]]:
    """Return the rows that a test's `@fault(...)` names, and its mutants."""
    for mark in node.decorator_list:
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "fault":
            rows = [str(argument.value) for argument in mark.args if isinstance(argument, ast.Constant)]
            mutants = [k.value for k in mark.keywords if k.arg is None and isinstance(k.value, ast.Dict)]
            keys = [key.value for found in mutants for key in found.keys if isinstance(key, ast.Constant)]
            return rows, [str(key).replace("-", " ") for key in keys]
    return [], []


def problems() -> list[str]:
    """Return the problems of the list: rows without a test or a control, and missing tests."""
    found, wrong = scan(), []
    for name, row in ROWS.items():
        if not found[name].tests:
            wrong.append(f"{name} has no test")
        if not found[name].controls and "control" not in row:
            wrong.append(f"{name} has no control that must fail")
        for place in row.get("tests", []):
            path, _, test = place.partition("::")
            if not (ROOT / path).exists() or f"def {test}(" not in (ROOT / path).read_text(encoding="utf-8"):
                wrong.append(f"{name}: {place} does not exist")
    return wrong


def words(name: str) -> str:
    """Return a test's name as words."""
    return re.sub(r"^(test_)?([a-z]\d\d_|control_|without_)?", "", name).replace("_", " ")


def counted(counts: dict[str, dict[str, object]], tests: list[str]) -> str:
    """Return the numbers of cases that `make test-faults` counted for some tests."""
    texts = [f"{what}: {number}" for test in tests for what, number in counts.get(test, {}).items()]
    return f" ({'; '.join(texts)})" if texts else ""


def table() -> str:
    """Return the list as Markdown."""
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))["counts"] if COUNTS.exists() else {}
    found, lines = scan(), []
    for letter, title in GROUPS.items():
        lines += ["", f"## {title}", "", "| row | fault | result | tests | removed by a control | also passes |"]
        lines.append("|---|---|---|---|---|---|")
        for name, row in ROWS.items():
            if name[0] != letter:
                continue
            here = found[name]
            tests = ", ".join(f"[{words(test)}](../{place.partition('::')[0]})" for place, test in here.tests.items())
            controls = ", ".join(dict.fromkeys(here.controls)) or row["control"]
            cells = [row["fault"], row["result"] + counted(counts, list(here.tests)), tests, controls]
            shown = [cell.replace("|", "\\|") for cell in [name, *cells, row.get("also", NO_ANCHOR)]]
            lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    wrong = problems()
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    sys.exit(1 if wrong else main(ROOT / "docs/faults.md", "rows", table(), __doc__ or ""))
