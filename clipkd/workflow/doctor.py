"""The check-up of a machine: versions, devices, disk, folders, what is there already. No torch here: it is quick."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

from clipkd.core import cache
from clipkd.core.artifacts import MANIFEST
from clipkd.core.environment import cores, without_secrets
from clipkd.core.errors import ClipkdError, InputError
from clipkd.core.words import verb
from clipkd.spec.chains import expand
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from clipkd.workflow.checks import Findings

PYTHON = (3, 11)
WORKFLOW = ("snakemake", "snakemake-executor-plugin-slurm", "dvc")
FOLDERS = ("data", "results", "logs", ".snakemake")
LITTLE_SPACE, SLOW_SECONDS = 5e9, 1.0
RESOLVED = Path("results/config.json")


def check_up(folder: Path) -> Findings:
    """Look at everything that a workflow in this folder stands on."""
    findings = Findings()
    for check in (versions, devices, folders, home, environment, dvc_remote, artefacts):
        check(folder, findings)
    return findings


def versions(folder: Path, findings: Findings) -> None:
    """Check Python and the packages."""
    if sys.version_info < PYTHON:
        findings.error("python", f"{platform.python_version()} is too old: clipkd needs 3.11 or newer")
    else:
        findings.ok("python", f"{platform.python_version()}, {sys.executable}")
    for name, least in needed().items():
        version = version_of(name)
        if version is None:
            findings.error(name, "is not installed: `make install`")
        elif numbers(version) < numbers(least):
            findings.error(name, f"{version} is too old, needed is {least}: `make install`")
        else:
            findings.ok(name, version)
    torch, torchvision = version_of("torch") or "", version_of("torchvision") or ""
    if torch.endswith("+cpu") and "+" not in torchvision and sys.platform == "linux":
        findings.warn(
            "torchvision",
            f"{torchvision} is a build for CUDA, beside torch {torch}: clipkd works with both, but outside of it "
            "`import timm` may fail; install the two from one place (docs/install.md)",
        )
    for name in WORKFLOW:
        version = version_of(name)
        if version:
            findings.ok(name, version)
        else:
            findings.warn(name, "is not installed; only the workflow needs it: `make install`")


def needed() -> dict[str, str]:
    """Return package -> the oldest version that clipkd works with; none of them has a known vulnerability."""
    try:
        listed = importlib.metadata.requires("clipkd") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, without an installation
        return {}
    return dict(re.findall(r"^([\w-]+)>=([\d.]+)$", "\n".join(listed), re.MULTILINE))


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts[:3] if part.isdigit())


def devices(folder: Path, findings: Findings) -> None:
    """Say which GPUs the driver shows, and what else computes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    findings.ok("processor", f"{cores()} cores, {memory / 1e9:.0f} GB of memory")
    if shutil.which("nvidia-smi") is None:
        findings.ok("gpu", "none here (no nvidia-smi): training.device is `cpu`, or jobs find one on a node")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        findings.warn("gpu", f"nvidia-smi gives no answer: {error}")
        return
    found = answer.stdout.strip().splitlines()
    if answer.returncode != 0 or not found:
        findings.warn("gpu", f"nvidia-smi fails: {answer.stdout.strip() or answer.stderr.strip()}")
    elif (version_of("torch") or "").endswith("+cpu"):
        findings.warn("gpu", f"{'; '.join(found)}, but torch is built for the CPU only: install a CUDA build")
    else:
        findings.ok("gpu", "; ".join(found))


def folders(folder: Path, findings: Findings) -> None:
    """Check that the workflow's folders can be written, how fast, and how much room there is."""
    for name in FOLDERS:
        # What is not there yet will be made here: looking leaves nothing behind.
        path = folder / name if (folder / name).exists() else folder
        if path == folder and (folder / name).is_symlink():
            findings.error(name, f"{folder / name} is a link to {(folder / name).readlink()}, which does not exist")
            continue
        try:
            taken = write_seconds(path)
        except OSError as error:
            findings.error(name, f"{path.resolve()} can't be written: {error.strerror or error}")
            continue
        free = shutil.disk_usage(path).free
        told = f"{free / 1e9:.0f} GB free, a small file is written, synced and renamed in {1000 * taken:.0f} ms"
        if path.stat().st_mode & stat.S_IWOTH:
            findings.warn(name, f"{told}; anybody may write into it: chmod o-w {path}")
        elif free < LITTLE_SPACE:
            findings.warn(name, f"{told}; that is little room")
        elif taken > SLOW_SECONDS:
            findings.warn(name, f"{told}; that is slow: checkpoints and logs wait for it")
        else:
            findings.ok(name, told)


def home(folder: Path, findings: Findings) -> None:
    """Check that Snakemake finds a folder for its cache: a container's user may have no home, or `/`."""
    advice = "Snakemake can't start: set HOME to a folder that you can write to"
    try:
        caches = cache.folder()
    except RuntimeError:
        findings.error("home", f"this user (number {os.geteuid()}) has none; {advice}")
        return
    there = next(path for path in (caches, *caches.parents) if path.exists())
    if os.access(there, os.W_OK | os.X_OK):
        findings.ok("home", f"caches go to {caches}")
    else:
        findings.error("home", f"{caches} can't be written; {advice}")


def write_seconds(folder: Path) -> float:
    """Return how long it takes to write, sync and rename a small file: the better of two."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        path = folder / f".clipkd-doctor-{uuid.uuid4().hex}"
        with open(path, "wb") as stream:
            stream.write(b"x" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
        path.rename(path.with_suffix(".renamed"))
        taken.append(time.perf_counter() - start)
        path.with_suffix(".renamed").unlink()
    return min(taken)


def environment(folder: Path, findings: Findings) -> None:
    """Warn of variables that change what is loaded; say whether the hub is used."""
    if os.environ.get("PYTHONPATH"):
        findings.warn("PYTHONPATH", "is set: it changes which code is loaded; unset it")
    if os.environ.get("HF_ENDPOINT"):
        findings.warn(
            "HF_ENDPOINT",
            f"teachers are fetched from {without_secrets(os.environ['HF_ENDPOINT'])}, not from the hub itself",
        )
    if os.environ.get("HF_HUB_OFFLINE"):
        findings.ok("HF_HUB_OFFLINE", "nothing is fetched: datasets and teachers must be there")


def dvc_remote(folder: Path, findings: Findings) -> None:
    """Say whether embeddings can be shared."""
    texts = [path.read_text(encoding="utf-8") for path in (folder / ".dvc").glob("config*") if path.is_file()]
    has_remote = any("remote" in line for text in texts for line in text.splitlines() if line.startswith("["))
    findings.ok("dvc remote", "is set" if has_remote else "none is set: nothing is shared (docs/dvc.md)")


def artefacts(folder: Path, findings: Findings) -> None:
    """Say which datasets and teachers are there, and which the last started grid still lacks."""
    for kind, pattern in (("datasets", "[!.]*"), ("teachers", "[!.]*/[!.]*")):
        place = folder / "data" / kind
        there = sorted({path.relative_to(place).parts[0] for path in place.glob(f"{pattern}/{MANIFEST}")})
        findings.ok(kind, ", ".join(there) if there else "none yet")
    try:
        lacking = missing_inputs(folder)
    except (ClipkdError, OSError) as error:
        findings.warn("inputs", str(error))
        return
    if lacking:
        findings.warn(
            "inputs",
            f"{', '.join(lacking)} of the grid in {RESOLVED} {verb(len(lacking))} not there yet: fetched where the "
            "workflow is started",
        )


def missing_inputs(folder: Path) -> list[str]:
    """Return the datasets and teachers that the resolved config asks for and that are not there."""
    if not (folder / RESOLVED).exists():
        return []
    try:
        config = Config.model_validate_json((folder / RESOLVED).read_text(encoding="utf-8"))
        cells, layout = expand(config)[0], Layout.of(config, folder / "data")
    except (ValueError, KeyError, InputError):
        return []  # of another version; the workflow writes it anew
    wanted = {cell.dataset: layout.dataset(cell.dataset_spec) for cell in cells}
    every = [one for cell in cells for one in cell.by_teacher]
    specs = [(one.teacher, one.teacher_spec) for one in every]
    wanted |= {name: layout.teacher(spec) for name, spec in specs if spec and not spec.is_imported}
    return sorted(name for name, path in wanted.items() if not (path / MANIFEST).exists())
