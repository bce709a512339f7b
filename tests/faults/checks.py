"""Checks of the fault catalogue: each must pass as it is, and fail without each of its protections."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clipkd.core.errors import ClipkdError

FULL = os.environ.get("CLIPKD_FAULTS") == "all"
"""`make test-faults` asks for every case and control, `make test` for a few of each kind, and one control of a file."""
CONTROLS = FULL or os.environ.get("CLIPKD_FAULTS") == "controls"
"""Every control: `make test-controls`."""
Mutant = Callable[[pytest.MonkeyPatch], Any]
CONTROLLED: set[str] = set()
"""The files of which a control runs already."""


def amount(few: int, all_of_them: int) -> int:
    """Return how many cases to try."""
    return all_of_them if FULL else few


@contextmanager
def turns_red() -> Iterator[None]:
    """Demand that what is checked inside fails: a check that can't fail proves nothing.

    An error of any other kind is a mistake of the mutant or of the check, and no proof either.
    """
    try:
        yield
    except (AssertionError, pytest.fail.Exception, ClipkdError):
        return
    pytest.fail("with its protection taken out the check stays green")


def fault(*rows: str, **mutants: Mutant) -> Callable[[Callable], Callable]:
    """Make a test of a check: once as it is, which must pass, and once for each mutant, which must turn it red.

    Args:
        rows: the rows of the catalogue that it is for.
        mutants: what takes a protection out; its name says which.
    """

    def decorate(check: Callable) -> Callable:
        def test(mutant: str | None, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
            if mutant is None:
                check(**given)
                return
            mutants[mutant](monkeypatch)
            monkeypatch.setattr(sys.modules[__name__], "FULL", CONTROLS)  # a race may end well a few times
            with turns_red():
                check(**given)

        wanted = inspect.signature(check)
        mine = {name: inspect.signature(test).parameters[name] for name in ("mutant", "monkeypatch")}
        kept = [parameter for name, parameter in wanted.parameters.items() if name != "monkeypatch"]
        assert len(kept) == len(wanted.parameters), "a check patches nothing: that is what mutants do"
        test.__signature__ = wanted.replace(parameters=[*mine.values(), *kept])  # type: ignore[attr-defined]
        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        test.pytestmark = list(getattr(check, "pytestmark", []))  # type: ignore[attr-defined]
        names = list(mutants)
        if not CONTROLS:
            names = [] if check.__module__ in CONTROLLED else names[:1]
            CONTROLLED.update([check.__module__] * len(names))
        return pytest.mark.parametrize(
            "mutant", [None, *names], ids=["protected", *(f"without-{name}" for name in names)]
        )(test)

    return decorate


def replaced(target: str, by: Any) -> Mutant:
    """Return the mutant that puts something else in the place of `package.module.name`."""
    return lambda monkeypatch: monkeypatch.setattr(target, by)


def nothing(*arguments: Any, **more: Any) -> None:
    """Do nothing: what a protection is replaced by."""
