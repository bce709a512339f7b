"""The report: one page that opens without network, reads well on a phone and prints. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from clipkd.core.files import write_text
from clipkd.core.version import __version__
from clipkd.report import overview, page_tables
from clipkd.report.figures import KINDS
from clipkd.report.figures import figures as figures_of
from clipkd.report.page_tables import PageTable
from clipkd.report.pictures import Picture
from clipkd.spec.settings import Config
from clipkd.tables import accuracy_stem, made, save_tables
from clipkd.tables.comparisons import comparisons
from clipkd.tables.html import environment
from clipkd.tables.published import repeats_paper
from clipkd.tables.results import Results, dataset_title, train_types, values
from clipkd.tables.table import Table
from clipkd.tables.terms import of_labels

TITLE = "Knowledge distillation, measured"
PAPER_TITLE = "CLIP-Embed-KD, measured"
TEMPLATES = environment(__name__)


def write_report(
    config: Config,
    results: Path,
    data: Path,
    drawn: Path,
    output: Path,
    partial: bool = False,
    tables: Path | None = None,
    summary: Path | None = None,
) -> list[Path]:
    """Write the page, every figure and, where asked, every table, from one reading of the runs. Return the tables.

    Args:
        config: a resolved config.
        results: the folder that holds runs/.
        data: the folder that holds datasets/, teachers/ and embeddings/.
        drawn: the folder to write the figures to.
        output: the file to write the page to.
        partial: report what is there, with marks, instead of refusing an incomplete grid.
        tables: a folder to write the tables to.
        summary: with `tables`, a JSON file to write the means of all cells to (`dvc metrics`).

    Raises:
        DataError: a run, manifest or array is missing or damaged; the message names it.
    """
    from clipkd.report.figures.write import draw_figures

    found = Results.collect(config, results / "runs", data, partial)
    ready = made(found)
    files = [] if tables is None else save_tables(found, ready, tables, summary)
    draw_figures(found, drawn)
    write_text(output, page(found, ready, pictures(found, drawn)))
    return files


def pictures(found: Results, folder: Path) -> dict[str, list[Picture]]:
    """Return kind of figure -> its figures, from their folder."""
    ready: dict[str, list[Picture]] = {kind: [] for kind in KINDS}
    datasets = values(found.cells, "dataset")
    for stem, (kind, *what) in figures_of(found.config, found.cells).items():
        caption = KINDS[kind].caption
        names, labels = (what[:-1], what[-1]) if len(what) == 4 else (what, "all")
        about = ", ".join(dataset_title(name, found.config) if name in datasets else name for name in names)
        about += of_labels(labels)
        ready[kind].append(Picture.read(folder / f"{stem}.svg", f"{about}. {caption}" if about else caption))
    return ready


def page(found: Results, ready: Sequence[Table], drawn: dict[str, list[Picture]]) -> str:
    """Return the whole page, with these of the results' tables and figures."""
    compared, _ = comparisons(found)
    gaps, remarks = found.gaps(), found.remarks()
    tables = {table.stem: PageTable.of(table, {*gaps, *remarks}) for table in ready if not accuracy_stem(table.stem)}
    folder = resources.files(__name__) / "templates"
    of_paper = repeats_paper(found.cells)
    return TEMPLATES.get_template("page.html").render(
        title=PAPER_TITLE if of_paper else TITLE,
        repeats_paper=of_paper,
        version=__version__,
        style=(folder / "page.css").read_text(encoding="utf-8").strip(),
        script=(folder / "page.js").read_text(encoding="utf-8").strip(),
        datasets=[dataset_title(name, found.config) for name in values(found.cells, "dataset")],
        train_types=train_types(found.cells),
        gaps=gaps,
        facts=overview.facts(found),
        answers=overview.answers(compared),
        headline=page_tables.headline_tables(found),
        explorer=page_tables.explorer(found),
        comparisons=page_tables.comparisons_table(found, compared),
        reach=page_tables.reach(compared),
        runs=page_tables.runs_table(found),
        tables=tables,
        remarks=remarks,
        pictures=drawn,
    )
