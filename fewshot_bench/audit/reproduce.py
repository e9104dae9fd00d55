"""Run a stored result again from its record, and put the new outcomes beside the stored ones.

The new outcomes of stored episodes: computed a chunk at a time, and kept where somebody wants them kept.

Stored outcomes beside new ones of the same episodes.

What is not here as it was when a result was made: versions, hardware, the commit of this project.

What came of running a stored result again.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench._io.locations import Place, caching_in
from fewshot_bench._io.versions import installed_versions
from fewshot_bench.audit.audit import described
from fewshot_bench.audit.images import images_here
from fewshot_bench.audit.rebuild import Brought, Mismatch, RebuiltMethod, is_same_machine, rebuild, recorded_study
from fewshot_bench.audit.ties import Turned, chosen_episodes, explanation
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.adapt import together
from fewshot_bench.engine.engine import Chunk, Worker, chosen_device
from fewshot_bench.engine.local import LocalEngine, computed
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import ReproductionError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.frame import query_counts
from fewshot_bench.outcomes.packing import position_type
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study import Study
from fewshot_bench.study.provenance import hardware, platform_name, source_commit
from fewshot_bench.study.scheduler import reason_of

_NAMES = ["run", "episode"]


@dataclass(frozen=True)
class Again:
    """A method that was made again.

    Attributes:
        cell: as it is made here.
        worker: computes its outcomes.
        store: where new outcomes are kept, and those of an earlier time taken from; None to keep none.
    """

    cell: Cell
    worker: Worker
    store: OutcomeStore | None = None

    def outcomes(self, wanted: pd.DataFrame, progress: Progress) -> pd.DataFrame:
        """The outcomes of some episodes, by run and number.

        Args:
            wanted: has their runs and numbers, [E].
            progress: shown one unit per episode.

        Returns:
            As `episode_frame` makes them, [E].

        Raises:
            ReproductionError: the method failed.
        """
        kept = self._kept(wanted)
        missing = _without(wanted, kept)
        if missing.empty:
            return kept
        frames = [] if kept.empty else [kept]
        with progress.step(f"{self.cell.protocol.task}, {self.cell.method.name}", len(missing)) as step:
            for chunk in self._chunks(missing):
                frames.append(self._computed(chunk))
                step.advance(len(chunk))
        return together(frames)

    def _kept(self, wanted: pd.DataFrame) -> pd.DataFrame:
        if self.store is None or not self.store.done(self.cell):
            return wanted.iloc[:0]
        return self.store.read(self.cell).merge(wanted[_NAMES], on=_NAMES)

    def _chunks(self, missing: pd.DataFrame) -> Iterator[Chunk]:
        protocol = Protocol.of(self.cell.protocol)
        at_once = self.worker.chunk(protocol)
        for run in missing["run"].unique():
            numbers = missing.loc[missing["run"] == run, "episode"].to_numpy(np.int64)
            for start in range(0, len(numbers), at_once):
                yield Chunk(protocol, int(run), numbers[start : start + at_once], at_once)

    def _computed(self, chunk: Chunk) -> pd.DataFrame:
        finished = computed(self.worker, chunk)
        if finished.frame is None:
            assert finished.error is not None
            raise ReproductionError(
                f"{self.cell.method.name} failed on the episodes {chunk.numbers[0]} to {chunk.numbers[-1]} of run "
                f"{chunk.run}: {reason_of(finished.error)}"
            )
        if self.store is not None:
            self.store.append_frame(self.cell, finished.frame)
        return finished.frame


def _without(wanted: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    names = pd.MultiIndex.from_frame(wanted[_NAMES])
    return wanted[~names.isin(pd.MultiIndex.from_frame(kept[_NAMES]))]


@dataclass(frozen=True)
class OtherOutcome:
    """An episode whose outcome is not the one stored.

    Attributes:
        run: of the episode.
        episode: its number within the run.
        stored_correct: queries that are correct as it is stored.
        new_correct: and now.
        predictions: how many of its predictions are others.
    """

    run: int
    episode: int
    stored_correct: int
    new_correct: int
    predictions: int


@dataclass(frozen=True)
class Circumstance:
    """Something around a result that is not here as its record says.

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
    """The outcomes of one cell beside those that are stored.

    Attributes:
        key: of the cell.
        task: dataset, split and size of its tasks.
        method: its name.
        stored_episodes: how many are stored.
        episodes: how many of them were run again.
        queries: predictions that were compared.
        predictions: how many of these are others.
        others: episodes that are not as they are stored, by run and number.
        stored_mean: of the accuracies of the episodes that were run again, in %.
        new_mean: the same of the new outcomes.
        circumstances: what is not as it is recorded.
        weights: digest of the weights that the base stage gave here, where they are not those of the result.
        explanation: in words, whether ties by other versions or hardware explain what differs; empty if nothing does.
        seed: has drawn the episodes; None where all of them were run again.
        is_transductive: whether the method sees all queries of an episode at once.
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
    circumstances: tuple[Circumstance, ...] = ()
    weights: str = ""
    explanation: str = ""
    seed: int | None = None
    is_transductive: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether every prediction, and every count of correct ones, is as it is stored."""
        return not self.others

    @property
    def other_accuracies(self) -> int:
        """How many episodes have another accuracy than the one stored."""
        return sum(other.stored_correct != other.new_correct for other in self.others)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "is_equal": self.is_equal, "other_accuracies": self.other_accuracies}


def other_outcomes(stored: pd.DataFrame, new: pd.DataFrame, way: int) -> tuple[OtherOutcome, ...]:
    """The episodes whose predictions, or whose number of correct ones, are not those stored.

    Args:
        stored: one row per episode, as `episode_frame` makes them, by run and number, [E].
        new: of the same episodes in the same order, [E].
        way: N, the largest of the protocol.

    Raises:
        ValueError: the episodes are others.
    """
    if not stored[["run", "episode"]].reset_index(drop=True).equals(new[["run", "episode"]].reset_index(drop=True)):
        raise ValueError("the two frames have other episodes")
    old_said, new_said = stored["predictions"].to_numpy(), new["predictions"].to_numpy()
    old_correct, new_correct = stored["correct"].to_numpy(), new["correct"].to_numpy()
    places = ((old_said != new_said) | (old_correct != new_correct)).nonzero()[0]
    runs, numbers = new["run"].to_numpy(), new["episode"].to_numpy()
    return tuple(
        OtherOutcome(
            int(runs[place]),
            int(numbers[place]),
            int(old_correct[place]),
            int(new_correct[place]),
            _others(old_said[place], new_said[place], position_type(way)),
        )
        for place in places
    )


def _others(stored: bytes, new: bytes, kind: np.dtype[Any]) -> int:
    """How many predictions differ; where there are more of one kind, these do."""
    old, again = np.frombuffer(stored, kind), np.frombuffer(new, kind)
    both = min(len(old), len(again))
    return int((old[:both] != again[:both]).sum()) + abs(len(old) - len(again))


_UNKNOWN = "not recorded"


def other_circumstances(cell: Cell, device: str) -> tuple[Circumstance, ...]:
    """Everything around a result that its record says otherwise, or does not say.

    Args:
        cell: with its record.
        device: a torch device.
    """
    told = cell.provenance
    recorded = {
        **cell.versions,
        "commit": told.get("git_commit", ""),
        "python": told.get("python", ""),
        "platform": told.get("platform", ""),
        **told.get("hardware", {}),
    }
    here: Mapping[str, Any] = {
        **installed_versions(),
        "commit": source_commit(),
        "python": platform.python_version(),
        "platform": platform_name(),
        **hardware(device),
    }
    names = list(dict.fromkeys([*here, *recorded]))
    return tuple(
        Circumstance(name, _text(recorded.get(name)), _text(here.get(name)))
        for name in names
        if _text(recorded.get(name)) != _text(here.get(name))
    )


def _text(value: Any) -> str:
    return str(value) if value not in (None, "") else _UNKNOWN


@dataclass(frozen=True, kw_only=True)
class ReproductionOptions(Brought):
    """How much is run again, and where the new outcomes go.

    Attributes:
        episodes: how many of the stored episodes of each cell, drawn at random; all of them where it is None.
        into: a folder of results that keeps the new outcomes, and from which an interrupted reproduction goes on.
        arguments: of the command line that asks for it, to be recorded with these.
    """

    episodes: int | None = None
    into: Place | None = None
    arguments: tuple[str, ...] = ()


@contextmanager
def everything_anew() -> Iterator[None]:
    """Have base stages trained and images embedded again, whatever the caches hold; what that gives is thrown away."""
    with tempfile.TemporaryDirectory(prefix="fewshot-bench-") as folder, caching_in(Path(folder)):
        yield


def reproduce_cell(
    folder: Place, options: ReproductionOptions | None = None, *, progress: Progress = SILENT
) -> Reproduction:
    """Make the method of a cell again, put the stored episodes to it, and compare outcome by outcome.

    Nothing is written into the folder. Images and record are looked at before anything is trained, embedded or
    fetched. Nothing that the record names is executed, unless the options trust code.

    Args:
        folder: of the cell.
        options: what somebody brings along.
        progress: shown the training, the embedding, and one unit per episode.

    Raises:
        ReproductionError: the images are not here or are others, or the record does not make this method here.
        FewshotBenchError: stored outcomes are damaged, or the study cannot be run here.
    """
    options, folder = options or ReproductionOptions(), folder.absolute()
    cell, store = described(folder), OutcomeStore(folder.parent)
    if cell.protocol.is_claimed:
        raise ReproductionError(
            f"{cell.method.name} cannot be run again: its accuracies were imported, and its episodes are claimed, not "
            "verified."
        )
    kept = _kept(store, options.into)
    dataset = _images(cell, options, folder)
    stored = store.read(cell)
    wanted = stored if options.episodes is None else chosen_episodes(stored, options.episodes, options.seed, cell.key)
    engine = LocalEngine(chosen_device(options.device))
    study = _study(cell, options)
    method = _method(cell, study, dataset, engine.device, options, progress)
    record = method.resolved.provenance(method.backbone, engine, options.arguments)
    made = replace(method.resolved.cells(method.card, record)[0][0], protocol=cell.protocol)
    worker = method.worker_factory()
    new = Again(made, worker, kept).outcomes(wanted, progress)
    seed = None if options.episodes is None else options.seed
    return _compared(cell, made, len(stored), wanted, new, engine.device, seed)


def _kept(store: OutcomeStore, into: Place | None) -> OutcomeStore | None:
    """Where the new outcomes are kept.

    Raises:
        ReproductionError: it is where the stored ones are.
    """
    if into is None:
        return None
    kept = OutcomeStore(into / "outcomes")
    if _whole(kept.folder) == _whole(store.folder):
        raise ReproductionError(f"--into {into} holds the result itself, which stays as it is. Use another folder.")
    kept.check_folder()
    return kept


def _whole(place: Place) -> str:
    """A place by the one name that it has."""
    return str(place.resolve()) if isinstance(place, Path) else str(place)


def _images(cell: Cell, options: Brought, folder: Place) -> Dataset:
    """The images of the result.

    Raises:
        ReproductionError: they are not here, or others are.
    """
    here = images_here(cell, options, folder)
    name = cell.protocol.dataset
    if here.dataset is None:
        raise ReproductionError(f"{here.reason}. What to obtain: fewshot-bench data check {name}.")
    if not here.are_the_same:
        raise ReproductionError(
            f"the images of {here.dataset.name} here have another fingerprint, {here.dataset.fingerprint[:12]} and not "
            f"{cell.protocol.dataset_fingerprint[:12]}, so that other outcomes would mean nothing. See: fewshot-bench "
            f"data check {name}; or say where the same images lie with --dataset PATH."
        )
    return here.dataset


def _study(cell: Cell, options: Brought) -> Study:
    """The study that made the result.

    Raises:
        ReproductionError: the record does not say it, or it needs something that was not brought along.
    """
    record = recorded_study(cell, weights=options.weights, trusts_code=options.trusts_code)
    if record.study is None:
        raise ReproductionError(f"{cell.method.name} cannot be run again: {record.reason}.")
    return record.study


def _method(
    cell: Cell, study: Study, dataset: Dataset, device: str, options: Brought, progress: Progress
) -> RebuiltMethod:
    """The method of the result, but for weights of a base stage, which training may give others here.

    Raises:
        ReproductionError: the study makes another one here.
    """
    method = rebuild(cell, study, dataset, device, progress, downloads=options.downloads, takes_trained=True)
    if isinstance(method, Mismatch):
        raise ReproductionError(f"the study recorded with {cell.method.name} makes another method here: {method.text}.")
    return method


def _compared(
    cell: Cell, made: Cell, stored_episodes: int, stored: pd.DataFrame, new: pd.DataFrame, device: str, seed: int | None
) -> Reproduction:
    way = cell.protocol.way
    others = other_outcomes(stored, new, way)
    queries, predictions = int(query_counts(new["predictions"], way).sum()), sum(other.predictions for other in others)
    why = ""
    if predictions:
        _, why = explanation(_turned(stored, new, others, is_same_machine=is_same_machine(cell, device)))
    elif others:
        why = "the predictions are the same, but the stored counts are not those that they give"
    return Reproduction(
        key=cell.key,
        task=cell.protocol.task,
        method=cell.method.name,
        stored_episodes=stored_episodes,
        episodes=len(new),
        queries=queries,
        predictions=predictions,
        others=others,
        stored_mean=100 * float(stored["accuracy"].mean()),
        new_mean=100 * float(new["accuracy"].mean()),
        circumstances=other_circumstances(cell, device),
        weights=made.method.weights if made.method.weights != cell.method.weights else "",
        explanation=why,
        seed=seed,
        is_transductive=cell.method.is_transductive,
    )


def _turned(
    stored: pd.DataFrame, new: pd.DataFrame, others: Sequence[OtherOutcome], *, is_same_machine: bool
) -> Turned:
    """What differs, episode by episode."""
    gained = stored["correct"].to_numpy(np.int64) - new["correct"].to_numpy(np.int64)
    differ = {(other.run, other.episode): other.predictions for other in others}
    names = zip(new["run"], new["episode"], strict=True)
    return Turned(
        new["predictions"].map(len).to_numpy(np.int64),
        np.array([differ.get((int(run), int(episode)), 0) for run, episode in names], dtype=np.int64),
        gained,
        is_same_machine=is_same_machine,
    )
