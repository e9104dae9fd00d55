"""What benchmarks/finetune.py prints: a row per measurement, and the bars that the measurements are held against."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch

from fewshot_bench.units import rate_text

# What an adaptation takes by the recipe's default; the benchmark trains for fewer steps and adds the rest up.
USUAL_STEPS = 100


@dataclass(frozen=True)
class Case:
    """A network at one number of shots in one precision.

    Attributes:
        network: its label.
        shot: K.
        precision: of the training.
        products: what a product is computed in: "float32", "bf16", or "tf32" in float32 convolutions on a GPU.
        flops: of one training step of one episode in the plain network.
        matmul_rate: FLOP/s of a large product in that precision.
        tune: what is trained.
    """

    network: str
    shot: int
    precision: str
    products: str
    flops: int
    matmul_rate: float
    tune: str = "all"

    def __str__(self) -> str:
        part = "" if self.tune == "all" else f", {self.tune}"
        return f"{self.network}, {self.shot}-shot, {self.precision}{part}"


@dataclass(frozen=True)
class Row:
    """One number of episodes at once, beside the loop; times are seconds per episode.

    Attributes:
        case: what is trained.
        layout: how the trainer has laid the episodes in memory.
        is_default_layout: whether it chose that itself.
        at_once: E.
        steps: of each training.
        loop_step: of the loop, one training step.
        step: the same, batched.
        loop_adapt: of the loop, everything from the first weights to the predictions.
        adapt: the same, batched.
        views: images that one episode sees in a step.
        peak: bytes, batched.
        compared: predictions that both have made.
        agreeing: those that are the same.
        is_default_number: whether that many go at once in a study.
    """

    case: Case
    layout: str
    is_default_layout: bool
    at_once: int
    steps: int
    loop_step: float
    step: float
    loop_adapt: float
    adapt: float
    views: int
    peak: int
    compared: int
    agreeing: int
    is_default_number: bool = False

    @property
    def times_faster(self) -> float:
        """In a training step."""
        return self.loop_step / self.step

    @property
    def flop_rate(self) -> float:
        """FLOP/s of the batched training."""
        return self.case.flops / self.step

    @property
    def share_of_matmul(self) -> float:
        """Achieved rate in units of the large product's."""
        return self.flop_rate / self.case.matmul_rate

    @property
    def usual_rate(self) -> float:
        """Episodes per second with the usual number of steps, computed from fewer."""
        return 1 / (self.adapt + (USUAL_STEPS - self.steps) * self.step)


def heading(device: torch.device, *, steps: int, repeats: int, loss: str) -> str:
    """Where the numbers come from."""
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "timm"))
    is_gpu = device.type == "cuda"
    name = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}" if is_gpu else "CPU"
    return (
        f"Fine-tuning of backbones per episode on {name}: {loss}, random weights, 5-way, 75 queries, "
        f"{steps} steps per episode; median of {repeats} alternating repeats.\n"
        f"{versions}, Python {platform.python_version()}; {torch.get_num_threads()} threads of torch, "
        f"{os.cpu_count()} cores ({platform.machine()}).\n"
    )


def augmentation_line(size: int, rate: float) -> str:
    """What making the views would add, which the times do not contain."""
    return f"AutoAugment makes {rate_text(rate)} views per second of {size} px; the times below do not contain it."


def table_head() -> str:
    """The first two lines of the table."""
    columns = (
        "network, shots, precision, trained", "layout", "episodes at once", "loop: ms per step",
        "batched: ms per step", "times faster", "loop: ms per adapt", "batched: ms per adapt", "times faster, adapt",
        f"episodes/s at {USUAL_STEPS} steps", "images/s", "GFLOP/s", "of matmul", "peak MiB", "predictions agree",
    )  # fmt: skip
    return f"| {' | '.join(columns)} |\n| --- | --- |{' ---: |' * (len(columns) - 2)}"


def row_line(row: Row) -> str:
    """A line of the table."""
    cells = (
        str(row.case), row.layout, f"{row.at_once:,}", _milliseconds(row.loop_step), _milliseconds(row.step),
        f"{row.times_faster:.2f}", _milliseconds(row.loop_adapt), _milliseconds(row.adapt),
        f"{row.loop_adapt / row.adapt:.2f}", rate_text(row.usual_rate), rate_text(row.views / row.step),
        f"{row.flop_rate / 1e9:,.0f}", f"{row.share_of_matmul:.0%}", f"{row.peak / 2**20:,.0f}",
        f"{row.agreeing} of {row.compared}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def case_line(case: Case) -> str:
    """What a step costs, and what the device can do."""
    return (
        f"- {case}: {case.flops / 1e9:,.1f} GFLOP per episode and step; a large {case.products} product runs at "
        f"{case.matmul_rate / 1e9:,.0f} GFLOP/s."
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


# Bars


@dataclass(frozen=True)
class Bar:
    """A claim and what was measured."""

    claim: str
    measured: str
    is_met: bool


def bars(rows: Sequence[Row], device: str) -> list[Bar]:
    """The bars of a device, for every network, size of image and number of shots that was measured.

    Args:
        rows: those whose layout was insisted on do not count.
        device: "cpu" or "cuda".
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.is_default_layout and not row.is_default_number:
            groups.setdefault((row.case.network, row.case.shot), []).append(row)
    judge = _on_gpu if device == "cuda" else _on_cpu
    own = [row for row in rows if row.is_default_number]
    return [bar for (network, shot), some in groups.items() for bar in judge(network, shot, some)] + _never_slower(own)


def _never_slower(rows: Sequence[Row]) -> list[Bar]:
    return [
        Bar(f"{row.case}: at most 5% slower than the loop", _as_times(row), row.times_faster >= 1 / 1.05)
        for row in rows
    ]


def _on_cpu(network: str, shot: int, rows: Sequence[Row]) -> list[Bar]:
    if not network.startswith(("Conv4", "ResNet-12")):
        return []
    least, most = min(rows, key=attrgetter("times_faster")), max(rows, key=attrgetter("times_faster"))
    return [
        Bar(f"{network}, {shot}-shot: as fast as the loop at every size", _as_times(least), least.times_faster >= 1),
        Bar(f"{network}, {shot}-shot: faster than the loop at the best", _as_times(most), most.times_faster > 1),
    ]


def _on_gpu(network: str, shot: int, rows: Sequence[Row]) -> list[Bar]:
    name = f"{network}, {shot}-shot"
    best = max(rows, key=attrgetter("times_faster"))
    for start, only_shot, factor in (("Conv4", None, 20), ("ResNet-12", None, 5), ("ViT-B", 1, 2)):
        if network.startswith(start) and only_shot in (None, shot):
            claim = f"{name}: at least {factor} times as fast as the loop"
            return [Bar(claim, _as_times(best), best.times_faster >= factor)]
    if network.startswith("ViT-B") and shot == 5:
        best = max(rows, key=attrgetter("share_of_matmul"))
        measured = f"{best.share_of_matmul:.1%} ({best.at_once} at once, {best.case.precision})"
        return [Bar(f"{name}: at least 40% of the rate of a large product", measured, best.share_of_matmul >= 0.4)]
    return []


def _as_times(row: Row) -> str:
    return (
        f"{row.times_faster:.2f} times in a step, {row.loop_adapt / row.adapt:.2f} in an adapt "
        f"({row.at_once} at once, {row.case.precision})"
    )


def bars_table(found: Sequence[Bar]) -> str:
    """Bars as Markdown."""
    lines = [f"| {bar.claim} | {bar.measured} | {'yes' if bar.is_met else 'no'} |" for bar in found]
    return "\n".join(["| bar | measured | met |", "| --- | --- | --- |", *lines])
