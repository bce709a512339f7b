# runs: one student per (recipe, dataset, student, teacher, train type, seed).
#
#   results/runs/<recipe>/<dataset>/<student>/<teacher>/<train_type>/seed<k>/metrics.json
from clipkd.training import PROTOCOL


def cell_of(wildcards):
    """Return the cell of a run folder."""
    return RUNS[RUN.format(**wildcards)]


def signal_inputs(wildcards):
    """Return what the run's method asks of its teacher: nothing, or stored or live signals."""
    cell = cell_of(wildcards)
    asked, live = cell.method.signal, cell.teacher_source == "live"
    inputs = []
    if asked == "prototypes":
        store = LAYOUT.sample_embeddings(cell)
        inputs.append(manifest(store.prototypes(cell.recipe_spec.prototype_form)[0]))
    if asked == "embeddings" and not live:
        inputs.append(manifest(LAYOUT.full_embeddings(cell).folder))
    if asked == "scores":
        inputs.append(manifest(LAYOUT.full_embeddings(cell).head()[0]))
    if live:
        inputs.append(manifest(LAYOUT.teacher(cell.teacher_spec)))
    return inputs


def run_flags(wildcards):
    """Return the flags that name a run on the command line; settings that change make it run again."""
    cell = cell_of(wildcards)
    training = config["training"]
    return [
        *(
            "--train-type",
            cell.train_type,
            "--dataset-name",
            cell.dataset,
            "--teacher-model",
            cell.teacher,
        ),
        *("--student", cell.student, "--recipe", cell.recipe, "--seed", cell.seed),
        *("--teacher-source", cell.teacher_source, "--epochs", cell.epochs),
        *(
            "--batch-size",
            training["batch_size"],
            "--learning-rate",
            training["learning_rate"],
        ),
        *("--weight-decay", training["weight_decay"]),
        *source_flag(wildcards),
        *("--embed-dtype", LAYOUT.dtype),
        *(
            "--per-class",
            LAYOUT.sample.per_class,
            "--prototype-seed",
            LAYOUT.sample.seed,
        ),
    ]


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
    log:
        f"logs/runs/{RUN}.log",
    benchmark:
        f"results/benchmarks/runs/{RUN}.tsv"
    threads: 1
    resources:
        gpu=GPUS,
    params:
        run=run_flags,
        folder=lambda wildcards, output: str(Path(output.metrics).parent),
        device=DEVICE,
        # Numbers that are bumped by hand when a numerical change must train students again.
        protocol=lambda wildcards: [PROTOCOL, recipes.get(wildcards.recipe).protocol],
    shell:
        "clipkd train {params.run:q} --log-folder {params.folder:q} "
        "--device {params.device:q} --threads {threads} > /dev/null 2> {log:q}"
