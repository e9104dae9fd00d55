"""Checks that run the method again: it gives the stored predictions, and no perturbation changes them.

Where the method cannot be made here, the findings say why.

A method is given the images of the queries and nothing else about them. Their order, their numbers and the other
queries could still tell: queries are stored class by class, and images are numbered class by class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation import EmbeddingAdaptation
from fewshot_bench.adaptation.hyper_parameter_choice import scores_of
from fewshot_bench.audit.finding import (
    BATCHING,
    LABELS,
    METHOD_CHECKS,
    NUMBERS,
    ORDER,
    SAME,
    Finding,
    MethodChecks,
    not_checked,
    unchecked_method,
)
from fewshot_bench.audit.rebuild import (
    MismatchError,
    RebuiltMethod,
    rebuild,
    renamed_weights,
    repeats_every_bit,
)
from fewshot_bench.audit.selection import AuditOptions
from fewshot_bench.audit.stored_checks import redrawn_tasks
from fewshot_bench.audit.ties import Sample, changed_predictions, chosen_episodes, explanation
from fewshot_bench.audit.whole_checks import perturbed_findings
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.classify import Classifier, EmbeddingClassifier, chunk_size
from fewshot_bench.episodes import Episodes, WholeEpisodes
from fewshot_bench.errors import FewshotBenchError, ReproductionError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.frame import positions_of, query_counts
from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.progress import Progress


@dataclass(frozen=True, eq=False, repr=False)
class AskedEpisodes(Episodes):
    """Support sets of episodes with other queries than their own.

    Attributes:
        asked: image indices of the queries, [E, m]; m need not be a multiple of N.
    """

    asked: NDArray[np.int32]

    @property
    def queries(self) -> NDArray[np.int32]:
        """Image indices of the queries in the order in which they are asked, [E, m]."""
        return self.asked


def with_queries(episodes: Episodes, order: NDArray[np.int64]) -> AskedEpisodes:
    """The same support sets with some of the queries, in another order; `images` no longer tells their classes.

    Args:
        episodes: of one shape, with M queries each.
        order: positions of the queries, in the order in which a method gets them, [E, m] with m of at most M.
    """
    asked = np.take_along_axis(episodes.queries, order, axis=1)
    rows = np.full((len(episodes), episodes.way * episodes.query.shape[2]), -1, dtype=np.int32)
    rows[:, : asked.shape[1]] = asked
    images = np.concatenate([episodes.support, rows.reshape(len(episodes), episodes.way, -1)], axis=2)
    return AskedEpisodes(episodes.protocol, episodes.dataset_fingerprint, episodes.run, episodes.numbers, images, asked)


def predictions_of(classifier: Classifier, episodes: Episodes, order: NDArray[np.int64]) -> Positions:
    """Predictions for queries that are asked in an order of `with_queries`; returned by position, [E, m]."""
    found = classifier(with_queries(episodes, order), classifier.chunk(episodes.protocol))
    if found.shape != order.shape:
        raise ValueError(f"{found.shape} predictions of {order.shape} queries")
    back = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(found, back, axis=1)


def shuffled(episodes: Episodes, seed: int) -> NDArray[np.int64]:
    """Another order of the queries for each episode, classes mixed, [E, M]."""
    generator = np.random.default_rng([seed, episodes.run])
    count = episodes.queries.shape[1]
    return np.stack([generator.permutation(count) for _ in range(len(episodes))])


def relabelled(episodes: Episodes) -> NDArray[np.int64]:
    """The queries in an order in which the blocks of the classes have changed places, [E, M].

    The last class comes first; within a block the order stays. Where classes have equally many queries, a method that
    reads classes from positions is now wrong about every query.
    """
    next_class = (episodes.truth.astype(np.int64) + 1) % episodes.way
    return np.argsort(next_class, axis=1, kind="stable")


def in_parts(classifier: Classifier, episodes: Episodes, parts: list[NDArray[np.int64]]) -> Positions:
    """Predictions for queries that are asked a part at a time, part after part, [E, sum of m].

    Each part has the positions of its queries, increasing, [m].
    """
    predictions = [predictions_of(classifier, episodes, np.tile(part, (len(episodes), 1))) for part in parts]
    return np.concatenate(predictions, axis=1)


def renumbered(classifier: EmbeddingClassifier, seed: int) -> tuple[EmbeddingClassifier, NDArray[np.int32]]:
    """The same method with other numbers for the same images, and the new number of each image, [I]."""
    split = classifier.split
    old = np.random.default_rng(seed).permutation(split.images)
    new = np.empty(split.images, dtype=np.int32)
    new[old] = np.arange(split.images, dtype=np.int32)
    rows = np.concatenate([old + view * split.images for view in range(split.views + 1)])
    moved = split.embeddings[torch.from_numpy(rows).to(split.embeddings.device)]
    other = replace(split, embeddings=moved, gram=None)
    return EmbeddingClassifier(classifier.adaptation, other.with_gram() if split.gram is not None else other), new


def with_numbers(episodes: Episodes, new: NDArray[np.int32]) -> Episodes:
    """The same tasks by other numbers of the images; -1 stays the end of a row."""
    return replace(episodes, images=np.where(episodes.images >= 0, new[episodes.images], -1).astype(np.int32))


_NOISE = 0.005
"""Share of the queries that ties may change when sums are taken in another order."""
_ALONE, _ALONE_OF_FROZEN = 3, 75
"""Queries of each episode that are asked one by one, of a method that trains and of one of frozen embeddings.

75 are all queries of a usual episode; with hundreds of classes there are more, and each takes longer."""
_PERTURBED = 8
"""Episodes that are perturbed, each once for every query; a method that cheats shows it in most of them."""
_ROUNDING, _ROUNDINGS = 1e-3, 16
"""A relative change of the embeddings above any rounding in use, and how often it is tried; TF32 keeps 11 bits,
float32 24."""
_NEAR = 5.0
"""A difference of scores is a near tie up to this multiple of the typical effect of such a change."""


def check_method(
    cell: Cell,
    frame: pd.DataFrame,
    dataset: Dataset,
    sizes: Sequence[int],
    options: AuditOptions,
    progress: Progress,
) -> MethodChecks:
    """Make the method of a cell again and run it on stored episodes, a row of the frame each; class sizes [C]."""
    try:
        method = rebuild(cell, dataset, options, progress)
        sampled = chosen_episodes(frame, options.episodes, options.seed, cell.key)
        groups = redrawn_tasks(cell.protocol, sizes, sampled)
        stored = [_predictions(sampled, episodes) for episodes in groups]
        present = [predictions for predictions in stored if predictions is not None]
        if len(present) < len(stored):
            return unchecked_method("the stored predictions are not those of these tasks")
        is_exact = repeats_every_bit(cell, method.device, dataset)
        return _Checker(method, groups, present, options, is_exact, len(frame)).checks()
    except MismatchError as error:
        return _mismatched(error, renamed_weights(cell, options.weights))
    except ReproductionError as error:
        return unchecked_method(str(error))
    except FewshotBenchError as error:
        return unchecked_method(f"the method cannot be made here: {error}")


def _mismatched(error: MismatchError, renamed: str) -> MethodChecks:
    if renamed:  # the weights may be those of another cell
        return unchecked_method(f"{renamed}, which makes another method: {error}")
    reason = f"the recorded study makes another method: {error}"
    if error.is_of_training:
        reason += "; fewshot-bench reproduce compares the outcomes all the same"
    findings = not_checked(METHOD_CHECKS, reason)
    if error.is_contradiction:
        findings[0] = Finding(SAME, "fail", reason)
    return MethodChecks(findings)


def _predictions(frame: pd.DataFrame, episodes: Episodes) -> Positions | None:
    """Stored predictions of some episodes, [E, M]; None where there are more or fewer than queries."""
    rows = frame[frame["run"] == episodes.run].set_index("episode").loc[episodes.numbers, "predictions"]
    way = episodes.protocol.way
    if (query_counts(rows, way) != episodes.queries.shape[1]).any():
        return None
    return positions_of(rows, way).reshape(len(episodes), -1)


@dataclass(frozen=True)
class _Checker:
    """Runs a method again on stored episodes, and on perturbations of some of them.

    Attributes:
        method: made again.
        groups: the episodes, those of one run and one shape together.
        stored: the stored predictions of each group, [E, M].
        options: of the audit.
        repeats_every_bit: whether the outcomes were made by the same versions on the same kind of machine, and in the
            same batches.
        stored_episodes: how many the cell has.
    """

    method: RebuiltMethod
    groups: Sequence[Episodes]
    stored: Sequence[Positions]
    options: AuditOptions
    repeats_every_bit: bool
    stored_episodes: int

    def checks(self) -> MethodChecks:
        """All checks that need the method."""
        try:
            plain = [_plain(self.method.classifier, episodes) for episodes in self.groups]
        except Exception as error:  # a method is anybody's code
            reason = f"the method failed: {type(error).__name__}: {error}"
            return MethodChecks([Finding(check, "fail", reason) for check in METHOD_CHECKS])
        same = self._same_as_stored(plain)
        if any(isinstance(group, WholeEpisodes) for group in self.groups):
            factory, device = self.method.worker_factory.classifier, self.method.device
            seed = self.options.seed
            found = perturbed_findings(self._classifier, factory, self.groups, plain, device=device, seed=seed)
            return replace(same, findings=[*same.findings, *found])
        chosen = zip(plain, self._is_perturbed, strict=True)
        plain = [predictions[perturbed] for predictions, perturbed in chosen if perturbed.any()]
        perturbations = [
            self._unchanged(ORDER, plain, self._shuffled, f"queries in another order, classes mixed{self._choice}"),
            self._unchanged(LABELS, plain, self._relabelled, f"queries in the places of another class{self._choice}"),
            self._batching(plain),
            self._numbers(plain),
        ]
        return replace(same, findings=[*same.findings, *perturbations])

    @property
    def _classifier(self) -> Classifier:
        return self.method.classifier

    @property
    def _choice(self) -> str:
        """Which hyper-parameters are chosen anew for every perturbed episode, as part of a sentence."""
        adaptation = self.method.adaptation
        if not isinstance(adaptation, EmbeddingAdaptation) or adaptation.choose == "none":
            return ""
        names = " and ".join(adaptation.tried)
        return f", {names} chosen anew" if adaptation.choose == "support-cv" else f", averaged over {names} anew"

    @cached_property
    def _is_perturbed(self) -> list[NDArray[np.bool_]]:
        """Which episodes of each group are perturbed, [E]."""
        sizes = [len(group) for group in self.groups]
        perturbed = np.zeros(sum(sizes), dtype=np.bool_)
        perturbed[np.random.default_rng(self.options.seed).permutation(len(perturbed))[:_PERTURBED]] = True
        return np.split(perturbed, np.cumsum(sizes)[:-1])

    @cached_property
    def _perturbed(self) -> list[Episodes]:
        """The episodes that are perturbed."""
        chosen = zip(self.groups, self._is_perturbed, strict=True)
        return [_chosen_episodes(group, perturbed) for group, perturbed in chosen if perturbed.any()]

    def _same_as_stored(self, plain: Sequence[Positions]) -> MethodChecks:
        sample = Sample(self.stored_episodes, sum(len(group) for group in self.groups))
        changes = changed_predictions(
            self.stored,
            plain,
            [group.truth for group in self.groups],
            far=0 if self.repeats_every_bit else self._far(plain),
            repeats_every_bit=self.repeats_every_bit,
        )
        part = "" if sample.checked == sample.stored else f"{sample.checked:,} of "
        is_whole = any(isinstance(group, WholeEpisodes) for group in self.groups)
        episodes = f"{part}{sample.stored:,} {'test images' if is_whole else 'episodes'}"
        if not changes.changed:
            same = Finding(SAME, "pass", f"all {changes.total:,} of {episodes}, run again")
            return MethodChecks([same], sample, changes)
        count = f"{changes.changed:,} of {changes.total:,} predictions of {episodes} differ from those stored"
        are_ties, why = explanation(changes, tests=self.options.cells)
        return MethodChecks([Finding(SAME, "pass" if are_ties else "fail", f"{count}: {why}")], sample, changes)

    def _far(self, plain: Sequence[Positions]) -> int:
        """How many of the predictions that differ are not near ties; 0 where a method has no scores to tell by.

        A training carries a rounding far, so methods that train a network are judged by their predictions alone.
        """
        if not isinstance(self._classifier, EmbeddingClassifier):
            return 0
        far = 0
        for episodes, stored, now in zip(self.groups, self.stored, plain, strict=True):
            differs = (stored != now).any(axis=1)
            if differs.any():
                behind = how_far_behind(self._classifier, _chosen_episodes(episodes, differs))
                classes = np.minimum(stored[differs], behind.shape[2] - 1).astype(np.int64)
                is_far = np.take_along_axis(behind, classes[:, :, np.newaxis], axis=2)[:, :, 0] > _NEAR
                far += int(((stored[differs] != now[differs]) & is_far).sum())
        return far

    def _unchanged(
        self, check: str, plain: Sequence[Positions], perturb: Callable[[Episodes], Positions], perturbation: str
    ) -> Finding:
        """Whether a perturbation changes no prediction."""
        try:
            predictions = [perturb(episodes) for episodes in self._perturbed]
        except Exception as error:  # a method is anybody's code
            return Finding(check, "fail", f"{perturbation}: the method failed: {type(error).__name__}: {error}")
        return _compared(check, plain, predictions, perturbation)

    def _shuffled(self, episodes: Episodes) -> Positions:
        return predictions_of(self._classifier, episodes, shuffled(episodes, self.options.seed))

    def _relabelled(self, episodes: Episodes) -> Positions:
        return predictions_of(self._classifier, episodes, relabelled(episodes))

    def _batching(self, plain: Sequence[Positions]) -> Finding:
        perturbation = f"queries in halves and alone{self._choice}"
        parts = [self._parts(episodes) for episodes in self._perturbed]
        expected = [
            predictions[:, np.concatenate(positions)] for predictions, positions in zip(plain, parts, strict=True)
        ]
        is_transductive = self.method.card.is_transductive
        try:
            found = [
                in_parts(self._classifier, episodes, positions)
                for episodes, positions in zip(self._perturbed, parts, strict=True)
            ]
        except Exception as error:  # a method is anybody's code
            if is_transductive:
                return Finding(
                    BATCHING, "pass", f"marked transductive; {perturbation}, it fails: {type(error).__name__}"
                )
            return Finding(BATCHING, "fail", f"{perturbation}: the method failed: {type(error).__name__}: {error}")
        finding = _compared(BATCHING, expected, found, perturbation)
        if is_transductive:
            return Finding(BATCHING, "pass", f"marked transductive; {finding.detail}")
        if finding.verdict == "fail":
            return Finding(BATCHING, "fail", f"{finding.detail}, and the method is not marked transductive")
        return finding

    def _parts(self, episodes: Episodes) -> list[NDArray[np.int64]]:
        """Every other query, the others, and single ones."""
        positions = np.arange(episodes.queries.shape[1])
        count = _ALONE_OF_FROZEN if isinstance(self.method.adaptation, EmbeddingAdaptation) else _ALONE
        alone = np.sort(np.random.default_rng(self.options.seed).permutation(positions)[:count])
        halves = [part for part in (positions[::2], positions[1::2]) if len(part)]
        return [*halves, *(np.array([position]) for position in alone)]

    def _numbers(self, plain: Sequence[Positions]) -> Finding:
        if not isinstance(self._classifier, EmbeddingClassifier):
            return Finding(NUMBERS, "not checked", "the method draws augmented views by the numbers of the images")
        other, new = renumbered(self._classifier, self.options.seed)
        return self._unchanged(
            NUMBERS,
            plain,
            lambda episodes: _plain(other, with_numbers(episodes, new)),
            "images under other numbers",
        )


def _chosen_episodes(episodes: Episodes, chosen: NDArray[np.bool_]) -> Episodes:
    return replace(episodes, numbers=episodes.numbers[chosen], images=episodes.images[chosen])


def _compared(check: str, plain: Sequence[Positions], perturbed: Sequence[Positions], perturbation: str) -> Finding:
    differ = sum(int((before != after).sum()) for before, after in zip(plain, perturbed, strict=True))
    total = sum(predictions.size for predictions in perturbed)
    if not differ:
        return Finding(check, "pass", f"{perturbation}: the same {total:,} predictions")
    count = f"{perturbation}: {differ:,} of {total:,} predictions change"
    return Finding(check, "pass" if differ <= _NOISE * total else "fail", count)


@torch.no_grad()
def how_far_behind(classifier: EmbeddingClassifier, episodes: Episodes) -> NDArray[np.float64]:
    """How far the score of each class is behind the best score of a query.

    Args:
        classifier: the method.
        episodes: of one shape.

    Returns:
        [E, M, N], in multiples of the typical effect of a change of the embeddings by a thousandth on that difference.
        So a method that carries roundings far is measured by its own scale.
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


def _plain(classifier: Classifier, episodes: Episodes) -> Positions:
    return classifier(episodes, classifier.chunk(episodes.protocol))
