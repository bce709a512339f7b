"""Files of a table: CSV for programs; Markdown, LaTeX and HTML for people."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from clipkd.core.files import write_text
from clipkd.tables.html import as_html
from clipkd.tables.table import Column, Entry, Table, spans

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}&%$#_"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$"}
    | {"†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "–": "--", "·": r"$\cdot$"}
)
SENTENCES = "p{7cm}"
"""A column of sentences in LaTeX: wrapped, as one line of each would have the table scaled until nobody can read it."""
MARKDOWN = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|~#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)


def write(table: Table, folder: Path) -> None:
    """Write a table as CSV, Markdown, LaTeX and HTML."""
    for suffix, render in {"csv": as_csv, "md": as_markdown, "tex": as_latex, "html": as_html}.items():
        write_text(folder / f"{table.stem}.{suffix}", render(table))


def as_csv(table: Table) -> str:
    """Return the records as CSV: plain numbers, nothing rounded, empty where there is no value."""
    fields = dict.fromkeys(name for record in table.records for name in record)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table.records)
    return stream.getvalue()


def as_markdown(table: Table) -> str:
    """Return the table as GitHub's Markdown; a column's group comes before its title."""

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
    aligned = "".join(map(latex_alignment, table.columns))
    lines = ["% needs \\usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{latex(table.title)}}}", rf"\label{{tab:{table.stem}}}"]
    lines += [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{aligned}}}",
        r"\toprule",
    ]
    lines += latex_groups(table.columns)
    lines += [latex_line([latex(column.title) for column in table.columns]), r"\midrule"]
    for row in table.rows:
        texts = [latex(entry.marked) for entry in row]
        lines.append(
            latex_line(
                [rf"\textbf{{{text}}}" if entry.is_best else text for entry, text in zip(row, texts, strict=True)]
            )
        )
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += [rf"\par\smallskip\footnotesize\raggedright {latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def latex(text: str) -> str:
    """Return a text as LaTeX: special characters escaped, "quotes" and `code` set as such."""
    escaped = re.sub(r"`([^`]*)`", r"\\texttt{\1}", text.translate(LATEX))
    return re.sub(r'"([^"]*)"', r"``\1''", escaped)


def latex_alignment(column: Column) -> str:
    if column.is_sentence:
        return SENTENCES
    return "r" if column.is_number else "l"


def latex_line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def latex_groups(columns: Sequence[Column]) -> list[str]:
    """Return the line of group headings and the rules below them; nothing where there are no groups."""
    if not any(column.group for column in columns):
        return []
    heads, rules, first = [], "", 1
    for group, width in spans(columns):
        heads.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(group)}}}")
        if group:
            rules += rf"\cmidrule(lr){{{first}-{first + width - 1}}}"
        first += width
    return [latex_line(heads), rules]
