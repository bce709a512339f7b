# report: the tables, the figures, and one page that shows them; from run folders, manifests and stored embeddings.
#
#   results/config.json                         the resolved config: the grid that tables and figures show
#   results/tables/<table>.{csv,md,tex,html}
#   results/tables/runs.csv                     a row per run and choice of its epoch
#   results/summary.json                        the means of all cells, which git keeps (docs/dvc.md)
#   results/figures/<figure>.{png,svg}
#   results/report.html
rule resolve:
    """Write down the resolved config, so that tables and figures say which grid they show."""
    output:
        config=RESOLVED,
        stamp=RESOLVED_STAMP,
    log:
        "logs/report/resolve.log",
    # First of all, so that a report of what is there (--partial) is one of this grid, wherever the workflow is stopped.
    priority: 1000
    params:
        config=lambda wildcards: RESOLVED_TEXT,  # a plain text's {words} would be wildcards
    shell:
        "( rm -f results/.config-* && printf '%s\\n' {params.config:q} > {output.config:q}.tmp"
        " && mv {output.config:q}.tmp {output.config:q} && touch {output.stamp:q} ) 2> {log:q}"


rule report:
    """Write every table, draw every figure, and write the page that shows them, to sort, filter, print and share."""
    input:
        config=RESOLVED,
        runs=all_runs,
        evaluations=all_evaluations,
        extractions=all_extractions,
        names=class_names_files,
        datasets=shown_datasets,
    # `update`: what an earlier report wrote stays where this one fails; the last file, which goes, has it written again.
    output:
        [
            update(in_report(f"results/tables/{stem}.html", tables.report_entry(stem)))
            for stem in TABLES
        ],
        update(
            expand(
                "results/tables/{stem}.{format}",
                stem=TABLES,
                format=["csv", "md", "tex"],
            )
        ),
        update(f"results/tables/{tables.RUNS}"),
        [
            update(
                in_report(f"results/figures/{stem}.png", figures.report_entry(stem))
            )
            for stem in FIGURES
        ],
        update(expand("results/figures/{stem}.svg", stem=FIGURES)),
        summary=update("results/summary.json"),
        page=update("results/report.html"),
        whole=touch(REPORTED),
    log:
        "logs/report/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    resources:
        mem_mb=memory("report", 8000),
    params:
        code=code_digest(CODE_OF_REPORT),
        names=names_digest(),  # an older file may take a newer one's place
    shell:
        "exec clipkd report --config {input.config:q} --tables results/tables --summary {output.summary:q}"
        " --output {output.page:q} 2>> $(new_log {log:q})"
