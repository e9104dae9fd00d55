"""Which classes are taken for which, against a loop over the queries of episodes that are drawn again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from stored_cells import PROTOCOL, cell, fill
from whole_cells import LABELS, store_whole

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import draw_groups
from fewshot_bench.outcomes import (
    Cell,
    OutcomeStore,
    claimed_frame,
    claimed_method,
    claimed_protocol,
    episode_frame,
)
from fewshot_bench.outcomes.packing import position_type
from fewshot_bench.report.confusion import FEWEST_MEETINGS, confusion, confusion_of

SIZES = (9, 20, 11, 30, 14, 12)
SAMPLERS = [
    ("standard", {}),
    ("disjoint", {}),
    ("dirichlet", {"alpha": 1.0}),
    ("dirichlet", {"alpha": 0.02}),  # classes that meet without queries
    ("varied", {"least_way": 2, "least_shot": 1}),
]


def frames_and_queries(card, episodes, seed=0):
    """Random predictions of two runs, and the true and the predicted class of each query, episode by episode."""
    generator = np.random.default_rng(seed)
    ends, protocol = np.cumsum(SIZES), Protocol.of(card)
    frames, queries = [], []
    for run in range(1 if card.sampler == "disjoint" else 2):
        for rows, images in draw_groups(protocol, SIZES, run, np.arange(episodes)):
            way, shot = images.shape[1], images.shape[2] - protocol.query_columns
            for row, own in zip(rows.tolist(), images, strict=True):
                classes = [int(np.searchsorted(ends, of_class[0], side="right")) for of_class in own]
                truth = np.array([place for place in range(way) for image in own[place, shot:] if image >= 0])
                kind = position_type(card.way)
                predicted = generator.integers(0, way, len(truth)).astype(kind)
                frames.append(episode_frame(run, np.array([row]), predicted[None], way, truth=truth.astype(kind)[None]))
                queries.append((classes, [(classes[t], classes[p]) for t, p in zip(truth, predicted, strict=True)]))
    return pd.concat(frames, ignore_index=True), queries


def counted(queries):
    """The share of each class that is taken for another one, by a loop."""
    wrong, all_queries, meetings = Counter(), Counter(), Counter()
    for classes, answers in queries:
        for a in classes:
            for b in classes:
                if a != b:
                    meetings[a, b] += 1
                    all_queries[a, b] += sum(true == a for true, _ in answers)
                    wrong[a, b] += sum(answer == (a, b) for answer in answers)
    return wrong, all_queries, meetings


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "settings"), SAMPLERS)
def test_shares_are_those_of_a_loop_over_all_queries(sampler, settings):
    card = replace(PROTOCOL, way=4, shot=2, query=3, sampler=sampler, sampler_settings=settings)
    frame, queries = frames_and_queries(card, 3 if sampler == "disjoint" or settings == {"alpha": 0.02} else 25)
    found = confusion_of([frame], card, SIZES, ())
    wrong, every, meetings = counted(queries)
    for a in range(len(SIZES)):
        for b in range(len(SIZES)):
            if every[a, b]:
                assert found.matrix[a, b] == pytest.approx(wrong[a, b] / every[a, b])
            else:
                assert np.isnan(found.matrix[a, b])
    expected = {
        frozenset((f"class {a}", f"class {b}")): (wrong[a, b] + wrong[b, a]) / (every[a, b] + every[b, a])
        for a, b in meetings
        if a < b and meetings[a, b] >= FEWEST_MEETINGS
    }
    assert {frozenset((pair.a, pair.b)): pytest.approx(pair.share) for pair in found.pairs} == expected
    assert [pair.share for pair in found.pairs] == sorted(expected.values(), reverse=True)
    assert all(pair.a_as_b >= pair.b_as_a for pair in found.pairs)


def test_trainings_are_counted_together():
    card = replace(PROTOCOL, way=4, shot=2, query=3)
    (one, first), (other, second) = (frames_and_queries(card, 12, seed) for seed in (0, 1))
    wrong, every, _ = counted(first + second)
    found = confusion_of([one, other], card, SIZES, ())
    assert found.matrix[1, 3] == pytest.approx(wrong[1, 3] / every[1, 3])


def test_on_a_whole_split_every_image_meets_every_class(tmp_path):
    store = store_whole(tmp_path, seeds=(2, 1))
    cells = [of for of in store.cells() if "schane" not in of.method.name]
    found = confusion(store, cells, ("owl", "wren", "rook"))
    frames = [store.read(of) for of in cells]
    predicted = np.concatenate([np.frombuffer(b"".join(frame["predictions"]), np.uint8) for frame in frames])
    truth = np.tile(LABELS, len(frames))
    for a in range(3):
        for b in range(3):
            if a != b and (found.matrix[a, b] == found.matrix[a, b]):
                assert found.matrix[a, b] == pytest.approx((predicted[truth == a] == b).mean())
    top = found.pairs[0]
    assert {top.a, top.b} <= {"owl", "wren", "rook"}
    assert top.share == max(pair.share for pair in found.pairs)


def test_classes_that_are_confused_stand_together():
    card = replace(PROTOCOL, way=6, shot=2, query=3)
    ((_, images),) = draw_groups(Protocol.of(card), SIZES, 0, np.arange(12))
    classes = np.searchsorted(np.cumsum(SIZES), images[:, :, 0], side="right")
    partner = (classes + 3) % 6  # class 0 is always taken for class 3, and so on
    places = np.argsort(classes, axis=1)
    predicted = np.take_along_axis(places, partner, axis=1).repeat(3, axis=1).astype(np.uint8)
    frame = episode_frame(0, np.arange(12), predicted, 6)
    found = confusion_of([frame], card, SIZES, [*"abcdef"])
    assert {frozenset((pair.a, pair.b)) for pair in found.pairs if pair.share == 1} == {
        frozenset("ad"), frozenset("be"), frozenset("cf"),
    }  # fmt: skip
    order = found.order
    assert {frozenset(order[place : place + 2]) for place in (0, 2, 4)} == {
        frozenset((0, 3)), frozenset((1, 4)), frozenset((2, 5)),
    }  # fmt: skip


@pytest.mark.slow
def test_a_thousand_classes_have_a_list_and_no_matrix():
    sizes, card = (20,) * 1200, replace(PROTOCOL, way=5, shot=1, query=15)
    predicted = np.zeros((400, 75), dtype=np.uint8)
    found = confusion_of([episode_frame(0, np.arange(400), predicted, 5)], card, sizes, ())
    assert found.matrix is None
    assert found.order == list(range(1200))
    assert not found.pairs  # no two of so many classes meet in ten episodes


def test_claimed_accuracies_and_unknown_class_sizes_have_none(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, replace(cell(), class_sizes=()), np.array([[30, 40]]))
    assert confusion(store, store.cells(), ()) is None
    claimed = Cell(claimed_method("theirs"), claimed_protocol("birds", "novel", 5, 1, "mine"))
    store.append_frame(claimed, claimed_frame(np.zeros(4, int), np.arange(4), np.full(4, 0.5)))
    assert confusion(store, [claimed], ()) is None
