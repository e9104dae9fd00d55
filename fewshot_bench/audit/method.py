"""The checks that need the method itself, where it can be made here; otherwise, why it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import pandas as pd

from fewshot_bench.audit.brought import Brought
from fewshot_bench.audit.finding import SAME, Finding, not_checked
from fewshot_bench.audit.images import ImagesHere
from fewshot_bench.audit.record import recorded_study
from fewshot_bench.audit.sample import Sample, chosen_episodes
from fewshot_bench.audit.tasks import draw_again
from fewshot_bench.audit.ties import Turned
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.episode_frame import positions_of, query_counts
from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.progress import Progress

ORDER = "query order"
LABELS = "query labels"
BATCHING = "query batching"
NUMBERS = "image numbers"
CHECKS = (SAME, ORDER, LABELS, BATCHING, NUMBERS)


@dataclass(frozen=True, kw_only=True)
class AuditOptions(Brought):
    """What an auditor brings along.

    Attributes:
        episodes: how many stored episodes of each cell to run again; none to leave the method alone. Of 100, a
            forger of 3% of the episodes is found with 95%, see `Sample`.
        cells: how many cells the audit has, for which the level of its tests is divided.
    """

    episodes: int = 100
    cells: int = 1


@dataclass(frozen=True)
class MethodChecks:
    """What came of running a method again.

    Attributes:
        findings: one for each of `CHECKS`.
        sample: how many episodes were run again; None where none was.
        turned: their predictions beside the stored ones, likewise.
    """

    findings: list[Finding]
    sample: Sample | None = None
    turned: Turned | None = None


def run_again(
    cell: Cell,
    frame: pd.DataFrame | None,
    here: ImagesHere,
    sizes: Sequence[int] | None,
    options: AuditOptions,
    progress: Progress,
) -> MethodChecks:
    """Make the method of a cell again and put some of the stored episodes to it.

    Args:
        cell: whose method.
        frame: outcomes, one row per episode, if they can be read.
        here: the images.
        sizes: images per class of the split, [C], if they are known.
        options: what the auditor brings along.
        progress: shown the training and the embedding.
    """
    if frame is None or sizes is None:
        return _unchecked("it is not known which tasks are stored")
    if options.episodes < 1:
        return _unchecked("no episode should be run again; --episodes says how many")
    if here.dataset is None:
        return _unchecked(here.reason)
    if not here.are_the_same:
        return _unchecked("the images here are not those of the outcomes; say where those lie with --dataset PATH")
    if find_spec("torch") is None:
        return _unchecked("PyTorch is not installed here")
    try:
        return _with_method(cell, frame, here, sizes, options, progress)
    except FewshotBenchError as error:
        return _unchecked(f"the method cannot be made here: {error}")


def _with_method(
    cell: Cell,
    frame: pd.DataFrame,
    here: ImagesHere,
    sizes: Sequence[int],
    options: AuditOptions,
    progress: Progress,
) -> MethodChecks:
    from fewshot_bench.audit.rebuild import Mismatch, is_same_machine, rebuild
    from fewshot_bench.audit.rerun import Rerun
    from fewshot_bench.engine.device import chosen_device

    assert here.dataset is not None
    record = recorded_study(cell, weights=options.weights, trusts_code=options.trusts_code)
    if record.study is None:
        return _unchecked(record.reason)
    device = chosen_device(options.device)
    method = rebuild(cell, record.study, here.dataset, device, progress, downloads=options.downloads)
    if isinstance(method, Mismatch) and record.renamed:  # of another cell, say
        return _unchecked(f"{record.renamed}, which makes another method: {method.text}")
    if isinstance(method, Mismatch):
        reason = f"the recorded study makes another method: {method.text}"
        if method.is_of_training:
            reason += "; fewshot-bench reproduce compares the outcomes all the same"
        unchecked = _unchecked(reason)
        if method.is_contradiction:
            return MethodChecks([Finding(SAME, "fail", reason), *unchecked.findings[1:]])
        return unchecked
    some = chosen_episodes(frame, options.episodes, options.seed, cell.key)
    groups = draw_again(cell.protocol, sizes, some)
    stored = [_predictions(some, episodes) for episodes in groups]
    present = [one for one in stored if one is not None]
    if len(present) < len(stored):
        return _unchecked("the stored predictions are not those of these tasks")
    rerun = Rerun(cell, method, groups, present, options.seed, is_same_machine(cell, device), len(frame), options.cells)
    return rerun.checks()


def _predictions(frame: pd.DataFrame, episodes: Episodes) -> Positions | None:
    """Stored predictions of some episodes, [E, M]; None where there are more or fewer than queries."""
    rows = frame[frame["run"] == episodes.run].set_index("episode").loc[episodes.numbers, "predictions"]
    way = episodes.protocol.way
    if (query_counts(rows, way) != episodes.queries.shape[1]).any():
        return None
    return positions_of(rows, way).reshape(len(episodes), -1)


def _unchecked(reason: str) -> MethodChecks:
    return MethodChecks(not_checked(CHECKS, reason))
