# cluster: what jobs ask of a scheduler, the logs of every attempt, and what is checked before the first job starts.
# Harmless on one machine; docs/slurm.md says how to use profiles/slurm.
import shlex

from snakemake.io import apply_wildcards

from clipkd.workflow import attempts, cleaning, estimates, evaluations, session
from clipkd.core.errors import ClipkdError
from clipkd.core.scratch import SCRATCH
from clipkd.core.words import counted, verb
from clipkd.workflow.slurm.preflight import Request, preflight


# They need the internet, which the nodes of a cluster rarely have, or they take a second. (Data that are here already are
# packed by another rule, as it may take hours.)
localrules:
    download,
    download_files,
    fetch,
    resolve,


def all_cores():
    """Return the number of cores that Snakemake may use; 1 where it was given none, as on a cluster."""
    try:
        return workflow.cores
    except WorkflowError:
        return 1


def takes_gpu():
    """Return whether what computes here does so on a GPU."""
    return DEVICE == "cuda" or (DEVICE == "auto" and may_have_gpu())


def stack_flag(wildcards, threads):
    """Return the flag that has a job's students computed at once, as a GPU does.

    With `threads`: how students are computed makes nothing again. Processes, of --set-threads, and a stack exclude each
    other.
    """
    return ["--stack", STACK] if STACK > 1 and threads == 1 and takes_gpu() else []


def trains_on_cpu():
    """Return whether trainings surely compute on the CPU. (A cluster's main process, without cores, sees no GPUs.)"""
    return DEVICE == "cpu" or (
        DEVICE == "auto" and all_cores() > 1 and not may_have_gpu()
    )


def train_threads(wildcards):
    """Return the cores that a job's trainings take: on a CPU a process for each student.

    On one machine they take at most half of its cores: jobs of one core, such as a teacher's training, run beside them.
    Where `auto` finds no GPU, one job at a time asks for the GPU that is not there, and may take all. (A cluster's main
    process has no cores to give, and does not see the GPUs; its jobs have what it asked for.)
    """
    cells, cores = job_of(wildcards).cells, all_cores()
    if takes_gpu():
        return 1
    if DEVICE == "auto":
        return min(len(cells), cores)
    if cores == 1 or len(JOBS) == 1 or not IS_MAIN:
        return len(cells)
    return min(len(cells), cores // 2)


def teacher_threads(jobs):
    """Return the cores that each of so many jobs of teachers takes: on a CPU they share half of the machine's."""
    return 1 if takes_gpu() else max(1, all_cores() // 2 // max(1, jobs))


@cache
def teachers_to_train():
    """Return how many teachers are still to be trained."""
    specs = {folder: teachers.get(name) for folder, name in TEACHERS.items()}
    return sum(
        isinstance(spec, TrainedTeacher | TrainedCNN)
        and not extractions.is_there(folder)
        for folder, spec in specs.items()
    )


@cache
def extractions_to_make():
    """Return how many extractions are still to be made."""
    return sum(bool(one.missing) for one in EXTRACTIONS.values())


def train_minutes(wildcards, threads, attempt):
    """Return the minutes that a job's trainings may take: on a GPU as if one after another; more after each attempt."""
    cells = job_of(wildcards).cells
    at_once = threads if DEVICE == "cpu" else 1
    return attempt * estimates.training_minutes(cells, LAYOUT, DEVICE, at_once)


def train_teacher_minutes(wildcards, attempt):
    """Return the minutes that the training of a teacher may take."""
    spec = teachers.get(teacher_name(wildcards))
    minutes = estimates.teacher_training_minutes(
        spec, dataset_of(spec.dataset), LAYOUT, DEVICE
    )
    return attempt * minutes


def evaluate_minutes(wildcards, attempt):
    """Return the minutes that an evaluation may take."""
    cell = evaluated(wildcards)
    return attempt * estimates.evaluation_minutes(
        cell, CONFIG.evaluation, LAYOUT, DEVICE
    )


def extract_minutes(wildcards, attempt):
    """Return the minutes that an extraction may take."""
    stores = extraction_of(wildcards).views(LAYOUT)
    return attempt * estimates.extraction_minutes(stores, LAYOUT, DEVICE)


def shard_minutes(wildcards, attempt):
    """Return the minutes that one shard of a store may take."""
    cell, views = STORES[STORE.format(**wildcards)]
    store = getattr(LAYOUT, f"{views}_embeddings")(cell)
    return attempt * estimates.extraction_minutes(
        [store], LAYOUT, DEVICE, int(wildcards.shards)
    )


# In the preflight: what a job asks for after its attempts were killed.
WORST = [False]


def memory(rule, usual):
    """Return what gives the megabytes of a rule's jobs: more only after an attempt that was killed."""

    def asked(wildcards, attempt):
        if WORST[0]:
            return attempts.MOST * usual
        log = apply_wildcards(workflow.get_rule(rule).log[0], wildcards)
        return attempts.memory_mb(usual, Path(log), attempt)

    return asked


def most_memory(jobs):
    """Return rule -> the most megabytes that one of its jobs may ask for in any of its attempts."""
    found = {}
    for job in jobs:
        if job.rule.name not in found:
            WORST[0], job.attempt = True, 1 + job.rule.restart_times
            found[job.rule.name] = job.resources.get("mem_mb", 0)
            WORST[0], job.attempt = False, 1
    return found


def forget_forced(dag):
    """Restart what --forcerun or --forceall names: trainings, extractions, teachers, evaluations; else commands skip what is there.

    Jobs that Snakemake forces itself, because it did not see them end, are not restarted: they may be complete.
    """
    known = {"train": JOBS, "extract": EXTRACTIONS}
    for job in dag.needrun_jobs():
        is_forced = job.rule in dag.forcerules
        if not is_forced:
            continue
        if job.rule.name in known:
            known[job.rule.name][str(job.output[0])].forget()
        elif job.rule.name == "evaluate":
            evaluations.forget(EVALUATIONS[str(job.output[0])], MEASURES)
        elif job.rule.name in ("fetch", "train_teacher"):
            Path(job.output[0]).unlink(missing_ok=True)


def requests(dag):
    """Yield what the jobs that are about to run will ask SLURM for; those of a group ask together."""
    jobs = [job for job in dag.needrun_jobs() if not job.is_local]
    most = most_memory(jobs)
    groups = {id(group): group for group in map(dag.get_job_group, jobs) if group}
    alone = [job for job in jobs if dag.get_job_group(job) is None]
    given = workflow.executor_settings
    for job in [*groups.values(), *alone]:
        asked = job.resources
        memory_mb = asked.get("mem_mb", 0)
        yield Request(
            partition=asked.get("slurm_partition", ""),
            gpus=asked.get("gpu", 0),
            gpu_model=asked.get("gpu_model", ""),
            minutes=asked.get("runtime", 1),
            memory_mb=memory_mb,
            account=asked.get("slurm_account", ""),
            cpus=asked.get("cpus_per_task", job.threads),
            qos=asked.get("qos", "") or given.qos or "",
            constraint=asked.get("constraint", ""),
            reservation=given.reservation or "",
            most_memory_mb=memory_mb if job in groups.values() else most[job.rule.name],
        )


def start():
    """Become the folder's one main process; on a cluster, find out what would fail or hang."""
    # Internal to Snakemake: nothing else tells a hook which jobs will run, and where.
    dag, executor = workflow.dag, workflow.executor_plugin.name
    if executor == "touch":
        return
    is_resumed = session.hold(Path(), session.Started(sys.argv[1:], executor))
    missing = [job for stamp, job in JOBS.items() if not Path(stamp).exists()]
    for line in cleaning.replaced(
        [cell for job in missing for cell in job.cells], CONFIG
    ):
        print(f"warning: {line}", file=sys.stderr)
    if executor == "slurm":
        findings, status = preflight(requests(dag))
        for finding in findings.found:
            print(finding, file=sys.stderr)
        findings.refuse_errors()
        ask_for_states(status)
    if not is_resumed:
        forget_forced(dag)


def ask_for_states(status):
    """Have the plugin ask for its jobs' states in a way that leaves none unseen (clipkd/workflow/slurm/status.py).

    Internal to the plugin: it has no setting for the command, and waits for ever for states that it does not know.
    """
    import snakemake_executor_plugin_slurm as plugin

    names = ("query_job_status_sacct", "query_job_status_squeue")
    if not all(hasattr(plugin, name) for name in (*names, "Executor")) or not hasattr(
        plugin.Executor, "get_status_command"
    ):
        raise WorkflowError(
            "this version of snakemake-executor-plugin-slurm is not supported: cancelled jobs would hang; "
            "install the one in requirements/lock.txt"
        )
    command = shlex.join([sys.executable, "-m", "clipkd.workflow.slurm.status"])
    for name in names:
        setattr(plugin, name, lambda run: f"{command} {shlex.quote(run)}")
    plugin.Executor.get_status_command = lambda executor: status


def refuse_rest():
    """Raise WorkflowError where something that the call was for is still to be made.

    Snakemake looks at nothing behind a job that it makes again though its output is there (forced, or because its command
    has changed since), and is content.
    """
    narrowed = {"--until", "-U", "--omit-from", "-O", "--batch", "--allowed-rules"}
    if workflow.executor_plugin.name == "touch" or is_given(narrowed, "UO"):
        return
    asked = {job.rule.name for job in workflow.dag.jobs} & {"all", "runs"}
    wanted = [*JOBS] if asked else []
    wanted += [*EVALUATIONS, RESOLVED_STAMP] if "all" in asked else []
    left = [stamp for stamp in wanted if not Path(stamp).exists()]
    if left:
        raise WorkflowError(
            f"{counted(len(left), 'result')} {verb(len(left))} still to be made, as {Path(left[0]).parent}: Snakemake made something again that they "
            "depend on, and did not look further. Give the same command once more"
        )


onsuccess:
    refuse_rest()
    if any(job.rule.name == "all" for job in workflow.dag.jobs):
        print("Report: results/report.html", file=sys.stderr)


onstart:
    try:
        start()
    except ClipkdError as error:
        raise WorkflowError(str(error)) from None


def scratch_line():
    """Return the line of a job's shell that says where trainings copy what they read.

    In no rule's command: another folder must not train anything again.
    """
    if not CONFIG.training.scratch:
        return ""
    line = f"export {SCRATCH}={shlex.quote(CONFIG.training.scratch)}\n    "
    return line.replace("{", "{{").replace("}", "}}")


# Prefix of every job's shell. Snakemake deletes a job's log before a retry, and SLURM restarts a requeued job from its
# beginning. So each attempt writes a separate log, which is kept, and the rule's log is a link to the latest one. `exec`
# lets the signals of a cluster reach the command itself.
JOB_PREFIX = """set -euo pipefail
    new_log() {{
        attempt=1
        until (set -o noclobber; : > "${{1%.log}}.attempt$attempt.log") 2> /dev/null; do
            [ -e "${{1%.log}}.attempt$attempt.log" ] || return 1
            attempt=$((attempt + 1))
        done
        echo "attempt $attempt on $(hostname)${{SLURM_JOB_ID:+, SLURM job $SLURM_JOB_ID}}" > "${{1%.log}}.attempt$attempt.log"
        ln -sfn "$(basename "${{1%.log}}").attempt$attempt.log" "$1"
        echo "$1"
    }}
    """
shell.prefix(f"{JOB_PREFIX}{scratch_line()}")
