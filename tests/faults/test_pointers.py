"""Row D13: files of a repository that was cloned without git-lfs: pointers in their place."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipkd.core import images, lfs
from clipkd.core.artifacts import building, open_artifact
from clipkd.core.errors import DataError
from clipkd.core.files import read_json
from clipkd.embeddings.teacher_checkpoint import check_weights
from clipkd.plugins import teachers
from clipkd.plugins.datasets import hub
from clipkd.plugins.students import _pretrained
from tests.faults.checks import fault

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 343209568\n"
)


def pretrained(path: Path) -> None:
    """Read a student's pretrained weights."""
    from clipkd.core.files import sha256
    from clipkd.plugins import students

    spec = students.get(f"timm:resnet18@32?pretrained={path}")
    assert spec.pretrained == f"sha256:{sha256(path)}"  # type: ignore[attr-defined]
    _pretrained.load_pretrained(Body(), spec)  # type: ignore[arg-type]


class Body:
    body = None


def artefact(path: Path) -> None:
    """Open an artefact of which a file was replaced by a pointer."""
    folder = path.parent / "artefact"
    if not folder.exists():
        with building(folder, "test", {"a": 1}) as draft:
            (draft.path / "array.bin").write_bytes(b"0" * 1000)
    (folder / "array.bin").write_bytes(path.read_bytes())
    open_artifact(folder, "test", {"a": 1})


READERS: dict[str, Callable[[Path], Any]] = {
    "teacher": lambda path: check_weights(teachers.TeacherSpec(name="t", title="T"), path),
    "student": pretrained,
    "parquet": lambda path: hub.opened(path, None),  # type: ignore[arg-type]
    "image": lambda path: images.decode(path, 256),
    "image inside a file": lambda path: images.decoded(path.read_bytes(), "a.parquet, row 0", 256),
    "settings": read_json,
    "artefact": artefact,
}


@fault("D13", **{"the-look": lambda monkeypatch: monkeypatch.setattr(lfs, "instead", lambda source: "")})
def test_every_reader_tells_a_pointer_and_what_to_run(tmp_path: Path) -> None:
    for name, reader in READERS.items():
        for content, is_pointer in ((POINTER, True), (b"something else", False)):
            path = tmp_path / name / "file.safetensors"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            with pytest.raises(DataError) as caught:
                reader(path)
            assert ("git lfs pull" in str(caught.value)) == is_pointer, (name, str(caught.value))
    assert lfs.instead(io.BytesIO(b"")) == ""
