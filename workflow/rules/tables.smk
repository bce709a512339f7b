# tables: from run folders and manifests only.
#
#   results/config.json                         the resolved config: the grid that tables and figures show
#   results/tables/<table>.{csv,md,tex,html}
import hashlib

from clipkd import tables


def code_digest(*modules):
    """Return a digest of cheap code: an edit runs the rule again. (Costly rules carry protocol numbers.)"""
    package = ROOT / "clipkd"
    text = b"".join((package / module).read_bytes() for module in sorted(modules))
    return hashlib.sha256(text).hexdigest()[:16]


def all_runs(wildcards):
    """Return what every run of the grid leaves behind."""
    names = ("metrics.json", "cost.json", "history.csv")
    return [f"results/runs/{folder}/{name}" for folder in RUNS for name in names]


def all_manifests(wildcards):
    """Return the manifests that say what extraction and probes cost and reached."""
    return [manifest(folder) for folder in [*STORES, *PROTOTYPES, *HEADS]]


rule resolve:
    """Write down the resolved config, so that tables and figures say which grid they show."""
    output:
        RESOLVED,
    log:
        "logs/tables/resolve.log",
    params:
        config=json.dumps(config, sort_keys=True),
    localrule: True
    shell:
        "printf '%s\\n' {params.config:q} > {output:q} 2> {log:q}"


rule tables:
    """Write every table as CSV, Markdown, LaTeX and HTML."""
    input:
        config=RESOLVED,
        runs=all_runs,
        manifests=all_manifests,
    output:
        report(
            expand("results/tables/{{stem}}.html"),
            caption="../report/tables.rst",
        ),
    log:
        "logs/tables/tables.log",
    shell:
        "clipkd tables --config {input.config:q} 2> {log:q}"
