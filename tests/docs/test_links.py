"""Links, and what pages mention in code: files, make targets and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clipkd.cli import VERBS
from tests.docs.conftest import ROOT

from pages import ORDER, grouped, pages  # isort: skip
from website import slug  # isort: skip

PAGES = pages()
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
TOPS = "benchmarks|clipkd|config|docs|profiles|requirements|tests|workflow"
"""Folders of the project: a path below them, in code, is a file or folder that exists."""


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> set[str]:
    """Return the anchors of a page as the forges make them: a second heading of a name ends in -1."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", prose(text), re.MULTILINE):
        anchor = slug(re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        count = found[anchor] = found.get(anchor, -1) + 1
        anchors.add(f"{anchor}-{count}" if count else anchor)
    return anchors


def broken(root: Path, page: str) -> list[str]:
    """Return what is wrong with the links of a page."""
    wrong = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose((root / page).read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:", target):
            if not target.startswith(("https://", "mailto:")):
                wrong.append(f"{page}: {target} is not https")
            continue
        path, _, anchor = target.partition("#")
        file = (root / page).parent / path if path else root / page
        if not file.exists() or not file.resolve().is_relative_to(root.resolve()):
            wrong.append(f"{page}: {target}: there is no such file in the project")
        elif anchor and anchor not in headings(file.read_text(encoding="utf-8")):
            wrong.append(f"{page}: {target}: there is no such heading")
    return wrong


def missing(text: str) -> list[str]:
    """Return the files, folders, make targets and commands that do not exist; modules also outside of code."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    wrong = []
    for code in re.findall(r"`([^`\n]+)`", prose(text)):
        path = re.fullmatch(rf"(?:{TOPS})/[\w./-]+\.(?:py|md|yaml|svg|smk|txt|json|toml|sh)", code)
        path = path or re.fullmatch(rf"(?:{TOPS})/[\w./-]*/?", code)
        if path and not (ROOT / code).exists() and not re.search(r"mine|my-|lock\.json", code):
            wrong.append(code)
        target = re.fullmatch(r"make ([a-z-]+)(?: .*)?", code)
        verb = re.match(r"clipkd ([a-z][a-z-]*)", code)
        if (target and target[1] not in targets) or (verb and verb[1] not in VERBS):
            wrong.append(code)
    modules = re.findall(r"(?<![\w/.-])clipkd/[\w/]+\.py\b", text)
    modules += [
        f"{dotted.replace('.', '/')}.py" for dotted in re.findall(r"^from (clipkd(?:\.\w+)+) import", text, re.M)
    ]
    return wrong + [name for name in modules if name not in wrong and not is_module(name)]


def is_module(name: str) -> bool:
    """Return whether `name`, a path ending in .py, is a module or a package."""
    return (ROOT / name).exists() or (ROOT / name.removesuffix(".py") / "__init__.py").exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert not broken(ROOT, page)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_mentioned_exists(page):
    assert not missing((ROOT / page).read_text(encoding="utf-8"))


def test_broken_links_are_noticed(tmp_path):
    (tmp_path / "a.md").write_text(
        "# A\n\n[b](b.md) [c](#nowhere) [d](../../x) [e](http://example.org) [good](#a)\n`[f](code.md)`\n"
    )
    assert [line.split(": ")[1].split(" ")[0] for line in broken(tmp_path, "a.md")] == [
        *("b.md", "#nowhere", "../../x", "http://example.org"),
    ]
    assert missing("`docs/nothing.md`, `make tea`, `clipkd frobnicate`, `make demo`, `docs/method.md`") == [
        *("docs/nothing.md", "make tea", "clipkd frobnicate"),
    ]
    assert missing("`clipkd/no/`, `clipkd/core/`\n```text\nclipkd/nothing.py\n```\nfrom clipkd.nowhere import x\n") == [
        *("clipkd/no/", "clipkd/nothing.py", "clipkd/nowhere.py"),
    ]


def test_every_page_is_reached_from_the_readme():
    reached, left = set(), ["README.md"]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            file = ((ROOT / page).parent / target.partition("#")[0]).resolve()
            if file.suffix == ".md" and file.is_relative_to(ROOT):
                left.append(file.relative_to(ROOT).as_posix())
    assert set(PAGES) <= reached


def test_every_page_has_a_place():
    assert {path for paths in ORDER.values() for path in paths} == set(PAGES)


def test_every_page_has_a_title_and_says_what_it_is_for():
    for members in grouped().values():
        for page in members:
            assert page.text.startswith("# "), f"{page.path}: the first line is no heading"
            assert 15 <= len(page.summary) <= 240, f"{page.path}: its first sentence is '{page.summary}'"
