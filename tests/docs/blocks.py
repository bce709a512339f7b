"""Fenced blocks of Markdown pages, and the shell commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SHELL = {"", "bash", "sh", "shell", "console"}
"""Languages of blocks that hold commands. A block of anything else names its language: text, at the least."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    """Of its first fence."""
    language: str
    text: str

    @property
    def is_shell(self) -> bool:
        return self.language in SHELL


@dataclass(frozen=True)
class Command:
    """A command that a page tells its reader to type."""

    page: str
    line: int
    text: str
    """Without comments, one line unless it holds a here-document."""

    @property
    def key(self) -> str:
        """What commands.yaml knows it by: the command, without what a here-document holds."""
        return self.text.splitlines()[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.key}"


def blocks(page: str, text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    opened: tuple[int, str, str, list[str]] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"^ {0,3}(```+|~~~+)\s*(\S*)", line)
        if opened is None:
            if fence:
                opened = (number, fence[1], fence[2].lower(), [])
        elif fence and not fence[2] and fence[1].startswith(opened[1]):
            found.append(Block(page, opened[0], opened[2], "\n".join(opened[3])))
            opened = None
        else:
            opened[3].append(line)
    assert opened is None, f"{page}:{opened[0]}: this block is never closed"
    return found


def commands(block: Block) -> list[Command]:
    """Return the commands of a shell block: lines, joined where one goes on, with here-documents whole."""
    found: list[Command] = []
    lines = iter(enumerate(block.text.splitlines(), block.line + 1))
    for number, line in lines:
        whole = without_comment(line)
        while whole.endswith("\\"):
            whole = f"{whole[:-1].rstrip()} {without_comment(next(lines)[1]).strip()}"
        here = re.search(r"<<-?\s*['\"]?(\w+)['\"]?", whole)
        if here:
            for _, more in lines:
                whole += f"\n{more}"
                if more.strip() == here[1]:
                    break
        if whole:
            found.append(Command(block.page, number, whole))
    return found


def without_comment(line: str) -> str:
    """Return a line without its comment and, at its beginning, a prompt."""
    return re.sub(r"(^|\s)#.*$", "", line).strip().removeprefix("$ ")


def page_commands(root: Path, page: str) -> list[Command]:
    """Return every command of a page, in the order in which a reader types them."""
    found = blocks(page, (root / page).read_text(encoding="utf-8"))
    return [command for block in found if block.is_shell for command in commands(block)]
