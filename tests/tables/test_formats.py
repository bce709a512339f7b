"""A table's four formats: escaping, groups, bold, marks, plain CSV."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess

import pytest

from clipkd.tables.formats import as_csv, as_latex, as_markdown
from clipkd.tables.html import as_html, plain_number
from clipkd.tables.table import Column, Entry, Table, significant, spread

NASTY = r"<script>a_b & 50% #1 ~x^2 {y} $z$ \ | *w*"


@pytest.fixture
def table() -> Table:
    columns = [Column("Teacher", is_number=False), Column("a", "Group"), Column("b", "Group")]
    rows = [[Entry(NASTY), Entry("1.00 ± 0.10 (2)", is_best=True), Entry("2.00", is_incomplete=True)]]
    records = [{"name": 'a,"b"', "value": 1 / 3, "none": None}, {"name": NASTY, "value": 2.0}]
    return Table("stem", NASTY, columns, rows, [f"INCOMPLETE: {NASTY}"], records)


def test_csv_is_plain_and_exact(table):
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert rows[0] == {"name": 'a,"b"', "value": repr(1 / 3), "none": ""}
    assert rows[1] == {"name": NASTY, "value": "2.0", "none": ""}


def test_latex_escapes_every_special_character(table):
    text = as_latex(table)
    escaped = (
        r"\textless{}script\textgreater{}a\_b \& 50\% \#1 \textasciitilde{}x\textasciicircum{}2 \{y\} \$z\$ "
        r"\textbackslash{} \textbar{} *w*"
    )
    assert rf"\caption{{{escaped}}}" in text
    assert text.count(escaped) == 3
    assert r"\textbf{1.00 $\pm$ 0.10 (2)} & 2.00 $^{\dagger}$ \\" in text
    assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{Group} \\" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert text.isascii()


def test_latex_sets_quotes_and_code():
    table = Table("stem", "", [Column("a")], [], ['"p, Holm" of `vanilla_a` and "n"'])
    assert r"``p, Holm'' of \texttt{vanilla\_a} and ``n''" in as_latex(table)


def test_latex_wraps_a_column_of_sentences():
    columns = [Column("Method", is_number=False), Column("In words", is_number=False, is_sentence=True), Column("n")]
    assert r"\begin{tabular}{lp{7cm}r}" in as_latex(Table("stem", "", columns))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_typesets(table, tmp_path):
    """With the packages that the table itself asks for."""
    body = as_latex(table)
    packages = re.match(r"% needs (\\usepackage\{\S+\})\n", body)
    document = f"\\documentclass{{article}}{packages[1]}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert answer.returncode == 0, answer.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000


def test_html_escapes_and_needs_nothing_else(table):
    text = as_html(table)
    assert "<script" not in text
    assert "&lt;script&gt;a_b &amp; 50%" in text
    assert "<strong>1.00 ± 0.10 (2)</strong>" in text
    assert "2.00 †" in text
    assert '<th class="group" colspan="2">Group</th>' in text
    assert '<li class="incomplete">INCOMPLETE' in text
    assert "http" not in text


def test_markdown_escapes_and_names_the_group(table):
    lines = as_markdown(table).splitlines()
    assert lines[2] == "| Teacher | Group: a | Group: b |"
    assert lines[3] == "| :--- | ---: | ---: |"
    assert lines[4] == (
        r"| &lt;script&gt;a\_b &amp; 50% \#1 \~x^2 {y} $z$ \\ \| \*w\* | **1.00 ± 0.10 (2)** | 2.00 † |"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (1234567.0, "1,230,000"),
        (99.96, "100"),
        (9.996, "10.0"),
        (0.0012345, "0.00123"),
        (2.5, "2.50"),
        (-0.0447, "−0.0447"),
    ],
)
def test_significant_digits(value, text):
    assert significant(value) == text


def test_spread():
    assert spread(0.8249, 0.0071, 3, scale=100) == "82.49 ± 0.71 (3)"
    assert spread(0.5, math.nan, 1, scale=100) == "50.00 (1)"
    assert spread(-0.04, 0.01, 3) == "−0.04 ± 0.01 (3)"
    assert spread(math.nan, math.nan, 0) == "–"


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,234.5 ± 2", "1234.5"), ("−0.30 to 1", "-0.30"), ("+2", "2"), ("< 0.001", "0.001"), ("–", ""), ("n = 3", "")],
)
def test_a_column_is_sorted_by_the_number_that_a_text_begins_with(text, number):
    assert plain_number(text) == number
