"""Checks that run a method on a whole split again: perturbed order, labels and numbers should change no prediction.

A method gets the numbers of test images. Their order, their labels and the numbers themselves could give the classes
away, since images are numbered class by class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.audit.finding import BATCHING, LABELS, NUMBERS, ORDER, Finding
from fewshot_bench.engine.classify import Classifier
from fewshot_bench.episodes import Episodes, WholeEpisodes
from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.study.workers import ClassifierFactory, OnWholeSplit

_ALONE = 8
"""Images that are classified one by one."""
_NOISE = 0.005
"""Share of the predictions that ties may change when sums are taken in another order."""


def perturbed_findings(
    classifier: Classifier,
    factory: ClassifierFactory,
    groups: Sequence[Episodes],
    plain: Sequence[Positions],
    *,
    device: str,
    seed: int,
) -> list[Finding]:
    """The findings of the checks after `SAME`.

    Args:
        classifier: the method.
        factory: that made it.
        groups: test images that were run again, each [E].
        plain: what the method predicts for them, each [E, 1].
        device: of the classifier.
        seed: of the perturbations.
    """
    pairs = [(group, now) for group, now in zip(groups, plain, strict=True) if isinstance(group, WholeEpisodes)]
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(group)) for group, _ in pairs]

    def predict(episodes: WholeEpisodes) -> Positions:
        return classifier(episodes, classifier.chunk(episodes.protocol))

    def found(check: str, perturbation: str, perturbed: Callable[[], list[tuple[Positions, Positions]]]) -> Finding:
        try:
            return _compared(check, perturbation, perturbed())
        except Exception as error:  # a method may be any code
            return Finding(check, "fail", f"{perturbation}: the method failed: {type(error).__name__}: {error}")

    def shuffled() -> list[tuple[Positions, Positions]]:
        ordered = zip(pairs, orders, strict=True)
        return [(now[order], predict(chosen_images(group, order))) for (group, now), order in ordered]

    def relabelled() -> list[tuple[Positions, Positions]]:
        return [
            (now, predict(replace(group, labels=(group.labels + 1) % group.way, numbers=group.numbers[::-1])))
            for group, now in pairs
        ]

    def in_parts() -> list[tuple[Positions, Positions]]:
        parts = []
        for group, now in pairs:
            rows = np.arange(len(group))
            alone = np.sort(generator.permutation(rows)[:_ALONE])
            for part in (rows[::2], rows[1::2], *alone[:, None]):
                if len(part):
                    parts.append((now[part], predict(chosen_images(group, part))))
        return parts

    return [
        found(ORDER, "images in another order, classes mixed", shuffled),
        found(LABELS, "images beside the labels and numbers of others", relabelled),
        found(BATCHING, "images in halves and alone", in_parts),
        _renumbered(factory, pairs, found, device, generator),
    ]


def chosen_images(episodes: WholeEpisodes, rows: NDArray[np.int64] | NDArray[np.bool_]) -> WholeEpisodes:
    """Some of the images, in the order of the rows."""
    return replace(episodes, numbers=episodes.numbers[rows], images=episodes.images[rows], labels=episodes.labels[rows])


def _renumbered(
    factory: ClassifierFactory,
    pairs: Sequence[tuple[WholeEpisodes, Positions]],
    found: Callable[[str, str, Callable[[], list[tuple[Positions, Positions]]]], Finding],
    device: str,
    generator: np.random.Generator,
) -> Finding:
    if not isinstance(factory, OnWholeSplit):
        return Finding(NUMBERS, "not checked", "the method is not made from the embeddings of the split")
    old = generator.permutation(len(factory.embeddings))
    new = np.argsort(old).astype(np.int32)
    other = replace(factory, embeddings=factory.embeddings[old])(device)

    def moved() -> list[tuple[Positions, Positions]]:
        return [
            (now, other(replace(group, images=new[group.images]), other.chunk(group.protocol))) for group, now in pairs
        ]

    return found(NUMBERS, "images under other numbers", moved)


def _compared(check: str, perturbation: str, pairs: Sequence[tuple[Positions, Positions]]) -> Finding:
    total = sum(now.size for _, now in pairs)
    differ = sum(int((before != now).sum()) for before, now in pairs)
    if not differ:
        return Finding(check, "pass", f"{perturbation}: the same {total:,} predictions")
    count = f"{perturbation}: {differ:,} of {total:,} predictions change"
    return Finding(check, "pass" if differ <= _NOISE * total else "fail", count)
