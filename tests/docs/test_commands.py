"""Every command of the documentation is typed in a copy of the project, or stands in commands.yaml with a reason.

`make test` types the fast ones; `make test-docs` reads page by page and types everything that is not excused.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from clipkd.core.errors import InputError
from clipkd.spec import config as settings
from tests.docs.blocks import Block, Command, blocks, commands, page_commands
from tests.docs.conftest import ROOT, Reader

from pages import grouped  # isort: skip

LISTED = yaml.safe_load((Path(__file__).parent / "commands.yaml").read_text(encoding="utf-8"))
FAST, SLOW, EXCUSED = set(LISTED["fast"]), set(LISTED["slow"]), LISTED["excused"]
READING_ORDER = [page.path for group in grouped().values() for page in group]
ELSEWHERE = LISTED["pages"]
COMMANDS = [command for page in READING_ORDER if page not in ELSEWHERE for command in page_commands(ROOT, page)]
ONCE = list({command.key: command for command in COMMANDS if command.key in FAST}.values())
TYPED = list(dict.fromkeys(command.page for command in COMMANDS if command.key in SLOW))


def unknown(found: list[Command]) -> list[Command]:
    """Return the commands that are neither typed nor excused."""
    return [command for command in found if command.key not in FAST | SLOW | EXCUSED.keys()]


def test_every_command_is_typed_or_excused():
    left = "\n".join(str(command) for command in unknown(COMMANDS))
    assert not left, (
        f"tests/docs/commands.yaml says nothing of these commands (a block that holds none is marked ```text):\n{left}"
    )


def test_a_new_command_is_noticed(tmp_path):
    """The control: the same check on a page that says something new, in each form that a page can say it."""
    page = tmp_path / "new.md"
    page.write_text(
        "```\nsnakemake -n\nclipkd frobnicate --hard  # new\n```\n\n"
        "- a list\n\n  ```bash\n  $ make \\\n      tea\n  ```\n"
    )
    assert [(c.line, c.text) for c in unknown(page_commands(tmp_path, "new.md"))] == [
        (3, "clipkd frobnicate --hard"),
        (9, "make tea"),
    ]


def test_nothing_is_listed_that_no_page_says():
    said = {command.key for command in COMMANDS}
    assert {*FAST, *SLOW, *EXCUSED} <= said
    assert not FAST & SLOW
    assert not (FAST | SLOW) & EXCUSED.keys()


def test_an_excuse_names_a_reason_and_tests_that_exist():
    for command, reason in EXCUSED.items():
        assert len(reason.split()) >= 3, command
        for path in re.findall(r"(?:tests|\.ci)/[\w/.]+\w", reason):
            assert (ROOT / path).exists(), f"{command}: {path} does not exist"


def test_a_page_that_is_typed_elsewhere_is_named_there():
    for page, test in ELSEWHERE.items():
        assert page in READING_ORDER
        assert page in (ROOT / test).read_text(encoding="utf-8")


def test_a_here_document_is_one_command():
    text = "```\npython - <<'EOF'\nprint(1)  # kept\n\nprint(2)\nEOF\nclipkd list   # the names\n```"
    (block,) = blocks("page.md", text)
    assert [command.text for command in commands(block)] == [
        "python - <<'EOF'\nprint(1)  # kept\n\nprint(2)\nEOF",
        "clipkd list",
    ]


@pytest.mark.parametrize("command", ONCE, ids=lambda command: command.key[:60])
def test_a_fast_command_works(command: Command, reader: Reader):
    answer = reader.types(command.text, timeout=120)
    assert answer.returncode == 0, f"{command}\n{answer.stdout}"


def test_a_command_that_fails_is_noticed(reader: Reader):
    assert reader.types("clipkd frobnicate", timeout=60).returncode == 2
    assert reader.types("false | cat", timeout=60).returncode == 1
    assert "killed after 1 s" in reader.types("echo started; sleep 60", timeout=1).stdout


@pytest.mark.docs
@pytest.mark.parametrize("page", TYPED)
def test_a_page_works_from_top_to_bottom(page: str, reader: Reader):
    for command in page_commands(ROOT, page):
        if command.key not in EXCUSED:
            answer = reader.types(command.text, timeout=3600)
            assert answer.returncode == 0, f"{command}\n{answer.stdout[-4000:]}"


BLOCKS = [block for page in READING_ORDER for block in blocks(page, (ROOT / page).read_text(encoding="utf-8"))]


def load(text: str, folder: Path) -> None:
    """Check a config as Snakemake does, over config/config.yaml; a fragment gets a grid for its datasets."""
    text = text.replace("<commit>", "0" * 40)  # the reader's
    values = yaml.safe_load(text)
    if "grid" not in values and "sources" in values:
        axes = {"teachers": ["digits-vit-s"], "students": ["tiny-32"], "train_types": ["embed-KD"], "seeds": [0]}
        block = {"name": "fragment", "datasets": sorted(values["sources"]), "recipes": ["corrected"], **axes}
        text += f"\n{yaml.safe_dump({'grid': [block]})}"
    (folder / "page.yaml").write_text(text)
    settings.load([ROOT / "config/config.yaml", folder / "page.yaml"])


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "yaml"], ids=lambda block: f"{block.page}:{block.line}"
)
def test_a_config_on_a_page_is_a_config(block: Block, tmp_path: Path):
    load(block.text, tmp_path)


def test_a_config_with_a_typing_error_is_noticed(tmp_path: Path):
    with pytest.raises(InputError, match="epochs"):
        load("training: {epoch: 3}\n", tmp_path)
