"""Run a stored result again from its record, and compare the new outcomes with the stored ones."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench._io.locations import Location, caching_in
from fewshot_bench._io.versions import installed_versions
from fewshot_bench.audit.images import find_images
from fewshot_bench.audit.rebuild import MismatchError, rebuild, repeats_every_bit
from fewshot_bench.audit.selection import ReproductionOptions, described_cell
from fewshot_bench.audit.ties import ChangedPredictions, chosen_episodes, explanation
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.classify import together
from fewshot_bench.engine.engine import Chunk, LocalEngine, Worker, computed
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import ReproductionError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.frame import CONFIDENCE, query_counts
from fewshot_bench.outcomes.packing import position_type
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.provenance import hardware, platform_name, source_commit
from fewshot_bench.study.scheduler import reason_of

_EPISODE = ["run", "episode"]
_UNKNOWN = "not recorded"


@dataclass(frozen=True)
class OtherOutcome:
    """An episode whose outcome is not the stored one.

    Attributes:
        run: of the episode.
        episode: its number within the run.
        stored_correct: correct queries as stored.
        new_correct: correct queries now.
        predictions: how many of its predictions differ.
    """

    run: int
    episode: int
    stored_correct: int
    new_correct: int
    predictions: int


@dataclass(frozen=True)
class EnvironmentDifference:
    """A version, commit or part of the hardware that is not the recorded one.

    Attributes:
        name: such as "torch", "commit" or "cpu".
        recorded: when the outcomes were made.
        here: now.
    """

    name: str
    recorded: str
    here: str


@dataclass(frozen=True)
class Reproduction:
    """The new outcomes of one cell, compared with the stored ones.

    Attributes:
        key: of the cell.
        task: dataset, split and size of its tasks.
        method: its name.
        stored_episodes: how many are stored.
        episodes: how many of them were run again.
        queries: predictions that were compared.
        predictions: how many of these differ.
        others: episodes whose outcomes differ, by run and number.
        stored_mean: of the stored accuracies of the episodes that were run again, in %.
        new_mean: of the new accuracies, in %.
        environment_diff: what is not as recorded.
        weights: digest of the weights that the base stage gave here, where they are not those of the result.
        explanation: whether ties by other versions or hardware explain the differences; empty without differences.
        seed: has drawn the episodes; None where all of them were run again.
        is_transductive: whether the method sees all queries of an episode at once.
        confidence_difference: the largest between a stored confidence and the new one, on a whole split; None for
            episodes.
    """

    key: str
    task: str
    method: str
    stored_episodes: int
    episodes: int
    queries: int
    predictions: int
    others: tuple[OtherOutcome, ...]
    stored_mean: float
    new_mean: float
    environment_diff: tuple[EnvironmentDifference, ...] = ()
    weights: str = ""
    explanation: str = ""
    seed: int | None = None
    is_transductive: bool = False
    confidence_difference: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether every prediction, and every count of correct ones, is the stored one."""
        return not self.others

    @property
    def other_accuracies(self) -> int:
        """How many episodes have another accuracy than the stored one."""
        return sum(other.stored_correct != other.new_correct for other in self.others)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        content = {**asdict(self), "is_equal": self.is_equal, "other_accuracies": self.other_accuracies}
        if self.confidence_difference is None:
            del content["confidence_difference"]
        return content


@contextmanager
def without_caches() -> Iterator[None]:
    """Train base stages and embed images again, whatever the caches hold; what is made is thrown away."""
    with tempfile.TemporaryDirectory(prefix="fewshot-bench-") as folder, caching_in(Path(folder)):
        yield


def reproduce_cell(
    folder: Location, options: ReproductionOptions | None = None, *, progress: Progress = SILENT
) -> Reproduction:
    """Make the method of a cell again, run it on the stored episodes, and compare outcome by outcome.

    Nothing is written into the folder. Images and record are checked before anything is trained, embedded or fetched.
    Nothing that the record names is executed, unless the options trust code.

    Args:
        folder: of the cell.
        options: how the method is run again, and with what.
        progress: shown the training, the embedding, and one unit per episode.

    Raises:
        ReproductionError: the images are not here or differ, or the record does not give this method here.
        FewshotBenchError: stored outcomes are damaged, or the study cannot be run here.
    """
    options, folder = options or ReproductionOptions(), folder.absolute()
    cell, store = described_cell(folder), OutcomeStore(folder.parent)
    if cell.protocol.is_claimed:
        raise ReproductionError(
            f"{cell.method.name} cannot be run again: its accuracies were imported, and its episodes are claimed, not "
            "verified."
        )
    kept = _kept_outcomes(store, options.into)
    dataset = _same_images(cell, folder, options.dataset)
    stored = store.read(cell)
    wanted = stored if options.episodes is None else chosen_episodes(stored, options.episodes, options.seed, cell.key)
    try:
        method = rebuild(cell, dataset, options, progress, takes_trained=True)
    except MismatchError as error:
        raise ReproductionError(f"the study recorded with {cell.method.name} makes another method: {error}.") from error
    except ReproductionError as error:
        raise ReproductionError(f"{cell.method.name} cannot be run again: {error}.") from error
    engine = LocalEngine(method.device)
    record = method.resolved.provenance(method.backbone, engine, options.arguments)
    described, _ = method.resolved.cells(method.card, record)[0]
    new_cell = replace(described, protocol=cell.protocol)
    new = _outcomes(new_cell, method.worker_factory(), kept, wanted, progress)
    seed = None if options.episodes is None else options.seed
    weights = new_cell.method.weights if new_cell.method.weights != cell.method.weights else ""
    return replace(_compared(cell, wanted, new, engine.device, dataset, len(stored)), weights=weights, seed=seed)


def _kept_outcomes(store: OutcomeStore, into: Location | None) -> OutcomeStore | None:
    """Where the new outcomes are kept; raises ReproductionError if it is the store of the result."""
    if into is None:
        return None
    kept = OutcomeStore(into / "outcomes")
    places = [place.resolve() if isinstance(place, Path) else place for place in (kept.folder, store.folder)]
    if str(places[0]) == str(places[1]):
        raise ReproductionError(f"--into {into} holds the result itself, which is not changed. Use another folder.")
    kept.check_folder()
    return kept


def _same_images(cell: Cell, folder: Location, place: Path | None) -> Dataset:
    """The images of the result; raises ReproductionError if they are not here, or others are."""
    images, name = find_images(cell, folder, place), cell.protocol.dataset
    if images.dataset is None:
        raise ReproductionError(f"{images.reason}. What to obtain: fewshot-bench data check {name}.")
    if not images.is_same:
        raise ReproductionError(
            f"the images of {images.dataset.name} here have another fingerprint, {images.dataset.fingerprint[:12]} and "
            f"not {cell.protocol.dataset_fingerprint[:12]}, so that other outcomes would mean nothing. See: "
            f"fewshot-bench data check {name}; or say where the same images lie with --dataset PATH."
        )
    return images.dataset


def _outcomes(
    cell: Cell, worker: Worker, store: OutcomeStore | None, wanted: pd.DataFrame, progress: Progress
) -> pd.DataFrame:
    """New outcomes of the wanted episodes; those that are stored already from an interrupted reproduction are read.

    Raises:
        ReproductionError: the method failed.
    """
    frames = []
    if store is not None and store.done(cell):
        frames.append(store.read(cell).merge(wanted[_EPISODE], on=_EPISODE))
    missing = wanted
    if frames:
        is_done = pd.MultiIndex.from_frame(wanted[_EPISODE]).isin(pd.MultiIndex.from_frame(frames[0][_EPISODE]))
        missing = wanted[~is_done]
    if missing.empty:
        return frames[0] if frames else wanted
    with progress.step(f"{cell.protocol.task}, {cell.method.name}", len(missing)) as step:
        for chunk in _chunks(cell, worker, missing):
            finished = computed(worker, chunk)
            if finished.frame is None:
                assert finished.error is not None
                raise ReproductionError(
                    f"{cell.method.name} failed on the episodes {chunk.numbers[0]} to {chunk.numbers[-1]} of run "
                    f"{chunk.run}: {reason_of(finished.error)}"
                )
            if store is not None:
                store.append_frame(cell, finished.frame)
            frames.append(finished.frame)
            step.advance(len(chunk))
    return together(frames)


def _chunks(cell: Cell, worker: Worker, missing: pd.DataFrame) -> Iterator[Chunk]:
    protocol = Protocol.of(cell.protocol)
    at_once = worker.chunk(protocol)
    for run in missing["run"].unique():
        numbers = missing.loc[missing["run"] == run, "episode"].to_numpy(np.int64)
        for start in range(0, len(numbers), at_once):
            yield Chunk(protocol, int(run), numbers[start : start + at_once], at_once)


def _compared(
    cell: Cell, stored: pd.DataFrame, new: pd.DataFrame, device: str, dataset: Dataset, stored_episodes: int
) -> Reproduction:
    """Stored and new outcomes of the same episodes in the same order, [E]."""
    way, kind = cell.protocol.way, position_type(cell.protocol.way)
    stored, new = stored.reset_index(drop=True), new.reset_index(drop=True)
    if not stored[_EPISODE].equals(new[_EPISODE]):
        raise ValueError("the two frames have other episodes")
    pairs = zip(stored["predictions"], new["predictions"], strict=True)
    differ = np.array([_count_differing(np.frombuffer(old, kind), np.frombuffer(now, kind)) for old, now in pairs])
    gained = stored["correct"].to_numpy(np.int64) - new["correct"].to_numpy(np.int64)
    others = [
        OtherOutcome(
            int(new["run"][row]),
            int(new["episode"][row]),
            int(stored["correct"][row]),
            int(new["correct"][row]),
            int(differ[row]),
        )
        for row in ((differ > 0) | (gained != 0)).nonzero()[0]
    ]
    queries, why = query_counts(new["predictions"], way).astype(np.int64), ""
    if differ.any():
        is_exact = repeats_every_bit(cell, device, dataset)
        _, why = explanation(ChangedPredictions(queries, differ, gained, repeats_every_bit=is_exact))
    elif others:
        why = "the predictions are the same, but the stored counts are not those that they give"
    return Reproduction(
        key=cell.key,
        task=cell.protocol.task,
        method=cell.method.name,
        stored_episodes=stored_episodes,
        episodes=len(new),
        queries=int(queries.sum()),
        predictions=int(differ.sum()),
        others=tuple(others),
        stored_mean=100 * float(stored["accuracy"].mean()),
        new_mean=100 * float(new["accuracy"].mean()),
        environment_diff=environment_diff(cell, device),
        explanation=why,
        is_transductive=cell.method.is_transductive,
        confidence_difference=_largest_difference(stored, new) if cell.protocol.is_whole else None,
    )


def _largest_difference(stored: pd.DataFrame, new: pd.DataFrame) -> float:
    """The largest difference of confidences of the same images."""
    columns = [frame[CONFIDENCE].to_numpy(np.float64) for frame in (stored, new)]
    return float(np.abs(columns[0] - columns[1]).max(initial=0.0))


def _count_differing(stored: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> int:
    """How many predictions differ; those that only one of the two has count too."""
    both = min(len(stored), len(new))
    return int((stored[:both] != new[:both]).sum()) + abs(len(stored) - len(new))


def environment_diff(cell: Cell, device: str) -> tuple[EnvironmentDifference, ...]:
    """Versions, commit, platform and hardware that are not as recorded, or not recorded."""
    provenance = cell.provenance
    recorded = {
        **cell.versions,
        "commit": provenance.get("git_commit"),
        "python": provenance.get("python"),
        "platform": provenance.get("platform"),
        **provenance.get("hardware", {}),
    }
    here: Mapping[str, Any] = {
        **installed_versions(),
        "commit": source_commit(),
        "python": platform.python_version(),
        "platform": platform_name(),
        **hardware(device),
    }
    pairs = {name: (_text(recorded.get(name)), _text(here.get(name))) for name in {**here, **recorded}}
    return tuple(EnvironmentDifference(name, old, now) for name, (old, now) in pairs.items() if old != now)


def _text(value: Any) -> str:
    return str(value) if value not in (None, "") else _UNKNOWN
