"""Draw the flow of the workflow, docs/flow.svg: `python docs/flow.py [--check]`.

docs/dag.svg is Snakemake's own picture of the rules; this one shows what passes between them, and where it is stored.
"""

from __future__ import annotations

import argparse
import sys
from html import escape
from pathlib import Path

PICTURE = Path(__file__).resolve().parent / "flow.svg"
WIDTH, HEIGHT = 900, 470
INK, GREY = "#1f2933", "#5f6b7a"
STAGES = [
    # name, left edge, width, fill, border, where its files lie
    ("data", 20, 150, "#e8f1fb", "#4a90d9", ["data/datasets/"]),
    ("embeddings", 200, 320, "#fdf0dd", "#d9902f", ["data/teachers/", "data/embeddings/"]),
    ("runs", 550, 150, "#e6f5ea", "#3f9c5a", ["results/runs/"]),
    ("report", 730, 150, "#f0eafa", "#7d5fb8", ["results/tables/", "results/figures/", "results/report.html"]),
]
RULES = {
    # rule: left edge, top edge, width, what it makes
    "download": (35, 262, 120, ["packed images"]),
    "fetch": (215, 120, 120, ["the teacher,", "at its commit"]),
    "extract": (215, 252, 120, ["the teacher runs", "once on each view"]),
    "prototypes": (385, 120, 120, ["one vector", "a class"]),
    "probe": (385, 330, 120, ["a linear head:", "class scores"]),
    "train": (565, 252, 120, ["up to eight", "students a job"]),
    "report": (745, 252, 120, ["tables, figures,", "one page"]),
}
ARROWS = [
    # path, label, its place and anchor
    ("M155 290 H209", "images", (182, 282, "middle")),
    ("M275 186 V246", "", (0, 0, "start")),
    ("M335 262 H360 V150 H379", "sample", (364, 240, "start")),
    ("M335 308 H360 V360 H379", "all", (364, 330, "start")),
    ("M505 150 H535 V266 H559", "embed-KD", (513, 141, "start")),
    ("M335 285 H559", "teacher-KD", (447, 279, "middle")),
    ("M505 360 H535 V304 H559", "vanilla", (513, 377, "start")),
    ("M95 312 V424 H625 V324", "images and labels (all that supervised needs)", (360, 418, "middle")),
    ("M685 285 H739", "", (0, 0, "start")),
]


def text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def picture() -> str:
    """Return the picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="Helvetica, Arial, sans-serif" fill="{INK}" role="img" aria-label="data, embeddings, runs, '
        'report: what each stage makes and hands on">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{GREY}"/></marker>',
    ]
    for name, left, width, fill, border, folders in STAGES:
        middle = left + width / 2
        parts.append(
            f'<rect x="{left}" y="20" width="{width}" height="430" rx="10" fill="{fill}" stroke="{border}"/>'
            + text(middle, 48, name, 18, more='font-weight="bold"')
        )
        for line, folder in enumerate(folders):
            parts.append(text(middle, 68 + 15 * line, folder, 11, more=f'font-family="monospace" fill="{GREY}"'))
    for path, label, (x, y, anchor) in ARROWS:
        parts.append(f'<path d="{path}" fill="none" stroke="{GREY}" stroke-width="1.6" marker-end="url(#head)"/>')
        if label:
            halo = 'font-style="italic" stroke="white" stroke-opacity="0.7" stroke-width="3" paint-order="stroke"'
            parts.append(text(x, y, label, 11, anchor, halo))
    for rule, (left, top, width, lines) in RULES.items():
        height, middle = 34 + 16 * len(lines), left + width / 2
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="white" stroke="{INK}"/>'
        )
        parts.append(text(middle, top + 20, rule, 13, more='font-family="monospace" font-weight="bold"'))
        parts += [text(middle, top + 39 + 16 * line, words, 12) for line, words in enumerate(lines)]
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the picture is out of date")
    if parser.parse_args().check:
        if PICTURE.read_text(encoding="utf-8") != picture():
            print("docs/flow.svg is out of date; run python docs/flow.py")
            return 1
        return 0
    PICTURE.write_text(picture(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
