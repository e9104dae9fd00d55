"""Frozen episodes as a Taskset of learn2learn: the same tasks, the same support sets, nothing left to draw."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from conftest import toy_split
from stand_in_learn2learn import partition_task, stand_in  # noqa: F401  # a fixture

import fewshot_bench as fb
from fewshot_bench.errors import CodeError, EpisodeError
from fewshot_bench.interop.learn2learn import SplitImages, make_taskset
from fewshot_bench.interop.learn2learn.tasksets import as_tensor

SPLIT = toy_split(size=4)


def episodes(shot=2, query=3, count=4, **fields) -> fb.Protocol:
    protocol = fb.Protocol("toy", shot=shot, query=query, episodes=count, runs=1, **fields)
    return fb.sample_episodes(SPLIT, protocol)


def as_scripts_divide(images, labels, shots):
    """Support and query as the example scripts of learn2learn take them: every other position is support."""
    is_support = np.zeros(len(images), bool)
    is_support[np.arange(shots * len(labels.unique())) * 2] = True
    return (images[is_support], labels[is_support]), (images[~is_support], labels[~is_support])


@pytest.mark.parametrize(("support", "divide"), [("first", partition_task), ("even", as_scripts_divide)])
@pytest.mark.parametrize(("shot", "query"), [(1, 1), (2, 3), (3, 3)])
def test_support_and_queries_come_out_in_our_order(stand_in, support, divide, shot, query):  # noqa: F811  # fixture
    drawn = episodes(shot, query)
    taskset = make_taskset(drawn, SPLIT, support=support)
    assert len(taskset) == len(drawn)
    for task in (3, 0):
        (shown, shown_labels), (asked, asked_labels) = divide(*taskset[task], shot)
        assert torch.equal(shown, as_tensor(SPLIT.images[drawn.support[task].reshape(-1)]))
        assert torch.equal(asked, as_tensor(SPLIT.images[drawn.queries[task]]))
        assert shown_labels.tolist() == np.repeat(np.arange(5), shot).tolist()
        assert asked_labels.tolist() == drawn.truth[task].tolist()


def test_a_task_beyond_the_last_is_refused_and_none_is_drawn(stand_in):  # noqa: F811  # fixture
    taskset = make_taskset(episodes(count=4), SPLIT)
    with pytest.raises(EpisodeError, match="4 frozen episodes"):
        taskset[4]


def test_images_are_loaded_as_in_learn2learns_benchmarks_and_transformed():
    images = SplitImages(SPLIT, transform=lambda image: image - 0.5)
    image, label = images[30]
    expected = torch.from_numpy(SPLIT.images[30].astype(np.float32) / 255).permute(2, 0, 1) - 0.5
    assert torch.equal(image, expected)
    assert (label, len(images)) == (SPLIT.labels[30], len(SPLIT))


def test_the_split_must_be_that_of_the_episodes(stand_in):  # noqa: F811  # fixture
    with pytest.raises(EpisodeError, match="another novel split of toy"):
        make_taskset(episodes(), toy_split(size=4, seed=9))


def test_uneven_queries_are_refused(stand_in):  # noqa: F811  # fixture
    with pytest.raises(EpisodeError, match="dirichlet"):
        make_taskset(episodes(sampler="dirichlet"), SPLIT)


def test_alternating_support_needs_a_query_for_each_shot(stand_in):  # noqa: F811  # fixture
    with pytest.raises(EpisodeError, match="3 shots and 1 queries"):
        make_taskset(episodes(shot=3, query=1), SPLIT, support="even")


def test_without_learn2learn_the_error_says_where_to_read_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(CodeError, match=r"docs/learn2learn\.md"):
        make_taskset(episodes(), SPLIT)
