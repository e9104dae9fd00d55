"""`adapt` decides as a study does, and says the same."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from conftest import toy_split

from fewshot_bench import Logistic, Protocol, adapt, sample_episodes
from fewshot_bench.adaptation import EmbeddedSplit
from fewshot_bench.engine.classify import gram_pays
from fewshot_bench.errors import StudyError

SPLIT = toy_split(images=30)
EMBEDDINGS = np.random.default_rng(0).normal(size=(len(SPLIT), 6)).astype(np.float32)


def episodes(shot, count):
    return sample_episodes(SPLIT, Protocol("toy", shot=shot, query=3, episodes=count))


@pytest.mark.parametrize(("count", "is_built"), [(5, False), (300, True)])
def test_a_gram_matrix_is_built_where_a_study_would_build_one(monkeypatch, count, is_built):
    built = []
    plain = EmbeddedSplit.with_gram
    monkeypatch.setattr(EmbeddedSplit, "with_gram", lambda self: built.append(self) or plain(self))
    few = episodes(2, count)
    assert gram_pays(Logistic(), len(EMBEDDINGS), [(count, 5, 2, 3)]) is is_built
    outcomes = adapt(EMBEDDINGS, few, Logistic())
    assert bool(built) is is_built
    monkeypatch.setattr("fewshot_bench.engine.classify.gram_pays", lambda *_: not is_built)
    other = adapt(EMBEDDINGS, few, Logistic())
    assert (outcomes.frame["predictions"] == other.frame["predictions"]).all()


def test_what_is_tried_counts_when_a_gram_matrix_is_decided_about():
    rows, work = 240, [(25, 5, 2, 3)]
    assert not gram_pays(Logistic(), rows, work)
    assert gram_pays(Logistic(choose="support-cv"), rows, work)


@pytest.mark.parametrize("array", [EMBEDDINGS, np.asfortranarray(EMBEDDINGS), np.repeat(EMBEDDINGS, 2, axis=1)[:, ::2]])
def test_embeddings_are_known_by_their_numbers_however_they_lie_in_memory(array):
    expected = hashlib.sha256(EMBEDDINGS.tobytes()).hexdigest()
    assert adapt(array, episodes(1, 4), Logistic()).cell.method.weights == expected


def test_a_choice_that_cannot_be_is_refused():
    with pytest.raises(StudyError, match="Use --shots 5"):
        adapt(EMBEDDINGS, episodes(1, 4), Logistic(choose="support-cv"))
