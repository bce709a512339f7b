"""The tests on each declared Python that is installed here: `make test-pythons`, or `nox -- tests/spec` for some."""

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
"""As pyproject.toml declares them; those that are not installed are reported as skipped."""
FEW = ("tests/cells", "tests/cli", "tests/config", "tests/methods", "tests/tables", "tests/use/test_model.py")
"""Without arguments: what differs between versions of Python shows here, within minutes."""


@nox.session(python=PYTHONS[0], default=False)
def extras(session: nox.Session) -> None:
    """What the lock can't hold: `clipkd demo` and the tracking services, each with its real package."""
    session.install("--requirement", "requirements/lock.txt")
    session.install("gradio>=6", "mlflow>=3.5", "trackio>=0.20")  # older Pillow, pyarrow, ...
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    tests = ("tests/use/test_demo.py", "tests/training/test_board.py")
    session.run("python", "-m", "pytest", "--numprocesses", "0", *tests, env={"OMP_NUM_THREADS": "1"})


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    session.install("--requirement", "requirements/lock.txt")
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    session.run(
        "python", "-m", "pytest", "--numprocesses", "0", *(session.posargs or FEW), env={"OMP_NUM_THREADS": "1"}
    )
