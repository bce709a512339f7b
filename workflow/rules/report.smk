# report: the figures, and one page with all tables and figures; from run folders, manifests and stored embeddings.
#
#   results/figures/<figure>.{png,svg}
#   results/report.html
rule report:
    """Draw every figure, and write the page that shows every table and figure, to sort, filter, print and share."""
    input:
        config=RESOLVED,
        runs=all_runs,
        evaluations=all_evaluations,
        extractions=all_extractions,
        names=class_names_files,
        datasets=shown_datasets,
    output:
        [
            in_report(f"results/figures/{stem}.png", figures.report_entry(stem))
            for stem in FIGURES
        ],
        expand("results/figures/{stem}.svg", stem=FIGURES),
        page="results/report.html",
    log:
        "logs/report/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    resources:
        mem_mb=memory("report", 8000),
    params:
        code=code_digest(CODE_OF_REPORT),
    shell:
        "exec clipkd report --config {input.config:q} --output {output.page:q} 2>> $(new_log {log:q})"
