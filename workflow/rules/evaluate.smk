# evaluations: what the config's `evaluation` asks to measure of each student, beside its accuracy.
#
#   results/evaluations/<recipe>/<dataset>/<student>/<teacher>/<train_type>/seed<k>.json, seed<k>-reliability.{png,svg}
#
# The stamp is the only output: the file may hold measures that were made by hand (clipkd/workflow/evaluations.py).
rule evaluate:
    """Measure one student."""
    input:
        evaluation_inputs,
    output:
        EVALUATION_STAMP,
    log:
        f"logs/evaluations/{RUN}-{{fingerprint}}.log",
    benchmark:
        f"results/benchmarks/evaluations/{RUN}-{{fingerprint}}.tsv"
    # Times are those of one thread, on a machine that does nothing else.
    threads: all_cores() if "speed" in CONFIG.evaluation else 1
    resources:
        mem_mb=memory("evaluate", 8000),
        gpu=GPUS,
        device=DEVICE,
        runtime=evaluate_minutes,
    params:
        run=lambda wildcards: f"{RUNS}/{evaluated(wildcards).folder}",
        measures=",".join(sorted(CONFIG.evaluation)),
    shell:
        "exec clipkd evaluate {params.run:q} --measures {params.measures:q} --stamp {output:q} "
        "--device {resources.device:q} --threads 1 > /dev/null 2>> $(new_log {log:q})"
