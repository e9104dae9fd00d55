"""Quick checks that only a GPU can answer: waits, recorded steps, memory between trainings, precisions.

    python benchmarks/gpu_checks.py --device cuda

Waits of the host for the device are counted in a short and a longer training: those that grow with the steps are
listed with their places. On a CPU everything runs, and there is nothing to wait for.
"""

from __future__ import annotations

import argparse
import math
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

import finetune
import numpy as np
import timm
import torch
from gpu_stages import attempt, problem
from torch import Tensor

from fewshot_bench.backbones.backbone import Preprocessing
from fewshot_bench.datasets.dataset import ImageSplit, split_fingerprint
from fewshot_bench.devices import free_bytes
from fewshot_bench.training import Recipe, train_on_base

CLASSES, SIZE = 8, 32
_NORMALISE = Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
_SHORT, _LONG = 4, 12  # steps
_KEPT = 1 << 28  # bytes that may be taken for other reasons
_ROOT = str(Path(__file__).resolve().parents[1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--minutes", type=float, default=math.inf, help="nothing new begins after that")
    arguments = parser.parse_args(argv)
    until, device = time.monotonic() + 60 * arguments.minutes, torch.device(arguments.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda:0")  # named with its number, as nothing else here names it
    print("| check | found |\n| --- | --- |")
    for what, check in _checks(device):
        if time.monotonic() > until:
            print("\nNo time was left for the other checks.")
            break
        with attempt(what):
            print(f"| {what} | {check()} |", flush=True)


def _checks(device: torch.device) -> list[tuple[str, Callable[[], str]]]:
    """What is checked, and how, in order of worth; on a CPU what it computes quickly."""
    is_gpu = device.type == "cuda"
    checks: list[tuple[str, Callable[[], str]]] = []
    for precision in ("float32", "bf16") if is_gpu else ("float32",):
        checks.append((f"waits per training step, {precision}", partial(_waits_of_training, device, precision)))
        for network, shot in (("conv4-32", 5), ("resnet12-32", 1)) if is_gpu else (("conv4-32", 1),):
            what = f"waits per step of fine-tuning {network}, {shot}-shot, {precision}"
            checks.append((what, partial(_fine_tuning, device, network, shot, precision)))
    checks.append(("memory that is free after each of three trainings", partial(_memory_between_trainings, device)))
    for precision in ("float32", "bf16", "fp16") if is_gpu else ("float32", "bf16"):
        checks.append((f"training in {precision} on {device}", partial(_trained, device, precision)))
    return checks


# Trainings


def made_up_split(images_per_class: int) -> ImageSplit:
    """Noise of another brightness for each class, 32 x 32."""
    generator = np.random.default_rng(0)
    levels = np.linspace(40, 200, CLASSES).reshape(-1, 1, 1, 1, 1)
    images = generator.normal(levels, 40, (CLASSES, images_per_class, SIZE, SIZE, 3))
    pixels = images.clip(0, 255).astype(np.uint8).reshape(-1, SIZE, SIZE, 3)
    names, sizes = tuple(map(str, range(CLASSES))), (images_per_class,) * CLASSES
    return ImageSplit("made-up", "base", pixels, names, sizes, split_fingerprint(pixels, names, sizes))


def _train(device: torch.device, steps: int, *, network: str = "conv4_64", **settings: object) -> float:
    """The loss of a training of one epoch of some steps."""
    backbone = timm.create_model(network, pretrained=False, num_classes=0, img_size=SIZE)
    split = made_up_split(96 if device.type == "cuda" else 12)
    recipe = Recipe(epochs=1, batch_size=len(split) // steps, **settings)  # type: ignore[arg-type]  # of the check
    return train_on_base(backbone, split, recipe, normalise=_NORMALISE, device=str(device)).history[-1]["loss"]


def _trained(device: torch.device, precision: str) -> str:
    return f"loss {_train(device, 8, precision=precision):.3f} after 8 steps"


def _memory_between_trainings(device: torch.device) -> str:
    """What the next training may take, after one, two and three; the first leaves libraries on the device."""
    free = []
    for _ in range(3):
        _train(device, 2, network="resnet12" if device.type == "cuda" else "conv4_64")
        free.append(free_bytes(device) or 0)
    if device.type == "cuda" and min(free) < free[0] - _KEPT:
        problem(f"after each training less memory is free: {free} bytes")
    return ", ".join(f"{size / 2**30:,.2f}" for size in free) + " GiB"


# Waits of the host for the device


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Count the places in this project, or the innermost of all, where the host waits for the device inside."""
    places: Counter[str] = Counter()

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del category, file, line
        if "synchroniz" not in str(message):
            return
        stack = traceback.extract_stack()
        own = [frame for frame in stack if frame.filename.startswith(f"{_ROOT}/fewshot_bench/")]
        place = f"{own[-1].filename.removeprefix(_ROOT + '/')}:{own[-1].lineno}" if own else f"{filename}:{lineno}"
        places[place] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits_per_step(device: torch.device, run: Callable[[int], object], what: str) -> str:
    """How often the host waits in each step, from a run of few steps and one of more; reported if there are such."""
    if device.type != "cuda":
        return "nothing to wait for"
    run(_SHORT)  # kernels are chosen and compiled
    with counted_waits() as few:
        run(_SHORT)
    with counted_waits() as many:
        run(_LONG)
    growing = {place: (many[place] - few[place]) / (_LONG - _SHORT) for place in many}
    growing = {place: rate for place, rate in growing.items() if rate >= 0.25}
    if growing:
        problem(
            f"{what}: the host waits for the device in every step",
            "\n".join(f"{p}: {r:.2g}" for p, r in growing.items()),
        )
    shown = ", ".join(f"{place} {rate:.2g}" for place, rate in growing.items())
    return shown or f"none ({sum(few.values())} in the whole of a short run)"


def _waits_of_training(device: torch.device, precision: str) -> str:
    _train(device, _SHORT, precision=precision)
    return waits_per_step(device, lambda steps: _train(device, steps, precision=precision), f"training in {precision}")


def _fine_tuning(device: torch.device, network: str, shot: int, precision: str) -> str:
    """Waits per step of a batched fine-tuning; warnings, such as that a step was not recorded, are reported."""

    def run(steps: int) -> Tensor:
        words = f"--device {device} --networks {network} --shots {shot} --precision {precision} --steps {steps}"
        arguments = finetune._arguments(words.split())
        setup = finetune._setup(finetune.NETWORKS[network], shot, precision, arguments)
        trainer = setup.trainer(4, None)
        return trainer.adapt(setup.task(range(4))).logits

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(_SHORT)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        if "graph" in text:
            problem(f"fine-tuning {network} in {precision}: {text}")
    return waits_per_step(device, run, f"fine-tuning {network} in {precision}")


if __name__ == "__main__":
    main()
