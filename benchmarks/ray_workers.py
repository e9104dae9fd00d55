"""Time a study that keeps a core busy: in one process, with one worker of Ray and with several.

    python benchmarks/ray_workers.py --repeats 3 --workers 2

Conv4 is fine-tuned on every episode of the built-in glyphs. Every process computes with one thread, so that what is
compared is the number of processes. The engines take turns; a run starts with an empty folder and ends when its last
outcome is stored. Starting Ray and its workers is timed apart. What is stored is compared too.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from fewshot_bench.engine.engine import Engine, LocalEngine
from fewshot_bench.engine.ray_cluster import ray
from fewshot_bench.engine.ray_engine import RayEngine
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.study import Study, run_study

Opened = Callable[[], AbstractContextManager[Engine]]


def study(results: Path, episodes: int) -> Study:
    return Study(
        backbone="conv4_32",
        base_losses=(),
        adaptations=("finetune",),
        hyper_parameters={"epochs": 20},
        shots=(1,),
        episodes=episodes,
        runs=1,
        results=results,
        device="cpu",
    )


def timed(open_engine: Opened, episodes: int) -> tuple[float, float, pd.DataFrame]:
    """Seconds until the engine is ready, seconds of the study, and its outcomes but for their timing."""
    began = time.perf_counter()
    with open_engine() as engine, tempfile.TemporaryDirectory() as folder:
        run_study(study(Path(folder) / "first", 8), engine=engine)  # every worker has imported everything
        ready = time.perf_counter()
        run_study(study(Path(folder) / "timed", episodes), engine=engine)
        ended = time.perf_counter()
        store = OutcomeStore(Path(folder) / "timed" / "outcomes")
        outcomes = store.read(store.cells()[0], with_predictions=True).drop(columns="seconds")
    return ready - began, ended - ready, outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    engines: dict[str, Opened] = {
        "local": lambda: nullcontext(LocalEngine()),
        "ray, 1 worker": partial(RayEngine, device="cpu", workers=1),
        f"ray, {options.workers} workers": partial(RayEngine, device="cpu", workers=options.workers),
    }
    found: dict[str, list[tuple[float, float, pd.DataFrame]]] = {name: [] for name in engines}
    for _ in range(options.repeats):
        for name, opened in engines.items():
            found[name].append(timed(opened, options.episodes))
    report(found, options.episodes)


def report(found: dict[str, list[tuple[float, float, pd.DataFrame]]], episodes: int) -> None:
    reference = next(iter(found.values()))[0][2]
    seconds = {name: statistics.median(run[1] for run in runs) for name, runs in found.items()}
    local, one, _ = seconds.values()
    print(
        f"Conv4-32 fine-tuned 20 epochs on each of {episodes} 1-shot episodes; one thread per process.\n"
        f"torch {torch.__version__}, ray {ray.__version__}, Python {platform.python_version()}; "
        f"{os.cpu_count()} cores ({platform.machine()}).\n"
    )
    print("| engine | ready after s | study, median s | all | times local | times 1 worker | same outcomes |")
    print("| --- | ---: | ---: | --- | ---: | ---: | --- |")
    for name, runs in found.items():
        ready = statistics.median(run[0] for run in runs)
        each = ", ".join(f"{run[1]:.1f}" for run in runs)
        same = "yes" if all(run[2].equals(reference) for run in runs) else "NO"
        speed = f"{local / seconds[name]:.2f} | {one / seconds[name]:.2f}"
        print(f"| {name} | {ready:.1f} | {seconds[name]:.2f} | {each} | {speed} | {same} |")


if __name__ == "__main__":
    main()
