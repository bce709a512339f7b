# tables: from run folders and manifests only.
#
#   results/config.json                         the resolved config: the grid that tables and figures show
#   results/tables/<table>.{csv,md,tex,html}
import hashlib

from clipkd import tables

TABLES = tables.table_stems(config)


def code_digest(*parts):
    """Return a digest of cheap code: an edit runs the rule again. (Costly rules carry protocol numbers.)"""
    modules = sorted(path for part in parts for path in (ROOT / "clipkd").glob(part))
    return hashlib.sha256(
        b"".join(module.read_bytes() for module in modules)
    ).hexdigest()[:16]


def all_runs(wildcards):
    """Return what every run of the grid leaves for tables and figures."""
    names = ("metrics.json", "cost.json", "history.csv")
    return [f"results/runs/{folder}/{name}" for folder in RUNS for name in names]


def all_manifests(wildcards):
    """Return the manifests that say what extraction and probes cost and reached."""
    return [manifest(folder) for folder in [*STORES, *PROTOTYPES, *HEADS]]


def in_report(path, stage, stem, entry):
    """Return a file marked for the report, under its category, with the caption of its kind."""
    captions = (ROOT / "workflow/report").glob(f"{stage}-*.rst")
    families = sorted((caption.stem for caption in captions), key=len, reverse=True)
    family = next(name for name in families if f"{stage}-{stem}".startswith(name))
    return report(
        path,
        caption=f"../report/{family}.rst",
        category=entry["category"],
        labels=entry["labels"],
    )


rule resolve:
    """Write down the resolved config, so that tables and figures say which grid they show."""
    output:
        RESOLVED,
    log:
        "logs/tables/resolve.log",
    params:
        config=json.dumps(config, sort_keys=True),
    shell:
        "printf '%s\\n' {params.config:q} > {output:q} 2> {log:q}"


rule tables:
    """Write every table as CSV, Markdown, LaTeX and HTML."""
    input:
        config=RESOLVED,
        runs=all_runs,
        manifests=all_manifests,
    output:
        [
            in_report(
                f"results/tables/{stem}.html",
                "tables",
                stem,
                tables.report_entry(stem),
            )
            for stem in TABLES
        ],
        expand(
            "results/tables/{stem}.{format}", stem=TABLES, format=["csv", "md", "tex"]
        ),
    log:
        "logs/tables/tables.log",
    benchmark:
        "results/benchmarks/tables.tsv"
    params:
        code=code_digest(
            "tables/*.py", "results.py", "records.py", "summary.py", "comparisons.py"
        ),
    shell:
        "clipkd tables --config {input.config:q} 2> {log:q}"
