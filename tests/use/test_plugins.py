"""Plug-ins of other packages: docs/own.md's example installed and used; what can't be used is one line."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipkd.core import registry
from clipkd.core.errors import InputError
from clipkd.plugins import methods, recipes
from tests import warm
from tests.docs import test_examples
from tests.docs.blocks import blocks
from tests.docs.conftest import ROOT

LOSS = test_examples.LOSS.replace("feature-regression", "huber-KD")
"""Of the example's train type: uniform logits of 10 classes, and a distance of 1 in each dimension."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return a folder in which the package of docs/own.md is installed."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for block in blocks("docs/own.md", (ROOT / "docs/own.md").read_text(encoding="utf-8")):
        if named := re.match(r"# (pyproject\.toml|kd_extras/\S+)\n", block.text):
            (source / named[1]).parent.mkdir(exist_ok=True)
            (source / named[1]).write_text(block.text + "\n")
    (source / "kd_extras/__init__.py").touch()
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site))
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(source)], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return site


def clipkd(site: Path, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    wide = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"} | wide
    command = [str(warm.command()), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_package_of_ones_own_adds_a_train_type_and_a_student(site, tmp_path):
    listed = clipkd(site, "list").stdout
    assert re.search(r"huber-KD +Feature regression with Huber's loss. \(of kd-extras\)", listed)
    assert re.search(r"slim-32 +A slim student. \(of kd-extras\)", listed)
    assert "huber-KD-within-class" in listed
    line = "train --dataset-name digits --student slim-32 --train-type supervised --epochs 1 --batch-size 256"
    answer = clipkd(site, *line.split(), "--device", "cpu", "--log-folder", "run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert json.loads((tmp_path / "run/manifest.json").read_text())["identity"]["plugins"] == {"student": "kd-extras"}
    assert json.loads((tmp_path / "run/env.json").read_text())["packages"]["kd-extras"] == "1.0"
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    answer = subprocess.run([warm.python(), "-c", LOSS], env=environment, capture_output=True, text=True)
    assert float(answer.stdout) == pytest.approx(math.log(10) + 0.5 * 0.5), answer.stderr


@pytest.fixture
def fresh(monkeypatch):
    """Return a function after which this process sees what is installed in one more folder."""

    def forget() -> None:
        registry.installed.cache_clear()
        registry.outside.cache_clear()
        sys.modules.pop("odd", None)

    def sees(site: Path) -> None:
        monkeypatch.syspath_prepend(str(site))
        forget()

    yield sees
    monkeypatch.undo()
    forget()


def broken(tmp_path: Path, code: str, group: str = "clipkd.recipes") -> Path:
    """Return a site with an installed distribution of one module."""
    (tmp_path / "odd.py").write_text(code)
    info = tmp_path / "odd_package-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-package\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nodd = odd\n")
    return tmp_path


COPY = "from dataclasses import replace\nfrom clipkd.plugins.recipes.corrected import SPEC as base\n"
KNOWN = {"clipkd.students": "students", "clipkd.methods": "methods"}
STUDENT, METHOD = (
    COPY.replace("recipes.corrected", "students.tiny_32"),
    COPY.replace("recipes.corrected", "methods.vanilla"),
)


@pytest.mark.parametrize(
    ("code", "group", "words"),
    [
        ("import nothing_like_this", "clipkd.recipes", "No module named 'nothing_like_this'"),
        ("1 / 0", "clipkd.recipes", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "clipkd.recipes", "SystemExit: 3"),
        ("SPEC = 3", "clipkd.recipes", "it is not a module with a SPEC of class Recipe"),
        (f"{COPY}SPEC = base", "clipkd.recipes", "'corrected' is the name of one that clipkd itself has"),
        (f"{COPY}SPEC = replace(base, name='a/b')", "clipkd.recipes", "invalid name 'a/b'"),
        (f"{COPY}SPEC = replace(base, name='odd', temperature='2')", "clipkd.recipes", "ValidationError"),
        (f"{STUDENT}SPEC = replace(base, name=5)", "clipkd.students", "invalid name '5'"),
        (
            f"{METHOD}SPEC = replace(base, name='odd', signal='scoers')",
            "clipkd.methods",
            "signal 'scoers' of odd is none",
        ),
        (f"{COPY}SPEC = replace(base, name='odd')", "clipkd.recipe", "unknown group; did you mean 'recipes'?"),
    ],
)
def test_a_plug_in_that_can_not_be_used_is_refused_by_its_package(code, group, words, tmp_path, fresh):
    fresh(broken(tmp_path, code, group))
    with pytest.raises(InputError) as error:
        registry.outside(f"clipkd.plugins.{KNOWN.get(group, 'recipes')}")
    assert words in str(error.value)
    assert str(error.value).startswith("plug-in of odd-package 2.0 (")


def test_a_plug_in_that_can_not_be_used_is_one_line(tmp_path):
    answer = clipkd(broken(tmp_path, "import nothing_like_this"), "list", "recipes")
    assert answer.returncode == 2
    assert answer.stderr == (
        "clipkd list: error: plug-in of odd-package 2.0 (clipkd.recipes: odd = odd): ModuleNotFoundError: No module "
        "named 'nothing_like_this'; repair or uninstall odd-package\n"
    )


def test_recipes_from_outside_come_after_those_of_clipkd(tmp_path, fresh):
    """Flags of shared artefacts are those of the first recipe that needs them: a new one must not make them again."""
    fresh(broken(tmp_path, f"{COPY}SPEC = replace(base, name='aardvark', temperature=3.0)"))
    own = list(registry.own_modules("clipkd.plugins.recipes"))
    modules = registry.modules.__wrapped__("clipkd.plugins.recipes")
    assert list(modules) == [*own, "aardvark"]
    assert modules["aardvark"].SPEC.temperature == 3.0
    assert registry.origin("clipkd.plugins.recipes", "aardvark") == "odd-package"


@pytest.mark.parametrize("returned", [3, {"classification": 1.0}])
def test_a_loss_that_is_none_is_refused_by_its_train_type(returned):
    from clipkd.runs.objective import Objective

    with pytest.raises(InputError, match=r"train type 'vanilla': its loss\(\) returned (int|dict), not a dict"):
        Objective(methods.get("vanilla"), None, recipes.get("modern")).named(returned)
