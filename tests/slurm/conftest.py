"""One cluster for all scenarios, and one run on this machine alone that they are compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing, place
from tests.slurm.project import Project

RUNNING: list[Cluster] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the daemons, and the main processes, last said where a test fails."""
    report = yield
    if report.failed:
        for cluster in RUNNING:
            report.sections.append((f"SLURM in {cluster.root}", cluster.last_lines()))
        for log in sorted(Path(item.funcargs.get("tmp_path", "/none")).glob("project/main*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-3000:]))
    return report


def brought_up(**options) -> Iterator[Cluster]:
    """Yield a running cluster."""
    why = missing(options.get("accounting", False))
    if why:
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="clipkd-slurm-", dir=place()) as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder), **options).start()
        RUNNING.append(cluster)
        try:
            yield cluster
        finally:
            RUNNING.remove(cluster)
            cluster.run("scancel", "--user=root", "--full", check=False)
            cluster.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with accounting."""
    yield from brought_up(accounting=True)


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[Cluster]:
    """A cluster without accounting: `sacct` is there and fails."""
    yield from brought_up()


@pytest.fixture(scope="session")
def local(tmp_path_factory) -> Project:
    """The grid, run to its end on this machine without SLURM and without faults."""
    project = Project(tmp_path_factory.mktemp("local"), None)
    project.snakemake(slurm=False).succeed(900)
    return project


@pytest.fixture
def project(tmp_path, request, local) -> Iterator[Callable[..., Project]]:
    """Make a project that has the data, and no students yet; in the end nothing of it runs."""
    projects = []

    def make(cluster: str = "cluster") -> Project:
        projects.append(Project(tmp_path / "project", request.getfixturevalue(cluster)))
        projects[-1].copy_data(local)
        return projects[-1]

    yield make
    for made in projects:
        made.end()
