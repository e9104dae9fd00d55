"""Every adaptation on glyphs through the command line, on a device and on the CPU beside it: the same predictions?

    python benchmarks/gpu_smoke.py --device cuda --minutes 2

Both start from the same networks, trained on the CPU. The run on the device is killed after its first outcomes and
started again. Differences are ties by the rules of `fewshot-bench audit`: few, spread over the episodes and in favour
of neither; heads on embeddings are also judged by their scores. Without a GPU, `--device cpu` compares the CPU with
itself, in a few of the ways to fine-tune.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from gpu_stages import attempt, problem

from fewshot_bench.audit import AuditOptions, audit_cell
from fewshot_bench.audit.finding import SAME
from fewshot_bench.audit.ties import changed_predictions, explanation
from fewshot_bench.cache import BASE_STAGES
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.frame import even_truth, positions_of

SHOTS, QUERY = (1, 5), 15
TUNED = ("all", "last:1", "norm", "bias", "norm+last:1")
_ADAPTED = ("lora:2",)  # with PEFT
EXACT_ONLY: tuple[dict[str, object], ...] = (
    {"tune": "head"},
    {"loss": "ce+schane"},
    {"bn": "support"},
    {"bn": "transductive"},
    {"start": "support", "on": "logits", "query_entropy": 1.0},
    {"patience": 2},
    {"views": 4},
)
"""Settings of finetune that are tried in float32 only."""


def every_method(steps: int) -> list[dict[str, str]]:
    """Tables of a study file: all heads, and fine-tuning in every way and precision, in order of worth."""
    tuned = [*TUNED, *(_ADAPTED if find_spec("peft") else ())]
    exact, half = ([{"tune": tune, "precision": precision} for tune in tuned] for precision in ("float32", "bf16"))
    return [{"adaptations": "all"}, *(_finetune(steps, **settings) for settings in (*exact, *half, *EXACT_ONLY))]


def study_text(methods: Sequence[Mapping[str, str]], *, episodes: int, base_epochs: int) -> str:
    """A study file on glyphs, with networks trained by few epochs."""
    head = (
        f'name = "smoke"\nshots = {list(SHOTS)}\nquery = {QUERY}\nepisodes = {episodes}\nruns = 1\n'
        f'backbone = "conv4_32"\nbase_losses = "ce"\nbase_epochs = {base_epochs}\n'
    )
    tables = ["\n[[methods]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in m.items()) for m in methods]
    return head + "".join(tables) + "\n[outputs]\nreport = false\n"


def _finetune(steps: int, **settings: object) -> dict[str, str]:
    loss = settings.pop("loss", "ce")
    settings = {"epochs": steps, "learning_rate": 1e-3, **settings}  # few steps should change some predictions
    table = ", ".join(f"{name} = {_toml(value)}" for name, value in settings.items())
    return {"adaptations": "finetune", "losses": str(loss), "hyper_parameters": f"{{ {table} }}"}


def _toml(value: object) -> str:
    is_text = isinstance(value, str) and not value.startswith("{")
    return f'"{value}"' if is_text else str(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--minutes", type=float, default=2.0, help="what is stored by then is compared")
    parser.add_argument("--episodes", type=int, help="per method and number of shots; by default what suits the device")
    parser.add_argument("--steps", type=int, default=5, help="epochs of each fine-tuning")
    arguments = parser.parse_args(argv)
    until = time.monotonic() + 60 * arguments.minutes
    # Named with its number: a device that is named so is another code path than "cuda".
    device = "cuda:0" if arguments.device == "cuda" else arguments.device
    episodes = arguments.episodes or (2 if device == "cpu" else 10)
    with tempfile.TemporaryDirectory(prefix="fewshot-bench-smoke-") as folder:
        work = Path(folder)
        steps, base_epochs = arguments.steps, 1 if device == "cpu" else 4
        centroid = {"adaptations": "centroid"}
        studies = {
            "base": ([centroid], 1),
            "every": (every_method(steps)[: 4 if device == "cpu" else None], episodes),
            "few": ([centroid, _finetune(steps, tune="all", precision="float32")], episodes),
        }
        for name, (methods, count) in studies.items():
            text = study_text(methods, episodes=count, base_epochs=base_epochs)
            (work / f"{name}.toml").write_text(text, encoding="utf-8")
        _compare_devices(work, device, until)
        if find_spec("ray") is None:
            print("\nRay is not installed, so its workers were not tried.")
        elif time.monotonic() > until - 30:
            print("\nNo time was left for Ray's workers.")
        else:
            with attempt("workers of Ray"):
                _compare_ray(work, device, until)


def _compare_devices(work: Path, device: str, until: float) -> None:
    base = _Command(work, "home-cpu", "base.toml", "cpu", "base")
    if base.wait(until):
        problem("the base stage could not be trained on the CPU", "see log.txt")
        return
    shutil.copytree(work / "home-cpu" / "datasets", work / "home-device" / "datasets")
    trained = Path("cache") / BASE_STAGES
    shutil.copytree(work / "home-cpu" / trained, work / "home-device" / trained)
    on_cpu = _Command(work, "home-cpu", "every.toml", "cpu", "on-cpu")
    on_device = _Command(work, "home-device", "every.toml", device, "on-device")
    is_killed = on_device.kill_after_first_outcomes(until)
    if is_killed:
        on_device = _Command(work, "home-device", "every.toml", device, "on-device")
    codes = {device: on_device.wait(until), "cpu": on_cpu.wait(until)}
    for name, code in codes.items():
        if code:
            problem(f"the study on {name} ended with exit code {code}: methods failed, see log.txt")
        elif code is None:
            print(f"The study on {name} was not finished in time; what it has stored is compared.")
    os.environ["FEWSHOT_BENCH_HOME"] = str(work / "home-cpu")
    started = (
        "killed after its first outcomes and started again" if is_killed else "not killed while it stored outcomes"
    )
    print(f"The run on {device} was {started}.\n")
    print_comparison(work / "on-device", work / "on-cpu", until)


class _Command:
    """`fewshot-bench run` in a process."""

    def __init__(self, work: Path, home: str, study: str, device: str, results: str, *options: str) -> None:
        self.results = work / results
        command = [sys.executable, "-m", "fewshot_bench", "run", str(work / study), "--results", str(self.results)]
        self.process = subprocess.Popen(
            [*command, "--device", device, *options],
            stdout=sys.stderr,
            env={**os.environ, "FEWSHOT_BENCH_HOME": str(work / home)},
        )

    def wait(self, until: float) -> int | None:
        """Its exit code; None if it had to be ended."""
        try:
            return self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def kill_after_first_outcomes(self, until: float) -> bool:
        """Kill it once it has stored some; whether it was still running then."""
        while self.process.poll() is None and time.monotonic() < until:
            if any((self.results / "outcomes").rglob("*.parquet")):
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
                return True
            time.sleep(0.05)
        return False


def _compare_ray(work: Path, device: str, until: float) -> None:
    share = ["--gpus-per-worker", "0.5"] if device != "cpu" else []
    name = device.partition(":")[0]  # Ray gives each worker its own device
    code = _Command(work, "home-device", "few.toml", name, "on-ray", "--engine", "ray", "--workers", "2", *share).wait(
        until
    )
    if code != 0:
        problem(f"the study with Ray's workers ended with exit code {code}, see log.txt")
    print("\nTwo workers of Ray on the device, against the CPU:\n")
    print_comparison(work / "on-ray", work / "on-cpu", until)


# Comparison


def print_comparison(new: Path, reference: Path, until: float) -> None:
    """Print a row for each cell of two results folders, and report those whose differences are no ties.

    Args:
        new: the results in question.
        reference: those of the CPU.
        until: after that, differences are judged without the scores of the method.
    """
    store, other = OutcomeStore(new / "outcomes"), OutcomeStore(reference / "outcomes")
    cells = sorted(store.cells(), key=lambda cell: (cell.method.name, cell.protocol.shot))
    columns = ("method", "shots", "episodes", "accuracy", "on the CPU", "predictions that differ", "verdict")
    print(f"| {' | '.join(columns)} |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |", flush=True)
    compared = [cell for cell in cells if store.done(cell) and other.done(cell)]
    for cell in compared:
        with attempt(f"comparison of {cell.method.name}"):
            _print_cell(cell, store, other, len(cells), until)
    only = [len(cells) - len(compared), len({cell.key for cell in other.cells()} - {cell.key for cell in compared})]
    if any(only):
        print(f"\nNot compared: {only[0]} cells with outcomes here only, {only[1]} with outcomes on the CPU only.")
    if not compared:
        problem("there are no outcomes to compare")


def _print_cell(cell: Cell, store: OutcomeStore, reference: OutcomeStore, cells: int, until: float) -> None:
    both = store.read(cell).merge(reference.read(cell), on=["run", "episode"], suffixes=("", "_cpu"))
    verdict, changed, total = judged(both, cell.protocol.way, cells)
    has_scores = cell.method.adaptation != "finetune"
    if changed and has_scores and time.monotonic() < until:
        audit = audit_cell(store.cell_folder(cell), AuditOptions(episodes=len(both), seed=0, device="cpu", cells=cells))
        finding = next(finding for finding in audit.findings if finding.check == SAME)
        verdict = f"{'ties' if finding.verdict == 'pass' else 'NOT TIES'}: {finding.detail}"
    means = [f"{100 * both[name].mean():.2f}%" for name in ("accuracy", "accuracy_cpu")]
    name = cell.method.name.split("/", 2)[-1]
    counts = f"{changed:,} of {total:,}"
    print(f"| {name} | {cell.protocol.shot} | {len(both)} | {' | '.join(means)} | {counts} | {verdict} |", flush=True)
    if verdict.startswith("NOT"):
        problem(f"{name}, {cell.protocol.shot}-shot: {counts} predictions differ from the CPU's. {verdict}")


def judged(both: pd.DataFrame, way: int, cells: int) -> tuple[str, int, int]:
    """Whether ties explain what differs.

    Args:
        both: outcomes of the same episodes, those of the CPU with the suffix "_cpu".
        way: N.
        cells: how many are judged, for the level of each test.

    Returns:
        The verdict in words, and how many predictions differ, of how many.
    """
    here, there = (positions_of(both[name], way).reshape(len(both), -1) for name in ("predictions", "predictions_cpu"))
    truth = np.tile(even_truth(way, here.shape[1]), (len(both), 1))
    changes = changed_predictions([there], [here], [truth], repeats_every_bit=False)
    if not changes.changed:
        return "equal", 0, changes.total
    are_ties, why = explanation(changes, tests=cells)
    return f"{'ties' if are_ties else 'NOT TIES'}: {why}", changes.changed, changes.total


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
