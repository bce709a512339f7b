"""HTML of the report: every text is escaped here, and nowhere else is HTML put together from text."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from clipkd.tables.table import Column, Entry, Table, spans

WIDTH = re.compile(rb'<svg\b[^>]*?\swidth="(\d+(?:\.\d+)?)(pt|px|)"')
NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?")


@dataclass(frozen=True)
class Field:
    """What stands in a row and column of a page's table."""

    text: str
    picture: str = ""
    """HTML that stands below the text; made by `bar` or `interval`."""
    kind: str = ""
    """`better` or `worse`, which are coloured."""
    is_best: bool = False


def field(entry: Entry) -> Field:
    """Return a table's entry as it stands on the page."""
    return Field(entry.marked, is_best=entry.is_best)


def number(text: str) -> str:
    """Return the number that a text begins with, in plain digits; "" where it begins with none."""
    found = NUMBER.match(text)
    return found[0].replace(",", "").replace("−", "-").replace("+", "") if found else ""


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Field]], initial: dict[str, str] | None = None, caption: str = ""
) -> str:
    """Return a table that sorts and filters itself.

    Args:
        columns: its columns; with groups it is shown as a grid that scrolls, without as cards on a phone.
        rows: its rows.
        initial: column title -> the value that is chosen at first.
        caption: what it shows.
    """
    columns, rows, constant = without_constants(columns, rows)
    is_grid = any(column.group for column in columns)
    chosen = f" data-initial='{escape(json.dumps(initial))}'" if initial else ""
    head = ""
    if is_grid:
        groups = (
            f'<th class="group" colspan="{width}">{escape(group)}</th>' if group else f'<td colspan="{width}"></td>'
            for group, width in spans(columns)
        )
        head = f"<tr>{''.join(groups)}</tr>\n"
    head += f"<tr>{''.join(heading(column) for column in columns)}</tr>"
    body = "\n".join(f"<tr>{''.join(map(datum, row, columns))}</tr>" for row in rows)
    title = f"<h3>{escape(caption)}</h3>\n" if caption else ""
    return (
        f'{title}{constant}<div class="scroll"><table class="sortable {"grid" if is_grid else "cards"}"{chosen}>\n'
        f"<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def without_constants(
    columns: Sequence[Column], rows: Sequence[Sequence[Field]]
) -> tuple[Sequence[Column], Sequence[Sequence[Field]], str]:
    """Return a table without columns of words that are equal in every row, and a line that says them once.

    The first column stays: it names the rows.
    """
    if len(rows) < 2:
        return columns, rows, ""
    kept, said = [], []
    for index, column in enumerate(columns):
        texts = {row[index].text for row in rows}
        if column.is_number or column.group or index == 0 or len(texts) > 1:
            kept.append(index)
        else:
            said.append(f"{column.title}: {texts.pop()}")
    line = paragraph("; ".join(said) + ".", "same") if said else ""
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows], line


def heading(column: Column) -> str:
    kind = ' class="number"' if column.is_number else ""
    return f'<th scope="col"{kind}>{escape(column.title)}</th>'


def datum(shown: Field, column: Column) -> str:
    """Return one field; a number also says its plain value, to sort by."""
    classes = " ".join(filter(None, ["number" if column.is_number else "", shown.kind]))
    kind = f' class="{classes}"' if classes else ""
    value = f' data-value="{number(shown.text)}"' if column.is_number else f' data-value="{escape(shown.text)}"'
    text = escape(shown.text)
    inside = f"<strong>{text}</strong>" if shown.is_best else text
    return f'<td{kind}{value} data-label="{escape(column.title)}"><span>{inside}{shown.picture}</span></td>'


def from_table(made: Table) -> str:
    """Return one of the results' tables, with its notes."""
    rows = [[field(entry) for entry in row] for row in made.rows]
    columns = [replace(column, title=column.title or "Source") for column in made.columns]
    return table(columns, rows, caption=made.title) + notes(made.notes)


def notes(lines: Iterable[str]) -> str:
    """Return the lines below a table; what is missing stands at the top of the page already."""
    found = "".join(f"<li>{escape(line)}</li>" for line in lines if not line.startswith("INCOMPLETE"))
    return f'<ul class="notes">{found}</ul>' if found else ""


def bar(share: float) -> str:
    """Return a bar that is `share` (0 to 1) full."""
    return f'<span class="bar" aria-hidden="true"><i style="width:{100 * min(max(share, 0), 1):.2f}%"></i></span>'


def interval(mean: float, low: float | None, high: float | None, reach: float) -> str:
    """Return a drawing of a difference and its interval on an axis from -reach to reach; cut-off ends are arrows."""

    def place(value: float) -> float:
        return 100 + 96 * min(max(value / reach, -1), 1)

    line = ""
    if low is not None and high is not None:
        line = (
            f'<line x1="{place(low):.1f}" x2="{place(high):.1f}" y1="8" y2="8" stroke="currentColor" stroke-width="2"/>'
        )
        ends = ((low < -reach, "8,3 2,8 8,13"), (high > reach, "192,3 198,8 192,13"))
        line += "".join(f'<polygon points="{points}" fill="currentColor"/>' for is_cut, points in ends if is_cut)
    return (
        '<svg class="interval" viewBox="0 0 200 16" aria-hidden="true">'
        f'<line x1="100" x2="100" y1="0" y2="16" stroke="#999"/>{line}'
        f'<circle cx="{place(mean):.1f}" cy="8" r="4" fill="currentColor"/></svg>'
    )


def figure(path: Path, caption: str) -> str:
    """Return a figure with its caption; the picture stands in the page itself, and is never enlarged."""
    picture = path.read_bytes()
    content, width = base64.b64encode(picture).decode(), natural_width(picture)
    style = f' style="--width: {width:.4g}rem"' if width else ""
    source = f"data:image/svg+xml;base64,{content}"
    return (
        f'<figure><div class="picture"><img{style} alt="{escape(caption)}" src="{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def natural_width(svg: bytes) -> float | None:
    """Return how wide an SVG asks to be, in rem (16 pixels, 12 points); None where it does not say."""
    found = WIDTH.search(svg)
    return float(found[1]) / (12 if found[2] == b"pt" else 16) if found else None


def facts(known: dict[str, str]) -> str:
    """Return names and values as tiles."""
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in known.items())
    return f'<dl class="facts">{tiles}</dl>'


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def answer(short: str, long: str) -> str:
    """Return an answer in a few words, and what it rests on."""
    return f'<p class="answer"><b>{escape(short)}</b> {escape(long)}</p>'


def section(name: str, title: str, *parts: str) -> str:
    """Return a part of the page that its menu leads to."""
    return f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def folded(title: str, *parts: str) -> str:
    """Return what is only shown when it is asked for (and in print)."""
    return f"<details><summary>{escape(title)}</summary>\n" + "\n".join(parts) + "\n</details>"
