"""The preflight and the states of jobs, with SLURM's commands replaced by scripts that say what real ones said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from clipkd.core.errors import InputError, MachineError
from clipkd.workflow import attempts
from clipkd.workflow.slurm import jobs, site, status
from clipkd.workflow.slurm.preflight import Request, largest, preflight
from clipkd.workflow.slurm.profile import Profile
from tests.slurm.cluster import place

ROOT = Path(__file__).parents[2]
PARTITION = (
    "PartitionName={name} AllowGroups=ALL Default=NO GraceTime=0 MaxNodes=UNLIMITED MaxTime={time} Nodes=n1 "
    "PriorityTier={tier} OverSubscribe=NO PreemptMode={preempt} State={state} TotalCPUs=8"
)
CONFIG = """\
Configuration data as of 2026-11-25T11:00:00
AccountingStorageType   = {storage}
ClusterName             = toy
KillWait                = 30 sec
MinJobAge               = {age} sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SLURM_VERSION           = 22.05.8
"""
DISABLED = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


class Fakes:
    """Commands on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.say("squeue", "")
        self.say("sacct", "")
        self.say("scancel", "")
        self.say("sinfo", "cpu|(null)|64000|32\ngpu|gpu:a100:4(S:0-1)|128000|48")
        self.put("sbatch", "echo 'sbatch: Job 7 to start at 2026-11-25T12:00:00' >&2")
        self.put("srun", "exit 1")
        self.site()

    def site(self, storage="accounting_storage/slurmdbd", age=300, preempt="REQUEUE", state="UP") -> None:
        lines = [
            PARTITION.format(name=name, time=time, tier=tier, preempt=preempt, state=state)
            for name, time, tier in (("cpu", "UNLIMITED", 1), ("gpu", "12:00:00", 1), ("urgent", "1:00:00", 10))
        ]
        config = CONFIG.format(storage=storage, age=age)
        (self.folder / "partitions").write_text("\n".join(lines) + "\n")
        (self.folder / "config").write_text(config)
        self.put("scontrol", f'[ "$2" = config ] && cat {self.folder}/config || cat {self.folder}/partitions')

    def put(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def say(self, name: str, text: str) -> None:
        (self.folder / f"{name}.said").write_text(text + "\n" * bool(text))
        self.put(name, f"cat {self.folder}/{name}.said")


@pytest.fixture
def fakes(tmp_path, monkeypatch) -> Fakes:
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return Fakes(folder)


GPU = Request("gpu", 1, "a100", 700, 8000, "lab")


def problems(*requests: Request) -> str:
    return "\n".join(map(str, preflight(requests)[0].errors))


def warnings(request_: Request) -> str:
    """Return the warnings about one request, a line each."""
    return "\n".join(str(found) for found in preflight([request_])[0].found if found.level == "warning")


def test_a_cluster_that_can_do_what_is_asked(fakes):
    findings, command = preflight([Request("cpu", minutes=30), GPU])
    assert {finding.level for finding in findings.found} == {"ok"}
    assert command == "sacct"
    assert any("takes jobs of 700 minutes, 4 a100 a node" in finding.text for finding in findings.found)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request("gpus"), "does not exist (known: cpu, gpu, urgent)"),
        (Request("cpu", 1), "has no GPU"),
        (Request("gpu", 1, "h100"), "has no GPU of type 'h100' (there are: a100)"),
        (Request("gpu", 1, minutes=721), "runs no job longer than 720 minutes, but 721 are requested"),
        (Request("cpu", cpus=33), "has no node with 33 CPUs (the largest has 32): lower cpus_per_task, or group fewer"),
        (Request("cpu", memory_mb=64001), "has no node with 64001 MB (the largest has 64000 MB)"),
    ],
)
def test_what_the_site_does_not_have_is_named(request_, expected, fakes):
    assert expected in problems(request_)
    assert "profiles/slurm/config.yaml" in problems(request_)


def test_of_a_list_of_partitions_one_must_be_able(fakes):
    assert problems(request_ := Request("gpu,long", 1, minutes=60)) == ""
    assert "does not exist (known: cpu, gpu, urgent)" in warnings(request_)
    said = problems(Request("gpu,urgent", 1, minutes=721))
    assert "partition gpu: runs no job longer than 720 minutes" in said
    assert "partition urgent: runs no job longer than 60 minutes" in said


def test_memory_that_only_a_retry_asks_for_is_warned_of(fakes):
    assert "has no node with 70000 MB" in problems(Request("cpu", memory_mb=70000, most_memory_mb=70000))
    for most, is_warned in ((64000, False), (96000, True)):
        request_ = Request("cpu", memory_mb=32000, most_memory_mb=most)
        assert problems(request_) == ""
        assert warnings(request_).count("ask for 96000 MB when it is retried") == is_warned


def test_what_the_site_asks_for_is_given_to_sbatch(fakes):
    fakes.put("sbatch", f'echo "$@" > {fakes.folder}/asked')
    wanted = ("--qos=long", "--constraint=ib&avx512", "--reservation=course", "--account=lab", "--partition=cpu")
    preflight([Request("cpu", account="lab", qos="long", constraint="ib&avx512", reservation="course")])
    assert {*wanted} <= {*(fakes.folder / "asked").read_text().split()}


def test_squeue_and_sacct_are_asked_for_the_users_own_jobs(fakes, tmp_path):
    for name in ("squeue", "sacct"):
        fakes.put(name, f'echo "$@" >> {fakes.folder}/asked')
    preflight([Request("cpu")])
    status.states("clipkd_run", tmp_path)
    jobs.jobs_of(tmp_path)
    asked = (fakes.folder / "asked").read_text().splitlines()
    assert len(asked) >= 4
    assert all(f"--user={os.getuid()}" in line for line in asked)


# --- memory


@pytest.mark.parametrize(
    ("logs", "killed"),
    [
        ([], 0),
        (["epoch 1/3: train loss 2.1"], 1),
        (["clipkd train: error: the loss is not finite"], 0),
        (["epoch 1/3\nclipkd train: error: stopped by SIGTERM; run the same command to resume"], 0),
        (["Traceback (most recent call last):\n  File\nKeyError: 1"], 0),
        (["seed1: error: its process was killed by SIGKILL\nclipkd train: error: 1 of 2 students failed"], 1),
        (["clipkd train: error: out of memory on cpu with batch size 256: take"], 1),
        (["clipkd extract: error: out of memory (Unable to allocate 2 TiB): take"], 1),
        (["clipkd train: error: out of memory on cuda with batch size 256: take (CUDA out of memory. Tried"], 0),
        (["clipkd evaluate: error: out of memory (CUDA out of memory. Tried to allocate): take"], 0),
        (["epoch 1/3", "epoch 2/3", "epoch 2/3", "epoch 2/3"], 4),
    ],
)
def test_memory_grows_only_after_an_attempt_that_was_killed(logs, killed, tmp_path):
    for number, text in enumerate(logs, 1):
        (tmp_path / f"seed0-ab.attempt{number}.log").write_text(f"attempt {number} on n1, SLURM job {number}\n{text}\n")
    (tmp_path / "seed0-cd.attempt1.log").write_text("another job's\n")
    attempt = len(logs) + 1
    assert attempts.memory_mb(8000, tmp_path / "seed0-ab.log", attempt) == 8000 * min(1 + killed, 3)
    # The next job of the same settings: those before it may have ended well.
    assert attempts.memory_mb(8000, tmp_path / "seed0-ab.log", 1) == 8000


def test_a_job_whose_node_failed_asks_for_no_more_memory(tmp_path):
    """SLURM has put it back into the queue: the next attempt has the same number."""
    for number, job in enumerate((7, 7, 8), 1):
        (tmp_path / f"a.attempt{number}.log").write_text(f"attempt {number} on n1, SLURM job {job}\nepoch 1\n")
    assert [attempts.killed(tmp_path / "a.log", failed) for failed in (0, 1, 2, 3)] == [0, 1, 2, 2]


def test_what_sbatch_would_refuse_is_said_in_its_words(fakes):
    fakes.put("sbatch", "echo 'sbatch: error: allocation failure: Invalid account' >&2; exit 1")
    said = problems(GPU)
    assert "SLURM would reject a job with --partition=gpu --gpus=a100:1 --mem=8000 --account=lab" in said
    assert "Invalid account" in said


def test_a_partition_that_is_down(fakes):
    fakes.site(state="DOWN")
    assert "is not up" in problems(Request("cpu"))


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "run this on a login node" in problems(GPU)


def test_a_controller_that_does_not_answer(fakes):
    fakes.put("scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact slurm controller" in problems(GPU)


@pytest.mark.parametrize(
    ("said", "is_elsewhere"),
    [
        ("fatal: Could not establish a configuration source", True),
        ("slurm_load_ctl_conf error: Unable to contact slurm controller", False),
    ],
)
def test_away_from_a_cluster_it_is_said_where_to_run_this(said, is_elsewhere, fakes):
    fakes.put("scontrol", f"echo '{said}' >&2; exit 1")
    assert ("run this on a login node" in problems(GPU)) == is_elsewhere


def test_of_a_kind_the_requests_are_checked_that_no_other_covers():
    long, hungry = Request("gpu", 1, minutes=90, memory_mb=100), Request("gpu", 1, minutes=10, memory_mb=500)
    other = Request("gpu", 2, minutes=5)
    assert largest([hungry, long, Request("gpu", 1, minutes=10, memory_mb=100), other, long]) == [hungry, long, other]


def test_two_jobs_that_fit_two_partitions_need_none_that_fits_both(fakes):
    long = Request("cpu,gpu", minutes=1000, memory_mb=1000)  # not in gpu
    hungry = Request("cpu,gpu", minutes=100, memory_mb=100_000)  # not on a node of cpu
    assert problems(long, hungry) == ""


# --- how jobs end


def test_without_accounting_squeue_is_taken_where_it_remembers_long_enough(fakes):
    fakes.site(storage="accounting_storage/none")
    fakes.put("sacct", DISABLED)
    findings, command = preflight([Request("cpu")])
    assert command == "squeue"
    assert not findings.errors


@pytest.mark.parametrize("storage", ["accounting_storage/none", "accounting_storage/slurmdbd"])
def test_where_nothing_tells_how_jobs_end_no_job_is_submitted(storage, fakes):
    """Accounting off, or its database down, and a squeue that forgets before it may be asked."""
    fakes.site(storage=storage, age=120)
    fakes.put("sacct", "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1")
    findings, command = preflight([Request("cpu")])
    assert command == ""
    with pytest.raises(MachineError, match=r"nothing here tells for sure how a job ended.*MinJobAge=300"):
        findings.refuse_errors()


def test_preemption_by_cancelling_is_warned_of(fakes):
    fakes.site(preempt="CANCEL")
    assert "jobs preempted by jobs in urgent are cancelled (PreemptMode=CANCEL)" in warnings(Request("cpu"))
    assert not warnings(Request("urgent")), "nobody comes before these"


def test_states_are_plain_and_squeue_is_the_newer_word(fakes, tmp_path):
    fakes.say("squeue", "4|PENDING\n5|COMPLETED")
    fakes.say("sacct", "3|CANCELLED by 0\n4|PREEMPTED\n5|RUNNING\n6|OUT_OF_MEMORY")
    found = status.states("clipkd_run", tmp_path)
    assert found == {"3": "CANCELLED", "4": "PENDING", "5": "COMPLETED", "6": "OUT_OF_MEMORY"}


def test_a_preempted_job_ends_only_where_slurm_does_not_put_it_back(fakes, tmp_path):
    fakes.say("squeue", "4|PREEMPTED")
    assert status.states("clipkd_run", tmp_path) == {"4": "PREEMPTED"}
    fakes.site(preempt="CANCEL")
    assert status.states("clipkd_run", tmp_path) == {"4": "CANCELLED"}


def test_without_accounting_a_job_that_squeue_forgot_has_ended(fakes, tmp_path):
    fakes.put("sacct", DISABLED)
    fakes.say("squeue", "1|RUNNING\n2|RUNNING")
    assert status.states("clipkd_run", tmp_path) == {"1": "RUNNING", "2": "RUNNING"}
    fakes.say("squeue", "2|RUNNING")
    assert status.states("clipkd_run", tmp_path) == {"1": "UNKNOWN", "2": "RUNNING"}
    assert status.states("clipkd_other", tmp_path) == {"2": "RUNNING"}


def test_where_accounting_is_down_for_a_while_nothing_is_taken_for_ended(fakes, tmp_path):
    fakes.put("sacct", "echo 'sacct: error: Connection refused' >&2; exit 1")
    fakes.say("squeue", "1|RUNNING")
    status.states("clipkd_run", tmp_path)
    fakes.say("squeue", "")
    assert status.states("clipkd_run", tmp_path) == {}


def test_no_answer_is_no_state(fakes, tmp_path, capsys):
    for name in ("squeue", "sacct"):
        fakes.put(name, "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(MachineError, match="Unable to contact"):
        status.states("clipkd_run", tmp_path)
    assert status.main("clipkd_run") == 1
    assert capsys.readouterr().out == ""


# --- jobs that are left


def test_only_jobs_of_this_folder_and_workflow_are_ended(fakes, tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    lines = [
        f"1|clipkd_a|RUNNING|{here}|rule_train_wildcards_x",
        f"2|clipkd_a|PENDING|{here}|rule_train_wildcards_y",
        f"3|clipkd_b|RUNNING|{elsewhere}|rule_train_wildcards_x",
        f"4|mine|RUNNING|{here}|(null)",
    ]
    fakes.say("squeue", "\n".join(lines))
    # What is cancelled leaves the queue.
    done = fakes.folder / "cancelled"
    fakes.put(
        "scancel", f'echo "$@" >> {done}; for job in "$@"; do sed -i "/^$job|/d" {fakes.folder}/squeue.said; done'
    )
    assert jobs.end(here, let_finish=False) == 2
    assert done.read_text().split() == ["1", "2"]
    assert [job.number for job in jobs.jobs_of(elsewhere)] == ["3"]


def test_a_job_that_completes_is_waited_for(fakes, tmp_path, monkeypatch):
    """Its last process is being ended: it is no more to be cancelled, and not over."""
    monkeypatch.setattr(jobs, "PAUSE", 0.1)
    fakes.say("squeue", f"1|clipkd_a|COMPLETING|{tmp_path}|rule_train\n2|clipkd_a|PENDING|{tmp_path}|rule_train")
    done = fakes.folder / "cancelled"
    fakes.put("scancel", f'echo "$@" >> {done}; sed -i "/^2|/d" {fakes.folder}/squeue.said')
    with pytest.raises(MachineError, match="1 SLURM job of this folder is still there: 1"):
        jobs.end(tmp_path, let_finish=False, seconds=0.3)
    done.unlink(missing_ok=True)
    threading.Timer(1, lambda: fakes.say("squeue", "")).start()
    start = time.monotonic()
    assert jobs.end(tmp_path, let_finish=True) == 1
    assert not done.exists()
    assert time.monotonic() - start > 1


# --- reading SLURM's words


def test_times_and_gpus_as_slurm_writes_them():
    times = {
        "UNLIMITED": None,
        "30": 30,
        "90:30": 90,
        "12:00:00": 720,
        "1-00:00:00": 1440,
        "2-12": 3600,
        "1-01:30": 1530,
    }
    assert {text: site.minutes(text) for text in times} == times
    assert site.gpus("(null)") == {}
    assert site.gpus("gpu:2") == {"": 2}
    assert site.gpus("gpu:a100:4(S:0-1),gpu:v100:2(S:0),shard:8") == {"a100": 4, "v100": 2}
    assert site.gpus("gpu:nvidia_a100-sxm4-80gb:8(S:0-1)") == {"nvidia_a100-sxm4-80gb": 8}
    assert site.gpus("gpu:2080ti:8,gpu:3090:2,gpu:1g.5gb:7") == {"2080ti": 8, "3090": 2, "1g.5gb": 7}


def test_the_project_s_own_profile_names_a_site(tmp_path):
    profile = Profile.read(ROOT / "profiles/slurm")
    assert {one.qos + one.constraint + one.reservation for one in profile.requests()} == {""}
    assert [request.partition for request in profile.requests()] == ["cpu", "gpu"]
    assert profile.latency_wait == 60
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("qos: null", "qos: long").replace("n: null", "n: course"))
    assert {(one.qos, one.reservation) for one in Profile.read(tmp_path).requests()} == {("long", "course")}
    for changed in (text.replace("longest_job: 720", "longest_job: 5"), "a: [", text.replace("gpu_partition: gpu", "")):
        (tmp_path / "config.yaml").write_text(changed)
        with pytest.raises(InputError, match=r"config\.yaml"):
            Profile.read(tmp_path)
    with pytest.raises(InputError, match="give the profile's folder with --profile"):
        Profile.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "changed", "said"),
    [
        ("longest_job: 720", "longest_job: 12:00:00", "12:00:00 is not a number of minutes"),
        ("longest_job: 720", "longest_job: 1-0", "1-0 is not a number of minutes"),
        ("cpu_partition: cpu", "cpu_partition: [cpu, long]", 'names with commas in quotes, "cpu,long"'),
        ("gpu_partition: gpu", "gpu_partition: null", "gpu_partition is empty"),
        ("account: null", "account: 007", "account: YAML reads 7 here, not a name"),
        ("account: null", "account: yes", "account: YAML reads True here, not a name"),
        ("gpu_model: null", "gpu_model: a100-sxm4", "choose the nodes by `constraint`"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_looks_is_refused_by_its_key(tmp_path, line, changed, said):
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(line, changed, 1))
    with pytest.raises(InputError, match=re.escape(said)):
        Profile.read(tmp_path)


def test_a_cluster_without_gpus_is_asked_for_none():
    requests = Profile("all", "all", 720, gpu_model="a100").requests("cpu")
    assert [(one.partition, one.gpus, one.gpu_model) for one in requests] == [("all", 0, "")] * 2
    assert [one.gpus for one in Profile("all", "all", 720).requests()] == [0, 1]


def test_site_values_stand_in_one_place_of_the_profile():
    """Each of the site's words appears once: where it is set."""
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    settings = text.partition("executor: slurm")[2]
    for name in ("slurm_account: ", "slurm_partition: ", "gpu_model: ", "qos: ", "constraint: ", "slurm-reservation: "):
        values = [line.split(name)[1] for line in settings.splitlines() if line.strip().startswith(name)]
        assert values
        assert all(value.startswith("?") for value in values), (name, values)


def test_a_cluster_of_the_tests_needs_no_certain_tmpdir(tmp_path):
    private = Path(tempfile.mkdtemp())  # others can't enter it
    try:
        assert place(str(tmp_path / ("long" * 20))) == place(str(private)) == Path("/tmp").resolve()
        assert place("/var/tmp") == Path("/var/tmp").resolve()
    finally:
        private.rmdir()


def test_preflight_is_quick_and_loads_no_torch():
    modules = "clipkd.workflow.slurm.preflight, clipkd.workflow.doctor, clipkd.workflow.resume"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
