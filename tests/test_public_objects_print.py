"""Public objects print themselves in one line that a reader of a notebook likes."""

from __future__ import annotations

import numpy as np
from conftest import toy_split

import fewshot_bench as fb


def test_a_split_its_episodes_and_their_outcomes_are_one_line_each():
    split = toy_split()
    episodes = fb.sample_episodes(split, fb.Protocol(split.dataset, shot=1, query=3, episodes=40, runs=1))
    embeddings = np.random.default_rng(0).random((len(split.images), 8), dtype=np.float32)
    outcomes = fb.evaluate(fb.TIM(steps=2), embeddings, episodes).outcomes
    assert repr(split) == f"<ImageSplit: novel of toy, {len(split.images):,} images, {len(split.class_names)} classes>"
    assert repr(episodes) == "<Episodes: toy 5-way 1-shot, 40 of run 0>"
    accuracy = 100 * outcomes.accuracy.mean()
    assert repr(outcomes) == f"<Outcomes: tim (transductive), toy 5-way 1-shot, 40 episodes, {accuracy:.2f}%>"


def test_every_head_is_at_the_top():
    from fewshot_bench import adaptation

    factories = [entry.factory for entry in adaptation.ADAPTATIONS if entry.name in fb_names()]
    heads = {factory.__name__ for factory in factories if not issubclass(factory, adaptation.WholeAdaptation)}
    assert heads <= set(fb.__all__)


def fb_names():
    from fewshot_bench.study.known_names import OWN_NAMES

    return OWN_NAMES["adaptation"]
