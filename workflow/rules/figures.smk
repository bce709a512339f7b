# figures: from run folders, manifests and stored embeddings only.
#
#   results/figures/<figure>.{png,svg}
rule figures:
    """Draw every figure as PNG and SVG."""
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
    log:
        "logs/figures/figures.log",
    benchmark:
        "results/benchmarks/figures.tsv"
    resources:
        mem_mb=memory("figures", 8000),
    params:
        code=code_digest(CODE_OF_FIGURES),
    shell:
        "exec clipkd figures --config {input.config:q} 2>> $(new_log {log:q})"
