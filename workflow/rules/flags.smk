# flags: what rules put on clipkd's command lines.
from clipkd.spec import class_names
from clipkd.spec.prompts import TEMPLATES


def source_flag(named):
    """Return the flag that says where the data of a `dataset` are, as a list; empty for the official place."""
    source = config["sources"].get(named.dataset)
    return ["--dataset-source", source] if source else []


def store_flags(cell, wildcards):
    """Return the flags that name a store on the command line."""
    return [
        *("--dataset-name", cell.dataset, "--teacher-model", cell.teacher),
        *("--recipe", cell.recipe, "--student", cell.student),
        *source_flag(wildcards),
        *("--embed-dtype", LAYOUT.dtype),
        *precision_flags(),
    ]


def sample_flags(cell):
    """Return the flags that say which images, or prompts, prototypes are made of."""
    sample, flags = LAYOUT.sample, []
    specs = [one.teacher_spec for one in cell.by_teacher]
    if not all(spec.reads_names for spec in specs):
        flags += ["--per-class", sample.per_class, "--prototype-seed", sample.seed]
    if any(spec.reads_names for spec in specs) and LAYOUT.templates != TEMPLATES:
        flags += [f"--template={template}" for template in LAYOUT.templates]
    if any(spec.reads_names for spec in specs):
        flags += names_flag(cell.dataset)
    return flags


def names_flag(dataset):
    """Return the flag that says what a dataset's classes are called; only text towers' jobs depend on it."""
    given = (config.get("class_names") or {}).get(dataset)
    return ["--class-names", class_names.option(given)] if given else []


def precision_flags():
    """Return the flag of teachers' precision, where it is not float32."""
    precision = LAYOUT.precision
    return [] if precision == "float32" else ["--embed-precision", precision]


def form_flags():
    """Return the flag that says what prototypes are, where it is not the recipe that says so."""
    return ["--prototype-form", LAYOUT.form] if LAYOUT.form else []


def extract_flags(wildcards):
    """Return the flags of an extraction."""
    cell, views = STORES[STORE.format(**wildcards)]
    more = {
        "full": [],
        "sample": sample_flags(cell),
        "replayed": ["--crop-views", LAYOUT.crop_views],
    }
    return [*store_flags(cell, wildcards), "--views", views, *more[views]]


def prototypes_flags(wildcards):
    """Return the flags that make class prototypes."""
    (cell,) = PROTOTYPES[f"{STORE}-prototypes-{{part}}".format(**wildcards)]
    return store_flags(cell, wildcards) + sample_flags(cell) + form_flags()


def probe_flags(wildcards):
    """Return the flags that make a head."""
    (cell,) = HEADS[f"{STORE}-head-{{part}}".format(**wildcards)]
    return store_flags(cell, wildcards)


def run_flags(cell):
    """Return the flags that name a run on the command line, but for its seed; settings that change make it run again."""
    training = config["training"]
    return [
        *("--train-type", cell.train_type, "--dataset-name", cell.dataset),
        *("--teacher-model", cell.teacher, "--student", cell.student),
        *("--recipe", cell.recipe),
        *("--teacher-source", cell.teacher_source, "--epochs", cell.epochs),
        *("--batch-size", training["batch_size"]),
        *("--learning-rate", training["learning_rate"]),
        *("--weight-decay", training["weight_decay"]),
        *("--precision", training["precision"]),
        *source_flag(cell),
        *("--embed-dtype", LAYOUT.dtype),
        *precision_flags(),
        *(
            sample_flags(cell) + form_flags()
            if cell.method.signal == "prototypes"
            else []
        ),
        *(
            ["--crop-views", LAYOUT.crop_views]
            if cell.teacher_source == "replayed"
            else []
        ),
    ]
