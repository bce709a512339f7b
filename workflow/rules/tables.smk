# tables: from run folders and manifests only.
#
#   results/config.json                         the resolved config: the grid that tables and figures show
#   results/tables/<table>.{csv,md,tex,html}
#   results/tables/runs.csv                     a row per run and choice of its epoch
#   results/summary.json                        the means of all cells, which git keeps (docs/dvc.md)
rule resolve:
    """Write down the resolved config, so that tables and figures say which grid they show."""
    output:
        config=RESOLVED,
        stamp=RESOLVED_STAMP,
    log:
        "logs/tables/resolve.log",
    params:
        config=RESOLVED_TEXT,
    shell:
        "( rm -f results/.config-* && printf '%s\\n' {params.config:q} > {output.config:q}.tmp"
        " && mv {output.config:q}.tmp {output.config:q} && touch {output.stamp:q} ) 2> {log:q}"


rule tables:
    """Write every table as CSV, Markdown, LaTeX and HTML."""
    input:
        config=RESOLVED,
        runs=all_runs,
        evaluations=all_evaluations,
        extractions=all_extractions,
    output:
        [
            in_report(f"results/tables/{stem}.html", tables.report_entry(stem))
            for stem in TABLES
        ],
        expand(
            "results/tables/{stem}.{format}", stem=TABLES, format=["csv", "md", "tex"]
        ),
        f"results/tables/{tables.RUNS}",
        summary="results/summary.json",
    log:
        "logs/tables/tables.log",
    benchmark:
        "results/benchmarks/tables.tsv"
    resources:
        mem_mb=memory("tables", 4000),
    params:
        code=code_digest(CODE_OF_TABLES),
    shell:
        "exec clipkd tables --config {input.config:q} --summary {output.summary:q} 2>> $(new_log {log:q})"
