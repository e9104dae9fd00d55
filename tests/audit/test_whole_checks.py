"""A method on a whole split that looks at anything but the images is found by the perturbations of an audit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fewshot_bench.audit.stored_checks import ClassSizes, check_tasks
from fewshot_bench.audit.whole_checks import perturbed_findings
from fewshot_bench.episodes import draw, whole_protocol

SIZES = (30, 20, 10)
SCORES = np.random.default_rng(1).random((60, 3))
HONEST = SCORES.argmax(axis=1).astype(np.uint8)


def by_images(episodes):
    return HONEST[episodes.queries]


def by_position(episodes):
    return (np.arange(len(episodes)) % 3).astype(np.uint8)[:, None]


def by_labels(episodes):
    return episodes.truth


def by_numbers(episodes):
    return (episodes.numbers % 3).astype(np.uint8)[:, None]


def by_batch(episodes):
    return ((HONEST[episodes.queries] + len(episodes)) % 3).astype(np.uint8)


@dataclass
class OwnClassifier:
    """A method that is a function of episodes."""

    predict: object

    def chunk(self, protocol):
        return 100

    def __call__(self, episodes, chunk):
        return self.predict(episodes)


def findings(predict):
    (episodes,) = draw(whole_protocol("birds", "test", SIZES), SIZES, 0, np.arange(60), dataset_fingerprint="ab")
    classifier = OwnClassifier(predict)
    found = perturbed_findings(
        classifier, lambda device: classifier, [episodes], [predict(episodes)], device="cpu", seed=0
    )
    return {finding.check: finding.verdict for finding in found}


def test_a_method_that_looks_at_the_images_passes():
    assert findings(by_images) == {
        "query order": "pass",
        "query labels": "pass",
        "query batching": "pass",
        "image numbers": "not checked",
    }


@pytest.mark.parametrize(
    ("predict", "check"),
    [
        (by_position, "query order"),
        (by_labels, "query labels"),
        (by_numbers, "query labels"),
        (by_batch, "query batching"),
    ],
)
def test_a_method_that_looks_at_anything_else_fails(predict, check):
    assert findings(predict)[check] == "fail"


def test_the_images_of_a_whole_split_are_there_once_and_missing_ones_are_counted():
    protocol = whole_protocol("birds", "test", SIZES)
    known = ClassSizes(SIZES, "as recorded")
    for numbers, verdict, words in (
        (np.arange(60), "pass", "all 60 images of 3 classes"),
        (np.arange(50), "pass", "only 50 of 60 images"),
        (np.array([0, 1, 1]), "fail", "twice"),
    ):
        finding = check_tasks(draw(protocol, SIZES, 0, numbers, dataset_fingerprint="ab"), known)
        assert finding.verdict == verdict
        assert words in finding.detail
