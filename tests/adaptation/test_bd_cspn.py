from __future__ import annotations

import math

import pytest
import torch
from easyfsl import methods as easyfsl

from fewshot_bench.adaptation import BDCSPN, EmbeddedSplit, rectified_prototypes
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query


def double_split(features="l2", **settings):
    split = clustered_split(**settings)
    return EmbeddedSplit(split.embeddings.double(), split.images).with_features(features)


def cosine(some, other):
    return float(some @ other / (some.norm() * other.norm()))


def as_in_the_paper(support, query, *, temperature, pseudo_labels, weighting, shift):
    """Cosines [M, N] of one episode, image by image: support [N, K, D], query [M, D]."""
    shifted = query
    if shift != "nowhere":
        shifted = query + support.mean((0, 1)) - query.mean(0)
    prototypes = support.mean(1)
    cosines = [[cosine(image, prototype) for prototype in prototypes] for image in shifted]
    rectified = []
    for label, prototype in enumerate(prototypes):
        joined = [number for number, some in enumerate(cosines) if max(some) == some[label]]

        def confidence(number, label=label):
            powers = [math.exp(temperature * value) for value in cosines[number]]
            return powers[label] / sum(powers)

        joined.sort(key=confidence, reverse=True)
        images = [*support[label], *(shifted[number] for number in joined[: pseudo_labels or None])]
        if weighting == "images":
            powers = [math.exp(temperature * cosine(image, prototype)) for image in images]
            rectified.append(sum(power * image for power, image in zip(powers, images, strict=True)) / sum(powers))
        else:
            shares = []
            for image in images:
                powers = [math.exp(temperature * cosine(image, other)) for other in prototypes]
                shares.append(powers[label] / sum(powers))
            rectified.append(sum(share * image for share, image in zip(shares, images, strict=True)) / len(images))
    classified = shifted if shift == "everywhere" else query
    return torch.tensor([[cosine(image, prototype) for prototype in rectified] for image in classified])


@pytest.mark.parametrize("shot", [1, 4])
@pytest.mark.parametrize("temperature", [1.0, 10.0])
@pytest.mark.parametrize("pseudo_labels", [0, 2])
@pytest.mark.parametrize("weighting", ["images", "classes"])
@pytest.mark.parametrize("shift", ["everywhere", "prototypes", "nowhere"])
def test_cosines_are_those_of_the_paper_computed_image_by_image(shot, temperature, pseudo_labels, weighting, shift):
    options = {"temperature": temperature, "pseudo_labels": pseudo_labels, "weighting": weighting, "shift": shift}
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(4, shot=shot))
    expected = [
        as_in_the_paper(split.rows(images), split.rows(queries), **options)
        for images, queries in zip(support, query, strict=True)
    ]
    scores = BDCSPN(**options).scores(split, support, query)
    torch.testing.assert_close(scores, torch.stack(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("features", ["raw", "l2"])
def test_with_the_settings_of_easyfsl_no_prediction_differs_from_its_own(shot, features):
    split = double_split(spread=3.0, features=features)
    support, query = support_and_query(drawn_episodes(60, shot=shot))
    method = easyfsl.BDCSPN(torch.nn.Identity())
    labels = torch.arange(5).repeat_interleave(shot)
    expected = []
    for images, queries in zip(support, query, strict=True):
        method.process_support_set(split.rows(images.flatten()), labels)
        expected.append(method(split.rows(queries)))
    ours = BDCSPN(temperature=1.0, weighting="images", pseudo_labels=0, shift="prototypes", features=features)
    scores = ours.scores(split, support, query)
    torch.testing.assert_close(scores, torch.stack(expected), rtol=0, atol=1e-12)
    assert torch.equal(scores.argmax(-1), torch.stack(expected).argmax(-1))


def test_two_classes_at_right_angles_give_the_numbers_worked_out_by_hand():
    # The means are (1/2, 1/2) of the support set and (1, 1) of the queries, which move to (1.5, -0.5) and (-0.5, 1.5).
    images = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    rectified = rectified_prototypes(images @ images.mT, 2, 1, temperature=1.0)
    weight = 1 / (1 + math.exp(1.5 / 2.5**0.5 - 1))
    prototype = (weight + (1 - weight) * 1.5, (1 - weight) * -0.5)
    assert rectified.prototypes[0, 0].item() == pytest.approx(prototype[0] ** 2 + prototype[1] ** 2)
    assert rectified.products[0, 0, 0].item() == pytest.approx(1.5 * prototype[0] - 0.5 * prototype[1])
    assert rectified.products[0, 0, 1].item() == pytest.approx(-0.5 * prototype[0] + 1.5 * prototype[1])
    assert rectified.queries[0].tolist() == pytest.approx([2.5, 2.5])


def test_what_all_queries_share_makes_no_difference():
    split = double_split()
    support, query = support_and_query(drawn_episodes(10, shot=2))
    images = torch.cat([split.rows(support.flatten(1)), split.rows(query)], dim=1)
    moved = images.clone()
    moved[:, 10:] += torch.linspace(-1, 1, images.shape[2], dtype=torch.float64)
    here, there = (rectified_prototypes(some @ some.mT, 5, 2).cosines for some in (images, moved))
    torch.testing.assert_close(here, there)
    here, there = (rectified_prototypes(some @ some.mT, 5, 2, shift="nowhere").cosines for some in (images, moved))
    assert not torch.allclose(here, there, atol=1e-2)


def test_queries_as_far_from_both_prototypes_pull_both_alike():
    images = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]], dtype=torch.float64)
    for pseudo_labels in (0, 1):
        rectified = rectified_prototypes(images @ images.mT, 2, 1, pseudo_labels=pseudo_labels)
        assert rectified.prototypes[0, 0].item() == pytest.approx(rectified.prototypes[0, 1].item())
        torch.testing.assert_close(rectified.cosines[:, 0], rectified.cosines[:, 1])


def test_only_the_most_confident_queries_of_a_class_move_its_prototype():
    images = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.6, 0.5]]], dtype=torch.float64)
    one, both = (
        rectified_prototypes(images @ images.mT, 2, 1, pseudo_labels=count, shift="nowhere", temperature=1.0)
        for count in (1, 2)
    )
    without_the_second = rectified_prototypes((images @ images.mT)[:, :3, :3], 2, 1, shift="nowhere", temperature=1.0)
    torch.testing.assert_close(one.prototypes, without_the_second.prototypes)
    assert not torch.allclose(one.prototypes, both.prototypes)


def test_more_pseudo_labels_than_queries_are_all_of_them():
    split = double_split()
    support, query = support_and_query(drawn_episodes(10, shot=2))
    some, every = (BDCSPN(pseudo_labels=count).scores(split, support, query) for count in (30, 0))
    torch.testing.assert_close(some, every)


def test_single_precision_gives_the_predictions_of_double_precision():
    support, query = support_and_query(drawn_episodes(200, shot=1))
    double = double_split(spread=3.0)
    single = EmbeddedSplit(double.embeddings.float(), double.images)
    expected = BDCSPN().scores(double, support, query).argmax(-1)
    assert torch.equal(BDCSPN().scores(single.with_gram(), support, query).argmax(-1), expected)


def test_rectification_helps_where_one_support_image_says_little():
    split = double_split()
    support, query = support_and_query(drawn_episodes(300, shot=1, query=15))
    truth = torch.arange(5).repeat_interleave(15)
    rectified = BDCSPN().scores(split, support, query).argmax(-1) == truth
    plain = split.products(query, support.flatten(1)).argmax(-1) == truth
    assert rectified.double().mean() > plain.double().mean() + 0.05


def test_it_is_transductive_and_fills_up_no_class():
    assert BDCSPN().is_transductive
    assert not BDCSPN().assumes_balanced_queries


def test_products_that_do_not_fit_are_refused():
    for shape in ((2, 5, 6), (5, 5), (2, 5, 5)):
        with pytest.raises(ShapeError, match=r"of 5-way 1-shot episodes are not"):
            rectified_prototypes(torch.zeros(shape), 5, 1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": 0.0}, "temperature of bd-cspn should be positive, not 0.0"),
        ({"temperature": math.nan}, "temperature of bd-cspn should be positive, not nan"),
        ({"weighting": "none"}, "weighting of bd-cspn should be one of images, classes, not none"),
        ({"shift": "yes"}, "shift of bd-cspn should be one of everywhere, prototypes, nowhere, not yes"),
        ({"pseudo_labels": -1}, "pseudo_labels of bd-cspn should be a whole number of 0 or more, not -1"),
        ({"pseudo_labels": 2.0}, "pseudo_labels of bd-cspn should be a whole number of 0 or more, not 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(StudyError, match=sentence):
        BDCSPN(**settings)


@pytest.mark.parametrize("weighting", ["images", "classes"])
@pytest.mark.parametrize("pseudo_labels", [0, 8])
def test_identical_queries_are_told_apart_by_chance_alone(weighting, pseudo_labels):
    split = clustered_split()
    same = EmbeddedSplit(split.embeddings[:1].expand(split.images, -1).clone(), split.images).with_features("l2")
    support, query = support_and_query(drawn_episodes(40, way=3, shot=3, query=15))
    scores = BDCSPN(weighting=weighting, pseudo_labels=pseudo_labels).scores(same, support, query)
    truth = torch.arange(3).repeat_interleave(15)
    right = (scores.argmax(-1) == truth).float().mean()
    torch.testing.assert_close(right, torch.tensor(1 / 3), rtol=0, atol=0.1)
