"""The end of a sweep: its table, the setting it chooses, and both on disk.

Work through the points of a sweep, alone or beside other processes that do the same.

<sweep>/outcomes/                the usual store
<sweep>/points/<key>.json        which cells a complete point has, and how long it took
<sweep>/points/<key>.lock        held by the process that works on it; the system lets go of it when that ends

The setting that a sweep has chosen, as a TOML file that `run` reads; it is data, and only known fields count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tomli_w
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewshot_bench._io.storage import read_bytes, read_named, write_atomically
from fewshot_bench._io.toml import tomllib
from fewshot_bench._io.versions import installed_versions
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import EpisodeError, FewshotBenchError, IrregularFileError, OutcomeError, StudyError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.cell import STANDARD_SAMPLER
from fewshot_bench.plugins import is_code
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.report import SweptPoint, sweep_frame, write_leaderboard
from fewshot_bench.report.names import value_text
from fewshot_bench.study.chunks import missing_episodes
from fewshot_bench.study.execute import run_study
from fewshot_bench.study.study import Study
from fewshot_bench.study.sweep import NOT_OF_THE_METHOD, Point, Sweep, Value, swept_fields

_PAUSE = 0.5  # seconds between two looks at points that others work on
_LARGEST = 64_000_000  # bytes of a record; each of its cells may list the sizes of many classes


@dataclass(frozen=True)
class FinishedPoint:
    """What a complete point has left.

    Attributes:
        cells: one per number of shots, in the order of the study.
        seconds: wall time of the run that completed it, a base stage included.
    """

    cells: tuple[Cell, ...]
    seconds: float


def finished_point(sweep: Sweep, point: Point) -> FinishedPoint | None:
    """What a point has left, if all of its episodes are stored.

    Raises:
        OutcomeError: stored outcomes are damaged.
    """
    try:
        record = json.loads(read_bytes(_place(sweep, point, ".json"), _LARGEST).decode())
        cells = tuple(Cell.from_json(json.dumps(cell)) for cell in record["cells"])
        finished = FinishedPoint(cells, float(record["seconds"]))
        planned = list(zip(cells, _protocols(point, cells), strict=True))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, EpisodeError, OutcomeError):
        return None  # absent, or damaged: the study finds again what is stored
    missing = sum(
        len(numbers) for cell, protocol in planned for numbers in missing_episodes(sweep.store, cell, protocol)
    )
    return None if missing else finished


def _protocols(point: Point, cells: Sequence[Cell]) -> list[Protocol]:
    """The protocols of a point's cells; how many disjoint tasks there are depends on their class sizes."""
    sizes = cells[0].class_sizes if cells else ()
    return point.study.protocols(sizes or None)


def work_through(
    sweep: Sweep, points: Sequence[Point], *, progress: Progress = SILENT, arguments: Sequence[str] = ()
) -> None:
    """Bring points to completion: those that no other process works on, then wait for the others.

    A point that fails does not keep the others from running.

    Args:
        sweep: where they belong.
        points: distinct ones, in the order to try.
        progress: shown one unit per point.
        arguments: of the command line that asks for it, to be recorded.

    Raises:
        StudyError: points failed, the first for the reason that is given.
        OSError: the folder cannot be written to.
    """
    failures: list[str] = []
    (sweep.folder / "points").mkdir(parents=True, exist_ok=True)
    with progress.step(f"sweep {sweep.name}", len(points)) as step:
        pending = list(points)
        while pending:
            left = [point for point in pending if not _is_settled(sweep, point, failures, step, arguments)]
            if len(left) == len(pending):
                step.advance(0, "waiting for other processes")
                time.sleep(_PAUSE)
            pending = left
    if failures:
        raise StudyError(
            f"{len(failures)} of {len(points)} points failed; the others are stored, and a grid without these reuses "
            f"them. {failures[0]}"
        )


def _is_settled(sweep: Sweep, point: Point, failures: list[str], step: Step, arguments: Sequence[str]) -> bool:
    """Run a point unless it is complete; False if another process is at it."""
    if finished_point(sweep, point) is None:
        try:
            with FileLock(_place(sweep, point, ".lock"), timeout=0):
                if finished_point(sweep, point) is None:
                    _run(sweep, point, step, arguments)
        except Timeout:
            return False
        except FewshotBenchError as error:
            failures.append(f"{point}: {error}")
    step.advance(1)
    return True


def _run(sweep: Sweep, point: Point, step: Step, arguments: Sequence[str]) -> None:
    step.advance(0, str(point))
    result = run_study(point.study, progress=_Notes(step, str(point)), arguments=arguments)
    if result.failures:
        raise StudyError(f"{result.failed:,} episodes failed: {result.failures[0][2]}")
    record = {
        "values": point.values,
        "seconds": round(result.seconds, 3),
        "cells": [json.loads(cell.as_json()) for cell in result.cells],
    }
    content = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(_place(sweep, point, ".json"), content.encode())


def _place(sweep: Sweep, point: Point, suffix: str) -> Path:
    return sweep.folder / "points" / f"{point.key}{suffix}"


class _Notes:
    """The stages of a point as notes beside the bar of the whole sweep, which would else be lost among theirs."""

    def __init__(self, bar: Step, point: str) -> None:
        self._bar, self._point = bar, point

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Show a stage by its share."""
        yield _Share(self._bar, f"{self._point}: {description}", total)


class _Share:
    def __init__(self, bar: Step, text: str, total: int) -> None:
        self._bar, self._text, self._total, self._done = bar, text, total, 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say how far the stage is."""
        self._done += amount
        share = f" {self._done / self._total:.0%}" if self._total else ""
        self._bar.advance(0, f"{self._text}{share}")


RULE = "highest mean accuracy over the shots on the validation split; ties go to the earlier point of the grid"
_LARGEST_SETTING = 1_000_000  # bytes
_HEADER = "# Chosen by fewshot-bench sweep. Use it: fewshot-bench run --setting THIS_FILE\n\n"


class Setting(BaseModel):
    """What a sweep chose, and from what.

    Attributes:
        chosen: the winning value of every axis of the grid.
        method: the other fields of the study that say what was run, where they differ from a study's defaults.
        rule: how it was chosen.
        accuracy: of the chosen setting in %, by shot: mean, 95% half-width, median of the run means.
        budget: shots, episodes and runs of each, points of the grid and how many were run, seconds.
        grid: every value of every axis.
        protocol: what fixes the episodes, with the fingerprint of the dataset.
        versions: of the packages that can change a result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: Literal["fewshot-bench setting 1"] = "fewshot-bench setting 1"
    sweep: str
    rule: str
    chosen: dict[str, Value] = Field(min_length=1)
    method: dict[str, Any]
    accuracy: dict[str, dict[str, float]]
    budget: dict[str, Any]
    grid: dict[str, list[Value]]
    protocol: dict[str, Any]
    versions: dict[str, str]

    def names_code(self) -> bool:
        """Whether it names code, which `run` imports only where it is trusted."""
        named = [self.method.get(name) for name in ("backbone", "adaptations", "losses", "base_losses")]
        texts = [
            text
            for value in (*named, *self.chosen.values())
            for text in (value if isinstance(value, list) else [value])
        ]
        return any(isinstance(text, str) and is_code(text) and not text.startswith("timm:") for text in texts)

    def applied_to(self, fields: Mapping[str, Any], typed: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Fields of a study with the chosen values in them.

        Args:
            fields: of the study without this setting.
            typed: those of them that a user gave explicitly. They take precedence over what the sweep left as it
                was; what it chose, they may repeat but not change.
            source: what to call this setting in a message.

        Raises:
            StudyError: a typed value contradicts a chosen one.
        """
        swept = swept_fields()
        own = typed.get("hyper_parameters", {})
        for name, value in self.chosen.items():
            given = typed.get(swept[name], value) if name in swept else own.get(name, value)
            if given != value:
                option = f"--{name.replace('_', '-')} " if name in swept else f"--set {name}="
                raise StudyError(
                    f"{option}{value_text(given)} contradicts {source}, which chose {value_text(value)}. "
                    "Leave out one of them."
                )
        fixed = {name: value for name, value in self.method.items() if name not in typed}
        others = {name: value for name, value in self.chosen.items() if name not in swept}
        hyper_parameters = {**self.method.get("hyper_parameters", {}), **own, **others}
        chosen = {swept[name]: value for name, value in self.chosen.items() if name in swept}
        return {**fields, **fixed, **chosen, "hyper_parameters": hyper_parameters}


def method_fields(study: Study, swept: Mapping[str, Value]) -> dict[str, Any]:
    """Fields of a study that say what is done, in plain values: what was decided, or differs from a default."""
    decided = {"dataset", "adaptations", "losses", "base_losses"}
    content = study.model_dump(mode="json", exclude=set(NOT_OF_THE_METHOD), exclude_none=True)
    default = Study().model_dump(mode="json")
    kept = {name: value for name, value in content.items() if name in decided or value != default[name]}
    if study.checkpoints is None:
        kept["backbone"] = study.backbone_name
    return {name: value for name, value in kept.items() if name.rstrip("_") not in swept}


def write_setting(setting: Setting, path: Path) -> None:
    """Write a setting as TOML, all or nothing."""
    write_atomically(path, (_HEADER + tomli_w.dumps(setting.model_dump())).encode())


def read_setting(path: Path) -> Setting:
    """Read what `write_setting` wrote.

    Raises:
        StudyError: the file is missing, damaged, or something else.
    """
    try:
        setting = Setting.model_validate(tomllib.loads(read_named(path, _LARGEST_SETTING).decode()))
        foreign = sorted(set(setting.method) - (set(Study.model_fields) - NOT_OF_THE_METHOD))
        if foreign:
            raise ValueError(f"'{foreign[0]}' is no part of a method")
        if not isinstance(setting.method.get("hyper_parameters", {}), dict):
            raise ValueError("'hyper_parameters' is no table")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _no_setting(path, f"{place}: {first['msg']}") from error
    except FileNotFoundError as error:
        raise StudyError(f"there is no setting {path}. Make one with: fewshot-bench sweep") from error
    except IrregularFileError as error:
        raise _no_setting(path, f"it is {error.finding}") from error
    except (OSError, OutcomeError, ValueError, RecursionError) as error:
        raise _no_setting(path, str(error)) from error
    return setting


def _no_setting(path: Path, finding: str) -> StudyError:
    return StudyError(
        f"{path} is not a setting that a sweep wrote ({finding}). --setting takes the best.toml of fewshot-bench sweep."
    )


@dataclass(frozen=True)
class SweepResult:
    """A complete sweep.

    Attributes:
        frame: a row per point and shot, see `sweep_frame`.
        setting: what was chosen.
        csv: where the frame is written.
        setting_path: where the setting is written.
    """

    frame: pd.DataFrame
    setting: Setting
    csv: Path
    setting_path: Path


def run_sweep(sweep: Sweep, *, progress: Progress = SILENT) -> SweepResult:
    """Run every point that is not complete yet, choose the best, and write sweep.csv and best.toml.

    Args:
        sweep: as `plan_sweep` lays it out.
        progress: shown one unit per point.

    Raises:
        StudyError: a point failed.
        OSError: the folder cannot be written to.
    """
    work_through(sweep, sweep.distinct_points(), progress=progress)
    return conclude(sweep)


def unfinished_points(sweep: Sweep) -> int:
    """How many of the distinct points are not complete."""
    return sum(finished_point(sweep, point) is None for point in sweep.distinct_points())


def conclude(sweep: Sweep) -> SweepResult:
    """Summarise a complete sweep, choose the best point, and write sweep.csv and best.toml.

    Raises:
        StudyError: a point is not complete.
    """
    finished = {point.key: finished_point(sweep, point) for point in sweep.distinct_points()}
    complete = {key: left for key, left in finished.items() if left is not None}
    if len(complete) < len(finished):
        raise StudyError(
            f"{len(finished) - len(complete)} of {len(finished)} points of the sweep {sweep.name} are not complete. "
            "Run the same command again."
        )
    swept = [SweptPoint(point.values, complete[point.key].cells) for point in sweep.points]
    protocols = sweep.study.protocols(swept[0].cells[0].class_sizes or None)
    episodes, runs = (max(getattr(protocol, field) for protocol in protocols) for field in ("episodes", "runs"))
    frame = sweep_frame(sweep.store, swept, episodes=episodes, runs=runs)
    result = SweepResult(
        frame, _setting(sweep, frame, complete), sweep.folder / "sweep.csv", sweep.folder / "best.toml"
    )
    write_leaderboard(frame, result.csv)
    write_setting(result.setting, result.setting_path)
    return result


def _setting(sweep: Sweep, frame: pd.DataFrame, complete: dict[str, FinishedPoint]) -> Setting:
    rows = frame[frame["is_best"]]
    values = sweep.points[int(rows.index[0]) // len(sweep.study.shots)].values
    protocol = complete[sweep.points[0].key].cells[0].protocol
    return Setting(
        sweep=sweep.name,
        rule=RULE,
        chosen=values,
        method=method_fields(sweep.study, values),
        accuracy={f"{row['shot']}-shot": _rounded(row) for row in rows.to_dict("records")},
        budget={
            "shots": list(sweep.study.shots),
            "episodes": int(rows["episodes"].max()),
            "runs": int(rows["runs"].max()),
            "points": len(sweep.points),
            "points_run": len(complete),
            "seconds": round(sum(left.seconds for left in complete.values()), 1),
        },
        grid={axis.name: list(axis.values) for axis in sweep.grid.axes},
        protocol={
            "dataset": protocol.dataset,
            "dataset_fingerprint": protocol.dataset_fingerprint,
            "split": protocol.split,
            "way": protocol.way,
            "query": protocol.query,
            "seed": protocol.seed,
            "sampler_version": protocol.sampler_version,
            **({"sampler": protocol.sampler} if protocol.sampler != STANDARD_SAMPLER else {}),
            **protocol.sampler_settings,
        },
        versions=installed_versions(),
    )


def _rounded(row: dict[Any, Any]) -> dict[str, float]:
    return {name: round(float(row[name]), 4) for name in ("mean", "ci95", "median") if row[name] == row[name]}
