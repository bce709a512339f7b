"""What a Snakemake profile for SLURM says of the site."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from clipkd.core.errors import InputError
from clipkd.workflow.slurm.preflight import Request

SHORTEST = 10
"""Minutes."""
NAMES = ("account", "gpu_model", "qos", "constraint", "reservation")
"""What a site may leave out."""
REQUESTABLE = re.compile(r"[A-Za-z0-9_.]*")
"""GPU types that Snakemake's plugin for SLURM can ask for."""


@dataclass(frozen=True)
class Profile:
    """The site's values, and the times that the preflight judges."""

    cpu_partition: str
    gpu_partition: str
    longest_job: int
    account: str = ""
    gpu_model: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    latency_wait: int = 5

    @classmethod
    def read(cls, folder: Path) -> Profile:
        """Read a profile's `config.yaml`; InputError where it does not name the site."""
        path = folder / "config.yaml"
        try:
            text = path.read_text(encoding="utf-8")
            told: dict[str, Any] = yaml.safe_load(text)
            site = told["__variables__"]
            minutes = whole_minutes(site["longest_job"], written(text)["longest_job"], path)
            profile = cls(
                cpu_partition=name_in(site, "cpu_partition", path),
                gpu_partition=name_in(site, "gpu_partition", path),
                longest_job=minutes,
                **{name: name_in(site, name, path) for name in NAMES},
                latency_wait=int(told.get("latency-wait", cls.latency_wait)),
            )
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; give the profile's folder with --profile") from None
        except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} does not name the site under `__variables__` ({error!r})") from None
        for name in ("cpu_partition", "gpu_partition"):
            if not getattr(profile, name):
                raise InputError(f"{path}: {name} is empty; `sinfo` lists the partitions")
        if not REQUESTABLE.fullmatch(profile.gpu_model):
            raise InputError(
                f"{path}: gpu_model: Snakemake's plugin can't ask SLURM for '{profile.gpu_model}', only for letters, "
                "digits, '_' and '.'; leave it at null and choose the nodes by `constraint`"
            )
        if profile.longest_job < SHORTEST:
            raise InputError(
                f"{path}: longest_job is {profile.longest_job} minutes; jobs save a checkpoint 5 minutes before "
                f"their time limit: set at least {SHORTEST}"
            )
        return profile

    def requests(self, device: str = "cuda") -> list[Request]:
        """Return what the profile's jobs ask for; `device`: the config's `training.device`."""
        every = Request(
            self.cpu_partition,
            minutes=self.longest_job,
            account=self.account,
            qos=self.qos,
            constraint=self.constraint,
            reservation=self.reservation,
        )
        gpus, model = (0, "") if device == "cpu" else (1, self.gpu_model)
        return [every, replace(every, partition=self.gpu_partition, gpus=gpus, gpu_model=model)]


def name_in(site: dict[str, Any], key: str, path: Path) -> str:
    """Return a name of the site, "" for null; InputError where YAML reads something else than text in it."""
    value = site[key] if key.endswith("_partition") else site.get(key)
    if value is None or isinstance(value, str):
        return value or ""
    wanted = 'names with commas in quotes, "cpu,long"' if isinstance(value, list) else "put the name in quotes"
    raise InputError(f"{path}: {key}: YAML reads {value!r} here, not a name; {wanted}")


def written(text: str) -> dict[str, Any]:
    """Return the site's values as the file, which has been read, writes them."""
    profile = yaml.compose(text, yaml.SafeLoader)
    assert profile is not None
    (variables,) = (value for key, value in profile.value if key.value == "__variables__")
    return {key.value: value.value for key, value in variables.value}


def whole_minutes(value: Any, text: Any, path: Path) -> int:
    """Return the longest job's minutes; InputError where another form is written: YAML reads 12:00 as 720."""
    if not isinstance(value, int) or text != str(value):
        raise InputError(f"{path}: longest_job: {text} is not a number of minutes, such as 720")
    return value
