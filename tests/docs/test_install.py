"""What docs/install.md promises, as far as it can be tried without a registry, a container engine and conda."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import clipkd
from tests.docs.blocks import blocks
from tests.docs.conftest import ROOT, Reader, copy_project

DEPLOYED = """\
configfile: "config/config.yaml"

module clipkd:
    snakefile: gitfile({repository!r}, path="workflow/Snakefile", tag="v0")
    config: config

use rule * from clipkd
"""


def test_the_workflow_is_a_module_of_another_project(tmp_path):
    """As snakedeploy leaves it: a Snakefile that names a repository and a tag, and a copy of config/."""
    source = copy_project(tmp_path / "source")
    reader = Reader(source, tmp_path / "home")
    for command in ("git init -q", "git add -A -f . ':!.venv'", "git commit -q -m source", "git tag v0"):
        answer = reader.types(command, timeout=60)
        assert answer.returncode == 0, answer.stdout
    project = tmp_path / "project"
    (project / "workflow").mkdir(parents=True)
    (source / "config").rename(project / "config")
    (source / "Snakefile").unlink()
    (project / "workflow/Snakefile").write_text(DEPLOYED.format(repository=str(source)))
    here = Reader(project, tmp_path / "home")
    here.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    answer = here.types("snakemake -n --cores 1 --configfile config/demo.yaml", timeout=120)
    assert answer.returncode == 0, answer.stdout
    # It plans what the tutorial says of a fresh copy.
    tutorial = blocks("docs/tutorial.md", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"))
    shown = next(block.text for block in tutorial if "total" in block.text)
    jobs = dict(line.split() for line in shown.splitlines() if line[-1].isdigit())
    assert jobs == dict(re.findall(r"^(\w+) +(\d+)$", answer.stdout, re.MULTILINE))


def test_the_installed_package_is_whole(tmp_path):
    """Installed without --editable and without the repository in sight, as in the container."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(tmp_path / "site"))
    source = copy_project(tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "install", *options, str(source)]
    answer = subprocess.run(pip, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    kept = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site/clipkd").rglob("*")}
    wanted = {path.relative_to(source).as_posix() for path in (source / "clipkd").rglob("*")}
    assert not {path for path in wanted - kept if "__pycache__" not in path}
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    code = "import clipkd.cli, sys; print(clipkd.__file__); sys.exit(clipkd.cli.main(['list']))"
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(str(tmp_path))
    assert "embed-KD" in answer.stdout


def test_one_version_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", clipkd.__version__)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == clipkd.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == clipkd.__version__
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:clipkd:|@v|tag v)(\d[\d.]*\d)", page)) == {clipkd.__version__}


def test_the_container_is_made_of_what_is_there():
    lines = (ROOT / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in shlex.split(line)[1:-1]]
    assert copied
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path.split('/')[0]}" in allowed, f"{path} never reaches the build: .dockerignore"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {project["readme"], project["license"].replace("MIT", "LICENSE"), "pyproject.toml", "clipkd"}
    assert needed <= set(copied)
    assert any("3.11" in line for line in lines if line.startswith("ARG BASE"))


def test_every_pinned_version_has_its_hashes():
    """What `make hashes` adds is for some platforms only: of torch's CUDA libraries, or of Windows."""
    text = (ROOT / "requirements/hashes.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[^ ]+ (; .+? )?( *--hash=sha256:[0-9a-f]{64})+", line), line[:80]

    def pins(lines):
        found = (re.match(r"([\w.-]+)==([^ ]+)", line) for line in lines)
        return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found if match}

    everywhere = [line for line in lines if " ; " not in line]
    lock = (ROOT / "requirements/lock.txt").read_text().splitlines()
    assert pins(everywhere) == pins(lock), "run `make hashes`"
    assert len(lines) > len(everywhere)
    (torch,) = (line for line in lines if line.startswith("torch=="))
    assert torch.count("--hash") > 10, "its wheels for all platforms and versions of Python"


def test_the_conda_environment_takes_the_lock_file():
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "--requirement requirements/lock.txt" in pip
    assert "python=3.11" in environment["dependencies"]


@pytest.mark.parametrize(
    "path", ["workflow/Snakefile", "config/README.md", "config/config.yaml", "README.md", "LICENSE"]
)
def test_the_catalogs_files_are_where_it_looks(path):
    assert (ROOT / path).is_file()
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert {"mandatory-flags", "software-stack-deployment", "report"} <= usage.keys()
