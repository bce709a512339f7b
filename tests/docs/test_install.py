"""What docs/install.md promises, as far as it can be tried without a registry, a container engine and conda."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import venv
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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return an environment with the built wheel, the repository out of sight; its other packages are this one's."""
    folder = tmp_path_factory.mktemp("installed")
    source = copy_project(folder / "source")
    options = ("--quiet", "--no-deps", "--no-index")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *options, "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    venv.create(folder / "venv", with_pip=False)
    (wheel,) = folder.glob("clipkd-*.whl")
    subprocess.run([*pip, "--python", folder / "venv/bin/python", "install", *options, wheel], check=True)
    (packages,) = folder.glob("venv/lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv"


@pytest.mark.slow
def test_the_wheel_is_whole(installed, tmp_path):
    (packages,) = installed.glob("lib/*/site-packages")
    kept = {path.relative_to(packages).as_posix() for path in (packages / "clipkd").rglob("*")}
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "clipkd").rglob("*")}
    assert not {path for path in wanted - kept if "__pycache__" not in path}
    answer = subprocess.run([installed / "bin/clipkd", "list"], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "embed-KD" in answer.stdout


@pytest.mark.slow
def test_init_lays_a_project_that_snakemake_plans_and_overwrites_nothing(installed, tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        path = f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert run("clipkd", "init", "project").returncode == 0
    project = tmp_path / "project"
    answer = run(
        *("python", "-m", "snakemake", "-n", "--quiet", "rules", "--directory", "project"),
        *("--snakefile", "project/Snakefile", "--configfile", "project/config/demo.yaml"),
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "train_teacher" in answer.stdout + answer.stderr
    laid = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    laid = {name for name in laid if not name.startswith(".snakemake/")}
    tracked = subprocess.run(
        ["git", "ls-files", "Snakefile", "config", "profiles", "workflow", "dvc.yaml", ".dvcignore", ".gitignore"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert tracked.returncode or laid == set(tracked.stdout.split()), "[tool.setuptools.data-files] in pyproject.toml"
    (project / "Snakefile").unlink()
    assert f"{len(laid)} files, {len(laid) - 1} of them were there already" in run("clipkd", "init", "project").stdout
    (project / "config/config.yaml").write_text("mine")
    (project / "Snakefile").unlink()
    answer = run("clipkd", "init", "project")
    assert (answer.returncode, "would be overwritten" in answer.stderr) == (2, True)
    assert (project / "config/config.yaml").read_text() == "mine"
    assert not (project / "Snakefile").exists()
    other = project.with_name("other")
    other.mkdir()
    (other / "profiles").write_text("a note")
    answer = run("clipkd", "init", "other")
    assert "profiles is a file where a folder of the project belongs" in answer.stderr
    assert [path.name for path in other.iterdir()] == ["profiles"]


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


@pytest.mark.parametrize(("lock", "hashes"), [("lock.txt", "hashes.txt"), ("run.txt", "run-hashes.txt")])
def test_every_pinned_version_has_its_hashes(lock: str, hashes: str):
    """What `make hashes` adds is for some platforms only: of torch's CUDA libraries, or of Windows."""
    text = (ROOT / "requirements" / hashes).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[^ ]+ (; .+? )?( *--hash=sha256:[0-9a-f]{64})+", line), line[:80]

    def pins(lines):
        found = (re.match(r"([\w.-]+)==([^ ]+)", line) for line in lines)
        return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found if match}

    everywhere = [line for line in lines if " ; " not in line]
    pinned = (ROOT / "requirements" / lock).read_text().splitlines()
    assert pins(everywhere) == pins(pinned), "run `make hashes`"
    assert len(lines) > len(everywhere)
    (torch,) = (line for line in lines if line.startswith("torch=="))
    assert torch.count("--hash") > 10, "its wheels for all platforms and versions of Python"


def test_what_runs_is_locked_without_development_tools():
    text = (ROOT / "requirements/run.txt").read_text()
    answer = subprocess.run(
        [sys.executable, "requirements/run.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert set(text.splitlines()[1:]) < set((ROOT / "requirements/lock.txt").read_text().splitlines())
    pinned = {line.partition("==")[0] for line in text.splitlines()}
    assert not pinned & {"pytest", "ruff", "mypy", "hypothesis", "mkdocs", "pre_commit", "playwright"}
    assert {"torch", "snakemake", "dvc", "timm", "onnxruntime", "pyarrow"} <= pinned
    assert "requirements/run-hashes.txt" in (ROOT / "Containerfile").read_text()


def test_all_is_every_extra_for_users():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["all"] == [f"clipkd[{','.join(name for name in extras if name not in {'all', 'dev', 'docs'})}]"]


def test_the_pythons_that_are_declared_are_those_that_nox_tries():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    (tried,) = re.findall(r"^PYTHONS = (.+)$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    assert ast.literal_eval(tried) == declared


def test_the_conda_environment_takes_the_lock_file():
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "--requirement requirements/lock.txt" in pip
    assert "python=3.11" in environment["dependencies"]


@pytest.mark.parametrize(
    "path",
    ["workflow/Snakefile", "workflow/schemas/config.schema.yaml", "config/README.md", "config/config.yaml", "LICENSE"],
)
def test_the_catalogs_files_are_where_it_looks(path):
    assert (ROOT / path).is_file()


def test_the_catalog_shows_a_command_and_a_table_of_keys():
    """As its page is made: a command per way of deployment that is true, a row per property with a description."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert [way for way, works in usage["software-stack-deployment"].items() if works is True] == [
        "apptainer",
        "report",
    ]
    assert usage["report"] is True
    assert "pip install" not in usage["mandatory-flags"]["flags"]
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    assert {"grid", "training", "sources"} <= schema["properties"].keys()
    assert 'container: "clipkd.sif"' in (ROOT / "workflow/Snakefile").read_text()


ABSENT = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "clipkd":
            raise ModuleNotFoundError("No module named 'clipkd'", name="clipkd")

sys.meta_path.insert(0, Absent())
"""


def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(tmp_path),
    ]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = answer.stdout + answer.stderr
    assert answer.returncode == 1
    assert "clipkd, which is not installed" in said
    assert "pip install ." in said
    assert "Traceback" not in said
