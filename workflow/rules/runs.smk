# runs: one student per (recipe, dataset, student, teacher, train type, seed).
#
#   results/runs/<recipe>/<dataset>/<student>/<teacher>/<train_type>/seed<k>/metrics.json
rule train:
    """Train one student."""
    input:
        dataset=lambda wildcards: manifest(
            LAYOUT.dataset(dataset_of(wildcards.dataset))
        ),
        signal=signal_inputs,
    output:
        metrics=f"results/runs/{RUN}/metrics.json",
        cost=f"results/runs/{RUN}/cost.json",
        history=f"results/runs/{RUN}/history.csv",
        student=f"results/runs/{RUN}/student.safetensors",
        manifest=f"results/runs/{RUN}/manifest.json",
    log:
        f"logs/runs/{RUN}.log",
    benchmark:
        f"results/benchmarks/runs/{RUN}.tsv"
    threads: 1
    resources:
        gpu=GPUS,
        device=DEVICE,
        runtime=train_minutes,
    params:
        run=run_flags,
        folder=lambda wildcards, output: str(Path(output.metrics).parent),
        # Numbers that are bumped by hand when a numerical change must train students again.
        protocol=lambda wildcards: [PROTOCOL, recipes.get(wildcards.recipe).protocol],
    shell:
        "exec clipkd train {params.run:q} --log-folder {params.folder:q} "
        "--device {resources.device:q} --threads {threads} > /dev/null 2>> $(new_log {log:q})"
