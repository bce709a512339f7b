"""The profiles for LSF and HTCondor: rules that exist, the rules' own amounts, and what LSF is really asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yte

from tests.workflow.test_workflow import MINI, ROOT, copy_workflow

RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
LSF = {
    "badmin": "echo MBD; echo LSB_SHAREDIR = $PWD/lsf; echo LSF_CONFDIR = $PWD/lsf; echo LSF_UNIT_FOR_LIMITS = MB",
    "lsclusters": "echo NAME; echo here ok",
    "bsub": 'echo "$*" >> submitted; echo "Job <7> is submitted"',
    "bjobs": "exit 0",
}
"""What stands in for LSF's commands."""


def profile(name: str, **site: object) -> dict:
    """Return a profile as Snakemake reads it, some of the site's lines changed."""
    text = (ROOT / f"profiles/{name}/config.yaml").read_text(encoding="utf-8")
    for key, value in site.items():
        text, changed = re.subn(rf"^  {key}: [^#\n]*", f"  {key}: {value} ", text, flags=re.MULTILINE)
        assert changed == 1
    return yte.process_yaml(text)


def memory() -> dict[str, int]:
    """Return the megabytes that each rule asks for at first."""
    return {rule: int(megabytes) for rule, megabytes in re.findall(r'mem_mb=memory\("(\w+)", (\d+)\)', RULES)}


@pytest.mark.parametrize("name", ["lsf", "htcondor", "slurm"])
def test_a_profile_names_rules_that_exist(name):
    rules = set(re.findall(r"^rule (\w+):", RULES, re.MULTILINE))
    assert {"train", "extract", "train_teacher"} <= profile(name)["set-resources"].keys() <= rules


def test_slurm_gets_as_many_cpus_as_lsf():
    """Of which a real submission is looked at, below."""
    slurm, lsf = (profile(name)["set-resources"]["train"]["cpus_per_task"] for name in ("slurm", "lsf"))
    assert slurm == lsf == "max(2, threads)"


def test_htcondor_gets_the_memory_that_the_rules_ask_for():
    found = profile("htcondor")
    given = dict.fromkeys(memory(), found["default-resources"]["htcondor_request_mem_mb"])
    given |= {rule: asked["htcondor_request_mem_mb"] for rule, asked in found["set-resources"].items()}
    assert {rule: given[rule] for rule in memory()} == memory()


@pytest.mark.parametrize(
    ("name", "key", "resource"), [("lsf", "gpu_request", "lsf_extra"), ("htcondor", "gpus", "request_gpus")]
)
def test_a_grid_on_the_cpu_asks_for_no_gpu(name, key, resource):
    assert resource in profile(name)["set-resources"]["train"]
    changed = profile(name, **{key: "null" if name == "lsf" else 0})
    assert resource not in changed["set-resources"]["train"]


@pytest.mark.long
def test_lsf_is_asked_for_time_memory_cpus_and_a_gpu(tmp_path: Path):
    """The real plugin, up to the command that it calls."""
    pytest.importorskip("snakemake_executor_plugin_lsf")
    project = copy_workflow(tmp_path)
    # On a CPU each student of a job has a core.
    (project / "grid.yaml").write_text(MINI.replace("[0, 1]", "[0, 1, 2, 3, 4]").replace("stack: 1", "stack: 8"))
    parameters = project / "lsf/lsbatch/here/configdir/lsb.params"
    parameters.parent.mkdir(parents=True)
    parameters.write_text("DEFAULT_QUEUE = normal\n")
    (project / "bin").mkdir()
    for name, text in LSF.items():
        (project / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (project / "bin" / name).chmod(0o755)
    path = os.pathsep.join((str(project / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    words = ("--workflow-profile", "profiles/lsf", "--configfile", "grid.yaml", "--until", "train")
    with open(project / "said", "wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *words],
            cwd=project,
            env=os.environ | {"PATH": path},
            stdout=said,
            stderr=said,
        )
    submitted = project / "submitted"
    deadline = time.monotonic() + 120
    while process.poll() is None and not submitted.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    process.kill()
    process.wait()
    assert submitted.exists(), (project / "said").read_text()
    line = next(line for line in submitted.read_text().splitlines() if "rule_train" in line)
    for asked in ("-q gpu", "-n 5", "-gpu num=1", "mem=2300", "-W "):
        assert asked in line, (asked, line)
