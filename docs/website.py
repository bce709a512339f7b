"""Hooks for mkdocs: all pages of the project, their order, and formulas as MathML.

Pages outside `docs/` keep their place and links. The site works offline: formulas are converted here, and no script
or font is loaded from elsewhere.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pages import ROOT, grouped, pages

STYLE = "docs/website.css"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the order of the pages, the forge's heading anchors, and the formula extension."""
    config.nav = [{group: [page.path for page in members]} for group, members in grouped().items()]
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    config.extra_css.append(STYLE)
    extensions: list[Any] = config.markdown_extensions
    extensions.append(Formulas())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files that mkdocs found in docs/ with all pages of the project and the files that they link to."""
    for file in list(files):
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
    for path in sorted({*pages(), *linked_files(), STYLE}):
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to folders, which work on a forge but not on a website, into plain text."""
    here = (ROOT / page.file.src_uri).parent
    return LINK.sub(lambda link: link[2] if (here / link[3]).is_dir() else link[0], markdown)


def linked_files() -> set[str]:
    """Return the files of the project, pages left out, that pages link to or show."""
    found = set()
    for page in pages():
        for link in LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
            target = (ROOT / page).parent / link[3]
            if target.is_file() and target.suffix != ".md":
                found.add(target.resolve().relative_to(ROOT).as_posix())
    return found


def slug(heading: str, separator: str = "-") -> str:
    """Return a heading's anchor as the forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


class Formulas(Extension):
    """`$...$` within a line and `$$...$$`, also over several lines, as MathML."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(Displayed(md), "displayed formulas", 24)  # after fenced code (25)
        md.inlinePatterns.register(Inline(r"(?<![\\$\w])\$(?=\S)([^$]+?)(?<=\S)\$(?!\w)", md), "formulas", 185)


class Displayed(Preprocessor):
    """Displayed formulas."""

    def run(self, lines: list[str]) -> list[str]:
        def converted(found: re.Match[str]) -> str:
            formula = convert(" ".join(found[1].split()), display="block")
            return "\n" + self.md.htmlStash.store(f'<div class="formula">{formula}</div>') + "\n"

        return re.sub(r"^\$\$(.+?)\$\$$", converted, "\n".join(lines), flags=re.MULTILINE | re.DOTALL).split("\n")


class Inline(InlineProcessor):
    """Formulas in a sentence; code comes first (backticks have priority 190)."""

    def handleMatch(self, found: re.Match[str], data: str) -> tuple[ET.Element | str, int, int]:  # type: ignore[override]
        return self.md.htmlStash.store(convert(found[1])), found.start(0), found.end(0)
