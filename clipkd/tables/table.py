"""A table: its entries for people, its records for programs, and the four formats it is written in."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import write_text
from clipkd.tables.results import MARK
from clipkd.tables.summary import Summary

NOTHING = "–"

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}&%$#_"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$"}
    | {"†": r"$^{\dagger}$", "–": "--", "·": r"$\cdot$"}
)
MARKDOWN = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|~#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 1.5rem; }
h1 { font-size: 1.15rem; margin: 0 0 .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid #1a1a1a; border-bottom: 2px solid #1a1a1a; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
thead th { vertical-align: bottom; }
thead tr:last-child th { border-bottom: 1px solid #1a1a1a; }
th.group { text-align: center; border-bottom: 1px solid #999; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tbody tr:nth-child(even) { background: #f5f5f5; }
ul { color: #444; font-size: .85rem; max-width: 60rem; padding-left: 1.2rem; }
li.incomplete { color: #a00000; font-weight: 600; }
""".strip()


@dataclass(frozen=True)
class Column:
    """A column of entries; neighbours of one group share a heading."""

    title: str
    group: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Entry:
    """What stands in a table's row and column."""

    text: str = NOTHING
    is_best: bool = False
    is_incomplete: bool = False

    @property
    def marked(self) -> str:
        return f"{self.text} {MARK}" if self.is_incomplete else self.text


@dataclass
class Table:
    """One table. `records` go to CSV at full precision, everything else to the formats that people read."""

    stem: str
    title: str
    columns: list[Column]
    rows: list[list[Entry]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write the table as CSV, Markdown, LaTeX and HTML."""
        for suffix, render in {"csv": as_csv, "md": as_markdown, "tex": as_latex, "html": as_html}.items():
            write_text(folder / f"{self.stem}.{suffix}", render(self))


def as_csv(table: Table) -> str:
    """Return the records as CSV: plain numbers, nothing rounded, empty where there is no value."""
    fields = dict.fromkeys(name for record in table.records for name in record)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table.records)
    return stream.getvalue()


def as_markdown(table: Table) -> str:
    """Return the table as GitHub's Markdown; a column's group stands before its title."""

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |\n"

    def entry(entry: Entry) -> str:
        text = entry.marked.translate(MARKDOWN)
        return f"**{text}**" if entry.is_best else text

    heads = [f"{column.group}: {column.title}" if column.group else column.title for column in table.columns]
    text = f"**{table.title.translate(MARKDOWN)}**\n\n" + line([head.translate(MARKDOWN) for head in heads])
    text += line(["---:" if column.is_number else ":---" for column in table.columns])
    text += "".join(line([entry(cell) for cell in row]) for row in table.rows)
    return text + "\n" + "".join(f"- {note.translate(MARKDOWN)}\n" for note in table.notes)


def as_latex(table: Table) -> str:
    """Return the table as a LaTeX float with booktabs rules; a wide one is scaled to the text's width."""
    aligned = "".join("r" if column.is_number else "l" for column in table.columns)
    lines = ["% needs \\usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{table.title.translate(LATEX)}}}", rf"\label{{tab:{table.stem}}}"]
    lines += [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{aligned}}}",
        r"\toprule",
    ]
    lines += latex_groups(table.columns)
    lines += [latex_line([column.title.translate(LATEX) for column in table.columns]), r"\midrule"]
    for row in table.rows:
        texts = [entry.marked.translate(LATEX) for entry in row]
        lines.append(
            latex_line(
                [rf"\textbf{{{text}}}" if entry.is_best else text for entry, text in zip(row, texts, strict=True)]
            )
        )
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += [rf"\par\smallskip\footnotesize\raggedright {note.translate(LATEX)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def latex_line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def latex_groups(columns: Sequence[Column]) -> list[str]:
    """Return the line of group headings and the rules below them; nothing where there are no groups."""
    if not any(column.group for column in columns):
        return []
    heads, rules, first = [], "", 1
    for group, width in spans(columns):
        heads.append(rf"\multicolumn{{{width}}}{{c}}{{{group.translate(LATEX)}}}")
        if group:
            rules += rf"\cmidrule(lr){{{first}-{first + width - 1}}}"
        first += width
    return [latex_line(heads), rules]


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return each run of neighbours of one group, and its width."""
    return [(group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group)]


def as_html(table: Table) -> str:
    """Return the table as a page that needs nothing else, for the workflow's report."""
    escape: Callable[[str], str] = html.escape

    def tag(name: str, text: str, is_number: bool) -> str:
        kind = ' class="number"' if is_number else ""
        return f"<{name}{kind}>{text}</{name}>"

    def entry(entry: Entry, column: Column) -> str:
        text = escape(entry.marked)
        return tag("td", f"<strong>{text}</strong>" if entry.is_best else text, column.is_number)

    head = ""
    if any(column.group for column in table.columns):
        cells = (
            f'<th class="group" colspan="{w}">{escape(g)}</th>' if g else f'<th colspan="{w}"></th>'
            for g, w in spans(table.columns)
        )
        head += f"<tr>{''.join(cells)}</tr>\n"
    head += f"<tr>{''.join(tag('th', escape(column.title), column.is_number) for column in table.columns)}</tr>"
    rows = "\n".join(f"<tr>{''.join(map(entry, row, table.columns))}</tr>" for row in table.rows)
    notes = "\n".join(f"<li>{escape(note)}</li>" for note in table.notes)
    for mark in ("INCOMPLETE", "NOT COMPARABLE"):
        notes = notes.replace(f"<li>{mark}", f'<li class="incomplete">{mark}')
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(table.title)}</title>\n'
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{escape(table.title)}</h1>\n"
        f'<div class="scroll"><table>\n<thead>\n{head}\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n'
        f"<ul>\n{notes}\n</ul>\n</body>\n</html>\n"
    )


def attribute(thing: Any, name: str) -> Any:
    """Return one attribute of a thing, None where there is no thing."""
    return None if thing is None else getattr(thing, name)


def spread(summary: Summary | None, digits: int = 2, scale: float = 1.0) -> str:
    """Return `mean ± sample standard deviation (n)`, without the deviation where n = 1."""
    if summary is None:
        return NOTHING
    mean = f"{summary.mean * scale:.{digits}f}"
    deviation = "" if summary.deviation is None else f" ± {summary.deviation * scale:.{digits}f}"
    return f"{mean}{deviation} ({summary.n})"


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number at `digits` significant digits, thousands grouped, never in powers of ten."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = (
        max(0, digits - len(f"{int(abs(rounded))}")) if abs(rounded) >= 1 else digits - 1 - int(f"{rounded:e}"[-3:])
    )
    return f"{rounded:,.{decimals}f}"
