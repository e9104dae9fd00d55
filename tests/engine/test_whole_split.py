"""The classifier of whole splits: the most probable class of each image and its probability, at any chunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewshot_bench.engine.whole_split import WholeClassifier
from fewshot_bench.episodes import draw, whole_protocol
from fewshot_bench.errors import EmbeddingError

SIZES = (9, 4, 20)
LOGITS = torch.randn(33, 3, generator=torch.Generator().manual_seed(0))


def classifier(logits=LOGITS):
    return WholeClassifier(lambda images: logits[torch.from_numpy(images)], "classifier")


def episodes(numbers=range(33)):
    return draw(whole_protocol("toy", "test", SIZES), SIZES, 0, np.array(numbers))[0]


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_predictions_are_the_most_probable_classes_at_any_chunk(chunk):
    predictions, confidence = classifier().with_confidence(episodes(), chunk)
    probabilities = LOGITS.double().softmax(1).numpy()
    assert predictions.dtype == np.uint8
    assert predictions[:, 0].tolist() == probabilities.argmax(1).tolist()
    assert confidence == pytest.approx(probabilities.max(1))
    assert (classifier()(episodes(), chunk) == predictions).all()


def test_some_images_are_classified_as_among_all():
    everything, confidence = classifier().with_confidence(episodes(), 8)
    some, of_some = classifier().with_confidence(episodes([20, 3]), 8)
    assert (some == everything[[20, 3]]).all()
    assert (of_some == confidence[[20, 3]]).all()


def test_large_logits_give_a_confidence_of_one_and_infinite_ones_are_refused():
    assert classifier(1e4 * LOGITS).with_confidence(episodes(), 8)[1].max() == 1
    with pytest.raises(EmbeddingError, match="classifier gave logits that are NaN or infinite"):
        classifier(LOGITS.masked_fill(LOGITS > 1, torch.inf)).with_confidence(episodes(), 8)
