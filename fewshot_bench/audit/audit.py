"""The audit of stored results: every check of every cell, from what is stored and what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from fewshot_bench.audit.description import read_description
from fewshot_bench.audit.finding import CellAudit, Finding
from fewshot_bench.audit.images import ImagesHere, check_images, images_here
from fewshot_bench.audit.pretraining import check_pretraining
from fewshot_bench.audit.record import recorded_study
from fewshot_bench.audit.stored import check_counts, read_parts
from fewshot_bench.audit.tasks import TASKS, check_digest, check_tasks, class_sizes, draw_again
from fewshot_bench.datasets import OwnOptions
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import AuditError, FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.progress import SILENT, Progress

RERUN = ("same predictions", "query order", "query labels", "query batching", "image numbers")


@dataclass(frozen=True)
class AuditOptions:
    """What an auditor brings along.

    Attributes:
        episodes: how many stored episodes of each cell to run again; none to leave the method alone.
        seed: which ones, and of the disturbances.
        device: a torch device, or "auto".
        dataset: where the images lie, if not under the dataset's name.
        weights: the file of weights that the study names.
        trusts_code: whether what the study names as `module:callable` may be imported.
    """

    episodes: int = 8
    seed: int = 0
    device: str = "auto"
    dataset: Path | None = None
    weights: Path | None = None
    trusts_code: bool = False


def cell_folders(result: Path, results: Path = Path("results")) -> list[Path]:
    """The folders of the cells that somebody means.

    Args:
        result: a folder of results, of outcomes or of one cell; or the key of a cell, or the start of one.
        results: the folder of results that has the cell of a key.

    Raises:
        AuditError: there is none, or several begin like the key.
    """
    if (result / "cell.json").is_file():
        return [result]
    if result.is_dir():
        outcomes = result / "outcomes" if (result / "outcomes").is_dir() else result
        found = sorted(path.parent for path in outcomes.glob("*/cell.json"))
        if found:
            return found
        raise AuditError(f"there are no outcomes in {outcomes}; an audit takes a folder of results, or one cell of it.")
    matches = sorted(path.parent for path in (results / "outcomes").glob("*/cell.json"))
    matches = [folder for folder in matches if folder.name.startswith(str(result))]
    if len(matches) != 1:
        finding = "several cells begin like this" if matches else "it is no folder, and no cell begins like this"
        raise AuditError(
            f"{result} is not one cell of {results / 'outcomes'}: {finding}. Give a folder, or more of a key."
        )
    return matches


def audit_cell(folder: Path, options: AuditOptions | None = None, *, progress: Progress = SILENT) -> CellAudit:
    """Check one cell.

    Nothing that its files name is executed, unless the options trust code.

    Args:
        folder: of the cell.
        options: what the auditor brings along.
        progress: shown the training and embedding of methods that are run again.
    """
    options = options or AuditOptions()
    cell, described = read_description(folder)
    if cell is None:
        return CellAudit(folder.name, "", "", (described,))
    frame, parts = read_parts(cell, folder)
    here = images_here(cell, options.dataset, _own_options(cell, options))
    known, sizes = class_sizes(cell, here)
    groups, tasks = _tasks(cell, frame, known.sizes, known.source)
    if groups is not None:
        tasks = check_tasks(groups, known)
    findings = [described, parts]
    if frame is not None:
        findings.append(check_counts(cell, frame, groups))
    findings += [sizes, tasks, check_digest(cell, known), check_images(cell, here)]
    findings += _run_again(cell, frame, here, known.sizes, options, progress)
    findings.append(check_pretraining(cell))
    return CellAudit(folder.name, cell.protocol.task, cell.method.name, tuple(findings))


def _tasks(
    cell: Cell, frame: pd.DataFrame | None, sizes: Sequence[int] | None, source: str
) -> tuple[list[Episodes] | None, Finding]:
    """The tasks of all stored episodes; without them, the reason as a finding."""
    if frame is None:
        return None, Finding(TASKS, "not checked", "nobody can say which episodes are stored")
    if sizes is None:
        return None, Finding(TASKS, "not checked", source)
    try:
        return draw_again(cell.protocol, sizes, frame), Finding(TASKS, "not checked", "")
    except FewshotBenchError as error:
        return None, Finding(TASKS, "fail", str(error))


def _own_options(cell: Cell, options: AuditOptions) -> OwnOptions:
    """How the auditor's own images become the cell's dataset, as far as the study says it."""
    if options.dataset is None or find_spec("torch") is None:  # a study knows of torch
        return OwnOptions()
    study = recorded_study(cell, weights=options.weights, trusts_code=options.trusts_code).study
    if study is None:
        return OwnOptions()
    return OwnOptions(fractions=study.fractions, seed=study.seed, least_images=study.least_images)


def _run_again(
    cell: Cell,
    frame: pd.DataFrame | None,
    here: ImagesHere,
    sizes: Sequence[int] | None,
    options: AuditOptions,
    progress: Progress,
) -> list[Finding]:
    """The checks that need the method, or why they were not made."""
    reason = ""
    if frame is None or sizes is None:
        reason = "it is not known which tasks are stored"
    elif options.episodes < 1:
        reason = "no episode should be run again"
    elif here.dataset is None:
        reason = here.reason
    elif not here.are_the_same:
        reason = "the images here are not those of the outcomes"
    elif find_spec("torch") is None:
        reason = "PyTorch is not installed here"
    if reason or frame is None or sizes is None:
        return _unchecked(reason)
    record = recorded_study(cell, weights=options.weights, trusts_code=options.trusts_code)
    if record.study is None:
        return _unchecked(record.reason)
    from fewshot_bench.audit.rebuild import Mismatch, is_same_machine, rebuild
    from fewshot_bench.audit.rerun import Rerun, chosen_episodes
    from fewshot_bench.study.execute import chosen_device

    assert here.dataset is not None
    try:
        device = chosen_device(options.device)
        method = rebuild(cell, record.study, here.dataset, device, progress)
        if isinstance(method, Mismatch):
            return _mismatch(method.text, method.is_contradiction)
        some = chosen_episodes(frame, options.episodes, options.seed)
        groups = draw_again(cell.protocol, sizes, some)
    except FewshotBenchError as error:
        return _unchecked(f"the method cannot be made here: {error}")
    stored = [_predictions(some, episodes) for episodes in groups]
    if any(one is None for one in stored):
        return _unchecked("the stored predictions are not those of these tasks")
    present = [one for one in stored if one is not None]
    return Rerun(cell, method, groups, present, options.seed, is_same_machine(cell, device)).findings()


def _predictions(frame: pd.DataFrame, episodes: Episodes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
    """Stored predictions of some episodes, uint8 [E, M]; None where there are more or fewer than queries."""
    rows = frame[frame["run"] == episodes.run].set_index("episode").loc[episodes.numbers, "predictions"]
    if (rows.map(len) != episodes.queries.shape[1]).any():
        return None
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(episodes), -1)


def _mismatch(text: str, is_contradiction: bool) -> list[Finding]:
    reason = f"the recorded study makes another method: {text}"
    first = Finding(RERUN[0], "fail" if is_contradiction else "not checked", reason)
    return [first, *(Finding(check, "not checked", "see above") for check in RERUN[1:])]


def _unchecked(reason: str) -> list[Finding]:
    first, *others = RERUN
    return [Finding(first, "not checked", reason), *(Finding(name, "not checked", "see above") for name in others)]
