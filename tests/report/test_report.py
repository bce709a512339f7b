"""The report in a real browser: it sorts, filters, fits a phone, prints, and asks nothing of the network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipkd import report as reports
from clipkd.core.files import write_json
from clipkd.report import overview, page_tables
from clipkd.report.figures import figure_stems
from clipkd.report.pictures import natural_width
from clipkd.runs.record import FAILED
from clipkd.spec.settings import Config
from clipkd.tables import made, sweep
from clipkd.tables.comparisons import Comparison, comparisons
from clipkd.tables.results import Results
from clipkd.tables.summary import Difference
from tests.synthetic import Study, demo, seal, small, write_study

EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">&amp;'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="90"><rect width="600" height="90"/></svg>'
WIDE = "document.documentElement.scrollWidth > innerWidth"
PHONE = {"width": 390, "height": 844}


def write(study: Study, path: Path, partial: bool = False) -> Path:
    """Write the page, with plain pictures for the figures: those have tests of their own."""
    folder = study.root / "figures"
    folder.mkdir(exist_ok=True)
    for stem in figure_stems(study.config):
        (folder / f"{stem}.svg").write_text(SVG.format("720pt" if stem == "cost" else "600"))
    found = Results.collect(study.config, study.results / "runs", study.data, partial)
    path.write_text(reports.page(found, made(found), reports.pictures(found, folder)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a complete grid whose numbers are known."""
    study = write_study(demo(), tmp_path_factory.mktemp("study"))
    return write(study, study.root / "report.html")


@pytest.mark.slow
def test_what_all_tables_say_stands_on_the_page_once(tmp_path: Path) -> None:
    """What is wrong at the top, remarks at the end, and neither below each table."""
    config = demo()
    block = config["grid"][0] | {"teachers": ["digits-vit-s"], "train_types": ["supervised", "vanilla"]}
    config["grid"] = [block | {"datasets": ["digits", "imagenet"], "recipes": ["corrected"]}]
    study = write_study(config, tmp_path)
    for cell in study.cells:
        folder = study.results / "runs" / cell.folder
        write_json(folder / "env.json", {"packages": {"torch": f"2.{cell.seed}"}, "device": {"kind": "cpu"}})
        seal(folder)
    text = write(study, tmp_path / "report.html").read_text(encoding="utf-8")
    for said, times in {"NOT COMPARABLE to the last digit": 1, "Left out: ": 1, "Not tested, as": 2}.items():
        assert text.count(said) == times, said


@pytest.mark.slow
def test_a_student_that_is_only_trained_alone_has_its_table(tmp_path: Path) -> None:
    """Beside students with teachers, as one that will be the teacher of others."""
    config = small()
    alone = config["grid"][0] | {"students": ["base-32"], "train_types": ["supervised"], "recipes": ["corrected"]}
    config["grid"] += [alone | {"name": "alone"}]
    study = write_study(config, tmp_path)
    text = write(study, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "student base-32" in text
    assert "no teacher" in text


def test_two_teachers_of_one_title_are_told_apart_in_every_table(tmp_path: Path) -> None:
    """Two revisions of one model: the grid lacks the control of the second."""
    first, second = (f"google/vit-base@{letter * 40}" for letter in "ab")
    config = demo() | {"recipes": {"mine": {"base": "corrected", "temperature": [1, 2]}}}
    block = config["grid"][0] | {"teachers": [first, second], "train_types": ["supervised", "vanilla"]}
    control = block | {"name": "control", "teachers": [first], "train_types": ["vanilla-within-class"]}
    config["grid"] = [one | {"recipes": ["mine"], "seeds": [0]} for one in (block, control)]
    found = Results.collect(Config.model_validate(config), tmp_path / "runs", tmp_path, partial=True)
    first, second = (name for name in found.frame.teacher.unique() if name != "none")
    titles = [f"google/vit-base ({name})" for name in (first, second)]
    for table in (page_tables.explorer(found), page_tables.runs_table(found), sweep.table(found)):
        column = [one.title for one in table.columns].index("Teacher")
        assert list(dict.fromkeys(row[column].text for row in table.rows)) == ["no teacher", *titles]
    (line,) = (line for line in comparisons(found)[1] if line.startswith("Not tested"))
    assert line.endswith(f"vanilla with {titles[1]}.")


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
def visit(browser) -> Iterator[Any]:
    """Open a page on a desktop, or as `options` say; its console must stay empty."""
    opened, messages = [], []

    def visit(path: Path, **options: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | options)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        opened.append(page)
        return page

    yield visit
    for page in opened:
        page.close()
    assert messages == []


@pytest.fixture
def page(visit, report) -> Any:
    return visit(report)


def column(page: Any, section: str, title: str) -> list[str]:
    """Return the texts of a column in the visible rows."""
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


def search(page: Any, section: str, text: str) -> str:
    """Type into a table's search field; return the count of rows beside it."""
    page.locator(f"#{section}").get_by_label("Search").first.fill(text)
    return page.locator(f"#{section} .count").first.inner_text()


def test_no_torch_and_no_matplotlib() -> None:
    code = "import clipkd.report, sys; assert not {'torch', 'matplotlib', 'pandas'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_equal_bytes_on_a_rerun(tmp_path) -> None:
    first, again = (write(write_study(small(), tmp_path / name), tmp_path / f"{name}.html") for name in ("a", "b"))
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("seeds", "caution"),
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
def test_few_seeds_are_named(seeds, caution) -> None:
    names = ("corrected", "digits", "tiny-32", "digits-vit-s", "embed-KD", "supervised", "selected")
    found = [Comparison(*names, Difference(1.0, None, None, n), is_incomplete=False) for n in seeds]
    assert overview.caution(found) == caution


def test_a_picture_keeps_its_own_width(page) -> None:
    """Stretched to one width, narrow figures would have larger text than wide ones."""
    assert natural_width(b'<svg viewBox="0 0 7 7" data-width="7" width="100%">') is None
    widths = [image.bounding_box()["width"] for image in page.locator("#cost img").all()]
    assert widths == [960, 600]  # 720 points; 600 pixels


@pytest.mark.parametrize(("count", "said"), [(1, "of 1 comparison"), (2, "of 2 comparisons")])
def test_one_comparison_is_said_in_the_singular(count, said) -> None:
    names = ("corrected", "digits", "tiny-32", "digits-vit-s", "embed-KD", "supervised", "selected")
    assert (
        overview.verdicts([Comparison(*names, None, is_incomplete=False)] * count) == f"not compared in {count} {said}"
    )


def test_overview_first_and_its_numbers(page) -> None:
    assert page.locator("main section").first.get_attribute("id") == "overview"
    menu = [link.get_attribute("href") for link in page.locator("nav a").all()]
    assert menu == [f"#{section.get_attribute('id')}" for section in page.locator("main section").all()]
    tiles = dict(zip(*(page.locator(f".facts {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert (tiles["Runs"], tiles["Seeds"], tiles["Computed on"]) == ("42 of 42", "2", "Example CPU")
    rows = [row.split("\t") for row in page.locator("#overview table tbody tr").all_inner_texts()]
    # Last epoch of recipe reference, selected epoch of corrected (0.005 better); seeds 0.01 apart: SD 0.71 points.
    (embed,) = [row for row in rows if row[0] == "embed-KD"]
    assert [text.strip() for text in embed[1:]] == ["82.50 ± 0.71 (2)"] * 2 + ["83.00 ± 0.71 (2)"] * 2
    answers = page.locator(".answer").all_inner_texts()
    assert len(answers) == 3
    # Every seed differs by the same amount here, so that no interval can be given: nothing may be claimed.
    assert all("Not shown here" in text and "nothing can be concluded" in text for text in answers)


def test_a_heading_sorts_both_ways(page) -> None:
    assert page.locator("#accuracy .count").first.inner_text() == "20 of 80 rows"
    assert set(column(page, "accuracy", "Shown as")) == {"headline"}
    page.get_by_role("button", name="Show 5 more rows").first.click()
    everything = numbers(column(page, "accuracy", "Test accuracy, %"))
    assert len(everything) == 20
    assert everything != sorted(everything)
    for is_reversed in (False, True):
        press(page, "accuracy", "Test accuracy, %")
        assert numbers(column(page, "accuracy", "Test accuracy, %")) == sorted(everything, reverse=is_reversed)
    assert page.locator("#accuracy th[aria-sort]").get_attribute("aria-sort") == "descending"
    press(page, "accuracy", "Train type")
    types = column(page, "accuracy", "Train type")
    assert types == sorted(types, key=str.lower)
    press(page, "teacher", "Points")
    points = numbers(column(page, "teacher", "Points"))
    assert points == sorted(points)
    signed = [text for text in page.locator("#teacher td.number").all_inner_texts() if text[0] in "+−"]
    assert min(points) < 0 < max(numbers(signed))


def test_a_choice_and_a_search_hide_rows(page) -> None:
    choose(page, "accuracy", "Recipe", "corrected")
    assert set(column(page, "accuracy", "Recipe")) == {"corrected"}
    assert search(page, "accuracy", "") == "10 of 80 rows"
    assert search(page, "accuracy", "embed-KD vit-xs") == "1 of 80 rows"
    assert column(page, "accuracy", "Train type") == ["embed-KD"]
    page.locator("#accuracy").get_by_role("button", name="Show all").first.click()
    assert page.locator("#accuracy .count").first.inner_text() == "80 of 80 rows"
    assert set(column(page, "accuracy", "Recipe")) == {"corrected", "reference"}


def test_nothing_is_asked_of_the_network(browser, report, tmp_path) -> None:
    def requested(path: Path) -> set[str]:
        opened, requests = browser.new_page(), []
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(path.as_uri())
        opened.wait_for_timeout(200)
        opened.close()
        return {url for url in requests if not url.startswith("data:")}

    assert requested(report) == {report.as_uri()}
    control = tmp_path / "control.html"
    control.write_text('<img src="http://127.0.0.1:9/x.png">')
    assert requested(control) == {control.as_uri(), "http://127.0.0.1:9/x.png"}


def test_the_page_forbids_itself_the_network(browser, report) -> None:
    opened = browser.new_page()
    opened.goto(report.as_uri())
    blocked = opened.evaluate(
        "new Promise((done) => { addEventListener('securitypolicyviolation', (event) => done(event.blockedURI));"
        "fetch('http://127.0.0.1:9/').catch(() => {}); })"
    )
    opened.close()
    assert blocked.startswith("http://127.0.0.1:9")


def test_a_phone_needs_no_sideways_scrolling(visit, report) -> None:
    page = visit(report, viewport=PHONE)
    assert not page.evaluate(WIDE)
    label = page.evaluate("getComputedStyle(document.querySelector('#accuracy tbody td'), '::before').content")
    assert label == '"Train type"'
    rows = page.locator("#accuracy table").first.locator("tbody tr").all()
    assert len([row for row in rows if row.is_visible()]) == 6
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<p style=width:600px>wide</p>')")
    assert page.evaluate(WIDE)  # the control


def test_paper_shows_every_row_and_no_controls(page) -> None:
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".tools").first.is_visible()
    assert len(column(page, "accuracy", "Train type")) == 20
    assert len(column(page, "runs", "Seed")) == 42
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_everything_is_there(visit, report) -> None:
    rows = visit(report, java_script_enabled=False).locator("#accuracy table").first.locator("tbody tr")
    assert rows.count() == 80
    assert rows.last.is_visible()


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
    return write(study, study.root / "report.html", partial=True)


def test_names_are_text_never_html(visit, hostile) -> None:
    page = visit(hostile)
    assert page.title() == "CLIP-Embed-KD, measured"
    assert page.locator("script").count() == 1
    assert page.locator("img:not([src^='data:'])").count() == 0
    tiles = dict(zip(*(page.locator(f".facts {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert EVIL in tiles["Computed on"]


def test_missing_runs_are_named_at_the_top(visit, hostile) -> None:
    page = visit(hostile)
    assert "INCOMPLETE: 2 of 42 runs are missing" in page.locator("header .incomplete").inner_text()
    press(page, "runs", "State")
    assert search(page, "runs", "not finite") == "1 of 42 rows"
    assert column(page, "runs", "Train type") == ["embed-KD"]
    search(page, "runs", "")
    choose(page, "runs", "State", "missing")
    assert column(page, "runs", "Train type") == ["vanilla"]
    assert "†" in page.locator("#overview table").inner_text()


def test_runs_without_labels_are_counted_and_have_no_accuracy(tmp_path: Path) -> None:
    config = demo()
    block = config["grid"][0] | {"teachers": ["digits-vit-s"], "recipes": ["corrected"], "seeds": [0, 1, 2]}
    config["grid"] = [block | {"train_types": ["teacher-KD"], "labels": ["none"]}]
    study = write_study(config, tmp_path)
    results = Results.collect(study.config, study.results / "runs", study.data)
    rows = [[entry.text for entry in row] for row in page_tables.runs_table(results).rows]
    assert {row[0] for row in rows} == {"teacher-KD, no labels"}
    assert not [text for row in rows for text in row if "nan" in text]
    assert overview.facts(results)["Seeds"] == "3"
