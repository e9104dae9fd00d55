"""What a process may still take: less than the device has where others share it, more than is free where it can
give back what it holds."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fewshot_bench import devices
from fewshot_bench.devices import free_bytes, is_out_of_memory, limit_to_share

GB = 1 << 30
CPU = torch.device("cpu")


@dataclass
class Card:
    """The second GPU of a machine: its memory, and what this process holds of it."""

    total: int = 80 * GB
    of_others: int = 0
    allocated: int = 0
    cached: int = 0
    stuck: int = 0  # cached beside tensors, so that it cannot be released
    share: float = 1.0

    def empty_cache(self) -> None:
        self.cached = 0

    def memory_reserved(self) -> int:
        return self.allocated + self.cached + self.stuck

    def mem_get_info(self) -> tuple[int, int]:
        return self.total - self.of_others - self.memory_reserved(), self.total


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()

    def of_second(answer):
        def ask(device: int):
            assert device == 1, "a number, which all of torch's functions take"
            return answer()

        return ask

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "empty_cache", card.empty_cache)
    monkeypatch.setattr(torch.cuda, "mem_get_info", of_second(card.mem_get_info))
    monkeypatch.setattr(torch.cuda, "memory_reserved", of_second(card.memory_reserved))
    monkeypatch.setattr(torch.cuda, "memory_allocated", of_second(lambda: card.allocated))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", of_second(lambda: card.share))

    def limit(fraction: float, device: int) -> None:
        assert isinstance(fraction, float)
        assert device == 1
        card.share = fraction

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    return card


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_second_training_may_take_what_the_first_one_cached(card, name):
    card.allocated, card.cached = 2 * GB, 70 * GB
    assert free_bytes(torch.device(name)) == 78 * GB


def test_what_cannot_be_released_counts_as_free_once(card):
    card.allocated, card.cached, card.stuck = 2 * GB, 10 * GB, 3 * GB
    assert free_bytes(torch.device("cuda")) == 78 * GB


def test_a_worker_with_half_a_card_takes_half_of_it(card):
    limit_to_share(0.5, torch.device("cuda"))
    card.allocated, card.cached, card.stuck = 10 * GB, 5 * GB, 4 * GB
    assert free_bytes(torch.device("cuda")) == 30 * GB
    card.of_others = 60 * GB
    assert free_bytes(torch.device("cuda")) == 10 * GB, "the others took more than their share"


def test_a_worker_above_its_share_has_nothing_left(card):
    card.share, card.allocated = 0.25, 30 * GB
    assert free_bytes(torch.device("cuda")) == 0


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder in place of /proc and /sys/fs/cgroup: 256 GB, 200 available, and no control groups."""
    for name, file in {
        "_MEMINFO": "meminfo",
        "_STATUS": "status",
        "_OWN_CGROUPS": "own_cgroups",
        "_CGROUPS": "cgroups",
    }.items():
        monkeypatch.setattr(devices, name, tmp_path / file)
    monkeypatch.setattr(devices, "_share_of_cpu_memory", 1.0)
    (tmp_path / "meminfo").write_text(f"MemTotal: {256 * 2**20} kB\nMemAvailable: {200 * 2**20} kB\nHugePages: 0\n")
    return tmp_path


def group(folder: Path, *, version: int, limit: object, used: int, inactive: int, active: int) -> None:
    folder.mkdir(parents=True)
    limit_file, use_file = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    prefix = "total_" if version == 1 else ""
    (folder / f"memory.{limit_file}").write_text(f"{limit}\n")
    (folder / f"memory.{use_file}").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 1\ninactive_file 7\nactive_file 8\n{prefix}inactive_file {inactive}\n{prefix}active_file {active}\n"
    )


def test_without_control_groups_it_is_what_the_system_says(system):
    assert free_bytes(CPU) == 200 * GB


def test_nothing_is_known_where_the_system_does_not_say(system):
    (system / "meminfo").unlink()
    assert free_bytes(CPU) is None
    assert free_bytes(torch.device("meta")) is None


def test_a_container_has_what_its_limit_leaves(system):
    (system / "own_cgroups").write_text("0::/\n")
    group(system / "cgroups", version=2, limit=8 * GB, used=5 * GB, inactive=2 * GB, active=GB)
    assert free_bytes(CPU) == 6 * GB, "files that the system caches can be dropped"


def test_the_narrowest_of_nested_groups_decides(system):
    (system / "own_cgroups").write_text("0::/slurm/job_7/step_0\n")
    limits = {"slurm": "max", "slurm/job_7": 16 * GB, "slurm/job_7/step_0": 100 * GB}
    for path, limit in limits.items():
        group(system / "cgroups" / path, version=2, limit=limit, used=4 * GB, inactive=0, active=0)
    assert free_bytes(CPU) == 12 * GB


def test_the_first_version_of_control_groups_counts(system):
    (system / "own_cgroups").write_text("9:name=systemd:/\n4:memory:/docker/abc\n3:cpuset:/\n0::/\n")
    inside = {"limit": 8 * GB, "used": 3 * GB, "inactive": GB, "active": 0}
    group(system / "cgroups" / "memory", version=1, **inside)  # a container sees its own group at the root
    assert free_bytes(CPU) == 6 * GB
    group(system / "cgroups" / "memory" / "docker" / "abc", version=1, **{**inside, "limit": 4 * GB})
    assert free_bytes(CPU) == 2 * GB


def test_a_group_of_several_controllers_counts(system):
    (system / "own_cgroups").write_text("4:cpu,memory:/\n")
    group(system / "cgroups" / "memory", version=1, limit=8 * GB, used=3 * GB, inactive=GB, active=0)
    assert free_bytes(CPU) == 6 * GB


def test_files_that_cannot_be_read_limit_nothing(system):
    (system / "own_cgroups").write_text("\nnonsense\n0::/\n")
    group(system / "cgroups", version=2, limit="lots", used=0, inactive=0, active=0)
    assert free_bytes(CPU) == 200 * GB


def test_a_group_without_a_limit_leaves_all(system):
    (system / "own_cgroups").write_text("4:memory:/\n")
    group(system / "cgroups" / "memory", version=1, limit=2**63 - 4096, used=GB, inactive=0, active=0)
    assert free_bytes(CPU) == 200 * GB


def test_a_group_above_its_limit_has_nothing_left(system):
    (system / "own_cgroups").write_text("0::/\n")
    group(system / "cgroups", version=2, limit=GB, used=2 * GB, inactive=0, active=0)
    assert free_bytes(CPU) == 0


def test_one_of_four_processes_on_a_cpu_takes_a_quarter(system):
    limit_to_share(0.25, CPU)
    assert free_bytes(CPU) == 64 * GB
    (system / "status").write_text(f"VmRSS: {20 * 2**20} kB\nRssAnon: {10 * 2**20} kB\n")
    assert free_bytes(CPU) == 54 * GB
    (system / "own_cgroups").write_text("0::/\n")
    group(system / "cgroups", version=2, limit=80 * GB, used=20 * GB, inactive=0, active=0)
    assert free_bytes(CPU) == 10 * GB, "a quarter of what the container has"


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_dead_objects_are_freed_before_memory_is_asked_for(system):
    gc.disable()
    try:
        dead = weakref.ref(Cycle())
        assert dead() is not None
        free_bytes(CPU)
        assert dead() is None
    finally:
        gc.enable()


def refused_by_the_allocator() -> RuntimeError:
    """What a CPU says when asked for an exbibyte."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    return error.value


def test_what_is_out_of_memory_and_what_is_not() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(refused_by_the_allocator())
    for other in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("can't allocate memory")):
        assert not is_out_of_memory(other)


@pytest.mark.slow
def test_the_peak_of_a_process_grows_with_what_it_touches() -> None:
    program = (
        "import numpy, torch; from fewshot_bench.devices import peak_bytes; "
        "cpu = torch.device('cpu'); before = peak_bytes(cpu); numpy.ones(300_000_000, dtype=numpy.uint8); "
        "print(before, peak_bytes(cpu))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    before, after = (int(number) for number in printed.split())
    assert before > 10_000_000
    assert 200_000_000 < after - before < 400_000_000


@pytest.mark.slow
def test_the_default_settings_are_those_in_the_keys_of_cached_embeddings():
    program = (
        "import torch; from fewshot_bench.devices import float32_settings; "
        "print([float32_settings(torch.device(kind)) for kind in ('cpu', 'cuda')])"
    )  # other tests of this process may have set PyTorch otherwise
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    is_older = not hasattr(torch.backends.cuda.matmul, "fp32_precision")
    on_cpu = ["highest"] if is_older else ["highest", "none", "none"]
    on_gpu = ["highest", "True"] if is_older else ["highest", "tf32", "none"]
    assert printed.strip() == str([on_cpu, on_gpu])


OLDER = 'torch.backends.cudnn.allow_tf32 = False; torch.set_float32_matmul_precision("high")'
PRESENT = 'torch.backends.cudnn.conv.fp32_precision = "ieee"; torch.backends.cuda.matmul.fp32_precision = "tf32"'
FOR_ALL = 'torch.backends.fp32_precision = "tf32"'


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "uses"), [("", (1, 0)), (OLDER, (0, 1)), (PRESENT, (0, 1)), (FOR_ALL, (1, 1))])
def test_tf32_is_read_switched_off_and_restored_by_whichever_interface_a_user_has_set_it(settings, uses):
    if "fp32_precision" in settings and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("torch before 2.9")
    script = f"""
import torch
from fewshot_bench.devices import float32_settings, full_float32_products, tf32_on
{settings}
gpu, cpu = torch.device("cuda"), torch.device("cpu")
before = float32_settings(gpu), float32_settings(cpu)
assert tf32_on(gpu) == {uses} and tf32_on(cpu) == (False, False), tf32_on(gpu)
with full_float32_products():
    assert tf32_on(gpu) == (False, False)
assert (float32_settings(gpu), float32_settings(cpu)) == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)
