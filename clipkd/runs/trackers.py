"""Services that follow trainings beside TensorBoard, each off unless its environment variable names a project.

A variable also reaches the jobs of a workflow, and is no setting of a run. Where a service fails, the training goes on.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from clipkd.core.environment import masked
from clipkd.core.errors import MachineError
from clipkd.core.fingerprint import fingerprint
from clipkd.core.progress import say
from clipkd.spec.settings import Config


class Tracker:
    """One run at one service; `begin`, `add` and `end` may raise whatever the service's package raises."""

    title: ClassVar[str]
    package: ClassVar[str]
    """Its name as an extra of clipkd too."""

    def begin(self, library: Any, project: str, folder: Path, run: str, name: str, settings: dict[str, Any]) -> None:
        """Begin a run, or go on with it.

        Args:
            library: the imported package.
            project: where runs are listed together.
            folder: the run folder.
            run: the run's fingerprint: a resumed training continues its curves.
            name: what the run is called.
            settings: the run's settings.
        """
        raise NotImplementedError

    def add(self, epoch: int, numbers: dict[str, float]) -> None:
        """Add an epoch's point to each curve."""
        raise NotImplementedError

    def end(self, is_complete: bool, numbers: dict[str, float], files: Sequence[Path]) -> None:
        """End the run, with its final numbers and its tables."""
        raise NotImplementedError


class WeightsAndBiases(Tracker):
    """WANDB_MODE=offline keeps the run in its folder."""

    title, package = "Weights & Biases", "wandb"

    def begin(self, library: Any, project: str, folder: Path, run: str, name: str, settings: dict[str, Any]) -> None:
        self.library = library
        self.run = library.init(
            project=project,
            dir=folder,
            id=run,
            name=name,
            resume="allow",
            reinit="create_new",  # several runs may be trained side by side
            config=settings,
        )

    def add(self, epoch: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=epoch)

    def end(self, is_complete: bool, numbers: dict[str, float], files: Sequence[Path]) -> None:
        self.run.summary.update(numbers)
        if files:
            artifact = self.library.Artifact(f"run-{self.run.id}-tables", type="tables")
            for path in files:
                artifact.add_file(str(path))
            self.run.log_artifact(artifact)
        self.run.finish(exit_code=0 if is_complete else 1)


class MLflow(Tracker):
    """MLFLOW_TRACKING_URI says where, as in every program that uses MLflow."""

    title, package = "MLflow", "mlflow"
    tag: ClassVar[str] = "clipkd.run"

    def begin(self, library: Any, project: str, folder: Path, run: str, name: str, settings: dict[str, Any]) -> None:
        # Its own choice is minutes for each call to a server that is away.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.client = library.MlflowClient()
        found = self.client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self.client.create_experiment(project)
        before = self.client.search_runs([experiment], f"tags.`{self.tag}` = '{run}'", max_results=1)
        if before:
            self.run = before[0].info.run_id
            self.client.update_run(self.run, "RUNNING")
            return  # it has its parameters, and MLflow refuses others: it may resume on another device
        self.run = self.client.create_run(experiment, run_name=name, tags={self.tag: run}).info.run_id
        for key, value in settings.items():
            self.client.log_param(self.run, key, str(value)[:500])

    def add(self, epoch: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.client.log_metric(self.run, name, value, step=epoch)

    def end(self, is_complete: bool, numbers: dict[str, float], files: Sequence[Path]) -> None:
        for name, value in numbers.items():
            self.client.log_metric(self.run, name, value)
        for path in files:
            self.client.log_artifact(self.run, str(path))
        self.client.set_terminated(self.run, "FINISHED" if is_complete else "KILLED")


class Trackio(Tracker):
    """TRACKIO_DIR and TRACKIO_SPACE_ID say where, as in every program that uses trackio."""

    title, package = "trackio", "trackio"

    def begin(self, library: Any, project: str, folder: Path, run: str, name: str, settings: dict[str, Any]) -> None:
        # In a context of its own: it would end another run that it finds in this one.
        self.run = contextvars.copy_context().run(
            library.init, project, f"{name}-{run}", config=settings, resume="allow", embed=False, auto_log_gpu=False,
            auto_log_cpu=False,
        )  # fmt: skip

    def add(self, epoch: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=epoch)

    def end(self, is_complete: bool, numbers: dict[str, float], files: Sequence[Path]) -> None:
        if numbers:
            self.run.log(numbers)
        for path in files:
            self.run.log_artifact(path, type="tables")
        self.run.finish()


KINDS: dict[str, type[Tracker]] = {
    "CLIPKD_WANDB": WeightsAndBiases,
    "CLIPKD_MLFLOW": MLflow,
    "CLIPKD_TRACKIO": Trackio,
}
"""Environment variable -> what it asks for."""


class Trackers:
    """The services that the user asked for; one that fails is left out from there on, with one line."""

    def __init__(self, folder: Path, run: str, name: str, settings: dict[str, Any]) -> None:
        """Begin a run at each; arguments as for `Tracker.begin`.

        Raises:
            MachineError: a package is not installed; nothing has been trained yet.
        """
        asked = {variable: project for variable in KINDS if (project := os.environ.get(variable))}
        libraries = {variable: imported(variable) for variable in asked}
        self.following = {variable: KINDS[variable]() for variable in asked}
        self.each(lambda variable, one: one.begin(libraries[variable], asked[variable], folder, run, name, settings))

    def each(self, call: Callable[[str, Tracker], object]) -> None:
        """Call something of each; what they print goes to standard error."""
        for variable, one in list(self.following.items()):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    call(variable, one)
            except Exception as error:  # whatever it is, a training is worth more
                del self.following[variable]
                first = (str(error).splitlines() or [""])[0][:200]
                say(masked(f"warning: {one.title} failed ({type(error).__name__}: {first}); it continues without"))

    def add(self, epoch: int, numbers: dict[str, float]) -> None:
        """Add an epoch's point to each curve."""
        self.each(lambda _, one: one.add(epoch, numbers))

    def end(self, is_complete: bool, numbers: dict[str, float], files: Sequence[Path] = ()) -> None:
        """End the run, with its final numbers and its tables."""
        self.each(lambda _, one: one.end(is_complete, numbers, [path for path in files if path.is_file()]))


def publish_tables(files: Sequence[Path], folder: Path, config: Config) -> None:
    """Send the tables of a grid, as those of a run of their own; nothing where the user asked for no service.

    Args:
        files: what is sent.
        folder: where a service keeps what it has not sent yet.
        config: that of the grid: tables of an equal one are a new version of the same run.

    Raises:
        MachineError: a package is not installed.
    """
    run = fingerprint({"tables": config.model_dump(mode="json", exclude_unset=True)})
    Trackers(folder, run, "tables", {}).end(True, {}, files)


def imported(variable: str) -> Any:
    """Return the package of a service; MachineError where it is not installed."""
    package = KINDS[variable].package
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MachineError(
            f"{variable} is set, but {package} is not installed: pip install 'clipkd[{package}]'"
        ) from None
