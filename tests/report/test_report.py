"""The report in a real browser: it sorts, filters, fits a phone, prints, and asks nothing of the network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from clipkd.core.artifacts import write_json
from clipkd.core.errors import DataError
from clipkd.report import TEMPLATES, overview, write_report
from clipkd.report.figures import figure_stems
from clipkd.report.pictures import Picture, natural_width
from clipkd.runs.record import FAILED
from clipkd.tables.comparisons import Comparison
from clipkd.tables.summary import Difference
from tests.synthetic import Study, demo, write_study

EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">&amp;'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="600" height="300"><rect width="600" height="300"/></svg>'
WIDE = "document.documentElement.scrollWidth > innerWidth"


def draw(study: Study) -> Path:
    """Put plain pictures in the figures' place: they are drawn, slowly, by tests of their own."""
    folder = study.root / "figures"
    folder.mkdir()
    for stem in figure_stems(study.config):
        (folder / f"{stem}.svg").write_text(SVG)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a complete grid whose numbers are known."""
    study = write_study(demo(), tmp_path_factory.mktemp("study"))
    path = study.root / "report.html"
    write_report(study.config, study.results, study.data, draw(study), path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser of this machine."""
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser here: install chromium")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser, report) -> Iterator[Any]:
    """The report on a desktop; it must not complain of anything."""
    opened, said = browser.new_page(viewport={"width": 1280, "height": 900}), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert said == []


def column(page: Any, section: str, title: str) -> list[str]:
    """Return what the rows that a person sees hold in a column."""
    table = page.locator(f"#{section} table").first
    titles = [text.strip() for text in table.locator("thead tr:last-child th").all_inner_texts()]
    rows = [row for row in table.locator("tbody tr").all() if row.is_visible()]
    return [row.locator("td").nth(titles.index(title)).inner_text().strip() for row in rows]


def numbers(texts: list[str]) -> list[float]:
    return [float(re.match(r"[+-]?[\d.]+", text.replace("−", "-"))[0]) for text in texts]  # type: ignore[index]


def press(page: Any, section: str, title: str) -> None:
    page.locator(f"#{section} table").first.get_by_role("button", name=title, exact=True).click()


def choose(page: Any, section: str, label: str, value: str) -> None:
    page.locator(f"#{section} .tools").first.get_by_label(label, exact=True).select_option(value)


def test_no_torch_and_no_matplotlib() -> None:
    code = "import clipkd.report, sys; assert not {'torch', 'matplotlib', 'pandas'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_equal_bytes_on_a_rerun(report, tmp_path) -> None:
    study = write_study(demo(), tmp_path)
    write_report(study.config, study.results, study.data, draw(study), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == report.read_bytes()


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([1, 1], " With 1 seed no interval can be given."),
        ([2, 2], " With 2 seeds only large effects can show."),
        ([5, 2], " The fewest seeds of a comparison are 2: with few only large effects can show."),
        (
            [1, 2],
            " The fewest seeds of a comparison are 1: from one seed nothing can be concluded, "
            "and with few only large effects can show.",
        ),
        ([5, 6], ""),
        ([], ""),
    ],
)
def test_few_seeds_are_named(seeds, said) -> None:
    names = ("corrected", "digits", "tiny-32", "digits-vit-s", "embed-KD", "supervised", "selected")
    found = [Comparison(*names, Difference(1.0, None, None, n), is_incomplete=False) for n in seeds]
    assert overview.caution(found) == said


PRINTED = '<svg xmlns="http://www.w3.org/2000/svg" width="720pt" height="90pt">'


def test_a_picture_says_its_own_width() -> None:
    assert natural_width(f"<?xml version='1.0'?>\n{PRINTED}".encode()) == 60
    assert natural_width(SVG.encode()) == 37.5
    assert natural_width(b'<svg viewBox="0 0 7 7" data-width="7" width="100%">') is None


def test_narrow_pictures_are_not_stretched(tmp_path, browser) -> None:
    style = files("clipkd.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    parts: Any = TEMPLATES.get_template("parts.html").module
    figures = ""
    for index, svg in enumerate((f"{PRINTED}</svg>", SVG)):
        (tmp_path / f"{index}.svg").write_text(svg)
        figures += parts.figure(Picture.read(tmp_path / f"{index}.svg", ""))
    (tmp_path / "page.html").write_text(f"<!doctype html><style>{style}</style><main>{figures}</main>")
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto((tmp_path / "page.html").as_uri())
    assert [image.bounding_box()["width"] for image in opened.locator("img").all()] == [960, 600]
    opened.close()


def test_overview_first_and_its_numbers(page) -> None:
    assert page.locator("main section").first.get_attribute("id") == "overview"
    tiles = dict(zip(*(page.locator(f".facts {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert (tiles["Runs"], tiles["Seeds"], tiles["Computed on"]) == ("42 of 42", "2", "Example CPU")
    rows = [row.split("\t") for row in page.locator("#overview table tbody tr").all_inner_texts()]
    # Last epoch of recipe reference, selected epoch of corrected (0.005 better); seeds 0.01 apart: SD 0.71 points.
    (embed,) = [row for row in rows if row[0] == "embed-KD"]
    assert [text.strip() for text in embed[1:]] == ["82.50 ± 0.71 (2)"] * 2 + ["83.00 ± 0.71 (2)"] * 2
    answers = page.locator(".answer").all_inner_texts()
    assert len(answers) == 2
    # Every seed differs by the same amount here, so that no interval can be given: nothing may be claimed.
    assert all("Not shown here" in text and "nothing can be concluded" in text for text in answers)


def test_at_first_only_headline_numbers_are_shown(page) -> None:
    assert page.locator("#accuracy .count").inner_text() == "20 of 80 rows"
    assert set(column(page, "accuracy", "Shown as")) == {"headline"}


def test_a_heading_sorts_both_ways(page) -> None:
    before = numbers(column(page, "accuracy", "Test accuracy, %"))
    assert before != sorted(before)
    page.get_by_role("button", name="Show 5 more rows").click()
    everything = numbers(column(page, "accuracy", "Test accuracy, %"))
    assert len(everything) == 20
    press(page, "accuracy", "Test accuracy, %")
    assert numbers(column(page, "accuracy", "Test accuracy, %")) == sorted(everything)
    press(page, "accuracy", "Test accuracy, %")
    assert numbers(column(page, "accuracy", "Test accuracy, %")) == sorted(everything, reverse=True)
    assert page.locator("#accuracy th[aria-sort]").get_attribute("aria-sort") == "descending"
    press(page, "accuracy", "Train type")
    types = column(page, "accuracy", "Train type")
    assert types == sorted(types, key=str.lower)


def test_signed_numbers_sort_as_numbers(page) -> None:
    press(page, "teacher", "Points")
    shown = numbers(column(page, "teacher", "Points"))
    assert shown == sorted(shown)
    assert (
        min(shown)
        < 0
        < max(numbers([text for text in page.locator("#teacher td.number").all_inner_texts() if text[0] in "+−"]))
    )


def test_a_choice_and_a_search_hide_rows(page) -> None:
    choose(page, "accuracy", "Recipe", "corrected")
    assert set(column(page, "accuracy", "Recipe")) == {"corrected"}
    assert page.locator("#accuracy .count").inner_text() == "10 of 80 rows"
    page.locator("#accuracy").get_by_label("Search").fill("embed-KD vit-xs")
    assert page.locator("#accuracy .count").inner_text() == "1 of 80 rows"
    assert column(page, "accuracy", "Train type") == ["embed-KD"]
    page.locator("#accuracy").get_by_role("button", name="Show all").click()
    assert page.locator("#accuracy .count").inner_text() == "80 of 80 rows"
    assert set(column(page, "accuracy", "Recipe")) == {"corrected", "reference"}


def test_nothing_is_asked_of_the_network(browser, report, tmp_path) -> None:
    def asked(path: Path) -> set[str]:
        opened, requests = browser.new_page(), []
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(path.as_uri())
        opened.wait_for_timeout(200)
        opened.close()
        return {url for url in requests if not url.startswith("data:")}

    assert asked(report) == {report.as_uri()}
    control = tmp_path / "control.html"
    control.write_text('<img src="http://127.0.0.1:9/x.png">')
    assert asked(control) == {control.as_uri(), "http://127.0.0.1:9/x.png"}


def test_the_page_forbids_itself_the_network(browser, report) -> None:
    opened = browser.new_page()
    opened.goto(report.as_uri())
    refused = opened.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))")
    assert "violates" in refused or "Refused" in refused or "Failed to fetch" in refused
    seen = opened.evaluate(
        "new Promise((done) => { addEventListener('securitypolicyviolation', (event) => done(event.blockedURI));"
        "fetch('http://127.0.0.1:9/').catch(() => {}); })"
    )
    opened.close()
    assert seen.startswith("http://127.0.0.1:9")


def test_a_phone_needs_no_sideways_scrolling(browser, report) -> None:
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.goto(report.as_uri())
    assert not opened.evaluate(WIDE)
    assert opened.locator("#accuracy tbody td").first.is_visible()
    label = opened.evaluate("getComputedStyle(document.querySelector('#accuracy tbody td'), '::before').content")
    assert label == '"Train type"'
    shown = [row for row in opened.locator("#accuracy tbody tr").all() if row.is_visible()]
    assert len(shown) == 6
    opened.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<p style=width:600px>wide</p>')")
    assert opened.evaluate(WIDE)  # the control
    opened.close()


def test_paper_shows_every_row_and_no_controls(page) -> None:
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".tools").first.is_visible()
    assert len(column(page, "accuracy", "Train type")) == 20
    assert len(column(page, "runs", "Seed")) == 42
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_everything_is_there(browser, report) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(report.as_uri())
    assert opened.locator("#accuracy tbody tr").count() == 80
    assert opened.locator("#accuracy tbody tr").last.is_visible()
    context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """The report of a grid with a missing run, a failed one, and names that are HTML."""
    study = write_study(demo(), tmp_path_factory.mktemp("hostile"))
    shutil.rmtree(study.folder(train_type="vanilla", seed=0))
    failed = study.folder(train_type="embed-KD", teacher="digits-vit-s", recipe="corrected", seed=1)
    for path in failed.iterdir():
        path.unlink()
    write_json(failed / FAILED, {"message": f"loss is not finite {EVIL}"})
    study.change(study.folder(train_type="supervised"), "cost.json", "device.name", EVIL)
    path = study.root / "report.html"
    drawn = draw(study)
    with pytest.raises(DataError, match="2 of 42 runs are missing"):
        write_report(study.config, study.results, study.data, drawn, path)
    write_report(study.config, study.results, study.data, drawn, path, partial=True)
    return path


def test_names_are_text_never_html(browser, hostile) -> None:
    opened = browser.new_page()
    opened.goto(hostile.as_uri())
    assert opened.title() == "CLIP-Embed-KD, measured"
    assert opened.locator("script").count() == 1
    assert opened.locator("img:not([src^='data:'])").count() == 0
    tiles = dict(zip(*(opened.locator(f".facts {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert EVIL in tiles["Computed on"]
    opened.close()


def test_what_is_missing_is_said_at_the_top(browser, hostile) -> None:
    opened = browser.new_page()
    opened.goto(hostile.as_uri())
    assert "INCOMPLETE: 2 of 42 runs are missing" in opened.locator("header .incomplete").inner_text()
    press(opened, "runs", "State")
    opened.locator("#runs").get_by_label("Search").fill("not finite")
    assert opened.locator("#runs .count").inner_text() == "1 of 42 rows"
    assert column(opened, "runs", "Train type") == ["embed-KD"]
    opened.locator("#runs").get_by_label("Search").fill("")
    choose(opened, "runs", "State", "missing")
    assert column(opened, "runs", "Train type") == ["vanilla"]
    assert "†" in opened.locator("#overview table").inner_text()
    opened.close()


def test_a_missing_figure_is_named(tmp_path) -> None:
    study = write_study(demo(), tmp_path)
    drawn = draw(study)
    (drawn / "cost.svg").unlink()
    with pytest.raises(DataError, match=r"cost\.svg is missing; run `clipkd figures`"):
        write_report(study.config, study.results, study.data, drawn, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_as_a_command(tmp_path) -> None:
    study = write_study(demo(), tmp_path)
    draw(study)
    (tmp_path / "results/config.json").write_text(json.dumps(study.config))
    command = [sys.executable, "-m", "clipkd", "report", "--figures", "figures"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "results/report.html").read_text().startswith("<!doctype html>")
