"""HTML of tables: one template, for the pages in results/tables and for the report."""

from __future__ import annotations

import re

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from clipkd.tables.table import Table, spans
from clipkd.tables.terms import WRONG

NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?")


def plain_number(text: str) -> str:
    """Return the number that a text begins with, as JavaScript reads it; "" where it begins with none.

    "< 0.001" is sorted with 0.001.
    """
    found = NUMBER.match(text.removeprefix("< "))
    return found[0].replace(",", "").replace("−", "-").replace("+", "") if found else ""


def environment(*packages: str) -> Environment:
    """Return the templates of these packages and of the tables.

    Every value is escaped, as names come from configs, folders and the hub.
    """
    loader = ChoiceLoader([PackageLoader(package) for package in (*packages, "clipkd.tables")])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["plain_number"] = plain_number
    made.globals |= {"spans": spans, "WRONG": WRONG}
    return made


TEMPLATES = environment()


def as_html(table: Table) -> str:
    """Return a table as a page that needs no other file, for the workflow's report."""
    return TEMPLATES.get_template("table_page.html").render(made=table)
