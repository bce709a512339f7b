"""One job makes what is missing of a teacher for a dataset; what is there stays, whoever made it, whatever fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from clipkd.core import lock
from clipkd.core.artifacts import read_manifest, write_manifest
from clipkd.spec.config import load
from clipkd.workflow import extractions, session
from tests.synthetic import write_study
from tests.workflow.test_workflow import MINI, copy_workflow, plan, snakemake

CONFIG = ("--configfile", "mini.yaml")
SHOWN = {"resolve": 1, "report": 1, "all": 1}
FOLDERS = tuple(f"data/embeddings/digits/digits-vit-s/{number:016x}" for number in range(2))
# Makes the artefacts that are named in `asked`, in this order; the last one fails while there is a file `failing`.
FAKE = """\
#!/bin/bash
for folder in $(cat asked); do
    [ -e failing ] && [ "$folder" = "$(tail -n 1 asked)" ] && exit 1
    echo "made again" > "$folder/manifest.json"
done
"""


@pytest.fixture
def extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> extractions.Extraction:
    """The extraction of two stores by one teacher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extractions.Extraction, "stamp", property(lambda self: Path("results/extractions/one.made")))
    return extractions.Extraction(Path(FOLDERS[0]).parent, dict.fromkeys(FOLDERS, (None, "full")))


def make(folder: str) -> Path:
    path = Path(folder) / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_stamp_is_there_where_everything_is(extraction):
    for folder in FOLDERS:
        extraction.settle()
        assert not extraction.stamp.exists()
        last = make(folder)
    extraction.settle()
    assert extraction.stamp.exists()
    last.unlink()
    extraction.settle()
    assert not extraction.stamp.exists()
    assert extraction.missing == [FOLDERS[1]]


def test_another_plan_takes_no_stamp_from_a_workflow_that_runs(extraction, capsys):
    """Its jobs wait for the stamp, and have all that they ask for."""
    make(FOLDERS[0])
    extraction.stamp.parent.mkdir(parents=True)
    extraction.stamp.touch()
    Path(".snakemake").mkdir()
    held = lock.take(Path(".snakemake"), session.LOCK)
    extraction.settle()
    held.release()
    assert extraction.stamp.exists()
    assert f"{FOLDERS[1]} is missing, and not in this plan" in capsys.readouterr().err
    extraction.settle()
    assert not extraction.stamp.exists(), "the control: no workflow runs"


def commands(said: str) -> list[str]:
    """Return what the one extraction of a plan makes: the verb and, of stores, the views."""
    (job,) = re.findall(r"exec clipkd (.*?) > /dev/null 2>> \$\(new_log logs/embeddings", said)
    found = [(words.split()[0], *re.findall(r"--views (\S+)", words)) for words in job.split(" then ")]
    return [" ".join(one) for one in found]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose students are trained, all that they read included."""
    root = copy_workflow(tmp_path)
    monkeypatch.chdir(root)
    config = yaml.safe_load(MINI.replace("[supervised]", "[vanilla, embed-KD]").replace("[0, 1]", "[0]"))
    config["training"]["learning_rate"] = 1e-3  # a text, to PyYAML
    (root / "mini.yaml").write_text(yaml.safe_dump(config))
    write_study(load([root / "config/config.yaml", root / "mini.yaml"]).model_dump(mode="json"), Path())
    return root


@pytest.mark.slow
def test_what_is_made_stays_whatever_fails_and_the_next_job_makes_the_rest(project: Path) -> None:
    folders = [path.parent for path in sorted(project.glob("data/embeddings/digits/*/*/manifest.json"))]
    (brought,) = (folder for folder in folders if "-prototypes-" in folder.name)
    (head,) = (folder for folder in folders if "-head-" in folder.name)
    stores = [folder for folder in folders if folder not in (brought, head)]
    before = (brought / "manifest.json").read_text()
    for folder in (*stores, head):
        (folder / "manifest.json").unlink()
    assert plan(project, *CONFIG, "--", "runs")[0] == {}, "complete students ask nothing of their teacher"
    jobs, said = plan(project, "--printshellcmds", *CONFIG)
    assert jobs == SHOWN | {"extract": 1}
    assert sorted(commands(said)) == ["extract full", "extract sample", "probe"]
    (stamp,) = set(re.findall(r"results/extractions/digits/\S+\.made", said))
    (project / "bin").mkdir()
    (project / "bin/clipkd").write_text(FAKE)
    (project / "bin/clipkd").chmod(0o755)
    (project / "asked").write_text("".join(f"{folder}\n" for folder in (*stores, head)))
    (project / "failing").touch()
    assert snakemake(project, *CONFIG, "--", stamp).returncode != 0
    assert all((folder / "manifest.json").exists() for folder in stores), "Snakemake deleted none of them"
    jobs, said = plan(project, "--printshellcmds", *CONFIG, "--", stamp)
    assert jobs == {"extract": 1}
    assert commands(said) == ["probe"]
    (project / "failing").unlink()
    done = snakemake(project, *CONFIG, "--", stamp)
    assert done.returncode == 0, done.stdout
    assert (brought / "manifest.json").read_text() == before
    assert plan(project, *CONFIG)[0] == SHOWN


@pytest.mark.slow
def test_a_store_more_trains_no_student_again(project: Path) -> None:
    """The job that makes it is that of the stores that are there; complete students wait for none of them."""
    jobs, _ = plan(project, *CONFIG)
    assert jobs == SHOWN
    more = yaml.safe_load((project / "mini.yaml").read_text())
    more["grid"].append(more["grid"][0] | {"name": "more", "recipes": ["reference"], "train_types": ["teacher-KD"]})
    (project / "more.yaml").write_text(json.dumps(more))
    jobs, said = plan(project, "--printshellcmds", "--configfile", "more.yaml")
    assert jobs == SHOWN | {"extract": 1, "train": 1}
    assert commands(said) == ["extract full", "probe"]
    assert plan(project, *CONFIG)[0] == SHOWN


@pytest.mark.parametrize("forced", [["--forcerun", "extract"], ["-pRextract"]])
def test_forced_extractions_make_everything(forced: list[str], project: Path) -> None:
    jobs, said = plan(project, "--printshellcmds", *CONFIG, *forced)
    assert jobs["extract"] == 1
    assert sorted(commands(said)) == ["extract full", "extract sample", "probe", "prototypes"]


def test_a_clusters_job_needs_no_teacher_for_stores_that_are_there(project: Path) -> None:
    """Snakemake forces the job in each node's process; the user forced nothing."""
    (head,) = project.glob("data/embeddings/digits/*/*-head-*/manifest.json")
    (teacher,) = project.glob("data/teachers/*/*/manifest.json")
    head.unlink()
    teacher.unlink()
    (stamp,) = set(re.findall(r"results/extractions/digits/digits-vit-s/(\w+)\.made", plan(project, *CONFIG)[1]))
    job = f"extract:dataset=digits,teacher=digits-vit-s,fingerprint={stamp}"
    _, said = plan(project, "--printshellcmds", *CONFIG, "--target-jobs", job, "--allowed-rules", "extract", "--force")
    assert commands(said) == ["probe"]


def test_after_a_change_of_the_dataset_all_that_was_made_of_it_is_planned_again(project: Path) -> None:
    assert plan(project, *CONFIG)[0] == SHOWN
    packed = project / "data/datasets/digits"
    manifest = read_manifest(packed)
    facts = manifest["facts"] | {"content": "another"}
    write_manifest(packed, "dataset", manifest["identity"], facts, manifest["files"])
    jobs, said = plan(project, "--printshellcmds", *CONFIG)
    assert jobs == SHOWN | {"extract": 1, "train": 2}
    assert sorted(commands(said)) == ["extract full", "extract sample", "probe", "prototypes"]
