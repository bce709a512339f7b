"""Checkpoints: the whole state of an unfinished training, to go on from after a crash.

Each is an artefact of its own in the run folder's hidden `.resume/`, named by its step: written aside, synced,
renamed, hashed. The newest two are kept, so that one that is found damaged leaves the one before. They are no
outputs of the workflow, which deletes those of a failed job.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch

from clipkd.core.artifacts import building, open_artifact, read_manifest
from clipkd.core.errors import DataError, MachineError
from clipkd.core.fingerprint import Identity, differences, fingerprint
from clipkd.core.progress import say

KIND = "checkpoint"
STATE = "state.pt"
KEPT = 2


class Checkpoints:
    """The checkpoints of one run; whoever uses them holds the run folder's lock."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """Name the folder that holds them, and what makes the run."""
        self.folder, self.identity = folder, identity

    def steps(self) -> list[Path]:
        """Return the checkpoints' folders, the newest first: by step, never by time."""
        found = self.folder.iterdir() if self.folder.is_dir() else []
        return sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name), reverse=True)

    def last_step(self) -> int | None:
        """Return after how many steps this very run was saved last; None where it was not."""
        return next((int(path.name) for path in self.steps() if self.is_of_this_run(path)), None)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save the state after `step` steps of the run; drop all but the newest few.

        Raises:
            MachineError: the disk is full or can't be written; the checkpoints that are there stay whole.
        """
        content = io.BytesIO()
        torch.save(state, content)
        try:
            self.sweep()
            with building(self.folder / f"{step:010d}", KIND, self.identity) as draft:
                (draft.path / STATE).write_bytes(content.getbuffer())
                draft.facts |= {"step": step}
        except OSError as error:
            raise MachineError(f"can't save the training in {self.folder}: {error.strerror or error}") from None
        # One of a later step was damaged: the run resumed from before it.
        mine = [path for path in self.steps() if int(path.name) <= step and self.is_of_this_run(path)]
        for path in {*self.steps()} - {*mine[:KEPT]}:
            shutil.rmtree(path, ignore_errors=True)

    def is_of_this_run(self, path: Path) -> bool:
        """Return whether a saved state says that it is of this run."""
        try:
            return read_manifest(path)["fingerprint"] == fingerprint(self.identity)
        except DataError:
            return False

    def sweep(self) -> None:
        """Remove what a killed save left."""
        for path in self.folder.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def newest(self) -> dict[str, Any] | None:
        """Return the newest sound state of this very run; None where it has none yet.

        A damaged one is passed over, aloud, for the one before. Those of another run, which the same folder
        held before, stay until this run saves its first; a line says so.

        Raises:
            DataError: there are checkpoints of this run, and none is sound.
        """
        damaged, others = [], []
        for path in self.steps():
            try:
                manifest = read_manifest(path)
                if manifest["kind"] == KIND and manifest["fingerprint"] != fingerprint(self.identity):
                    others.append(manifest["identity"])
                    continue
                return self.read(path)
            except DataError as error:
                damaged.append(str(error))
                say(f"{path} is passed over: {error}")
        if damaged:
            raise DataError(
                f"no checkpoint in {self.folder} is sound; remove that folder to start the run from the beginning:\n  "
                + "\n  ".join(damaged)
            )
        if others:
            lines = "\n  ".join(differences(others[0], self.identity))
            say(
                f"{self.folder} is of another run, which is dropped when this one is saved; training from the "
                f"beginning:\n  {lines}"
            )
        return None

    def read(self, path: Path) -> dict[str, Any]:
        """Return a checkpoint's state, every byte checked; nothing in it is run."""
        artifact = open_artifact(path, KIND, self.identity)
        try:
            return torch.load(artifact.file(STATE), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for what it can't or won't read
            raise DataError(f"{path / STATE} is no saved training ({type(error).__name__})") from None

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)
