"""The site builds without a warning, holds every page, and reads without network."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.docs.conftest import ROOT

from pages import pages  # isort: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder


def test_every_page_is_there(site):
    for page in pages():
        made = site / re.sub(r"README\.md$", "index.html", page).replace(".md", ".html")
        title = re.search(r"^# (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)[1]
        assert title in made.read_text(encoding="utf-8"), page


def test_nothing_comes_from_elsewhere(site):
    """No script, style, picture or font has an address of its own; links that a reader follows may."""
    loaded = []
    for made in site.rglob("*.html"):
        text = made.read_text(encoding="utf-8")
        loaded += re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]*\srel=\"(?!canonical)[^>]*href=\"([^\"]+)\"", text)
    for style in site.rglob("*.css"):
        loaded += re.findall(r"url\(['\"]?([^)'\"]+)", style.read_text(encoding="utf-8"))
    assert any(name.endswith(".js") for name in loaded)
    assert not [name for name in loaded if re.match(r"(https?:)?//", name)]


def test_formulas_are_converted(site):
    text = (site / "docs/method.html").read_text(encoding="utf-8")
    assert text.count("<math") > 50
    assert not re.search(r"\\(mathcal|mathrm|frac|cos)\b", text)
    assert "$" not in re.sub(r"<(code|pre|script).*?</\1>", "", text, flags=re.DOTALL)
