"""Some of the stored episodes once more: the same predictions, and none that a disturbance changes.

The checks that need the method itself, where it can be made here; otherwise, why it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation import EmbeddingAdaptation
from fewshot_bench.adaptation.hyper_parameter_choice import scores_of
from fewshot_bench.audit.finding import SAME, Finding, not_checked
from fewshot_bench.audit.images import ImagesHere
from fewshot_bench.audit.perturbation import (
    in_parts,
    predictions_of,
    relabelled,
    renumbered,
    shuffled,
    with_numbers,
)
from fewshot_bench.audit.rebuild import Brought, Rebuilt, recorded_study
from fewshot_bench.audit.stored_checks import draw_again
from fewshot_bench.audit.ties import Sample, Turned, chosen_episodes, explanation, turned
from fewshot_bench.engine.classify import Classifier, EmbeddingClassifier, chunk_size
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.frame import positions_of, query_counts
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
    from fewshot_bench.engine.engine import chosen_device

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


_NOISE = 0.005
"""Share of the queries that a tie may turn when sums are taken in another order."""
_ALONE, _ALONE_OF_FROZEN = 3, 75
"""Queries of each episode that are asked one by one of a method that trains, and of one of frozen embeddings, for which
75 are all of a usual episode; with hundreds of classes there are more queries, and each takes longer."""
_DISTURBED = 8
"""Episodes that are disturbed: each once for every query, and a method that looks where it should not mostly does."""
_ROUNDING, _ROUNDINGS = 1e-3, 16
"""A relative change of the embeddings that is larger than what any arithmetic in use rounds to, and how often it is
tried; TF32 keeps 11 bits, float32 24."""
_NEAR = 5.0
"""A difference of scores up to so many times what such a change typically does is a near tie."""


@dataclass(frozen=True)
class Rerun:
    """A method that was made again, and what is to be tried.

    Attributes:
        cell: the stored one.
        method: made again.
        groups: the episodes, those of one run and one shape together.
        stored: the stored predictions of each group, uint8 [E, M].
        seed: of the disturbances.
        is_same_machine: whether the outcomes were made by the same versions on the same kind of machine.
        stored_episodes: how many the cell has.
        cells: how many the audit has.
    """

    cell: Cell
    method: Rebuilt
    groups: Sequence[Episodes]
    stored: Sequence[NDArray[np.uint8]]
    seed: int
    is_same_machine: bool
    stored_episodes: int
    cells: int = 1

    def checks(self) -> MethodChecks:
        """All checks that need the method."""
        try:
            plain = [_plain(self.method.classifier, episodes) for episodes in self.groups]
        except Exception as error:  # a method is anybody's code
            reason = f"the method failed: {type(error).__name__}: {error}"
            return MethodChecks([Finding(check, "fail", reason) for check in CHECKS])
        same = self._same_as_stored(plain)
        plain = [said[some] for said, some in zip(plain, self._are_disturbed, strict=True) if some.any()]
        disturbances = [
            self._undisturbed(ORDER, plain, self._shuffled, f"queries in another order, classes mixed{self._choice}"),
            self._undisturbed(LABELS, plain, self._relabelled, f"queries in the places of another class{self._choice}"),
            self._batching(plain),
            self._numbers(plain),
        ]
        return replace(same, findings=[*same.findings, *disturbances])

    @property
    def _choice(self) -> str:
        """Which hyper-parameters are chosen anew whenever an episode is disturbed, as part of a sentence."""
        adaptation = self.method.adaptation
        if not isinstance(adaptation, EmbeddingAdaptation) or adaptation.choose == "none":
            return ""
        names = " and ".join(adaptation.tried)
        return f", {names} chosen anew" if adaptation.choose == "support-cv" else f", averaged over {names} anew"

    @cached_property
    def _are_disturbed(self) -> list[NDArray[np.bool_]]:
        """Which episodes of each group are disturbed, [E]."""
        sizes = [len(group) for group in self.groups]
        some = np.zeros(sum(sizes), dtype=np.bool_)
        some[np.random.default_rng(self.seed).permutation(len(some))[:_DISTURBED]] = True
        return np.split(some, np.cumsum(sizes)[:-1])

    @cached_property
    def _disturbed(self) -> list[Episodes]:
        """The episodes that are disturbed."""
        return [
            replace(group, numbers=group.numbers[some], images=group.images[some])
            for group, some in zip(self.groups, self._are_disturbed, strict=True)
            if some.any()
        ]

    def _same_as_stored(self, plain: Sequence[NDArray[np.uint8]]) -> MethodChecks:
        sample = Sample(self.stored_episodes, sum(len(group) for group in self.groups))
        found = turned(
            self.stored,
            plain,
            [group.truth for group in self.groups],
            far=0 if self.is_same_machine else self._far(plain),
            is_same_machine=self.is_same_machine,
        )
        part = "" if sample.checked == sample.stored else f"{sample.checked:,} of "
        episodes = f"{part}{sample.stored:,} episodes"
        if not found.others:
            return MethodChecks([Finding(SAME, "pass", f"all {found.total:,} of {episodes}, run again")], sample, found)
        told = f"{found.others:,} of {found.total:,} predictions of {episodes} differ from those stored"
        are_ties, why = explanation(found, tests=self.cells)
        return MethodChecks([Finding(SAME, "pass" if are_ties else "fail", f"{told}: {why}")], sample, found)

    def _far(self, plain: Sequence[NDArray[np.uint8]]) -> int:
        """How many of the predictions that differ are no near ties; 0 where a method has no scores to tell by.

        A training carries a rounding far, so methods that train a network are judged by their predictions alone.
        """
        classifier = self.method.classifier
        if not isinstance(classifier, EmbeddingClassifier):
            return 0
        far = 0
        for episodes, stored, now in zip(self.groups, self.stored, plain, strict=True):
            some = (stored != now).any(axis=1)
            if some.any():
                few = replace(episodes, numbers=episodes.numbers[some], images=episodes.images[some])
                behind = how_far_behind(classifier, few)
                said = np.minimum(stored[some], behind.shape[2] - 1).astype(np.int64)
                is_far = np.take_along_axis(behind, said[:, :, np.newaxis], axis=2)[:, :, 0] > _NEAR
                far += int(((stored[some] != now[some]) & is_far).sum())
        return far

    def _undisturbed(
        self,
        check: str,
        plain: Sequence[NDArray[np.uint8]],
        disturb: Callable[[Episodes], NDArray[np.uint8]],
        what: str,
    ) -> Finding:
        """Whether a disturbance changes no prediction."""
        try:
            said = [disturb(episodes) for episodes in self._disturbed]
        except Exception as error:  # a method is anybody's code
            return Finding(check, "fail", f"{what}: the method failed: {type(error).__name__}: {error}")
        return self._compared(check, plain, said, what)

    def _compared(
        self, check: str, plain: Sequence[NDArray[np.uint8]], said: Sequence[NDArray[np.uint8]], what: str
    ) -> Finding:
        differ = sum(int((one != two).sum()) for one, two in zip(plain, said, strict=True))
        total = sum(one.size for one in said)
        if not differ:
            return Finding(check, "pass", f"{what}: the same {total:,} predictions")
        told = f"{what}: {differ:,} of {total:,} predictions change"
        return Finding(check, "pass" if differ <= _NOISE * total else "fail", told)

    def _shuffled(self, episodes: Episodes) -> NDArray[np.uint8]:
        return predictions_of(self.method.classifier, episodes, shuffled(episodes, self.seed))

    def _relabelled(self, episodes: Episodes) -> NDArray[np.uint8]:
        return predictions_of(self.method.classifier, episodes, relabelled(episodes))

    def _batching(self, plain: Sequence[NDArray[np.uint8]]) -> Finding:
        what = f"queries in halves and alone{self._choice}"
        positions = [self._parts(episodes) for episodes in self._disturbed]
        try:
            said = [
                in_parts(self.method.classifier, episodes, parts)
                for episodes, parts in zip(self._disturbed, positions, strict=True)
            ]
        except Exception as error:  # a method is anybody's code
            if self.cell.method.is_transductive:
                return Finding(BATCHING, "pass", f"marked transductive; {what}, it fails: {type(error).__name__}")
            return Finding(BATCHING, "fail", f"{what}: the method failed: {type(error).__name__}: {error}")
        expected = [one[:, np.concatenate(parts)] for one, parts in zip(plain, positions, strict=True)]
        found = self._compared(BATCHING, expected, said, what)
        if self.cell.method.is_transductive:
            return Finding(BATCHING, "pass", f"marked transductive; {found.detail}")
        if found.verdict == "fail":
            return Finding(BATCHING, "fail", f"{found.detail}, and the method is not marked transductive")
        return found

    def _parts(self, episodes: Episodes) -> list[NDArray[np.int64]]:
        """Every other query, the others, and single ones."""
        positions = np.arange(episodes.queries.shape[1])
        count = _ALONE_OF_FROZEN if isinstance(self.method.adaptation, EmbeddingAdaptation) else _ALONE
        alone = np.sort(np.random.default_rng(self.seed).permutation(positions)[:count])
        halves = [part for part in (positions[::2], positions[1::2]) if len(part)]
        return [*halves, *(np.array([one]) for one in alone)]

    def _numbers(self, plain: Sequence[NDArray[np.uint8]]) -> Finding:
        classifier = self.method.classifier
        if not isinstance(classifier, EmbeddingClassifier):
            return Finding(NUMBERS, "not checked", "the method draws augmented views by the numbers of the images")
        other, new = renumbered(classifier, self.seed)
        return self._undisturbed(
            NUMBERS,
            plain,
            lambda episodes: _plain(other, with_numbers(episodes, new)),
            "images under other numbers",
        )


@torch.no_grad()
def how_far_behind(classifier: EmbeddingClassifier, episodes: Episodes) -> NDArray[np.float64]:
    """How far the score of each class is behind the best score of a query.

    Args:
        classifier: the method.
        episodes: of one shape.

    Returns:
        [E, M, N], in multiples of what a change of the embeddings by a thousandth typically does to that difference. So
        it is taken into account how far a method carries a rounding; one that trains carries it far.
    """
    embeddings = classifier.split.embeddings
    length = embeddings.norm(dim=1, keepdim=True) / embeddings.shape[1] ** 0.5
    scores = _scores(classifier, embeddings, episodes)
    best = scores.argmax(axis=2)[:, :, np.newaxis]

    def behind(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.take_along_axis(scores, best, axis=2) - scores

    squares = np.zeros(scores.shape)
    for number in range(_ROUNDINGS):
        noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(number)).to(embeddings)
        rounded = _scores(classifier, embeddings + _ROUNDING * length * noise, episodes)
        squares += (behind(rounded) - behind(scores)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(behind(scores) / np.sqrt(squares / _ROUNDINGS), nan=0.0, posinf=np.inf)


def _scores(classifier: EmbeddingClassifier, embeddings: torch.Tensor, episodes: Episodes) -> NDArray[np.float64]:
    """The scores of a method on other embeddings of the same images, [E, M, N]."""
    split = replace(classifier.split, embeddings=embeddings, gram=None)
    at_once = chunk_size(classifier.adaptation, episodes.protocol, embeddings.shape[1])
    found = []
    for start in range(0, len(episodes), at_once):
        images = (np.ascontiguousarray(of[start : start + at_once]) for of in (episodes.support, episodes.queries))
        support, query = (torch.from_numpy(indices).to(embeddings.device, torch.int64) for indices in images)
        found.append(scores_of(classifier.adaptation, split, support, query).double().cpu().numpy())
    return np.concatenate(found)


def _plain(classifier: Classifier, episodes: Episodes) -> NDArray[np.uint8]:
    return classifier(episodes, classifier.chunk(episodes.protocol))
