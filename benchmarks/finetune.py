"""Time the fine-tuning of backbones on each episode: the loop that everybody writes, and many episodes at once.

    python benchmarks/finetune.py
    python benchmarks/finetune.py --only 'lite0-64 last:1'
    python benchmarks/finetune.py --tune all --networks conv4-32 --episodes-at-once 1 2 4 8 16
    python benchmarks/finetune.py --device cuda

Both train copies of one network with random weights on the same made-up episodes, with the same views, and classify 75
queries. Repeats alternate between them; medians are reported, after one run of each that is not timed. Every row is
printed as soon as it is known; README.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from finetune_device import (
    augmentation_rate,
    flops_per_step,
    give_back_memory,
    matmul_rate,
    peak,
    reset_peak,
    wait_for,
)
from finetune_tables import Case, Row, augmentation_line, bars, bars_table, case_line, heading, row_line, table_head
from plain_loop import adapt_one
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fewshot_bench.devices import is_out_of_memory
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.episode_tasks import EpisodeTask, ImageTasks, StepViews
from fewshot_bench.finetuning.episodes_at_once import fastest_on_cpu
from fewshot_bench.finetuning.frozen_prefix import NetworkParts, network_parts
from fewshot_bench.finetuning.memory import bytes_per_episode, episodes_that_fit
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.trainer import EpisodeTrainer
from fewshot_bench.training.augmentation import choose_augmentation
from fewshot_bench.training.randomness import episode_keys

WAY, QUERY = 5, 15
CLASSES, IMAGES_PER_CLASS = 10, 40


@dataclass(frozen=True)
class Network:
    """A network of timm's at one size of image; those of convolutions may use TF32 on a GPU, by torch's default."""

    label: str
    timm_name: str
    size: int
    is_convolutional: bool


TUNED = ("all", "last:1", "norm", "lora")
NETWORKS = {
    "conv4-32": Network("Conv4, 32 px", "conv4_64", 32, True),
    "conv4-84": Network("Conv4, 84 px", "conv4_64", 84, True),
    "resnet12-32": Network("ResNet-12, 32 px", "resnet12", 32, True),
    "resnet12-84": Network("ResNet-12, 84 px", "resnet12", 84, True),
    "lite0-64": Network("EfficientNet-Lite0, 64 px", "tf_efficientnet_lite0", 64, True),
    "lite0-128": Network("EfficientNet-Lite0, 128 px", "tf_efficientnet_lite0", 128, True),
    "resnet50": Network("ResNet-50, 64 px", "resnet50", 64, True),
    "vit-s-96": Network("ViT-S/16, 96 px", "vit_small_patch16_224", 96, False),
    "vit-s": Network("ViT-S/16, 224 px", "vit_small_patch16_224", 224, False),
    "vit-b": Network("ViT-B/16, 224 px", "vit_base_patch16_224", 224, False),
}


@dataclass(frozen=True)
class Setup:
    """Everything that the sizes of one case have in common."""

    case: Case
    parts: NetworkParts
    recipe: EpisodeRecipe
    tasks: ImageTasks
    device: torch.device

    def task(self, episodes: range) -> EpisodeTask:
        """Some episodes; each has its images and its numbers for itself, whatever is asked for beside it."""
        chosen = np.stack([_episode(number, self.case.shot) for number in episodes])
        support, query = chosen[:, :, : self.case.shot], chosen[:, :, self.case.shot :]
        keys = episode_keys(self.recipe.seed, 0, np.arange(episodes.start, episodes.stop))
        return self.tasks(support.reshape(len(chosen), -1), query.reshape(len(chosen), -1), keys)

    def trainer(self, episodes: int, layout: str | None) -> EpisodeTrainer:
        """Room for that many episodes."""
        return EpisodeTrainer(self.parts, self.recipe, episodes=episodes, way=WAY, shot=self.case.shot, layout=layout)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    if arguments.profile:
        options = (arguments.shots[0], arguments.precision[0], arguments, arguments.tune[0])
        _profile(_setup(NETWORKS[arguments.profile], *options), arguments)
        return
    until = time.monotonic() + 60 * arguments.minutes
    about = heading(device, steps=arguments.steps, repeats=arguments.repeats, loss=arguments.loss)
    print(about)
    for size in dict.fromkeys(NETWORKS[name].size for name in arguments.networks):
        print(augmentation_line(size, augmentation_rate(size, device)), flush=True)
    cases, rows = _measured(arguments, until)
    found = bars(rows, device.type)
    print("\n".join(["", *map(case_line, cases), "", *([bars_table(found)] if found else [])]), flush=True)
    if arguments.json:
        record = {"heading": about, "rows": rows, "cases": cases, "bars": found}
        arguments.json.write_text(json.dumps(record, default=asdict, indent=1), encoding="utf-8")


def _measured(arguments: argparse.Namespace, until: float) -> tuple[list[Case], list[Row]]:
    """Everything that was asked for and begins before the time is over; rows are printed as they come."""
    asked = [
        (NETWORKS[name], shot, precision, tune)
        for precision in arguments.precision
        for shot in arguments.shots
        for name in arguments.networks
        for tune in arguments.tune
        if not arguments.only or any(words in f"{name} {tune} {shot}-shot" for words in arguments.only)
    ]
    cases: list[Case] = []
    rows: list[Row] = []
    print(f"\n{table_head()}", flush=True)
    for network, shot, precision, tune in asked:
        if time.monotonic() > until:
            print(f"\nStopped after {arguments.minutes:g} minutes: {len(asked) - len(cases)} cases were not begun.")
            break
        try:
            setup = _setup(network, shot, precision, arguments, tune)
        except StudyError as error:
            print(f"\n{network.label}, --tune {tune}: {error}\n\n{table_head()}", flush=True)
            continue
        cases.append(setup.case)
        for row in _rows(setup, arguments, until=until):
            rows.append(row)
            print(row_line(row), flush=True)
    return cases, rows


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), help="by default what suits the device")
    parser.add_argument("--tune", nargs="+", help=f"{', '.join(TUNED)} on a CPU, all on a GPU")
    parser.add_argument("--only", nargs="+", help="rows that contain one of these, such as 'lite0-64 last:1 5-shot'")
    parser.add_argument("--vit", action="store_true", help="ViT-S at 224 px on a CPU as well")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument(
        "--episodes-at-once", type=int, nargs="+", help="powers of two on a GPU, what a study takes on a CPU"
    )
    parser.add_argument("--steps", type=int, help="of each training; the first is not timed on its own")
    parser.add_argument("--repeats", type=int, default=3, help="alternating repeats; medians are reported")
    parser.add_argument("--precision", nargs="+", choices=["float32", "bf16"], help="bf16 and float32 on a GPU")
    parser.add_argument("--layout", nargs="+", choices=["channels", "rows", "vmap"], help="compare ways of stacking")
    parser.add_argument("--loss", default="ce+schane", choices=["ce", "ce+schane", "ce+supcon", "ce+simclr"])
    parser.add_argument("--loop-episodes", type=int, help="episodes in each run of the loop, at most")
    parser.add_argument("--seconds", type=float, help="no more episodes at once after a run that took longer")
    parser.add_argument(
        "--minutes", type=float, help="nothing new begins after that; by default 7.5 on a GPU, 9 on a CPU"
    )
    parser.add_argument("--threads", type=int, help="threads of torch; its default otherwise")
    parser.add_argument("--json", type=Path, help="write everything there, too")
    parser.add_argument("--profile", choices=list(NETWORKS), help="show where a batched step spends its time")
    arguments = parser.parse_args(argv)
    is_gpu = torch.device(arguments.device).type == "cuda"
    on_cpu = ["conv4-32", "lite0-64", "lite0-128", "resnet12-32", "resnet50", "vit-s-96"]
    on_gpu = ["conv4-32", "conv4-84", "resnet12-32", "resnet12-84", "vit-s", "vit-b"]
    defaults = {
        "networks": on_gpu if is_gpu else [*on_cpu, *(["vit-s"] if arguments.vit else [])],
        "tune": ["all"] if is_gpu else list(TUNED),
        "episodes_at_once": [2**power for power in range(11)] if is_gpu else None,
        "steps": 10 if is_gpu else 3,
        "precision": ["bf16", "float32"] if is_gpu else ["float32"],
        "loop_episodes": 4 if is_gpu else 2,
        "seconds": 1.5 if is_gpu else 6.0,
        "minutes": 7.5 if is_gpu else 9.0,
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.steps < 2:
        parser.error(f"--steps should be 2 or more, not {arguments.steps}: the first step is not timed on its own.")
    return arguments


# What is trained


def _setup(network: Network, shot: int, precision: str, arguments: argparse.Namespace, tune: str = "all") -> Setup:
    device = torch.device(arguments.device)
    # The views are made before the clock starts, so how does not matter; see the rates of AutoAugment in the table.
    recipe = EpisodeRecipe(
        loss=arguments.loss,
        tune=tune,
        epochs=arguments.steps,
        precision="bf16" if precision == "bf16" else "float32",
        views=2,
        augmentation="affine",
    )
    torch.manual_seed(0)
    size: Any = {"img_size": network.size} if network.timm_name.startswith(("conv4", "resnet12", "vit")) else {}
    built: nn.Module = timm.create_model(network.timm_name, pretrained=False, num_classes=0, **size)
    built = built.eval().to(device)
    parts = network_parts(built, recipe, torch.randn(2, 3, network.size, network.size, device=device))
    augmentation = choose_augmentation("affine", channels=3, image_size=network.size)
    tasks = ImageTasks(_images(network.size), _normalised, augmentation, parts, recipe, device)
    is_tf32 = device.type == "cuda" and precision == "float32" and network.is_convolutional
    products = "tf32" if is_tf32 and torch.backends.cudnn.allow_tf32 else precision
    flops = flops_per_step(parts.rest, WAY, 2 * WAY * shot, parts.sample.shape[1:], parts.tuned)
    case = Case(network.label, shot, precision, products, flops, matmul_rate(device, products), tune)
    return Setup(case, parts, recipe, tasks, device)


@cache
def _images(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Classes that differ by a coarse pattern, uint8 [I, S, S, 3]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(CLASSES, 3, 4, 4, generator=generator)
    patterns = nn.functional.interpolate(coarse, size=(size, size)).repeat_interleave(IMAGES_PER_CLASS, dim=0)
    noisy = patterns + 0.2 * torch.randn(patterns.shape, generator=generator)
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (
        (255 * noisy.clamp(0, 1)).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return images


def _episode(number: int, shot: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Positions of images, int32 [N, K + Q]."""
    generator = np.random.default_rng(number)
    classes = generator.permutation(CLASSES)[:WAY]
    own = [label * IMAGES_PER_CLASS + generator.permutation(IMAGES_PER_CLASS)[: shot + QUERY] for label in classes]
    return np.stack(own).astype(np.int32)


def _normalised(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255 - 0.5) / 0.25


# The race


@dataclass(frozen=True)
class Seconds:
    """Per episode.

    Attributes:
        step: of each training step but the first.
        adapt: of everything: first weights, training, and the classification of the queries.
    """

    step: float
    adapt: float


class _StopWatch(StepViews):
    """Notes when the second step begins and when the queries do; a GPU is waited for at these moments only."""

    def __init__(self, task: EpisodeTask, device: torch.device) -> None:
        self._task, self._device = task, device
        self.task = replace(task, views=self, query=self._query)
        self.steps, self._asked_for_queries = 0, False
        self.began = self._now()

    def at(self, step: int, chosen: Tensor | None) -> Tensor:
        """See `StepViews`."""
        if step == 1:
            self.second = self._now()
        self.steps = step + 1
        return self._task.views.at(step, chosen)

    def _query(self, some: slice) -> Tensor:
        if not self._asked_for_queries:
            self.trained, self._asked_for_queries = self._now(), True
        return self._task.query(some)

    def stop(self, episodes: int) -> Seconds:
        """What it took so many episodes."""
        per_step = (self.trained - self.second) / (self.steps - 1)
        return Seconds(per_step / episodes, (self._now() - self.began) / episodes)

    def _now(self) -> float:
        wait_for(self._device)
        # A single thread's own time does not contain what other processes take.
        is_alone = self._device.type == "cpu" and torch.get_num_threads() == 1
        return time.thread_time() if is_alone else time.perf_counter()


def _loop(setup: Setup, tasks: Sequence[EpisodeTask]) -> tuple[Seconds, Tensor]:
    times, predictions = [], []
    for task in tasks:
        watch = _StopWatch(task, setup.device)
        logits, _, _ = adapt_one(setup.parts, setup.recipe, watch.task, way=WAY, shot=setup.case.shot)
        times.append(watch.stop(1))
        predictions.append(logits.argmax(dim=-1))
    each = Seconds(statistics.fmean(t.step for t in times), statistics.fmean(t.adapt for t in times))
    return each, torch.stack(predictions)


def _batched(setup: Setup, trainer: EpisodeTrainer, task: EpisodeTask) -> tuple[Seconds, Tensor]:
    watch = _StopWatch(task, setup.device)
    adapted = trainer.adapt(watch.task)
    return watch.stop(len(task.support)), adapted.logits.argmax(dim=-1)


def _rows(setup: Setup, arguments: argparse.Namespace, *, until: float) -> Iterator[Row]:
    for layout in arguments.layout or [None]:
        try:
            numbers = arguments.episodes_at_once or [_of_a_study(setup)]
            most = _most_at_once(setup, layout, max(numbers))
        except StudyError as error:
            print(f"\n{error}\n\n{table_head()}", flush=True)
            continue
        for at_once in sorted(numbers):
            row = None
            if at_once <= most and time.monotonic() < until:
                row = _row_if_it_fits(setup, at_once, layout, arguments)
            if row is None:
                break
            yield row
            if at_once * row.adapt > arguments.seconds:
                break


def _of_a_study(setup: Setup) -> int:
    """How many episodes a study trains at once on a CPU."""
    views = _views(setup)
    per_episode = bytes_per_episode(setup.trainer(1, None), views)
    return fastest_on_cpu(setup.parts, setup.recipe, views, per_episode, way=WAY, shot=setup.case.shot)


def _views(setup: Setup) -> Tensor:
    one = setup.parts.sample[:1]
    return one.expand(2 * WAY * setup.case.shot, *one.shape[1:]).unsqueeze(0)


def _most_at_once(setup: Setup, layout: str | None, largest: int) -> int:
    per_episode = bytes_per_episode(setup.trainer(1, layout), _views(setup))
    give_back_memory(setup.device)
    return episodes_that_fit(per_episode, setup.device, largest=largest)


def _row_if_it_fits(setup: Setup, at_once: int, layout: str | None, arguments: argparse.Namespace) -> Row | None:
    give_back_memory(setup.device)
    try:
        return _row(setup, at_once, layout, arguments)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _row(setup: Setup, at_once: int, layout: str | None, arguments: argparse.Namespace) -> Row:
    task = setup.task(range(at_once))
    ones = [setup.task(range(number, number + 1)) for number in range(min(at_once, arguments.loop_episodes))]
    trainer = setup.trainer(at_once, layout)
    contenders = {"loop": partial(_loop, setup, ones), "batched": partial(_batched, setup, trainer, task)}
    times: dict[str, list[Seconds]] = {name: [] for name in contenders}
    predictions, peaks = {}, []
    for repeat in range(arguments.repeats + 1):
        for name, adapt in contenders.items():
            reset_peak(setup.device)
            seconds, predictions[name] = adapt()
            if repeat:
                times[name].append(seconds)
            if name == "batched":
                peaks.append(peak(setup.device))
    compared = predictions["batched"][: len(ones)]
    medians = {
        name: Seconds(statistics.median(t.step for t in some), statistics.median(t.adapt for t in some))
        for name, some in times.items()
    }
    return Row(
        case=setup.case,
        layout=trainer.stack.layout,
        is_default_layout=layout is None,
        is_default_number=arguments.episodes_at_once is None,
        at_once=at_once,
        steps=arguments.steps,
        loop_step=medians["loop"].step,
        step=medians["batched"].step,
        loop_adapt=medians["loop"].adapt,
        adapt=medians["batched"].adapt,
        views=2 * WAY * setup.case.shot,
        peak=max(peaks),
        compared=compared.numel(),
        agreeing=int((compared == predictions["loop"]).sum()),
    )


# A profile


def _profile(setup: Setup, arguments: argparse.Namespace) -> None:
    """Operations of a batched step by the time that they take themselves."""
    layout = (arguments.layout or [None])[0]
    numbers = arguments.episodes_at_once or [_of_a_study(setup)]
    at_once = min(max(numbers), _most_at_once(setup, layout, max(numbers)))
    trainer = setup.trainer(at_once, layout)
    trainer.prepare()
    inputs = setup.task(range(at_once)).views.at(0, None)
    for _ in range(2):
        trainer.try_step(inputs)
    is_gpu = setup.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities) as measured:
        for _ in range(3):
            trainer.try_step(inputs)
        wait_for(setup.device)
    by = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    print(f"{setup.case}, {at_once} episodes at once in the layout {trainer.stack.layout}; 3 steps, 15 operations.\n")
    print(measured.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=60))


if __name__ == "__main__":
    main()
