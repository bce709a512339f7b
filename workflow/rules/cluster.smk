# cluster: what jobs ask of a scheduler, the logs of every attempt, and what is checked before the first job starts.
# Harmless on one machine; docs/slurm.md says how to use profiles/slurm.
import shlex

from clipkd.workflow import recovery as adoption, estimates, session as main_process
from clipkd.tables import consistency as agreement
from clipkd.runs import spare
from clipkd.core.errors import ClipkdError, InputError
from clipkd.workflow.slurm.preflight import Request, preflight


# They need the internet, which the nodes of a cluster rarely have, or they take a second.
localrules:
    download,
    fetch,
    resolve,


def train_minutes(wildcards, attempt, seeds=None):
    """Return the minutes that a training, one student after another, may take; more after each attempt."""
    seeds = seeds or [wildcards.seed]
    cell = cell_of(wildcards, seeds[0])
    return attempt * estimates.training_minutes(cell, LAYOUT, DEVICE, len(seeds))


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


def requests():
    """Yield what the jobs that are about to run will ask SLURM for; those of a group ask together."""
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    groups = {
        id(group): group for group in map(workflow.dag.get_job_group, jobs) if group
    }
    alone = [job for job in jobs if workflow.dag.get_job_group(job) is None]
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


def make_way(goes_on):
    """Set the results of trainings that are about to run aside; those that the user forces train anew.

    Snakemake deletes them where a job begins. A job that fails before would leave them, with its own record.
    """
    everything = workflow.dag_settings.forceall
    unfinished = set(adoption.marked(adoption.MARKS))  # Snakemake forces these too
    for job in workflow.dag.needrun_jobs():
        if not job.rule.name.startswith("train"):
            continue
        for result in map(Path, job.output):
            is_forced = workflow.dag.reason(job).forced and result not in unfinished
            if (everything or is_forced) and not goes_on:
                spare.forget(result)
            else:
                spare.set_aside(result)


def refuse_strangers():
    """Refuse, before any work, finished runs that the config does not ask for and Snakemake would take as they are.

    It has no record of what `clipkd train` made by hand.
    """
    dag = workflow.dag
    done = [
        Path(path)
        for job in dag.jobs
        if job.rule.name.startswith("train") and not dag.needrun(job)
        for path in job.output
    ]
    runs = {
        path.parent: RUNS[path.parent.relative_to("results/runs").as_posix()]
        for path in done
    }
    if lines := agreement.strangers(runs, config, LAYOUT):
        more = [f"... and {len(lines) - 20} more"] if len(lines) > 20 else []
        raise InputError(
            f"{len(lines)} of the grid's run folders hold runs of other settings than the config asks for; remove them, "
            "and they are trained anew:\n  " + "\n  ".join(lines[:20] + more)
        )


def start():
    """Become the folder's one main process; on a cluster, find out what would fail or hang."""
    if workflow.touch:
        return
    executor = workflow.executor_plugin.name
    goes_on = main_process.hold(Path(), main_process.Started(sys.argv[1:], executor))
    if executor == "slurm":
        findings, status = preflight(requests())
        for finding in findings.found:
            print(finding, file=sys.stderr)
        findings.refuse_errors()
        ask_for_states(status)
    refuse_strangers()
    make_way(goes_on)


def ask_for_states(status):
    """Have the plugin ask for its jobs' states in a way that leaves none unseen (clipkd/workflow/slurm/status.py)."""
    import snakemake_executor_plugin_slurm as plugin

    workflow.executor_settings.status_command = status
    names = ("query_job_status_sacct", "query_job_status_squeue")
    if not all(hasattr(plugin, name) for name in names):
        raise WorkflowError(
            "this version of snakemake-executor-plugin-slurm is not known here: cancelled jobs would hang; "
            "install the one in requirements/lock.txt"
        )
    for name in names:
        setattr(
            plugin,
            name,
            lambda run: shlex.join(
                [sys.executable, "-m", "clipkd.workflow.slurm.status", run]
            ),
        )


onstart:
    try:
        start()
    except ClipkdError as error:
        raise WorkflowError(str(error)) from None


# What every job's shell knows. Snakemake deletes a job's log before it tries again, and SLURM starts a job that it
# puts back into the queue from its beginning: so each attempt writes a log of its own, which stays, and the log that
# the rule names is a link to the newest. `exec` lets the signals of a cluster reach the command itself.
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
