"""The files of a project: those of the repository, which a wheel carries below share/clipkd."""

from __future__ import annotations

import filecmp
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path, PurePosixPath

from clipkd.core.errors import InputError, MachineError

CHECKOUT = Path(__file__).resolve().parents[2]
"""The repository, where this package is used from a clone."""
SHARE = PurePosixPath("share/clipkd")


def sources() -> dict[PurePosixPath, Path]:
    """Return each file of a project, by its path in the project.

    Raises:
        MachineError: the package was installed without them.
    """
    if (CHECKOUT / "workflow/Snakefile").is_file():
        listed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
        return {
            PurePosixPath(folder).relative_to(SHARE) / path.name: path
            for folder, patterns in listed["data-files"].items()
            for pattern in patterns
            for path in sorted(CHECKOUT.glob(pattern))
        }
    try:
        installed = files("clipkd") or []
    except PackageNotFoundError:
        installed = []
    shared = {}
    for file in installed:
        for start in range(len(file.parts) - 2):
            if file.parts[start : start + 2] == SHARE.parts:
                shared[PurePosixPath(*file.parts[start + 2 :])] = Path(str(file.locate()))
    if not shared:
        raise MachineError(
            "this installation holds no workflow: install clipkd from its wheel, or clone the repository"
        )
    return shared


def lay(folder: Path) -> tuple[int, int]:
    """Copy the files into `folder`, which is created; return how many are copied, and how many there are.

    Raises:
        InputError: one of them is there with another content, or `folder` is a file; nothing was written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder")
    found = sources()
    there = [str(folder / name) for name, source in found.items() if is_other(folder / name, source)]
    if there:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise InputError(f"{', '.join(there[:3])}{more} would be overwritten; choose a folder without a project")
    for above in {above for name in found for above in name.parents}:
        if (folder / above).exists() and not (folder / above).is_dir():
            raise InputError(f"{folder / above} is a file where a folder of the project belongs: move it away")
    absent = {name: source for name, source in found.items() if not (folder / name).exists()}
    for name, source in absent.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return len(absent), len(found)


def is_other(path: Path, source: Path) -> bool:
    """Return whether `path` holds anything but a copy of `source`, which an interrupted `clipkd init` leaves."""
    return path.is_symlink() or (path.exists() and not (path.is_file() and filecmp.cmp(path, source, shallow=False)))
