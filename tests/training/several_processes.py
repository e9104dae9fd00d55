"""Functions called in several processes at once, which are connected by gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from fewshot_bench._io.ranks import own_rank
from fewshot_bench.training.data_parallel import Processes, joined_processes

Case = Callable[[Processes], Any]


def run_in_processes(count: int, cases: Mapping[str, Case], folder: Path) -> list[dict[str, Any]]:
    """What every process returns for every case, by rank; cases are functions of modules."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_run, (count, dict(cases), port, folder), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _run(rank: int, count: int, cases: dict[str, Case], port: int, folder: Path) -> None:
    numbers = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    torch.set_num_threads(1)
    with joined_processes(own_rank()) as processes:
        assert processes is not None
        torch.save({name: case(processes) for name, case in cases.items()}, folder / f"{rank}.pt")
