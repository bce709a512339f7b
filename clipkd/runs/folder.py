"""The run folder: the only place that writes what a training leaves behind.

Its `manifest.json` is an artefact's: what made the run, and size and sha256 of each of its files.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save

from clipkd.core import device
from clipkd.core.artifacts import MANIFEST, check_file, entry_of, open_artifact, read_manifest, write_manifest
from clipkd.core.environment import recorded
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import sync, write_json, write_text, written_aside
from clipkd.core.fingerprint import Identity, differences, fingerprint
from clipkd.core.linear import chosen_here
from clipkd.core.lock import acquire
from clipkd.core.progress import say
from clipkd.core.registry import distributions
from clipkd.core.version import __version__
from clipkd.plugins.students._saved import State
from clipkd.runs.correct import CORRECT, packed
from clipkd.runs.record import COST, ENVIRONMENT, FAILED, HISTORY, KIND, METRICS, RESUME, RunRecord
from clipkd.runs.unfinished import Checkpoints

CONFIG, STUDENT = "config.yaml", "student.safetensors"
CHECKPOINTS = {".safetensors", ".pt", ".pth"}
"""Endings of a file that a student is saved in."""
ELSEWHERE = "student"
"""The fact of a run's manifest that says size and sha256 of a student that is saved outside its folder."""
PACKAGES = ("torch", "torchvision", "transformers", "numpy", "safetensors")


class RunFolder:
    """One run's folder. `metrics.json` is written last: where it is, the run is complete."""

    def __init__(self, path: Path, checkpoint: Path | None = None, *, may_replace: bool = True) -> None:
        """Open or make a run folder.

        Args:
            path: the folder.
            checkpoint: where the student is saved; None: `student.safetensors` in the folder.
            may_replace: whether this run may take the place of another one, finished or not.
        """
        self.path, self.may_replace = path, may_replace
        self.checkpoint = checkpoint or path / STUDENT
        check_checkpoint_name(self.checkpoint)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"log folder {path}: {error.strerror}") from None

    def finished(self, identity: dict[str, Any]) -> bool:
        """Return whether the folder holds the complete result of exactly this run.

        A result with a damaged or missing file is not complete; a warning says so.
        """
        if not (self.path / METRICS).exists():
            return False
        try:
            if read_manifest(self.path)["fingerprint"] != fingerprint(identity):
                return False
            if self.checkpoint.exists() and self.is_student_of(open_artifact(self.path, KIND, identity).manifest):
                return True
            why = f"{self.checkpoint} is missing, or another student"
        except DataError as error:
            why = f"its result is damaged: {error}"
        say(f"{self.path} will be trained again, because {why}")
        return False

    def is_student_of(self, manifest: dict[str, Any]) -> bool:
        """Return whether the checkpoint is the student that a manifest, whose own files are checked, describes."""
        if self.checkpoint.parent == self.path:
            return self.checkpoint.name in manifest["files"]
        try:
            check_file(self.checkpoint, manifest["facts"][ELSEWHERE], self.path)
        except (DataError, KeyError):
            return False
        return True

    @property
    def is_writable(self) -> bool:
        """Whether this process may write into the folder."""
        return os.access(self.path, os.W_OK)

    def held(self) -> AbstractContextManager[None]:
        """Hold the folder's lock: a run has one writer."""
        return acquire(self.path)

    def checkpoints(self, identity: Identity) -> Checkpoints:
        """Return the saved states of an unfinished run with this identity."""
        return Checkpoints(self.path / RESUME, identity)

    def refuse_others(self, identity: Identity) -> None:
        """Raise InputError where the folder holds another run that this one may not replace."""
        if self.may_replace:
            return
        for what, found in runs_in(self.path):
            if lines := list(differences(found, identity)):
                raise InputError(held_by(self.path, what, lines))

    def start(self, identity: Identity) -> None:
        """Begin a run; an earlier run's results stay until this one's are there to replace them."""
        with suppress(DataError):
            if lines := list(differences(read_manifest(self.path)["identity"], identity)):
                say(
                    f"{self.path} holds a run with other settings, which is replaced when this one is complete:\n  "
                    + "\n  ".join(lines)
                )
        (self.path / FAILED).unlink(missing_ok=True)
        self.remove_curves(identity, mine=True)  # of an earlier beginning
        if not (self.path / METRICS).exists():
            self.remove_curves(identity, mine=False)

    def remove_curves(self, identity: Identity, *, mine: bool) -> None:
        """Remove TensorBoard's files of this run, or of all others."""
        ending = ending_of(fingerprint(identity))
        for events in self.path.glob("events.out.tfevents.*"):
            if events.name.endswith(ending) == mine:
                events.unlink()

    def empty(self) -> None:
        """Remove an earlier run's results, `metrics.json` first: without it the folder holds no complete run."""
        names = {MANIFEST, COST, HISTORY, CORRECT}
        with suppress(DataError):
            names |= read_manifest(self.path)["files"].keys()
        for name in [METRICS, *names]:
            (self.path / name).unlink(missing_ok=True)

    def fail(self, reason: dict[str, Any]) -> None:
        """Mark the run as failed, until it is started again."""
        write_json(self.path / FAILED, reason)

    def finish(
        self,
        student: State,
        record: RunRecord,
        facts: dict[str, Any],
        settings: dict[str, Any],
        sittings: Sequence[dict[str, Any]],
        correct: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write the results, `metrics.json` last, and drop the state that a resumed run would need.

        `sittings`: the environment of each time that the run was begun or resumed, the last one last.
        """
        identity, texts = record.metrics.identity, record.files()
        # The large file first, while an earlier result still stands: a full disk then leaves that as it is.
        with written_aside(self.checkpoint) as aside:
            aside.write_bytes(student_bytes(student, self.checkpoint.suffix))
            sync(aside)
            self.empty()
        self.remove_curves(identity, mine=False)
        plain = yaml.safe_dump(tuples_as_lists(settings), sort_keys=True, allow_unicode=True)
        write_text(self.path / CONFIG, plain)
        write_json(self.path / ENVIRONMENT, {**sittings[-1], "sittings": list(sittings)})
        for name in (HISTORY, COST):
            write_text(self.path / name, texts[name])
        if correct is not None:
            with written_aside(self.path / CORRECT) as aside:
                aside.write_bytes(packed(correct))
        with written_aside(self.path / METRICS) as aside:
            aside.write_text(texts[METRICS], encoding="utf-8")
            entries = {METRICS: entry_of(aside)}
            files = [self.path / name for name in (CONFIG, ENVIRONMENT, HISTORY, COST)]
            files += [self.path / CORRECT] * (correct is not None)
            if self.checkpoint.parent == self.path:
                files.append(self.checkpoint)
            else:
                facts = facts | {ELSEWHERE: entry_of(self.checkpoint)}
            entries |= {path.name: entry_of(path) for path in files}
            write_manifest(self.path, KIND, identity, facts, entries)
        self.sweep(identity)

    def sweep(self, identity: Identity) -> None:
        """Remove what a complete run needs no more. A kill may come between its result and this."""
        (self.path / FAILED).unlink(missing_ok=True)
        for unfinished in self.path.glob(".*.tmp"):
            if unfinished.is_file():  # a folder is an export's that may be being written
                unfinished.unlink(missing_ok=True)
        self.checkpoints(identity).clear()


def ending_of(run: str) -> str:
    """Return how the names of TensorBoard's files of a run end; `run`: its fingerprint."""
    return f".{run}"


def runs_in(folder: Path) -> Iterator[tuple[str, Identity]]:
    """Yield what each run in a folder, complete or saved, was made from."""
    places = [("a complete run", folder)] if (folder / METRICS).exists() else []
    places += [("an unfinished run", path) for path in sorted((folder / RESUME).glob("[0-9]*"))]
    for what, path in places:
        with suppress(DataError):  # damaged: the training says so, and begins again
            yield what, read_manifest(path)["identity"]


def held_by(folder: Path, what: str, lines: list[str]) -> str:
    """Return the message that a folder holds another run, which is not replaced."""
    return (
        f"{folder} holds {what} with other settings: name another --log-folder, or give --overwrite to replace it:\n  "
        + "\n  ".join(lines)
    )


def check_checkpoint_name(path: Path) -> None:
    """Raise InputError unless the name says how the student is saved."""
    if path.suffix not in CHECKPOINTS:
        raise InputError(f"checkpoint name '{path.name}': end it in .pt (plain state dict) or .safetensors")
    if path.name == CORRECT:
        raise InputError(f"checkpoint name '{path.name}': the run writes another file of this name")


def save_student(state: State, path: Path) -> None:
    """Save a student's weights: `.pt` as a plain state dict, `.safetensors` as safetensors."""
    with written_aside(path) as aside:
        aside.write_bytes(student_bytes(state, path.suffix))


def student_bytes(state: State, suffix: str) -> bytes | memoryview:
    """Return the content of a file of a student's weights, by its suffix.

    It is made in memory: where the disk is full, both libraries raise errors of kinds of their own.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if suffix == ".safetensors":  # of copies: some models use one weight twice, which it refuses
        return save({name: tensor.clone() for name, tensor in state.items()})
    content = io.BytesIO()
    torch.save(state, content)
    return content.getbuffer()


def load_student(path: Path) -> State:
    """Read a student's weights from a plain state dict or from safetensors; nothing in it is run."""
    check_checkpoint_name(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        return (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # both libraries raise many kinds for a damaged file
        raise DataError(f"{path} is no readable checkpoint ({type(error).__name__}: {error})") from None


def environment(where: torch.device) -> dict[str, Any]:
    """Return versions, hardware and commit: what a number may depend on besides its settings."""
    return {
        "clipkd": __version__,
        "python": platform.python_version(),
        # torch itself says for which CUDA it was built; the wheel's version on PyPI doesn't.
        "packages": {name: importlib.metadata.version(name) for name in [*PACKAGES, *distributions()]}
        | {"torch": str(torch.__version__)},
        "platform": platform.platform(),
        "device": device.describe(where) | multiplication(where),
        "cores": os.cpu_count(),
        "commit": commit(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "variables": recorded(),
    }


def multiplication(where: torch.device) -> dict[str, Any]:
    """Return how products of float32 are computed: on a GPU in which format, on a CPU which of them by oneDNN."""
    if where.type == "cuda":
        return {"float32_products": device.products()}
    return {"onednn": sorted(chosen_here())}


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from, "+" where it is edited; None outside one."""
    file = Path(__file__)

    def said(*words: str) -> str:
        command = ["git", "-C", str(file.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        said("ls-files", "--error-unmatch", file.name)  # installed into a project, it is below that one's checkout
        return said("describe", "--always", "--dirty=+", "--abbrev=40", "--match=") or None
    except (OSError, subprocess.SubprocessError):
        return None


def tuples_as_lists(value: Any) -> Any:
    """Return nested data with lists in place of tuples (YAML has no tuples)."""
    if isinstance(value, dict):
        return {key: tuples_as_lists(child) for key, child in value.items()}
    return [tuples_as_lists(child) for child in value] if isinstance(value, list | tuple) else value
