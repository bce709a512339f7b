"""Ranks: the processes that train one student together, as torchrun starts them, one per GPU.

Each batch is divided among them. What the losses compare (outputs and live teacher signals) is gathered from all,
so that every rank computes the loss of the whole batch: the contrastive term of N ranks has the same negatives as
that of one process. The gradients are averaged. (Not by DistributedDataParallel: it expects every parameter to be
used within the forward pass; `cluster_projection` is used in the loss, or not at all in vanilla.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clipkd.core import lock
from clipkd.core.errors import InputError

SECONDS_TO_END = 2.0
"""A connection breaks before its process has ended."""
PATIENCE = timedelta(days=2)
"""Timeout of the other ranks while the first one extracts embeddings."""


class Ranks:
    """This process among those that train one student together."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self.control: Any = None
        """A process group for numbers on the CPU, which must not wait for the GPU."""
        self.processes: list[lock.Holder] = []
        """The process of each rank."""

    @property
    def is_first(self) -> bool:
        """True in the process that writes the run folder."""
        return self.rank == 0

    def dead(self) -> list[str]:
        """Return the ranks of this machine whose process has ended, in words; wait a little for one."""
        here = lock.this_process()
        end = time.monotonic() + SECONDS_TO_END
        while True:
            found = [
                f"rank {rank} ({process})"
                for rank, process in enumerate(self.processes)
                if (process.host, process.boot) == (here.host, here.boot) and lock.is_dead(process)
            ]
            if found or time.monotonic() > end:
                return found
            time.sleep(0.05)

    def shard(self, length: int) -> slice:
        """Return this rank's part of a batch of `length`; parts differ by one at most."""
        return slice(self.rank * length // self.count, (self.rank + 1) * length // self.count)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, in one message."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        pieces = (flat / self.count).split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def gather(self, part: Tensor, length: int) -> Tensor:
        """Return the whole batch [length, ...] of which each rank has its part."""
        return part if self.count == 1 else Gathered.apply(part, length, self)

    def maximum(self, *numbers: int) -> list[int]:
        """Return the largest of each number over the ranks."""
        if self.count == 1:
            return list(numbers)
        largest = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.control)
        return largest.tolist()

    def sum(self, numbers: list[float]) -> list[float]:
        """Return each number's sum over the ranks."""
        if self.count == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return total.tolist()

    def gather_states(self, state: Tensor) -> list[Tensor]:
        """Return a CPU tensor of equal shape from every rank, in the order of the ranks."""
        if self.count == 1:
            return [state]
        states = [torch.empty_like(state) for _ in range(self.count)]
        dist.all_gather(states, state, group=self.control)
        return states

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.count > 1:
            dist.barrier(group=self.control)


class Gathered(torch.autograd.Function):
    """The parts of all ranks, one after another.

    Backward: each rank has the gradient of the same loss with regard to the whole; its part, times the number
    of ranks, is what the later mean over ranks turns into the sum of all parts' contributions. The parameters that
    the loss itself uses have the whole gradient in each rank, of which the mean is the same.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, length: int, ranks: Ranks) -> Tensor:  # type: ignore[override]
        ctx.place, ctx.count = ranks.shard(length), ranks.count
        most = -(-length // ranks.count)
        padded = part.new_zeros(most, *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(ranks.count)]
        dist.all_gather(parts, padded)
        places = [Ranks(rank, ranks.count).shard(length) for rank in range(ranks.count)]
        return torch.cat([whole[: here.stop - here.start] for whole, here in zip(parts, places, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient[ctx.place] * ctx.count, None, None


def world_size() -> int:
    """Return how many processes torchrun started; 1 without it. InputError where its variable is not a number."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"WORLD_SIZE is {text!r}, but it is the number of processes: start with torchrun, or unset it")
    return int(text)


def join(device: torch.device) -> Ranks:
    """Return this process's rank; wait for the others if torchrun started several.

    Raises:
        InputError: torchrun's variables make no sense.
    """
    count = world_size()
    if count == 1:
        return Ranks()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is {count}, but {', '.join(missing)} are missing: start with torchrun")
    number("RANK", 0, count - 1)
    number("MASTER_PORT", 1, 65535)
    gpus = torch.cuda.device_count() if device.type == "cuda" else count
    local = number("LOCAL_RANK", 0, gpus - 1, "torchrun --nproc-per-node may be the number of GPUs here at most")
    if device.type == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    ranks = Ranks(dist.get_rank(), count)
    ranks.control = dist.new_group(backend="gloo", timeout=PATIENCE)
    ranks.processes = [lock.this_process()] * count
    dist.all_gather_object(ranks.processes, lock.this_process(), group=ranks.control)
    return ranks


def number(name: str, least: int, most: int, advice: str = "start with torchrun") -> int:
    """Return a variable of torchrun's; InputError where it is no number from `least` to `most`."""
    text = os.environ[name]
    if not text.isdecimal() or not least <= int(text) <= most:
        raise InputError(f"{name} is {text!r}, but it must be a number from {least} to {most}: {advice}")
    return int(text)


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
