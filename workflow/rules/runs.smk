# runs: one student per (recipe, dataset, student, teacher, train type, seed).
#
#   results/runs/<recipe>/<dataset>/<student>/<teacher>/<train_type>/seed<k>/.done-<fingerprint of the settings>
#
# The stamp is the only output; metrics.json and all else in a run folder are never Snakemake's to delete
# (clipkd/workflow/stamps.py). A job trains up to `training.stack` students of one dataset, recipe and shape; its stamp and
# log are those of the first.
#
# On a CPU each student of a job is a process of its own, with memory of its own.
AT_ONCE = max((len(job.cells) for job in JOBS.values()), default=1)
TRAIN_MB = max(8000, 4000 + 1500 * AT_ONCE) if trains_on_cpu() else 8000


rule train:
    """Train the students of a job that are not complete yet."""
    input:
        pixels=lambda wildcards: pixels_inputs(job_of(wildcards).cells[0]),
        signal=lambda wildcards: signal_inputs(job_of(wildcards)),
    output:
        RUN_STAMP,
    log:
        f"logs/runs/{RUN}-{{fingerprint}}.log",
    benchmark:
        f"results/benchmarks/runs/{RUN}-{{fingerprint}}.tsv"
    threads: train_threads
    resources:
        mem_mb=memory("train", TRAIN_MB),
        gpu=GPUS,
        device=DEVICE,
        runtime=train_minutes,
        threads_each=lambda wildcards, threads: max(
            1, threads // len(job_of(wildcards).cells)
        ),
    params:
        runs=lambda wildcards: flags.run_flags(CONFIG, job_of(wildcards).cells),
        stack=stack_flag,
    shell:
        "exec clipkd train {params.runs:q} {params.stack:q} --processes {threads} --overwrite --stamp {output:q} "
        "--device {resources.device:q} --threads {resources.threads_each:q} > /dev/null 2>> $(new_log {log:q})"


rule runs:
    """Every student of the grid, without tables."""
    input:
        all_runs,
        own_datasets,
