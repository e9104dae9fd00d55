"""Run a stored result again from its record, and put the new outcomes beside the stored ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fewshot_bench.audit.brought import Brought
from fewshot_bench.audit.images import images_here
from fewshot_bench.audit.rebuild import Mismatch, Rebuilt, is_same_machine, rebuild
from fewshot_bench.audit.record import recorded_study
from fewshot_bench.audit.sample import chosen_episodes
from fewshot_bench.audit.ties import Turned, explanation
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.device import chosen_device
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import ReproductionError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.episode_frame import query_counts
from fewshot_bench.paths import Place, caching_in
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.reproduction.again import Again
from fewshot_bench.reproduction.circumstances import other_circumstances
from fewshot_bench.reproduction.comparing import other_outcomes
from fewshot_bench.reproduction.meant import described
from fewshot_bench.reproduction.outcome import OtherOutcome, Reproduction
from fewshot_bench.study import Study
from fewshot_bench.study.provenance import provenance
from fewshot_bench.study.worker import WorkerRecipe
from fewshot_bench.versions import installed_versions


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
    images = dataset.split(Protocol.of(cell.protocol).split)
    made = Cell(
        method.card,
        cell.protocol,
        installed_versions(),
        dict(dataset.recipe),
        images.class_sizes,
        provenance(study, method.backbone, engine, options.arguments, place=dataset.place),
    )
    worker = WorkerRecipe.of(method.recipe, images, engine.device)()
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


def _method(cell: Cell, study: Study, dataset: Dataset, device: str, options: Brought, progress: Progress) -> Rebuilt:
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
