# report: one page, from run folders, manifests and figures.
#
#   results/report.html
rule report:
    """Write the page that shows every table and figure, to sort, filter, print and share."""
    input:
        config=RESOLVED,
        runs=all_runs,
        evaluations=all_evaluations,
        extractions=all_extractions,
        figures=expand("results/figures/{stem}.svg", stem=FIGURES),
    output:
        "results/report.html",
    log:
        "logs/report/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    resources:
        mem_mb=memory("report", 4000),
    params:
        code=code_digest(CODE_OF_REPORT),
    shell:
        "exec clipkd report --config {input.config:q} --output {output:q} 2>> $(new_log {log:q})"
