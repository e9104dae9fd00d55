"""Hyper-parameters chosen in each episode: what is chosen, from what, and that nothing else matters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from fewshot_bench.adaptation import (
    BDCSPN,
    LDA,
    TIM,
    Centroid,
    EmbeddedSplit,
    EmbeddingAdaptation,
    FinetuneHead,
    Logistic,
)
from fewshot_bench.adaptation.hyper_parameter_choice import (
    alternatives,
    floats_per_episode,
    folds_of,
    products_per_episode,
    scores_of,
    standardised,
)
from fewshot_bench.engine.classify import chunk_size, classify
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

SPLIT = clustered_split(spread=2.5).with_features("l2")
SETTINGS = {
    "support-cv": Logistic(choose="support-cv", candidates={"C": (1.0, 1e-3, 100.0)}),
    "support-cv-centroid": Centroid(choose="support-cv"),
    "support-cv-head": FinetuneHead(choose="support-cv", steps=4),
    "ensemble": Logistic(choose="ensemble"),
    "ensemble-centroid": Centroid(choose="ensemble"),
}
every_setting = pytest.mark.parametrize("adaptation", SETTINGS.values(), ids=SETTINGS.keys())


@dataclass(frozen=True, kw_only=True)
class Turned(EmbeddingAdaptation):
    """Nearest centroid, or the farthest one."""

    name: ClassVar[str] = "turned"
    grid: ClassVar = {"sign": (-1.0, 1.0)}
    sign: float = -1.0

    def scores(self, split, support, query):
        return self.sign * Centroid().scores(split, support, query)


@dataclass(frozen=True, kw_only=True)
class Positions(EmbeddingAdaptation):
    """Nearest centroid, or the class that a query in this position mostly has."""

    name: ClassVar[str] = "positions"
    grid: ClassVar = {"peeks": (False, True)}
    peeks: bool = False

    def scores(self, split, support, query):
        if not self.peeks:
            return Centroid().scores(split, support, query)
        way, queries = support.shape[1], query.shape[1]
        classes = torch.arange(queries) * way // queries
        return torch.nn.functional.one_hot(classes, way).float().expand(len(query), -1, -1)


@dataclass(frozen=True, kw_only=True)
class Asked(EmbeddingAdaptation):
    """A transductive nearest centroid that remembers how many queries it was asked at once."""

    name: ClassVar[str] = "asked"
    grid: ClassVar = {"unused": (0, 1)}
    asked: ClassVar[list[int]] = []
    unused: int = 0

    @property
    def is_transductive(self):
        return True

    def scores(self, split, support, query):
        self.asked.append(query.shape[1])
        return Centroid().scores(split, support, query)


def chosen_one_by_one(adaptation, split, support, query):
    """Support-cv written as its description says, an episode at a time; the number of the member for each."""
    direction = np.cos(1 + np.arange(split.embeddings.shape[1]))
    keys = split.embeddings.double().numpy() @ direction
    members = alternatives(adaptation)
    best = []
    for images, _ in zip(support.tolist(), query.tolist(), strict=True):
        ordered = [sorted(row, key=lambda image: keys[image]) for row in images]
        right = np.zeros(len(members))
        for fold in range(min(5, len(ordered[0]))):
            learned = [[image for place, image in enumerate(row) if place % 5 != fold] for row in ordered]
            held_out = [
                (image, label)
                for label, row in enumerate(ordered)
                for place, image in enumerate(row)
                if place % 5 == fold
            ]
            images_held_out, labels = zip(*held_out, strict=True)
            for number, member in enumerate(members):
                scores = member.scores(split, torch.tensor([learned]), torch.tensor([images_held_out]))[0]
                right[number] += int((scores.argmax(-1) == torch.tensor(labels)).sum())
        best.append(int(right.argmax()))
    return best


@pytest.mark.slow
@pytest.mark.parametrize("shot", [2, 5, 7])
def test_support_cv_chooses_what_cross_validation_one_by_one_chooses(shot):
    adaptation = SETTINGS["support-cv"]
    support, query = support_and_query(drawn_episodes(8, shot=shot, query=4))
    best = chosen_one_by_one(adaptation, SPLIT, support, query)
    assert len(set(best)) > 1, "the episodes differ in what is best"
    expected = torch.stack(
        [alternatives(adaptation)[one].scores(SPLIT, support[[e]], query[[e]])[0] for e, one in enumerate(best)]
    )
    torch.testing.assert_close(scores_of(adaptation, SPLIT, support, query), expected, rtol=1e-6, atol=1e-6)


def test_support_cv_takes_what_classifies_the_support_set_where_the_default_does_not():
    support, query = support_and_query(drawn_episodes(20, shot=5))
    chosen = scores_of(Turned(choose="support-cv"), SPLIT, support, query)
    assert torch.equal(chosen, Turned(sign=1.0).scores(SPLIT, support, query))


def test_between_equals_the_first_value_is_taken():
    support, query = support_and_query(drawn_episodes(6, shot=5))
    same = EmbeddedSplit(SPLIT.embeddings[:1].expand(SPLIT.images, -1).clone(), SPLIT.images)
    for values in ((-1.0, 1.0), (1.0, -1.0)):
        adaptation = Turned(choose="support-cv", candidates={"sign": values})
        expected = Turned(sign=values[0]).scores(same, support, query)
        assert torch.equal(scores_of(adaptation, same, support, query), expected)


@pytest.mark.parametrize(("shot", "folds"), [(2, [1, 1]), (5, [1] * 5), (7, [1, 1, 1, 2, 2]), (12, [2, 2, 2, 3, 3])])
def test_every_support_image_is_held_out_once_and_never_learned_from_then(shot, folds):
    support, _ = support_and_query(drawn_episodes(3, shot=shot))
    seen, sizes = [], []
    for learned, held_out, truth in folds_of(SPLIT, support):
        count = len(learned) // len(support)
        sizes += [shot - learned.shape[2]] * count
        for row in range(len(learned)):
            episode = row % len(support)
            outside, inside = held_out[row].tolist(), learned[row].flatten().tolist()
            assert not set(outside) & set(inside)
            assert sorted(outside + inside) == sorted(support[episode].flatten().tolist())
            for image, label in zip(outside, truth[row].tolist(), strict=True):
                assert image in support[episode, label].tolist()
            seen += [(episode, image) for image in outside]
    assert sorted(sizes) == folds
    expected = [(episode, image) for episode in range(3) for image in support[episode].flatten().tolist()]
    assert sorted(seen) == sorted(expected)


def test_held_out_images_come_in_mixed_classes():
    support, query = support_and_query(drawn_episodes(30, shot=5))
    orders = {tuple(row) for _, _, truth in folds_of(SPLIT, support) for row in truth.tolist()}
    assert len(orders) > 20
    peeking = scores_of(Positions(choose="support-cv"), SPLIT, support, query)
    assert torch.equal(peeking, Centroid().scores(SPLIT, support, query)), "a head that reads positions is not chosen"


@every_setting
def test_the_order_of_a_support_set_never_changes_an_outcome(adaptation):
    support, query = support_and_query(drawn_episodes(10, shot=7))
    reordered = scores_of(adaptation, SPLIT, support[:, :, [3, 0, 6, 4, 1, 5, 2]], query)
    assert torch.equal(reordered.argmax(-1), scores_of(adaptation, SPLIT, support, query).argmax(-1))


@every_setting
def test_numbers_of_images_never_change_an_outcome(adaptation):
    support, query = support_and_query(drawn_episodes(10, shot=7))
    old = torch.randperm(SPLIT.images, generator=torch.Generator().manual_seed(0))
    new = old.argsort()
    moved = EmbeddedSplit(SPLIT.embeddings[old], SPLIT.images)
    renumbered = scores_of(adaptation, moved, new[support], new[query])
    assert torch.equal(renumbered.argmax(-1), scores_of(adaptation, SPLIT, support, query).argmax(-1))


@every_setting
def test_names_of_the_ways_never_change_an_outcome(adaptation):
    support, query = support_and_query(drawn_episodes(10, shot=5))
    order = [2, 4, 0, 3, 1]
    relabelled = scores_of(adaptation, SPLIT, support[:, order], query)
    expected = scores_of(adaptation, SPLIT, support, query)[:, :, order]
    torch.testing.assert_close(relabelled.double(), expected.double(), rtol=2e-3, atol=2e-3)


@every_setting
def test_queries_never_inform_the_choice_of_an_inductive_head(adaptation):
    support, query = support_and_query(drawn_episodes(10, shot=5))
    whole = scores_of(adaptation, SPLIT, support, query)
    few = scores_of(adaptation, SPLIT, support, query[:, [5, 0, 17]])
    torch.testing.assert_close(few, whole[:, [5, 0, 17]], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@every_setting
@pytest.mark.parametrize("shot", [2, 6])
def test_the_chunk_and_a_gram_matrix_never_change_a_prediction(adaptation, shot):
    episodes = drawn_episodes(9, shot=shot)
    whole = classify(adaptation, SPLIT, episodes, chunk=9)
    assert (classify(adaptation, SPLIT, episodes, chunk=1) == whole).all()
    assert (classify(adaptation, SPLIT, episodes, chunk=4) == whole).all()
    assert (classify(adaptation, SPLIT.with_gram(), episodes) == whole).all()


@every_setting
@pytest.mark.parametrize("same", [True, False])
def test_identical_images_and_a_support_image_twice_give_finite_scores(adaptation, same):
    support, query = support_and_query(drawn_episodes(4, shot=3, query=1))
    rows = SPLIT.embeddings[:1].expand(SPLIT.images, -1).clone() if same else SPLIT.embeddings
    support[:, :, 1] = support[:, :, 0]
    assert torch.isfinite(scores_of(adaptation, EmbeddedSplit(rows, SPLIT.images), support, query)).all()


def test_a_tie_between_classes_counts_as_a_part_wherever_the_class_stands():
    from fewshot_bench.adaptation.hyper_parameter_choice import _share_right

    scores = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 3.0, 3.0]]])
    assert _share_right(scores, torch.tensor([[0, 1, 2]])).tolist() == pytest.approx([1 / 2 + 1 + 1 / 3])
    assert _share_right(scores, torch.tensor([[1, 2, 0]])).tolist() == pytest.approx([1 / 2 + 0 + 1 / 3])


def test_a_transductive_head_sees_the_queries_beside_what_is_held_out():
    support, query = support_and_query(drawn_episodes(3, shot=5, query=6))
    Asked.asked.clear()
    scores = scores_of(Asked(choose="support-cv"), SPLIT, support, query)
    assert Asked.asked == [5 + 30, 5 + 30, 30]
    assert scores.shape == (3, 30, 5)


def test_an_ensemble_is_the_mean_of_standardised_scores():
    support, query = support_and_query(drawn_episodes(5, shot=1))
    members = [Logistic(C=value) for value in (1.0, 0.1, 10.0, 100.0)]
    assert alternatives(Logistic(choose="ensemble")) == members
    found = scores_of(Logistic(choose="ensemble"), SPLIT, support, query).numpy()
    parts = [member.scores(SPLIT, support, query).double().numpy() for member in members]
    standard = [(one - one.mean(-1, keepdims=True)) / one.std(-1, keepdims=True) for one in parts]
    np.testing.assert_allclose(found, np.mean(standard, axis=0), rtol=2e-3, atol=2e-3)


def test_no_member_of_an_ensemble_outweighs_another_by_the_scale_of_its_scores():
    @dataclass(frozen=True, kw_only=True)
    class Scaled(EmbeddingAdaptation):
        name: ClassVar[str] = "scaled"
        grid: ClassVar = {"factor": (1.0, -1.0, -1e9)}
        factor: float = 1.0

        def scores(self, split, support, query):
            return self.factor * Centroid().scores(split, support, query)

    support, query = support_and_query(drawn_episodes(5, shot=1))
    nearest = Centroid().scores(SPLIT, support, query)
    two_of_three = scores_of(Scaled(choose="ensemble"), SPLIT, support, query)
    assert torch.equal(two_of_three.argmax(-1), (-nearest).argmax(-1))
    one_each = scores_of(Scaled(choose="ensemble", candidates={"factor": (1.0, -1e9)}), SPLIT, support, query)
    assert torch.equal(one_each.argmax(-1), nearest.argmax(-1)), "the default decides where the average is the same"


def test_scores_that_are_all_the_same_have_no_weight():
    assert torch.equal(standardised(torch.full((1, 2, 3), 7.0)), torch.zeros(1, 2, 3, dtype=torch.float64))


def test_at_one_shot_nothing_can_be_held_out():
    support, query = support_and_query(drawn_episodes(3, shot=1))
    with pytest.raises(StudyError, match=r"at 1 shot none would be left.* Use --shots 5, or --choose ensemble"):
        scores_of(Logistic(choose="support-cv"), SPLIT, support, query)


@pytest.mark.parametrize(
    ("adaptation", "sentence"),
    [
        (Logistic(C=10, choose="ensemble"), "nothing of logistic is left to choose: C is set"),
        (Logistic(choose="ensemble", candidates={"C": (1.0,)}), "between different values, at least two"),
        (Logistic(choose="ensemble", candidates={"C": (1.0, 1.0)}), "between different values"),
        (Logistic(choose="ensemble", candidates={"C": (1.0, -1.0)}), "C of logistic should be positive"),
        (Logistic(choose="ensemble", candidates={"features": ("l2", "raw")}), "cannot choose features"),
        (Logistic(choose="ensemble", candidates={"c": (1, 2)}), "cannot choose c"),
        (Logistic(choose="ensemble", candidates={"C": tuple(range(1, 66))}), "64 combinations at most"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(adaptation, sentence):
    with pytest.raises(StudyError, match=sentence):
        alternatives(adaptation)


def test_an_unknown_way_of_choosing_is_refused():
    with pytest.raises(StudyError, match="choose of logistic should be one of none, support-cv, ensemble, not oracle"):
        Logistic(choose="oracle")


def test_without_a_choice_a_method_is_what_it_was():
    assert Logistic().hyper_parameters() == {"features": "l2", "C": 1.0, "tolerance": 1e-8, "max_iterations": 100}
    assert Centroid().hyper_parameters() == {"features": "l2", "metric": "cosine"}


def test_a_choice_is_recorded_with_the_values_that_are_tried():
    assert Centroid(choose="support-cv").hyper_parameters() == {
        "features": "l2", "choose": "support-cv", "grid": {"metric": ["cosine", "euclidean"]},
    }  # fmt: skip
    own = Logistic(choose="ensemble", candidates={"C": (0.1, 3.0)}).hyper_parameters()
    assert own["grid"] == {"C": [0.1, 3.0]}
    assert "C" not in own
    hash(Logistic(choose="ensemble", candidates={"C": (0.1, 3.0)}))


def test_memory_and_products_count_folds_and_values():
    plain, chosen = Logistic(), Logistic(choose="support-cv")
    assert floats_per_episode(chosen, 5, 5, 75, 64) > floats_per_episode(plain, 5, 5, 75, 64)
    protocol = Protocol("toy", shot=5, query=15)
    assert chunk_size(chosen, protocol, 1280) < chunk_size(plain, protocol, 1280)
    assert floats_per_episode(replace(plain, choose="ensemble"), 5, 1, 75, 64) > floats_per_episode(plain, 5, 1, 75, 64)
    assert products_per_episode(plain, 5, 5, 15) == 25 * 100
    assert products_per_episode(BDCSPN(), 5, 5, 15) == 100 * 100
    assert products_per_episode(replace(plain, choose="ensemble"), 5, 5, 15) == 4 * 25 * 100
    assert products_per_episode(chosen, 5, 5, 15) == 25 * 100 + 4 * 5 * 20 * 25


@dataclass(frozen=True, kw_only=True)
class Sometimes(EmbeddingAdaptation):
    """Nearest centroid that looks at all queries where it is told to."""

    name: ClassVar[str] = "sometimes"
    grid: ClassVar = {"together": (False, True)}
    together: bool = False

    @property
    def is_transductive(self):
        return self.together

    def scores(self, split, support, query):
        return Centroid().scores(split, support, query)


@pytest.mark.parametrize("choose", ["support-cv", "ensemble"])
@pytest.mark.parametrize(
    ("adaptation", "sentence"),
    [
        (Logistic(candidates={"views": (0, 5)}), "other augmented views"),
        (Logistic(views=5, candidates={"augmentation": ("jitter", "auto")}), "other augmented views"),
        (LDA(candidates={"covariance": ("support", "base")}), "other statistics of the base split"),
        (Sometimes(), "some make it transductive"),
    ],
)
def test_no_value_that_is_tried_makes_another_kind_of_method(adaptation, sentence, choose):
    with pytest.raises(StudyError, match=sentence):
        alternatives(replace(adaptation, choose=choose))


def test_what_always_looks_at_all_queries_may_choose():
    assert len(alternatives(BDCSPN(choose="support-cv"))) == 3
    assert len(alternatives(Sometimes(together=True, choose="ensemble", candidates={"together": (True, False)}))) == 2


@pytest.mark.parametrize("name", ["solver", "steps", "alpha", "cross_entropy_weight", "conditional_entropy_weight"])
def test_a_record_says_nothing_fixed_of_what_depends_on_the_value_that_is_tried(name):
    values = {"solver": ("adm", "gd"), "steps": (5, 9), "alpha": (1.0, 2.0)}.get(name, (0.1, 0.5))
    recorded = TIM(choose="ensemble", candidates={name: values}).hyper_parameters()
    assert recorded["grid"] == {name: list(values)}
    assert name not in recorded
    depends = name in ("solver", "alpha")
    assert [recorded.get("solver", "tried"), recorded.get("steps", "tried")] == [
        "tried" if name == "solver" else None if depends else "adm",
        "tried" if name == "steps" else None if depends else 150,
    ]
