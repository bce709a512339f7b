"""The report: one page that opens without network, reads well on a phone and prints. No torch here."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import write_text
from clipkd.core.errors import DataError
from clipkd.core.version import __version__
from clipkd.report import markup, overview
from clipkd.report.figures import figures as figures_of
from clipkd.tables import made
from clipkd.tables.comparisons import Comparison, comparisons
from clipkd.tables.results import Results, dataset_title, train_types, values

TITLE = "CLIP-Embed-KD, measured"
PROVENANCE = "provenance.html"
"""Snakemake's own report, beside the page: every file, the rule and the command that made it."""
CAPTIONS = {
    "accuracy": "Test accuracy by train type: bars are means, dots are seeds, the dotted line is chance.",
    "learning-curves": "Accuracy on the split that is watched in training, and training loss, by epoch: lines are "
    "means over seeds, bands span the lowest and highest. Losses of different train types have different terms.",
    "embeddings": "t-SNE of the teachers' stored embeddings of test images, and the class prototypes (stars). "
    "Distances between groups in such a picture mean little.",
    "cost": "Seconds per epoch and images through the teacher, with the live teacher and with its stored signal.",
    "resources": "Memory of the weights, accuracy and time: read off the paper's figure, and measured here.",
}


def write_report(
    config: dict[str, Any],
    results: Path,
    data: Path,
    drawn: Path,
    output: Path,
    partial: bool = False,
    drawing: str = "clipkd figures",
) -> None:
    """Write the page.

    Args:
        config: a resolved config.
        results: the folder that holds runs/.
        data: the folder that holds datasets/, teachers/ and embeddings/.
        drawn: the folder of the figures, as SVG.
        output: the file to write.
        partial: report what is there, with marks, instead of refusing an incomplete grid.
        drawing: the command that draws the figures, for the message where one is missing.

    Raises:
        DataError: a run or a figure is missing or damaged; the message names it.
    """
    found = Results.collect(config, Path(results) / "runs", Path(data), partial)
    write_text(output, page(found, Path(results) / "runs", pictures(found, Path(drawn), drawing)))


def pictures(found: Results, folder: Path, drawing: str) -> dict[str, list[str]]:
    """Return kind of figure -> its figures, ready to be put in."""
    ready: dict[str, list[str]] = {kind: [] for kind in CAPTIONS}
    datasets = values(found.cells, "dataset")
    for stem, (kind, *what) in figures_of(found.config).items():
        path = folder / f"{stem}.svg"
        if not path.is_file():
            raise DataError(f"figure {path} is missing; make it with `{drawing}`")
        about = ", ".join(dataset_title(part, found.config) if part in datasets else part for part in what)
        ready[kind].append(markup.figure(path, f"{about}. {CAPTIONS[kind]}" if about else CAPTIONS[kind]))
    return ready


def page(found: Results, runs: Path, drawn: dict[str, list[str]]) -> str:
    """Return the whole page."""
    compared, alone = comparisons(found)
    tables = {table.stem: table for table in made(found)}
    sections = {
        "overview": ("Overview", parts_of_overview(found, runs, compared)),
        "accuracy": ("Accuracy", [overview.explorer(found), *drawn["accuracy"], *drawn["learning-curves"]]),
        "teacher": (
            "Does the teacher matter?",
            [overview.comparisons_table(found, compared), markup.notes(tables["teacher-matters"].notes)],
        ),
        "cost": (
            "Cost",
            [
                *drawn["cost"],
                markup.from_table(tables["cost"]),
                *drawn["resources"],
                markup.from_table(tables["resources"]),
            ],
        ),
        "teachers": ("Teachers", [*drawn["embeddings"], markup.from_table(tables["teachers"])]),
        "runs": ("Runs", [overview.runs_table(found)]),
        "reading": ("How to read it", reading(found, alone)),
    }
    menu = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, (title, _) in sections.items())
    body = "\n".join(markup.section(name, title, *parts) for name, (title, parts) in sections.items())
    style, script = (
        files(__name__).joinpath(name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js")
    )
    gaps = "".join(f'<p class="incomplete">{escape(line)}</p>' for line in found.gaps())
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(TITLE)}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<h1>{escape(TITLE)}</h1>
<p>Knowledge distillation that runs the teacher once (arXiv 2404.06170): {escape(sentence(found))}</p>
{gaps}
</header>
<nav aria-label="Sections"><div>{menu}</div></nav>
<main>
{body}
</main>
<footer>
<p>Made by <code>clipkd report</code>, clipkd {escape(__version__)}, from the run folders below
<code>results/runs</code>; the tables lie in <code>results/tables</code> as CSV, Markdown and LaTeX, the figures in
<code>results/figures</code>. Which rule and command made which file:
<a href="{PROVENANCE}">{PROVENANCE}</a> beside this page (<code>make report</code> writes both).</p>
</footer>
<script>
{script}
</script>
</body>
</html>
"""


def sentence(found: Results) -> str:
    """Return what was measured, in one sentence."""
    datasets = ", ".join(dataset_title(name, found.config) for name in values(found.cells, "dataset"))
    return f"students trained on {datasets} with the train types {', '.join(train_types(found.cells))}."


def parts_of_overview(found: Results, runs: Path, compared: list[Comparison]) -> list[str]:
    """Return the overview's parts."""
    return [
        overview.what_was_run(found, runs),
        "<h3>Does the teacher matter?</h3>",
        overview.answers(compared),
        "<h3>Headline numbers</h3>",
        overview.headline_tables(found),
    ]


def reading(found: Results, alone: list[str]) -> list[str]:
    """Return how the numbers came about."""
    lines = [
        "Recipe reference keeps the mathematics of the code that the paper's author released, defects included, and is "
        "shown at its last epoch. Recipe corrected mends each known defect; a validation split, held out of training, "
        "chooses its epoch, and the test split is measured afterwards.",
        "The best epoch on the test split is what the released code reports: it is optimistic, and labelled so.",
        "Numbers are means over seeds ± the sample standard deviation (number of seeds). Intervals are Student's, "
        "95 %, over the seeds' paired differences: they cover the choice of the seed only.",
        "No difference shown does not mean equal.",
        "supervised is the same student without a teacher. Names with random, permuted or onehot are controls: "
        "embed-KD with the teacher's content taken out.",
    ]
    return [*map(markup.paragraph, lines), markup.notes([*alone, *(f"Left out: {why}." for why in found.left_out)])]
