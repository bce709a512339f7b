"""The complete files that CONTRIBUTING.md shows are found and work; the examples of `--help` are right."""

from __future__ import annotations

import importlib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from clipkd.cli import VERBS, parser
from tests.docs.blocks import blocks
from tests.docs.conftest import ROOT

FOLDERS = {"A dataset": "datasets", "A teacher": "teachers", "A student": "students", "A train type": "methods"}
LOSS = """
from types import SimpleNamespace
import torch
from clipkd.plugins import methods, recipes
student = SimpleNamespace(cluster_projection=lambda embedding: torch.zeros(2, 3))
outputs = SimpleNamespace(logits=torch.zeros(2, 10), embedding=torch.zeros(2, 4))
labels, embeddings = torch.tensor([0, 1]), torch.ones(2, 3)
parts = methods.get("feature-regression").loss(student, outputs, labels, embeddings, recipes.get("corrected"))
print(parts["loss"].item())
"""
"""The loss of CONTRIBUTING's train type: uniform logits of 10 classes, and a distance of 1 in each dimension."""
FOLDERS |= {"A recipe": "recipes", "A prototype form": "prototype_forms"}


@pytest.mark.slow
def test_each_example_is_found_by_its_name_and_a_student_trains_with_them(tmp_path):
    shutil.copytree(ROOT / "clipkd", tmp_path / "clipkd", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    headings = {number: line[4:] for number, line in enumerate(text.splitlines(), 1) if line.startswith("### ")}
    names = []
    for block in blocks("CONTRIBUTING.md", text):
        if block.language == "python":
            heading = headings[max(number for number in headings if number < block.line)]
            name = re.search(r'name="([^"]+)"', block.text)[1]
            file = tmp_path / "clipkd/plugins" / FOLDERS[heading] / f"{name.replace('-', '_')}.py"
            file.write_text(block.text + "\n")
            names.append(name)
    assert len(names) >= 5

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    listed = run("-m", "clipkd", "list").stdout
    assert all(re.search(rf"[ ,]{name}\b", listed) for name in names), listed
    settings = ("--epochs", "1", "--batch-size", "8", "--device", "cpu", "--log-folder", "run")
    train = "train", "--dataset-name", "colours", "--student", "narrow-32", "--train-type", "supervised", *settings
    answer = run("-c", f"import sys; from clipkd.cli import main; assert main(sys.argv[1:]) == 0\n{LOSS}", *train)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "run/metrics.json").exists()
    assert float(answer.stdout.split()[-1]) == pytest.approx(math.log(10) + 0.5 * 1.0)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_that_the_command_line_takes(verb):
    title, *lines = importlib.import_module(f"clipkd.cli.verbs.{verb.replace('-', '_')}").EXAMPLES.strip().splitlines()
    assert title in ("example:", "examples:")
    parsed = []
    for line in lines:
        for part in re.split(r"&&|[|>]", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["clipkd"]:
                parsed.append(parser().parse_args(words[1:]).verb)
    assert verb in parsed
