"""The benchmark for a GPU keeps its time, survives its stages, and carries images and networks without a loss."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fewshot_bench.datasets import ImageSplit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _beside_the_script() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_measured(tmp_path):
    gpu = importlib.import_module("gpu")
    (tmp_path / "taken").write_text("")
    with pytest.raises(SystemExit, match=r"--out .*taken cannot be written to \(.*\)\. Name another folder"):
        gpu.main(["--device", "cpu", "--out", str(tmp_path / "taken")])


# Time


def stages(*shares: float, least: float = 0.0):
    from gpu_stages import Stage

    return [Stage(f"stage{number}", "A stage", share, least, "none", []) for number, share in enumerate(shares)]


def test_what_a_stage_does_not_use_goes_to_the_next():
    from gpu_stages import allotted

    assert allotted(stages(1, 3), 100) == 25
    assert allotted(stages(3), 97) == 97
    assert allotted(stages(1, 1), 0) == 0


def test_a_stage_gets_what_it_needs_while_there_is_so_much():
    from gpu_stages import allotted

    assert allotted(stages(1, 9, least=30), 100) == 30
    assert allotted(stages(1, 9, least=30), 20) == 20


def test_a_stage_is_told_to_end_before_its_limit():
    from gpu_stages import Stage

    command = Stage("a", "A", 1, 0, "finetune", ["--device", "cpu"]).command(100)
    assert command[:3] == [str(BENCHMARKS / "finetune.py"), "--device", "cpu"]
    assert 0 < 60 * float(command[command.index("--minutes") + 1]) < 90
    assert "--minutes" not in Stage("a", "A", 1, 0, "gpu_machine", [], is_timed=False).command(100)


class ParsedError(Exception):
    """The arguments of a script were understood."""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_script_understands_what_its_stage_asks_for(device: str, monkeypatch: pytest.MonkeyPatch):
    import gpu

    parse = argparse.ArgumentParser.parse_args
    arguments = gpu._arguments(["--device", device, "--half"])
    assert tuple(stage.name for stage in gpu._stages(arguments)) == gpu.STAGES

    def parse_only(*given: Any, **named: Any) -> None:
        raise ParsedError(parse(*given, **named))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for stage in gpu._stages(arguments):
        monkeypatch.setattr(sys, "argv", stage.command(100))
        with pytest.raises(ParsedError):
            importlib.import_module(stage.script).main()


# Stages


STAGE_SCRIPTS = {
    "fine": "print('| a | b |'); print('| --- | ---: |'); print('| x | 1 |')",
    "raises": "print('before'); raise ValueError('planted')",
    "crashes": "import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
    "hangs": "import time; print('before', flush=True); time.sleep(600)",
    "leaves": (
        "import subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print(p.pid)"
    ),
    "reports": (
        "import sys; sys.path.insert(0, {benchmarks!r}); from gpu_stages import attempt\n"
        "with attempt('a check'): 1 / 0\nprint('after')"
    ),
}


def run(kind: str, folder: Path, seconds: float = 60.0):
    from gpu_stages import Report, run_process

    report = Report(folder)
    script = STAGE_SCRIPTS[kind].replace("{benchmarks!r}", repr(str(BENCHMARKS)))
    status = run_process(["-c", script], seconds, kind, report)
    report.finish()
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return status, (folder / "report.md").read_text(), records


def test_rows_of_a_table_become_records(tmp_path: Path):
    status, report, records = run("fine", tmp_path)
    assert status == "done"
    assert records == [{"stage": "fine", "kind": "row", "a": "x", "b": "1"}]
    assert report.endswith("## What went wrong\n\nNothing.\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("raises", "failed", ("exit code 1", "ValueError: planted")),
        ("crashes", "failed", ("SIGSEGV", "Fatal Python error")),
        ("hangs", "stopped", ("its time was over", "Fatal Python error: Aborted")),
        ("reports", "done", ("a check: ZeroDivisionError", "Traceback", "line 2")),
    ],
)
def test_whatever_ends_a_stage_is_told_with_its_traceback(
    kind: str, status: str, words: tuple[str, ...], tmp_path: Path
):
    found, report, records = run(kind, tmp_path, seconds=3.0 if kind == "hangs" else 60.0)
    assert found == status
    assert ("after" if kind == "reports" else "before") in report
    wrong = report.partition("## What went wrong")[2]
    assert all(word in wrong for word in words)
    assert [record["kind"] for record in records] == ["problem"]


@pytest.mark.slow
def test_nothing_that_a_stage_started_outlives_it(tmp_path: Path):
    _, report, _ = run("leaves", tmp_path)
    pid = int(report.split()[0])
    deadline = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and not re.search(r"^State:\s+Z", status.read_text(), flags=re.MULTILINE)


def test_a_broken_stage_does_not_keep_the_next_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import gpu_stages

    (tmp_path / "breaks.py").write_text("raise SystemExit(3)")
    (tmp_path / "works.py").write_text("print('it works')")
    monkeypatch.setattr(gpu_stages, "BENCHMARKS", tmp_path)
    report = gpu_stages.Report(tmp_path / "out")
    chosen = [gpu_stages.Stage(name, name, 1, 0, name, []) for name in ("breaks", "works")]
    late = gpu_stages.Stage("late", "Late", 1, 1e9, "works", [])
    gpu_stages.run_stages([*chosen, late], report, until=time.monotonic() + 60)
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    ends = {record["stage"]: record["status"] for record in records if record["kind"] == "end"}
    assert ends == {"breaks": "failed", "works": "done", "late": "skipped"}
    assert "it works" in (tmp_path / "out" / "report.md").read_text()
    assert [problem[:2] for problem in report.problems] == [("breaks", "ended with exit code 3")]


# What is carried


def colourful(sizes: tuple[int, ...]) -> ImageSplit:
    images = np.random.default_rng(0).integers(0, 256, (sum(sizes), 8, 8, 3), dtype=np.uint8)
    return ImageSplit("colours", "base", images, tuple(f"class {n}" for n in range(len(sizes))), sizes, "0")


def test_mosaics_keep_pixels_order_and_labels(tmp_path: Path):
    from gpu_data import read_mosaics, write_mosaics

    split = colourful((45, 3, 20))
    write_mosaics(split, tmp_path / "carried" / "base.npz", per_class=40)
    name, read = read_mosaics(tmp_path / "carried" / "base.npz")
    assert (name, read.class_names, read.class_sizes) == ("colours", split.class_names, (40, 3, 20))
    expected = np.concatenate([split.images[:40], split.images[45:48], split.images[48:]])
    np.testing.assert_array_equal(read.images, expected)


def test_the_carried_split_is_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from gpu_data import stored_base_split, write_mosaics

    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path / "home"))
    split = colourful((5, 3))
    write_mosaics(split, tmp_path / "base.npz", per_class=40)
    dataset = stored_base_split(tmp_path / "base.npz", name="carried", most=4)
    assert dataset.base.class_sizes == (4, 3)
    np.testing.assert_array_equal(dataset.base.images, np.concatenate([split.images[:4], split.images[5:]]))


def test_missing_packages_are_told_and_their_wheels_are_chosen():
    import gpu_packages

    assert {"torch", "pydantic", "numpy"} <= set(gpu_packages.dependencies())
    assert ("httpx2" in gpu_packages.dependencies()) == (sys.version_info >= (3, 11))
    assert gpu_packages.missing(["numpy", "a-package-that-is-not-there"]) == ["a-package-that-is-not-there"]
    wheels = gpu_packages.with_requirements(["pydantic", "torch"])
    assert {"pydantic", "pydantic-core", "annotated-types"} <= set(wheels)
    assert not {"torch", "numpy"} & set(wheels)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 25])
def test_shards_make_the_file_again(size: int, tmp_path: Path):
    from gpu_training import join_shards, write_shards

    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "net.safetensors").write_bytes(content)
    shards = write_shards(tmp_path / "net.safetensors", tmp_path / "out", size=10)
    assert [len(shard.read_bytes()) for shard in shards] == [min(10, size - at) for at in range(0, size, 10)]
    if not shards:
        with pytest.raises(FileNotFoundError, match=r"net\.safetensors"):
            join_shards(tmp_path / "out", tmp_path / "again" / "net.safetensors")
        return
    join_shards(tmp_path / "out", tmp_path / "again" / "net.safetensors")
    assert (tmp_path / "again" / "net.safetensors").read_bytes() == content


def test_a_missing_shard_is_told_and_old_shards_do_not_stay(tmp_path: Path):
    from gpu_training import join_shards, shards_of, write_shards

    path = tmp_path / "net.safetensors"
    path.write_bytes(bytes(25))
    first = write_shards(path, tmp_path / "out", size=10)
    first[1].unlink()
    with pytest.raises(FileNotFoundError, match="one is missing"):
        join_shards(tmp_path / "out", tmp_path / "again" / path.name)
    path.write_bytes(bytes(5))
    assert write_shards(path, tmp_path / "out", size=10) == shards_of(tmp_path / "out", path.name)


def test_a_network_in_half_precision_is_one_in_float32_again(tmp_path: Path):
    from gpu_training import convert

    from fewshot_bench._io.tensors import read_tensors, write_tensors

    before = {"weight": torch.randn(3, 4), "batches": torch.tensor(5)}
    write_tensors(tmp_path / "net.safetensors", before, {"card": "words"})
    for dtype in (torch.float16, torch.float32):
        convert(tmp_path / "net.safetensors", dtype)
        after, metadata = read_tensors(tmp_path / "net.safetensors")
        assert (after["weight"].dtype, after["batches"].dtype) == (dtype, torch.int64)
        assert metadata["card"] == "words"
    torch.testing.assert_close(after["weight"], before["weight"], rtol=1e-3, atol=1e-3)


# Checks


@pytest.mark.parametrize(
    ("per_step", "per_run", "found"), [(2, 3, "2"), (0, 3, "none (3 in the whole of a short run)")]
)
def test_waits_of_every_step_are_told_apart_from_those_of_a_run(
    per_step: int, per_run: int, found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import gpu_checks

    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work(steps: int) -> None:
        for _ in range(per_run + steps * per_step):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the first run, which is not counted
        answer = gpu_checks.waits_per_step(torch.device("cuda"), work, "work")
    assert answer.endswith(found)
    assert ("test_gpu_benchmark.py" in answer) == bool(per_step)
    assert ("problem: " in capsys.readouterr().out) == bool(per_step)
    assert modes == ["warn", "default"] * 2
    assert gpu_checks.waits_per_step(torch.device("cpu"), work, "work") == "nothing to wait for"


# Comparison with the CPU


def outcomes(changed: int, episodes: int = 4, queries: int = 75) -> pd.DataFrame:
    """Outcomes of two devices, where the second has so many other predictions in the first episode."""
    truth = np.repeat(np.arange(5, dtype=np.uint8), queries // 5)
    other = truth.copy()
    other[:changed] = 1
    rows = [(truth.tobytes(), (other if episode == 0 else truth).tobytes()) for episode in range(episodes)]
    return pd.DataFrame(rows, columns=["predictions", "predictions_cpu"])


def test_few_differences_are_ties_and_many_are_not():
    from gpu_smoke import judged

    assert judged(outcomes(0), 5, 10) == ("equal", 0, 300)
    verdict, changed, _ = judged(outcomes(2), 5, 10)
    assert (verdict.split(":")[0], changed) == ("ties", 2)
    verdict, changed, _ = judged(outcomes(12), 5, 10)
    assert (verdict.split(":")[0], changed) == ("NOT TIES", 12)


@pytest.mark.slow
def test_a_head_that_differs_is_judged_by_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from gpu_smoke import print_comparison

    import fewshot_bench.audit.method_checks
    from fewshot_bench.outcomes import OutcomeStore, episode_frame
    from fewshot_bench.outcomes.frame import positions_of
    from fewshot_bench.study import Study, run_study

    study = Study(backbone="conv4_32", base_losses=(), shots=(5,), episodes=3, runs=1, results=tmp_path / "cpu")
    run_study(study)
    on_cpu, on_device = OutcomeStore(tmp_path / "cpu" / "outcomes"), OutcomeStore(tmp_path / "gpu" / "outcomes")
    (cell,) = on_cpu.cells()
    frame = on_cpu.read(cell)
    predictions = positions_of(frame["predictions"], 5).reshape(3, -1).copy()
    predictions[0, 0] = (predictions[0, 0] + 1) % 5  # a single one: by its number a tie, by its scores perhaps not
    on_device.append_frame(cell, episode_frame(0, frame["episode"].to_numpy(), predictions, 5, 0.1))
    print_comparison(tmp_path / "cpu", tmp_path / "cpu", time.monotonic() + 600)
    assert "| 0 of 225 | equal |" in capsys.readouterr().out
    monkeypatch.setattr(fewshot_bench.audit.method_checks, "repeats_every_bit", lambda *_: False)
    for far, verdict in ((1e-9, "NOT TIES"), (np.inf, "ties")):
        monkeypatch.setattr(fewshot_bench.audit.method_checks, "_NEAR", far)
        print_comparison(tmp_path / "gpu", tmp_path / "cpu", time.monotonic() + 600)
        printed = capsys.readouterr().out
        assert f"| 1 of 225 | {verdict}: 1 of 225 predictions" in printed
        assert ("problem: " in printed) == (verdict == "NOT TIES")


def test_the_study_of_the_smoke_test_has_every_adaptation(tmp_path: Path):
    from gpu_smoke import EXACT_ONLY, TUNED, every_method, study_text

    from fewshot_bench.study import plan_of_file

    text = study_text(every_method(2), episodes=3, base_epochs=1)
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    plan = plan_of_file(tmp_path / "study.toml")
    assert plan.studies[0].adaptations == ("all",)
    tuned = [study.hyper_parameters for study in plan.studies[1:]]
    for precision in ("float32", "bf16"):
        assert set(TUNED) <= {table.get("tune") for table in tuned if table.get("precision") == precision}
    assert {name for settings in EXACT_ONLY for name in settings} <= {
        "loss",
        *(key for table in tuned for key in table),
    }
    assert "ce+schane" in {loss for study in plan.studies for loss in study.losses}
