"""A sweep runs each distinct setting once, on the validation split, whoever else works on it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest
import toy_sweeps
from toy_sweeps import planned

from fewshot_bench.errors import FewshotBenchError, StudyError, UnknownNameError
from fewshot_bench.outcomes.leases import Heartbeat, Leases, PointKey
from fewshot_bench.study import Axis, Grid, Study, plan_sweep, run_sweep, sweep_run
from fewshot_bench.study.sweep_run import conclude, finished_point, run_study, unfinished_points

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    dataset = toy_sweeps.toy_dataset()
    toy_sweeps.use(dataset, monkeypatch)
    return dataset


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """The points that are run, in words."""
    seen: list[str] = []

    def counted(study, **options):
        seen.append(f"{study.lambda_} {study.tau}")
        return run_study(study, **options)

    monkeypatch.setattr(sweep_run, "run_study", counted)
    return seen


class Untouchable:
    """Images that nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"somebody looked at the novel split ({name})")

    __len__ = __iter__ = __array__ = __getitem__ = lambda *_: pytest.fail("somebody looked at the novel split")


def test_the_novel_split_is_never_touched(toy, tmp_path, monkeypatch):
    guarded = replace(toy.novel, images=Untouchable())
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        len(guarded)
    toy_sweeps.use(replace(toy, splits={**toy.splits, "novel": guarded}), monkeypatch)
    for adaptation, changes in {"finetune-head": {}, "centroid": {"base_losses": ("ce+schane",)}}.items():
        extra = {"hyper_parameters": {"features": "cl2"}, "base_epochs": 1, **changes}
        result = run_sweep(planned(tmp_path, adaptations=(adaptation,), split="novel", **extra))
        assert result.best.protocol["split"] == "validation"
    assert {cell.protocol.split for cell in planned(tmp_path).store.cells()} <= {"validation"}


def test_lambda_zero_is_run_once_and_shown_for_every_tau(tmp_path, runs):
    sweep = planned(tmp_path)
    frame = run_sweep(sweep).frame
    assert runs == ["0.0 0.1", "0.5 0.1", "0.5 0.5"]
    assert list(zip(frame["lambda"], frame["tau"], strict=True)) == [(0, 0.1), (0, 0.5), (0.5, 0.1), (0.5, 0.5)]
    shared = frame[frame["lambda"] == 0]
    assert shared["mean"].nunique() == shared["method_fingerprint"].nunique() == 1
    assert frame["method_fingerprint"].nunique() == 3


def test_the_two_stages_in_which_lambda_may_act_both_make_different_methods(tmp_path):
    base = planned(tmp_path, adaptations=("centroid",), base_losses=("ce+schane",), base_epochs=1, hyper_parameters={})
    frame = run_sweep(base).frame
    assert frame["method_fingerprint"].nunique() == 3
    assert frame["method"].str.contains("base-ce\\+schane").all()
    assert base.name == "toy-conv4_32-base-ce+schane-centroid"
    assert planned(tmp_path).name == "toy-conv4_32-episode-ce+schane-finetune-head"


def test_a_complete_point_is_never_run_again(tmp_path, runs):
    first = run_sweep(planned(tmp_path))
    del runs[:]
    again = run_sweep(planned(tmp_path))
    assert runs == []
    pd.testing.assert_frame_equal(again.frame, first.frame)
    assert again.best == first.best
    run_sweep(planned(tmp_path, Grid((Axis("lambda", (0.5, 1)), Axis("tau", (0.1, 0.5)))), planned(tmp_path).name))
    assert runs == ["1.0 0.1", "1.0 0.5"]


def test_more_episodes_keep_what_is_stored_and_fewer_count_fewer(tmp_path, runs):
    run_sweep(planned(tmp_path))
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    longer = run_sweep(planned(tmp_path, episodes=9)).frame
    assert all(path.stat().st_mtime_ns == when for path, when in parts.items())
    assert len(runs) == 6
    assert (longer["episodes"] == 9).all()
    shorter = run_sweep(planned(tmp_path, episodes=4))
    assert len(runs) == 6
    assert (shorter.frame["episodes"] == 4).all()
    assert shorter.best.budget["episodes"] == 4


def test_a_damaged_record_of_a_point_is_made_again_from_its_outcomes(tmp_path, runs):
    sweep = planned(tmp_path)
    first = run_sweep(sweep).frame
    (sweep.folder / "points" / f"{sweep.points[0].key}.json").write_text('{"cells": [{"method"')
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert unfinished_points(sweep) == 1
    pd.testing.assert_frame_equal(run_sweep(sweep).frame, first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == parts


def test_a_point_that_another_process_works_on_is_left_to_it_and_waited_for(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(sweep_run._PointScheduler, "pause", 0.01)
    sweep = planned(tmp_path)
    first, *others = sweep.distinct_points()
    sweep.folder.mkdir(parents=True)
    other = Leases(sweep.folder)
    lease = other.take(PointKey(first.key))
    assert lease is not None
    with Heartbeat([other]):
        worker = threading.Thread(target=run_sweep, args=(sweep,))
        worker.start()
        deadline = time.monotonic() + 60
        while any(finished_point(sweep, point) is None for point in others) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert worker.is_alive()
        assert runs == ["0.5 0.1", "0.5 0.5"]
        lease.release()
    worker.join(60)
    assert runs[2:] == ["0.0 0.1"]
    assert unfinished_points(sweep) == 0
    assert Leases(sweep.folder).owners() == {}


def test_a_point_whose_process_was_killed_is_taken_over_at_once(tmp_path, runs):
    sweep = planned(tmp_path)
    sweep.folder.mkdir(parents=True)
    program = (
        "import os, sys, pathlib; from fewshot_bench.outcomes.leases import Leases, PointKey; "
        "Leases(pathlib.Path(sys.argv[1])).take(PointKey(sys.argv[2])); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, str(sweep.folder), sweep.points[0].key], check=False)
    assert len(list((sweep.folder / "leases").iterdir())) == 1
    run_sweep(sweep)
    assert runs[0] == "0.0 0.1"
    assert list((sweep.folder / "leases").iterdir()) == []


def test_a_point_that_fails_keeps_no_other_from_running(tmp_path, monkeypatch):
    def diverging(study, **options):
        if study.tau == 0.1 and study.lambda_ > 0:
            raise StudyError("the loss is nan.")
        return run_study(study, **options)

    monkeypatch.setattr(sweep_run, "run_study", diverging)
    sweep = planned(tmp_path)
    with pytest.raises(StudyError, match=r"1 of 3 points failed; .* lambda 0\.5, tau 0\.1: the loss is nan"):
        run_sweep(sweep)
    assert unfinished_points(sweep) == 1
    with pytest.raises(StudyError, match=r"1 of 3 points of the sweep toy-conv4_32.* are not complete"):
        conclude(sweep)


NOWHERE = {
    "no loss at all": ({"adaptations": ("centroid",), "hyper_parameters": {}}, "there is no base stage"),
    "loss without a contrast": ({"losses": ("ce",)}, "finetune-head does not train with a contrastive loss"),
    "base stage without one": (
        {"adaptations": ("centroid",), "hyper_parameters": {}, "base_losses": ("ce",)},
        "its base stage trains with ce",
    ),
}


@pytest.mark.parametrize("case", NOWHERE)
def test_a_sweep_of_what_acts_nowhere_is_refused(case, tmp_path):
    changes, sentence = NOWHERE[case]
    with pytest.raises(StudyError, match=f"lambda acts nowhere in this sweep: .*{sentence}"):
        planned(tmp_path / "results", **changes)
    assert not (tmp_path / "results").exists()


def test_tau_alone_acts_nowhere_where_lambda_is_zero_and_epochs_without_a_base_stage(tmp_path):
    with pytest.raises(StudyError, match=r"tau acts nowhere .* --lambda 0"):
        planned(tmp_path, Grid((Axis("tau", (0.1, 0.5)),)), lambda_=0)
    with pytest.raises(StudyError, match="base_epochs acts nowhere"):
        planned(tmp_path, Grid((Axis("base_epochs", (1, 2)),)))


BAD = {
    "two losses": {"losses": ("ce", "ce+schane")},
    "two adaptations": {"adaptations": ("centroid", "finetune-head")},
    "two base losses": {"base_losses": ("ce", "ce+schane")},
    "unknown loss": {"losses": ("schane",)},
    "unknown adaptation": {"adaptations": ("finetune-haed",)},
    "too many ways": {"way": 6},
    "no such device": {"device": "cuda:77"},
    "a hyper-parameter out of range": {"hyper_parameters": {"steps": 0}},
    "a hyper-parameter of nothing": {"hyper_parameters": {"k": 0}},
    "a folder as its name": {"name": "a/b"},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_is_stored(case, tmp_path, runs):
    with pytest.raises(FewshotBenchError):
        planned(tmp_path / "results", **BAD[case])
    assert runs == []
    assert not (tmp_path / "results").exists()


def test_every_point_is_checked_before_the_first_is_run(tmp_path, runs):
    with pytest.raises(StudyError, match="steps of finetune-head"):
        planned(tmp_path, Grid((Axis("steps", (1, 0)),)))
    with pytest.raises(UnknownNameError, match="Did you mean steps"):
        planned(tmp_path, Grid((Axis("step", (1, 2)),)))
    assert runs == []


def test_other_weights_in_a_file_of_the_same_name_are_another_point(tmp_path):
    import torch

    from fewshot_bench.backbones import BackboneRequest, create_backbone

    keys = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(create_backbone(BackboneRequest("conv4_32", 3, 16)).network.state_dict(), tmp_path / "weights.pth")
        sweep = planned(tmp_path, Grid((Axis("steps", (1, 2)),)), weights=tmp_path / "weights.pth")
        keys |= {point.key for point in sweep.points}
    assert len(keys) == 4


def test_a_sweep_of_whole_datasets_is_refused(tmp_path):
    with pytest.raises(StudyError, match="few-shot episodes of the validation split"):
        plan_sweep(Study(protocol="full", backbone="conv4_32", results=tmp_path))
