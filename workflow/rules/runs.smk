# runs: one student per (recipe, dataset, student, teacher, train type, seed).
#
#   results/runs/<recipe>/<dataset>/<student>/<teacher>/<train_type>/seed<k>/metrics.json
#
# That file stands for a run, as its manifest does for an artefact. Snakemake deletes it before it tries a job again;
# the command writes it anew, without training, where the rest of a finished run is whole.
if STACK == 1:

    rule train:
        """Train one student."""
        input:
            pixels=lambda wildcards: pixels_inputs(cell_of(wildcards, wildcards.seed)),
            signal=lambda wildcards: signal_inputs(cell_of(wildcards, wildcards.seed)),
        output:
            f"results/runs/{RUN}/metrics.json",
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
            run=lambda wildcards: run_flags(cell_of(wildcards, wildcards.seed)),
            folder=lambda wildcards, output: str(Path(output[0]).parent),
            # Numbers that are bumped by hand when a numerical change must train students again.
            protocol=lambda wildcards: [
                PROTOCOL,
                recipes.get(wildcards.recipe).protocol,
            ],
        shell:
            "exec clipkd train {params.run:q} --seed {wildcards.seed:q} --log-folder {params.folder:q} "
            "--device {resources.device:q} --threads {threads} > /dev/null 2>> $(new_log {log:q})"

else:
    # A rule for each set of seeds; the command trains those that are missing.
    for SEEDS, FOLDERS in seeds_together().items():
        NAME = "-".join(map(str, SEEDS))
        STACKED = f"train_seeds_{NAME.replace('-', '_')}"
        # What a profile sets for `train` holds for these rules too.
        PROFILE = workflow.resource_settings._parsed_overwrite_resources
        PROFILE[STACKED] = PROFILE.get("train", {})

        rule:
            name:
                STACKED
            input:
                pixels=lambda wildcards, seed=SEEDS[0]: pixels_inputs(
                    cell_of(wildcards, seed)
                ),
                signal=lambda wildcards, seed=SEEDS[0]: signal_inputs(
                    cell_of(wildcards, seed)
                ),
            output:
                results_of_seeds(SEEDS),
            log:
                f"logs/runs/{RUN_OF_SEEDS}/seeds-{NAME}.log",
            benchmark:
                f"results/benchmarks/runs/{RUN_OF_SEEDS}/seeds-{NAME}.tsv"
            wildcard_constraints:
                # Which students have just these seeds.
                recipe=recipe_within(FOLDERS),
            threads: 1
            resources:
                gpu=GPUS,
                device=DEVICE,
                runtime=lambda wildcards, attempt, seeds=SEEDS: train_minutes(
                    wildcards, attempt, seeds
                ),
            params:
                run=lambda wildcards, seed=SEEDS[0]: run_flags(cell_of(wildcards, seed)),
                seeds=SEEDS,
                stack=["--stack", STACK] if DEVICE == "cuda" else [],
                protocol=lambda wildcards: [
                    PROTOCOL,
                    recipes.get(wildcards.recipe).protocol,
                ],
            shell:
                "exec clipkd train {params.run:q} --seed {params.seeds:q} {params.stack:q} --processes {threads} "
                "--device {resources.device:q} --threads {threads} > /dev/null 2>> $(new_log {log:q})"
