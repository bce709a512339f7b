"""A real SLURM on this machine: one node, loopback, fake GPUs, no systemd.

Everything (keys, state, logs, sockets) lies in one folder. The daemons run in a mount namespace of their own, in
which that folder's `etc` is /etc/slurm: nothing of the machine's configuration is touched, and several clusters
can run side by side. Needs root (or a container's root) and the packages in `PACKAGES`.

    python -m tests.slurm.cluster --check                              # can one be brought up here?
    python -m tests.slurm.cluster FOLDER [--accounting] COMMAND...     # bring one up, run a command, take it down
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "nsenter")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd")
GPUS, CPUS, MEMORY_MB = 2, 8, 256_000
"""What the node claims to have; more CPUs than it has, so that several jobs run at once."""
SECONDS_TO_START = 60
LONGEST_PLACE = 40
"""Bytes: a socket's path has 107 at most."""


def place(named: str | None = None) -> Path:
    """Return a folder for a cluster: its sockets need a short path, and its database, another user, must reach it.

    Args:
        named: the folder to take if it will do; None: that of temporary files.
    """
    for folder in (Path(named or tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/run")):
        path = folder.resolve()
        is_open = path.is_dir() and all(one.stat().st_mode & stat.S_IXOTH for one in (path, *path.parents))
        if is_open and os.access(path, os.W_OK) and len(os.fsencode(path)) <= LONGEST_PLACE:
            return path
    raise RuntimeError("no folder with a short path that all users can reach: set TMPDIR to one")


def missing(accounting: bool = False) -> str | None:
    """Return why no cluster can be brought up here, and what to do; None where it can."""
    programs = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    absent = [name for name in programs if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    packages = PACKAGES + (ACCOUNTING_PACKAGES if accounting else ())
    if absent:
        return f"{', '.join(absent)} not found: apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0:
        return "SLURM's daemons need root here: run as root, or in a container"
    answer = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    return f"no mount namespace can be made here: {answer.stderr.strip()}" if answer.returncode else None


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Cluster:
    """One running cluster, or one that can be started."""

    root: Path
    accounting: bool = False
    """With slurmdbd and a database of its own, so that `sacct` works."""
    settings: dict[str, str] = field(default_factory=dict)
    """Lines of slurm.conf in place of the usual ones."""
    kill_wait: int = 10
    partitions: dict[str, str] = field(default_factory=lambda: dict(PARTITIONS))

    def __post_init__(self) -> None:
        self.host = socket.gethostname().partition(".")[0]
        self.ports = {name: free_port() for name in ("slurmctld", "slurmd", "slurmdbd")}

    # --- talking to it

    def inside(self, *command: str) -> list[str]:
        """Return a command line that runs in the cluster's mount namespace, in the working directory of its caller."""
        holder = (self.root / "run/holder.pid").read_text().strip()
        return ["nsenter", f"--target={holder}", "--mount", "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *command]

    def run(self, *command: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
        """Run a command in the cluster; return what it said, or raise RuntimeError with it."""
        return told(*self.inside(*command), check=check, **options)

    def last_lines(self, count: int = 15) -> str:
        """Return the ends of the daemons' logs."""
        logs = sorted((self.root / "log").glob("*.log"))
        lines = {log.name: log.read_text(errors="replace").splitlines()[-count:] for log in logs}
        return "\n".join(f"--- {name}\n" + "\n".join(last) for name, last in lines.items())

    def queue(self, format: str = "%i|%T|%k") -> list[list[str]]:
        """Return the jobs that SLURM still knows, the finished ones too, as `format` says."""
        said = self.run("squeue", "--noheader", "--states=all", f"--format={format}").stdout
        return [line.split("|") for line in said.splitlines()]

    # --- up and down

    def start(self) -> Cluster:
        """Bring it up; RuntimeError with the daemons' own words where that fails."""
        for name in ("state", "spool", "log", "run", "etc", "dev"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.make_devices()
        self.configure()
        self.make_namespace()
        try:
            self.start_munged()
            if self.accounting:
                self.start_accounting()
            self.daemon("slurmctld", "-c")
            self.start_node()
            self.wait_until_idle()
        except Exception as error:
            said = self.last_lines()
            self.stop()
            raise RuntimeError(f"{error}\n{said}") from error
        return self

    def stop(self) -> None:
        """Stop every daemon that was started here, and no other process."""
        for name in ("slurmd", "slurmctld", "slurmdbd", "munged", "mariadbd"):
            self.end(name)
        self.end("holder", comm="sleep")

    def stop_node(self) -> None:
        """Stop slurmd, as a node's crash would: its jobs' steps die with it."""
        self.end("slurmd", signal.SIGKILL)
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                if path.read_text().strip() != "slurmstepd":
                    continue
                if str(self.root) in (path.parent / "cmdline").read_text() or self.is_ours(int(path.parent.name)):
                    kill_tree(int(path.parent.name))
            except OSError:
                continue

    def is_ours(self, pid: int) -> bool:
        """Return whether a process lives in this cluster's mount namespace."""
        holder = (self.root / "run/holder.pid").read_text().strip()
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{holder}/ns/mnt")

    def start_node(self) -> None:
        self.daemon("slurmd", "-c")

    def daemon(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        """Start a daemon; it goes to the background by itself."""
        path = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin") or name
        answer = self.run(path, *arguments, check=False, env=os.environ | (environment or {}))
        if answer.returncode:
            raise RuntimeError(f"{name} did not start: {answer.stderr or answer.stdout}")

    def end(self, name: str, how: signal.Signals = signal.SIGTERM, comm: str | None = None) -> None:
        """End the process of a pid file, if it is that process."""
        path = self.root / f"run/{name}.pid"
        if not path.exists() or not path.read_text().strip():
            return
        pid = int(path.read_text())
        if comm_of(pid) == (comm or name):
            os.kill(pid, how)
            for _ in range(40):
                if comm_of(pid) is None:
                    break
                time.sleep(0.25)
            else:
                os.kill(pid, signal.SIGKILL)
        path.unlink(missing_ok=True)

    # --- its parts

    def make_devices(self) -> None:
        """Make one device node per fake GPU: a copy of /dev/null, which SLURM only looks for."""
        for number in range(GPUS):
            path = self.root / f"dev/gpu{number}"
            if not path.exists():
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def configure(self) -> None:
        """Write slurm.conf, gres.conf and the host name's address."""
        run, lines = self.root / "run", dict(SETTINGS)
        lines |= {
            "SlurmctldHost": f"{self.host}(127.0.0.1)",
            # A job that is put back into the queue waits until its credentials have expired: 2 minutes by default.
            "AuthInfo": f"socket={run}/munge.sock,cred_expire=10",
            "SlurmctldPort": str(self.ports["slurmctld"]),
            "SlurmdPort": str(self.ports["slurmd"]),
            "StateSaveLocation": f"{self.root}/state",
            "SlurmdSpoolDir": f"{self.root}/spool",
            "SlurmctldPidFile": f"{run}/slurmctld.pid",
            "SlurmdPidFile": f"{run}/slurmd.pid",
            "SlurmctldLogFile": f"{self.root}/log/slurmctld.log",
            "SlurmdLogFile": f"{self.root}/log/slurmd.log",
            "KillWait": str(self.kill_wait),
        }
        if self.accounting:
            lines |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": str(self.ports["slurmdbd"]),
                "AccountingStoragePass": f"{run}/munge.sock",
                "AccountingStoreFlags": "job_comment",
            }
        lines |= self.settings
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        node = f"CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN"
        text += f"NodeName={self.host} NodeAddr=127.0.0.1 {node}\n"
        for name, options in self.partitions.items():
            text += f"PartitionName={name} Nodes={self.host} State=UP {options}\n"
        (self.root / "etc/slurm.conf").write_text(text)
        devices = f"{self.root}/dev/gpu[0-{GPUS - 1}]"
        (self.root / "etc/gres.conf").write_text(f"AutoDetect=off\nNodeName={self.host} Name=gpu File={devices}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost {self.host}\n")

    def make_namespace(self) -> None:
        """Make the mount namespace in which this cluster's configuration is the machine's."""
        Path("/etc/slurm").mkdir(exist_ok=True)
        script = (
            f"mount --bind '{self.root}/etc' /etc/slurm && mount --bind '{self.root}/etc/hosts' /etc/hosts && "
            "{ mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup; } && "
            f"echo $$ > '{self.root}/run/holder.pid' && exec sleep infinity"
        )
        (self.root / "run/holder.pid").unlink(missing_ok=True)
        subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for(lambda: self.is_held(), "the mount namespace")

    def is_held(self) -> bool:
        path = self.root / "run/holder.pid"
        return path.exists() and path.read_text().strip() != "" and comm_of(int(path.read_text())) == "sleep"

    def start_munged(self) -> None:
        """Start munged with a key and socket of its own."""
        key = self.root / "etc/munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        run = self.root / "run"
        self.daemon(
            "munged", "--force", f"--key-file={key}", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid",
            f"--log-file={self.root}/log/munged.log", f"--seed-file={self.root}/state/munge.seed",
        )  # fmt: skip

    def start_accounting(self) -> None:
        """Start a database and slurmdbd, and register the cluster."""
        data, run = self.root / "database", self.root / "run"
        environment = os.environ | {"TMPDIR": str(self.root.parent)}  # the database's user must write there
        sock = run / "database.sock"
        if not data.exists():
            data.mkdir()
            shutil.chown(data, "mysql")
            told("mariadb-install-db", "--user=mysql", f"--datadir={data}", "--skip-test-db", env=environment)
        run.chmod(0o777)
        log = self.root / "log/database.log"
        log.touch()
        shutil.chown(log, "mysql")
        subprocess.Popen(
            ["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={sock}", "--skip-networking",
             f"--pid-file={run}/mariadbd.pid", f"--log-error={log}", "--innodb-buffer-pool-size=64M"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=environment,
        )  # fmt: skip
        wait_for(lambda: succeeds(["mariadb-admin", f"--socket={sock}", "ping"]), "the database")
        make = (
            "create database if not exists slurm; create user if not exists 'slurm'@'localhost' identified by 'slurm'; "
            "grant all on slurm.* to 'slurm'@'localhost'"
        )
        told("mariadb", f"--socket={sock}", "-e", make)
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={run}/munge.sock",
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": str(self.ports["slurmdbd"]),
            "SlurmUser": "root",
            "LogFile": f"{self.root}/log/slurmdbd.log",
            "PidFile": f"{run}/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "slurm",
        }
        path = self.root / "etc/slurmdbd.conf"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        path.chmod(0o600)
        self.daemon("slurmdbd", environment={"MYSQL_UNIX_PORT": str(sock)})
        wait_for(lambda: answers(self.ports["slurmdbd"]), "slurmdbd")
        for entity in (["cluster", "toy"], ["account", "lab", "Cluster=toy"], ["user", "root", "Account=lab"]):
            self.run("sacctmgr", "-i", "add", *entity, check=False)

    def wait_until_idle(self) -> None:
        """Wait until the node takes jobs."""
        wait_for(
            lambda: self.run("sinfo", "--noheader", "--format=%T", check=False).stdout.strip().startswith("idle"),
            f"the node (logs in {self.root}/log)",
        )


SETTINGS = {
    "ClusterName": "toy",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SwitchType": "switch/none",
    "MpiDefault": "none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "sched_interval=2,bf_interval=2",
    "ReturnToService": "2",
    "SlurmdParameters": "config_overrides",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "2",
    "JobAcctGatherParams": "OverMemoryKill",
    "GresTypes": "gpu",
    "MinJobAge": "3600",
    "SlurmdTimeout": "20",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
}
PARTITIONS = {
    "cpu": "Default=YES MaxTime=1-00:00:00 PriorityTier=1",
    "gpu": "MaxTime=12:00:00 PriorityTier=1",
    "urgent": "MaxTime=1:00:00 PriorityTier=10",
}


def comm_of(pid: int) -> str | None:
    """Return the name of a process's program; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    return None if fields[2].split()[0] == "Z" else fields[0].partition("(")[2]


def children_of(pid: int) -> list[int]:
    """Return a process's children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all below it, the parents first."""
    below = children_of(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for child in below:
        kill_tree(child)


def told(*command: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    """Run a command; return what it said, or raise RuntimeError with it."""
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    answer = subprocess.run(command, check=False, **options)
    if check and answer.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {answer.stderr or answer.stdout}")
    return answer


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, what: str, seconds: float = SECONDS_TO_START) -> None:
    """Wait until a condition holds; RuntimeError naming what did not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def main(folder: str, *command: str) -> int:
    """Run a command in a cluster of its own, or say whether one can be brought up."""
    why = missing(folder == "--check" or "--accounting" in command[:1])
    if why:
        print(why, file=sys.stderr)
        return 4
    if folder == "--check":
        return 0
    accounting = command[0] == "--accounting"
    cluster = Cluster(Path(folder).resolve(), accounting).start()
    try:
        return subprocess.run(cluster.inside(*command[accounting:])).returncode
    finally:
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
