"""The devices of this process: copies that do not wait, TF32, memory, and the name of the processor.

Whoever fits a batch into memory asks `free_bytes`, which counts what the process can have back: memory of dead objects
and what PyTorch's allocator caches of the last training. A process that shares its device with others is limited to a
share, and containers, systemd and Slurm limit a process below what the machine has.
"""

from __future__ import annotations

import gc
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot_bench.errors import StudyError

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")

_share_of_cpu_memory = 1.0


def chosen_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps"; raises StudyError if it is not here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" can be made, but holds nothing
        if torch.device(name).type == "cuda":
            torch.cuda.set_device(name)  # what is recorded and timed there belongs to the current device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by device, torch raises each of them
        raise StudyError(f"there is no device '{name}' here. Use --device cpu, or auto.") from error
    return name


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; the host does not wait for a GPU.

    A copy from ordinary memory waits until the GPU has finished all work before it, `non_blocking` or not; a copy from
    pinned memory is queued. PyTorch keeps the pinned memory until the copy is done, so not for replays of a CUDA graph.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class TF32(NamedTuple):
    """What is computed in TF32, which rounds to ten bits, instead of float32."""

    convolutions: bool
    matrix_products: bool


def float32_settings(device: torch.device) -> list[str]:
    """PyTorch's settings of the precision of float32 products, as text.

    The first one is for all libraries, "set apart" where a user has set libraries one by one; then come convolutions
    and matrix products on the device. Before torch 2.9 only convolutions on a GPU have a setting of their own.
    """
    is_cuda = device.type == "cuda"
    try:
        settings: list[Any] = [torch.get_float32_matmul_precision()]
    except RuntimeError:  # this older interface cannot say what a user has set by the present one
        settings = ["set apart"]
    try:
        library = torch.backends.cudnn if is_cuda else torch.backends.mkldnn
        settings += [library.conv.fp32_precision, (torch.backends.cuda if is_cuda else library).matmul.fp32_precision]
    except AttributeError:  # before torch 2.9
        settings += [torch.backends.cudnn.allow_tf32] if is_cuda else []
    return [str(setting) for setting in settings]


def tf32_on(device: torch.device) -> TF32:
    """What PyTorch's settings let a device compute in TF32: on a GPU convolutions, unless a user says otherwise."""
    if device.type != "cuda":
        return TF32(False, False)
    for_all, convolutions, *products = float32_settings(device)
    return TF32(convolutions in ("tf32", "True"), products == ["tf32"] if products else for_all != "highest")


@contextmanager
def full_float32_products() -> Iterator[None]:
    """Compute no float32 product in TF32, which rounds more than a comparison allows.

    Within it `torch.backends.cudnn.allow_tf32` raises, since torch 2.9; `tf32_on` does not.
    """
    libraries: Any = torch.backends
    full: Any
    try:
        name, full = "fp32_precision", "ieee"
        parts = [libraries.cuda.matmul, libraries.cudnn.conv]
        before = [part.fp32_precision for part in parts]
    except AttributeError:  # before torch 2.9
        name, full = "allow_tf32", False
        parts = [libraries.cuda.matmul, libraries.cudnn]
        before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            setattr(part, name, full)
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            setattr(part, name, value)


def free_bytes(device: torch.device) -> int | None:
    """Memory that this process may still take on a device, after releasing what it no longer uses; None if unknown."""
    if device.type not in ("cuda", "cpu"):
        return None
    release_unused()
    return _free_on_cpu() if device.type == "cpu" else _free_on_gpu(device_index(device))


def release_unused() -> None:
    """Give back the memory of dead objects, and what PyTorch's allocator keeps of it on GPUs."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU is in use


def limit_to_share(share: float, device: torch.device) -> None:
    """Take at most a share, above 0 and up to 1, of the memory of a device, which other processes use too.

    On a GPU the allocator refuses more; on a CPU only `free_bytes` knows.
    """
    global _share_of_cpu_memory
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(float(share), device_index(device))
    elif device.type == "cpu":
        _share_of_cpu_memory = share


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: of tensors on a GPU, of the process on a CPU; 0 if the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # getrusage on Linux includes the peak of the parent process.
    if peak := _table(_STATUS).get("VmHWM"):
        return peak
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the system ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def device_index(device: torch.device) -> int:
    """The number of a GPU, that of the current one for "cuda"."""
    return torch.cuda.current_device() if device.index is None else device.index


@cache
def processor_name() -> str:
    """The name of this machine's processor, such as "AMD EPYC 9554"; on some systems its architecture, or nothing."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def _free_on_gpu(index: int) -> int:
    on_card, total = torch.cuda.mem_get_info(index)
    reserved = torch.cuda.memory_reserved(index)
    share = torch.cuda.get_per_process_memory_fraction(index) * total
    # What is reserved and unused shares segments with tensors, so it could not be released, but it can be used.
    unused = reserved - torch.cuda.memory_allocated(index)
    return int(max(0, min(on_card, share - reserved)) + unused)


def _free_on_cpu() -> int | None:
    machine = _table(_MEMINFO)
    if "MemAvailable" not in machine:
        return None
    limits = list(_cgroup_limits())
    free = min([machine["MemAvailable"], *(limit - used for limit, used in limits)])
    if _share_of_cpu_memory < 1 and "MemTotal" in machine:
        total = min([machine["MemTotal"], *(limit for limit, _ in limits)])
        free = min(free, int(_share_of_cpu_memory * total) - _table(_STATUS).get("RssAnon", 0))
    return max(0, free)


def _table(file: Path) -> dict[str, int]:
    """The lines "Name: 12 kB" of a file in /proc as bytes; empty if it does not exist."""
    rows: dict[str, int] = {}
    with suppress(OSError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                rows[name] = int(value.removesuffix("kB")) * 1024
    return rows


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """The limit of each control group that this process is in, and how much its processes use, in bytes.

    Linux can drop the files that it caches, so they do not count. A container may see its own group at the root.
    """
    with suppress(OSError, ValueError):  # absent, or no such file as Linux writes
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                root, names = (_CGROUPS, _VERSION_2) if controllers == "" else (_CGROUPS / "memory", _VERSION_1)
                own = PurePosixPath(path.lstrip("/"))
                for group in dict.fromkeys([own, *own.parents]):
                    with suppress(OSError, ValueError, KeyError):  # absent, or "max" for no limit
                        yield _limit_and_use(root / group, *names)


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_VERSION_2 = ("memory.max", "memory.current", "")


def _limit_and_use(group: Path, limit: str, usage: str, prefix: str) -> tuple[int, int]:
    rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    statistics = {name: int(value) for name, value in rows}
    cached = sum(statistics[f"{prefix}{kind}_file"] for kind in ("inactive", "active"))
    return int((group / limit).read_text()), int((group / usage).read_text()) - cached
