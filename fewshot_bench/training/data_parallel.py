"""One training in several processes: each embeds its share of every batch, and all take the same step.

A batch is that of one process: the same images, views and dropout of the head. Every process embeds its share, the
embeddings of all are gathered, and every process computes the loss of the whole batch and sends back the gradient of
its own embeddings. So contrastive losses compare all views, and the processes are to the batch what micro-batches are
in gradient caching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from fewshot_bench._io.ranks import Rank
from fewshot_bench.errors import StudyError
from fewshot_bench.training.randomness import kept_random_numbers, random_state, seeded_randomness
from fewshot_bench.training.sync_batch_norm import SynchronisedBatchNorm

T = TypeVar("T")
_TIMEOUT = timedelta(hours=6)
"""How long the other processes wait for a validation. One that has died is noticed by torchrun at once."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from this one.

    Attributes:
        rank: number of this process, from 0. Process 0 writes the files.
        count: of all processes.
    """

    rank: int
    count: int

    def broadcast_value(self, value: T) -> T:
        """Give all processes the plain data of process 0; waits for all."""
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather_values(self, value: T) -> list[T]:
        """Gather the plain data of every process in all of them, by rank; waits for all."""
        values = [value] * self.count
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        self.gather_values(None)

    def require_agreement(self, value: object, folder: Path) -> None:
        """Refuse to train if another process would train something else.

        Args:
            value: plain data: what this process would train, and what it has found in the folder.
            folder: of the checkpoints.

        Raises:
            StudyError: another process has other data.
        """
        values = self.gather_values(value)
        others = [rank for rank in range(self.count) if values[rank] != values[0]]
        if others:
            raise StudyError(
                f"process {others[0]} of this training would not train what process 0 trains: its command, its dataset "
                f"or its files in {folder} differ. Processes on several machines need a folder that all of them see "
                "(FEWSHOT_BENCH_HOME)."
            )

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the tensors of process 0, as an initialisation may draw from elsewhere than the seed."""
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    def share(self, images: int, parts: int) -> Tensor:
        """The positions of this process's images in a batch: its share of every part, int64 [S].

        Raises:
            StudyError: a part has fewer images than there are processes.
        """
        pieces = torch.arange(images).tensor_split(parts)
        smallest = len(pieces[-1])
        if smallest < self.count:
            raise StudyError(
                f"{self.count} processes share every batch or micro-batch, and one has {smallest} "
                f"image{'s' * (smallest > 1)}. Use a larger --batch-size or --micro-batch, or fewer processes."
            )
        return torch.cat([piece.tensor_split(self.count)[self.rank] for piece in pieces])

    def embed(self, encode: Callable[[Tensor], Tensor], views: Tensor, images: int, device: torch.device) -> Tensor:
        """The embeddings of a batch, whose gradient returns to this process's views alone.

        Args:
            encode: views -> embeddings.
            views: of this process's share of the batch, [2S, ...].
            images: of the whole batch, B.
            device: of the network.

        Returns:
            [2B, D], the same in every process.
        """
        with self._own_random_numbers(device), SynchronisedBatchNorm():
            own = encode(views)
        smaller, larger = divmod(images, self.count)  # as tensor_split splits
        start = self.rank * smaller + min(self.rank, larger)
        gathered: Tensor = _Gather.apply(own, images, slice(start, start + len(own) // 2))
        return gathered

    def reduce_gradients(self, encoder: Iterable[nn.Parameter], head: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of an encoder over the processes; those of a head, alike in all, are averaged.

        One sum after the last micro-batch. DistributedDataParallel would send gradients during the backward pass, but
        once per micro-batch, and it wraps the network and needs a list of parameters without a gradient.
        """
        encoder, head = ([p for p in parameters if p.requires_grad] for parameters in (encoder, head))
        parameters = [*encoder, *head]
        has_gradient = parameters[0].new_ones(len(parameters))
        for number, parameter in enumerate(parameters):
            if parameter.grad is None:
                has_gradient[number] = 0
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), has_gradient])
        dist.all_reduce(flat)
        *sums, has_gradient = torch.split(flat, [*(gradient.numel() for gradient in gradients), len(parameters)])
        for number, (parameter, gradient, total) in enumerate(zip(parameters, gradients, sums, strict=True)):
            if parameter.grad is None:
                if not has_gradient[number]:
                    continue
                parameter.grad = gradient
            gradient.copy_(total.view_as(gradient))
            if number >= len(encoder):
                gradient.div_(self.count)

    @contextmanager
    def _own_random_numbers(self, device: torch.device) -> Iterator[None]:
        """Draw other random numbers than the other processes; what is drawn afterwards is the same in all.

        A network that draws none leaves the generators where one process would.
        """
        with kept_random_numbers(torch.device("cpu")):
            seed = _random_number()
        with seeded_randomness(seed + self.rank, device):
            before = random_state(device)
            yield
            after = random_state(device)
        if any(not torch.equal(before[name], after[name]) for name in before):
            _random_number()  # or the next pass would draw the same


class _Gather(torch.autograd.Function):
    """Embeddings of all processes from those of each, both in the order first views, second views."""

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor, images: int, rows: slice) -> Tensor:
        ctx.rows = rows  # type: ignore[attr-defined]  # as torch documents it
        views = own.new_zeros(2, images, *own.shape[1:])
        views[:, rows] = own.reshape(2, -1, *own.shape[1:])
        dist.all_reduce(views)  # shares differ in size, which not every backend gathers
        return views.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        first, second = gradient.tensor_split(2)
        return torch.cat([first[ctx.rows], second[ctx.rows]]), None, None


def _random_number() -> int:
    return int(torch.randint(1 << 62, ()))


@contextmanager
def joined_processes(rank: Rank | None) -> Iterator[Processes | None]:
    """The processes that torchrun has started, connected; None for a process alone.

    An existing process group, such as that of Ray Train, is used. After an error the group is left to the end of
    the process, so that the others do not fail before this one has printed the reason.

    Raises:
        StudyError: they cannot be connected.
    """
    if rank is None:
        yield None
        return
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size())
        return
    # Plain data and waiting go over gloo, which notices that another process has ended and leaves the GPU idle.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"the {rank.count} processes of this training cannot be connected: {reason}") from error
    processes = Processes(dist.get_rank(), dist.get_world_size())
    yield processes
    processes.barrier()  # none ends before the others have read what it wrote
    dist.destroy_process_group()
