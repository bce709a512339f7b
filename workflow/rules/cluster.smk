# cluster: what jobs ask of a scheduler, the logs of every attempt, and what is checked before the first job starts.
# Harmless on one machine; docs/slurm.md says how to use profiles/slurm.
import shlex

from clipkd.workflow import estimates, session
from clipkd.core.errors import ClipkdError
from clipkd.workflow.slurm.preflight import Request, preflight


# They need the internet, which the nodes of a cluster rarely have, or they take a second.
localrules:
    download,
    fetch,
    resolve,


def train_minutes(wildcards, attempt):
    """Return the minutes that a training, one student after another, may take; more after each attempt."""
    cells = job_of(wildcards).cells
    return attempt * estimates.training_minutes(cells[0], LAYOUT, DEVICE, len(cells))


def extract_minutes(wildcards, attempt):
    """Return the minutes that an extraction, or one shard of it, may take."""
    cell, views = STORES[STORE.format(**wildcards)]
    stores = {
        "full": LAYOUT.full_embeddings,
        "sample": LAYOUT.sample_embeddings,
        "replayed": LAYOUT.replayed_embeddings,
    }
    shards = int(getattr(wildcards, "shards", 1))
    return attempt * estimates.extraction_minutes(
        stores[views](cell), LAYOUT, DEVICE, shards
    )


def forget_forced(dag):
    """Restart the trainings that --forcerun or --forceall names; otherwise the command skips complete runs.

    Trainings that Snakemake forces itself, because it did not see them end, are not restarted: they may be complete.
    """
    for job in dag.needrun_jobs():
        is_forced = job.rule in dag.forcerules
        if is_forced and job.rule.name == "train":
            JOBS[str(job.output[0])].forget()


def requests(dag):
    """Yield what the jobs that are about to run will ask SLURM for; those of a group ask together."""
    jobs = [job for job in dag.needrun_jobs() if not job.is_local]
    groups = {id(group): group for group in map(dag.get_job_group, jobs) if group}
    alone = [job for job in jobs if dag.get_job_group(job) is None]
    for job in [*groups.values(), *alone]:
        asked = job.resources
        yield Request(
            asked.get("slurm_partition", ""),
            asked.get("gpu", 0),
            asked.get("gpu_model", ""),
            asked.get("runtime", 1),
            asked.get("mem_mb", 0),
            asked.get("slurm_account", ""),
            asked.get("cpus_per_task", job.threads),
        )


def start():
    """Become the folder's one main process; on a cluster, find out what would fail or hang."""
    # Internal to Snakemake: nothing else tells a hook which jobs will run, and where.
    dag, executor = workflow.dag, workflow.executor_plugin.name
    if executor == "touch":
        return
    is_resumed = session.hold(Path(), session.Started(sys.argv[1:], executor))
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


onstart:
    try:
        start()
    except ClipkdError as error:
        raise WorkflowError(str(error)) from None


# Prefix of every job's shell. Snakemake deletes a job's log before a retry, and SLURM restarts a requeued job from its
# beginning. So each attempt writes a separate log, which is kept, and the rule's log is a link to the latest one. `exec`
# lets the signals of a cluster reach the command itself.
shell.prefix("""set -euo pipefail
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
    """)
