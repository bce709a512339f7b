"""A folder of images in the workflow: thumbnails once per student size, made before its students."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from clipkd.plugins import datasets
from clipkd.spec.layout import Layout
from tests.grids import block, grid
from tests.photos import save_photos
from tests.workflow.test_workflow import copy_workflow, plan, snakemake, started


def config(photos: Path, more: str = "", **axes: str) -> str:
    """Return a config of students of a folder of images."""
    training = f"epochs: 1, batch_size: 16, device: cpu{more}"
    return grid(block(**{"datasets": "[photos]"} | axes), training=training) + f"sources: {{photos: {photos}}}\n"


@pytest.mark.slow
def test_thumbnails_are_made_once_per_size_and_not_again(tmp_path: Path) -> None:
    project = copy_workflow(tmp_path / "project")
    photos = save_photos(tmp_path / "photos")
    more = {"datasets": "[photos, digits]", "students": "[tiny-32, base-32, base-64]"}
    (project / "photos.yaml").write_text(config(photos, ", stack: 1", **more))
    given = ("--configfile", "photos.yaml")
    jobs, said = plan(project, *given)
    assert jobs["thumbnails"] == 2, "two students of 32 px share theirs; the digits need none"
    assert jobs["train"] == 6
    spec = datasets.get("photos", str(photos))
    folders = {side: Layout().thumbnails(spec, side)[0].as_posix() for side in (32, 64)}
    for side, folder in folders.items():
        assert re.search(rf"input: [^\n]*{folder}/manifest\.json\n\s+output: results/runs/corrected/photos/", said), (
            side
        )

    (target,) = re.findall(r"output: (results/runs/corrected/photos/tiny-32/none/supervised/seed0/\S+)", said)
    done = snakemake(project, target, *given)
    assert done.returncode == 0, done.stdout
    assert (project / folders[32] / "manifest.json").exists()
    assert not (project / folders[64]).exists()
    again = snakemake(project, "--dry-run", target, *given)
    assert "Nothing to be done" in again.stdout


@pytest.mark.slow
def test_own_images_that_are_to_be_packed_again_are(tmp_path: Path) -> None:
    """Of a grid without a teacher: what the message about changed images says is done is planned."""
    project = copy_workflow(tmp_path / "project")
    photos = save_photos(tmp_path / "photos")
    (project / "photos.yaml").write_text(config(photos))
    given = ("--configfile", "photos.yaml")
    runs = (*given, "--", "runs")
    done = snakemake(project, *runs)
    assert done.returncode == 0, done.stdout
    run = next(project.glob("results/runs/**/metrics.json"))
    before = run.read_bytes()
    next(photos.glob("train/*/*")).unlink()
    _, said = plan(project, *given)
    command = re.search(r"run `clipkd (download .* --overwrite)`, then the command again", said)
    assert command, said
    again = started(project, "clipkd", *shlex.split(command[1]))
    assert again.returncode == 0, again.stdout
    jobs, said = plan(project, *given)
    assert jobs == {"thumbnails": 1, "train": 1, "resolve": 1, "report": 1, "all": 1}, said
    done = snakemake(project, *runs)
    assert done.returncode == 0, done.stdout
    assert run.read_bytes() != before
    assert "Nothing to be done" in snakemake(project, *runs).stdout

    # Another folder is not packed over it.
    (project / "photos.yaml").write_text(config(save_photos(tmp_path / "others")))
    refused = snakemake(project, "--dry-run", *runs)
    assert refused.returncode != 0
    assert f"was packed from {photos}, not from {tmp_path / 'others'}" in refused.stdout
    # Packing that fails leaves what was packed before.
    packed = project / "data/datasets/photos/manifest.json"
    before = packed.read_bytes()
    photos.rename(tmp_path / "away")
    (project / "photos.yaml").write_text(config(f"'{photos}?size=48'"))
    failed = snakemake(project, *runs)
    assert failed.returncode != 0
    assert "does not exist" in failed.stdout
    assert packed.read_bytes() == before
