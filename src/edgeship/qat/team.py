"""The processes of one training, one for each GPU: what they exchange, and how an error in one ends all alike.

Gradients go through NCCL where there are GPUs. Everything else goes through gloo, on the CPU: it notices at once that a
process is gone, where a GPU would wait for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist

from edgeship import errors
from edgeship.data.loader import cores
from edgeship.errors import DeviceError, EdgeshipError, StageError, TrainingError
from edgeship.qat.launched import Place

PATIENCE = timedelta(hours=24)
"""How long a process waits for another. The launcher ends all when one is gone."""
SHORTEST_S, LONGEST_S, SHARE = 1e-4, 0.05, 0.02
"""Between two looks whether an exchange is done: this share of the time that it took so far."""


class Point(IntEnum):
    """Where in a training processes exchange figures: all of them must be at the same."""

    READY = 1
    TOTAL = 2
    EPOCH = 3
    STEP = 4
    LOOK = 5
    END = 6


class ProcessLost(StageError):
    """Another process of the training ended."""


@dataclass
class Team:
    """The processes of a training; alone by default, when nothing is exchanged."""

    rank: int = 0
    size: int = 1
    common: EdgeshipError | None = None
    """The error that all processes raise: the first one says it."""
    told: bool = False

    def device(self, first: str) -> str:
        """This process's own device, where ``first`` is that of process 0."""
        kind, _, number = first.partition(":")
        return f"{kind}:{int(number) + self.rank}" if number and self.size > 1 else first

    def exchange(self, point: Point, *values: float, error: EdgeshipError | None = None) -> list[list[float]]:
        """Every process's ``values`` (as many in each), by rank.

        Raises:
            EdgeshipError: ``error``, or that of another process; or they are not at the same point.
            ProcessLost: One of them ended.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return [list(values)]
        if error is not None and error is self.common:
            raise error  # all know it
        board = torch.zeros(self.size, 4, dtype=torch.float64)
        board[self.rank, : 2 + len(values)] = torch.tensor([error is not None, point, *values], dtype=torch.float64)
        self._sum(board)
        rows = board.tolist()
        if any(row[0] for row in rows):
            self.common = self._agreed(error)
            raise self.common
        if any(row[1] != point for row in rows):
            self.common = TrainingError(
                "the processes are at different points of the training",
                expected="the same batches in the same order in every process: each takes its share of them",
                do="let the loader shuffle by torch's random numbers, whose seed is set, and not split by rank",
            )
            raise self.common
        return [row[2 : 2 + len(values)] for row in rows]

    def average(self, parameters: Sequence[torch.Tensor]) -> None:
        """Make every gradient the mean over the processes. A parameter without one in all of them stays without."""
        if self.size == 1:
            return
        parts = [torch.zeros_like(item) if item.grad is None else item.grad for item in parameters]
        has = torch.tensor([float(item.grad is not None) for item in parameters], device=parts[0].device)
        whole = torch.cat([*(part.float().reshape(-1) for part in parts), has])
        self._sum(whole)
        pieces = torch.split(whole, [*(part.numel() for part in parts), len(parts)])
        anywhere = pieces[-1].tolist() if any(item.grad is None for item in parameters) else []
        for index, (item, part, piece) in enumerate(zip(parameters, parts, pieces[:-1], strict=True)):
            if item.grad is None and not anywhere[index]:
                continue
            item.grad = part.copy_(piece.div_(self.size).view(part.shape))

    def tell(self, message: dict[str, Any] | None) -> None:
        """The first process's word to the others: what to train, or None where there is nothing to do."""
        if self.size > 1 and not self.told:
            self.told = True
            self._texts(json.dumps(message))

    def hear(self) -> Any:
        """What the first process told."""
        return json.loads(self._texts("")[0])

    def _agreed(self, error: EdgeshipError | None) -> EdgeshipError:
        """The error that all raise: that of the first process that has one."""
        kind = type(error).__name__
        told = json.dumps([kind, error.found, error.expected, error.do]) if error is not None else ""
        texts = self._texts(told)
        rank = next(number for number, text in enumerate(texts) if text)
        if rank == self.rank and error is not None:
            return error
        name, found, expected, do = json.loads(texts[rank])
        made = getattr(errors, name, TrainingError)
        if made.__init__ is not EdgeshipError.__init__:
            made = TrainingError
        return made(f"process {rank} of {self.size}: {found}", expected=expected, do=do)

    def _texts(self, text: str) -> list[str]:
        """Every process's text, by rank."""
        data = text.encode()
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(data)
        self._sum(lengths)
        board = torch.zeros(self.size, max(1, int(lengths.max())), dtype=torch.uint8)
        board[self.rank, : len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        self._sum(board)
        return [bytes(row[:length].tolist()).decode() for row, length in zip(board, lengths.tolist(), strict=True)]

    def _sum(self, tensor: torch.Tensor) -> None:
        """The sum over the processes, in place. Waits in Python, so that a signal is heard."""
        begin = time.monotonic()
        try:
            work: Any = dist.all_reduce(tensor, async_op=True)
            while not work.is_completed():
                time.sleep(min(LONGEST_S, max(SHORTEST_S, SHARE * (time.monotonic() - begin))))
            work.wait()
        except RuntimeError as error:
            raise ProcessLost(
                f"another of the {self.size} processes of the training ended",
                expected="all of them until the last step",
                do="look at what it said, or whether the system killed it; the same command goes on from the last "
                "checkpoint",
            ) from error


@contextmanager
def joined(where: Place, device: str) -> Iterator[Team]:
    """The processes that were started together, ``device`` being that of the first.

    Raises:
        TrainingError: They are on several machines.
        DeviceError: There are fewer GPUs than processes.
    """
    if where.here != where.size:
        raise TrainingError(
            f"{where.here} of the {where.size} processes are on this machine",
            expected="all of them: they share the work folder and the memory of its files",
            do="start as many as this machine has GPUs: torchrun --nproc-per-node N",
        )
    kind, _, first = device.partition(":")
    if kind == "cuda":
        there = torch.cuda.device_count()
        if int(first) + where.size > there:
            raise DeviceError(
                f"{where.size} processes from {device} on need as many GPUs, and torch sees {there} GPUs here",
                do='start fewer, or set qat.device = "cuda:0", or "cpu"',
            )
        torch.cuda.set_device(int(first) + where.rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    share_cores(where.here)
    team = Team(where.rank, where.size)
    try:
        yield team
    except ProcessLost:
        raise  # leaving would wait for the one that is gone
    except EdgeshipError:
        leave()
        raise
    leave()


def share_cores(here: int) -> None:
    """Give this process its share of the cores, where ``OMP_NUM_THREADS`` is not set or 1, as torchrun sets it."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, cores() // here))


def leave() -> None:
    """End the exchange, once."""
    if dist.is_initialized():
        dist.destroy_process_group()
