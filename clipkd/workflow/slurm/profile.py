"""What a Snakemake profile for SLURM says of the site."""

from __future__ import annotations

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
            told: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
            site = told["__variables__"]
            profile = cls(
                cpu_partition=str(site["cpu_partition"]),
                gpu_partition=str(site["gpu_partition"]),
                longest_job=int(site["longest_job"]),
                **{name: str(site.get(name) or "") for name in NAMES},
                latency_wait=int(told.get("latency-wait", cls.latency_wait)),
            )
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; give the profile's folder with --profile") from None
        except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} does not name the site under `__variables__` ({error!r})") from None
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
