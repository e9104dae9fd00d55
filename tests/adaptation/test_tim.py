from __future__ import annotations

import easyfsl.methods
import pytest
import torch
from torch.nn.functional import normalize

from fewshot_bench.adaptation import TIM, EmbeddedSplit, alternating_information_maximisation
from fewshot_bench.adaptation.embedded_split import in_parts
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import IMAGES, clustered_split, drawn_episodes, support_and_query

EPISODES = 4
TEMPERATURE = 15.0


def in_float64(split):
    return EmbeddedSplit(split.embeddings.double(), split.images)


def unit_split(**settings):
    return in_float64(clustered_split(**settings).with_features("l2"))


def posteriors(prototypes, embeddings, temperature=TEMPERATURE):
    """Equation 1 of the paper."""
    return torch.softmax(-temperature / 2 * torch.cdist(embeddings, prototypes) ** 2, dim=1)


def adm_of_the_paper(support, labels, query, *, steps, lambda_=0.1, alpha=0.1):
    """Proposition 1 of the paper, on embeddings, one class and one prototype at a time."""
    way = int(labels.max()) + 1
    y = torch.nn.functional.one_hot(labels, way).to(support.dtype)
    w = torch.stack([support[labels == k].mean(0) for k in range(way)])
    for _ in range(steps):
        p_support, p_query = posteriors(w, support), posteriors(w, query)
        q = p_query ** (1 + alpha) / (p_query ** (1 + alpha)).sum(0, keepdim=True).sqrt()
        q = q / q.sum(1, keepdim=True)
        moved = []
        for k in range(way):
            of_support = (y[:, k : k + 1] * support + p_support[:, k : k + 1] * (w[k] - support)).sum(0)
            of_query = (q[:, k : k + 1] * query + p_query[:, k : k + 1] * (w[k] - query)).sum(0)
            share = len(support) / len(query)
            above = lambda_ / (1 + alpha) * of_support + share * of_query
            moved.append(above / (lambda_ / (1 + alpha) * y[:, k].sum() + share * q[:, k].sum()))
        w = torch.stack(moved)
    return -TEMPERATURE / 2 * torch.cdist(query, w) ** 2


def entropy(p, alpha):
    return -(p * p.log()).sum(-1) if alpha == 1 else (1 - (p**alpha).sum(-1)) / (alpha - 1)


def gd_of_the_paper(support, labels, query, *, steps, alpha, weights, learning_rate=1e-4):
    """Equation 3 of Boudiaf et al. with the entropies of Veilleux et al., by autograd."""
    w = torch.stack([support[labels == k].mean(0) for k in labels.unique()]).requires_grad_()
    adam = torch.optim.Adam([w], lr=learning_rate)
    for _ in range(steps):
        p = posteriors(w, query)
        ce = -posteriors(w, support)[range(len(labels)), labels].log().mean()
        loss = weights[0] * ce - weights[1] * entropy(p.mean(0), alpha) + weights[2] * entropy(p, alpha).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return (-TEMPERATURE / 2 * torch.cdist(query, w) ** 2).detach()


def one_by_one(reference, split, support, query, **settings):
    labels = torch.arange(support.shape[1]).repeat_interleave(support.shape[2])
    rows = split.embeddings
    return torch.stack(
        [reference(rows[s.flatten()], labels, rows[q], **settings) for s, q in zip(support, query, strict=True)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("steps", [1, 150])
def test_closed_form_updates_on_inner_products_are_those_of_the_paper_on_embeddings(shot, steps):
    split = unit_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    expected = one_by_one(adm_of_the_paper, split, support, query, steps=steps)
    torch.testing.assert_close(TIM(steps=steps).scores(split, support, query), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "weights"), [(1.0, (0.1, 1.0, 0.1)), (2.0, (1.0, 1.0, 1.0)), (7.0, (1.0, 1.0, 1.0))])
@pytest.mark.parametrize("shot", [1, 5])
def test_gradients_by_hand_go_where_autograd_goes(shot, alpha, weights):
    split = unit_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    settings = {"steps": 40, "learning_rate": 1e-3}
    expected = one_by_one(gd_of_the_paper, split, support, query, alpha=alpha, weights=weights, **settings)
    scores = TIM(solver="gd", alpha=alpha, **settings).scores(split, support, query)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 5])
def test_cosine_prototypes_are_easyfsl_tim(shot):
    split = unit_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    settings = {"cross_entropy_weight": 1.0, "marginal_entropy_weight": 1.0, "conditional_entropy_weight": 0.1}
    ours = TIM(solver="gd", metric="cosine", temperature=10.0, steps=50, **settings)

    def of_easyfsl(some_support, labels, some_query):
        method = easyfsl.methods.TIM(torch.nn.Identity(), temperature=10.0, fine_tuning_steps=50, **settings)
        method.process_support_set(some_support, labels)
        return 10.0 * method(some_query)

    expected = one_by_one(of_easyfsl, split, support, query)
    scores = ours.scores(split, support, query)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("shot", [1, 5])
def test_span_coordinates_start_where_full_ones_start(shot):
    split = unit_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    span, full = (
        TIM(solver="gd", coordinates=coordinates, steps=1, learning_rate=1e-10).scores(split, support, query)
        for coordinates in ("span", "full")
    )
    torch.testing.assert_close(span, full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"solver": "gd", "steps": 200, "learning_rate": 1e-3}, {"alpha": 2.0, "steps": 100}]
)
def test_information_about_the_queries_grows(settings):
    """Mutual information of queries and predictions, at the end against the class means."""
    split = unit_split()
    support, query = support_and_query(drawn_episodes(20, shot=1, query=10))
    before = TIM(solver="gd", steps=1, learning_rate=1e-10).scores(split, support, query)
    after = TIM(**settings).scores(split, support, query)

    def information(scores):
        p = scores.softmax(-1)
        return entropy(p.mean(1), 1) - entropy(p, 1).mean(1)

    assert (information(after) > information(before)).all()


def skewed_episodes(count, *, shot, generator):
    """Episodes of two ways with 18 queries of one class and 2 of the other, as indices."""
    supports, queries, truths = [], [], []
    for _ in range(count):
        classes = torch.randperm(8, generator=generator)[:2]
        images = torch.stack([torch.randperm(IMAGES, generator=generator) + c * IMAGES for c in classes])
        supports.append(images[:, :shot])
        queries.append(torch.cat([images[0, shot : shot + 18], images[1, shot : shot + 2]]))
        truths.append(torch.tensor([0] * 18 + [1] * 2))
    return torch.stack(supports), torch.stack(queries), torch.stack(truths)


def test_alpha_tim_loses_less_than_tim_on_skewed_queries():
    split = clustered_split(spread=2.5).with_features("l2")
    support, query, truth = skewed_episodes(60, shot=5, generator=torch.Generator().manual_seed(0))
    accuracy = {
        alpha: float(
            (
                TIM(solver="gd", alpha=alpha, steps=300, learning_rate=1e-3).scores(split, support, query).argmax(-1)
                == truth
            )
            .float()
            .mean()
        )
        for alpha in (1.0, 7.0)
    }
    assert accuracy[7.0] > accuracy[1.0] + 0.03


def test_a_larger_weight_of_the_marginal_entropy_evens_out_class_sizes():
    split = clustered_split(spread=2.5).with_features("l2")
    support, query, _ = skewed_episodes(40, shot=1, generator=torch.Generator().manual_seed(0))

    def smallest_class(weight):
        predicted = TIM(marginal_entropy_weight=weight).scores(split, support, query).argmax(-1)
        return torch.minimum((predicted == 0).sum(1), (predicted == 1).sum(1)).float().mean()

    assert smallest_class(0.0) < smallest_class(1.0) < smallest_class(20.0)


def test_a_published_value_that_is_typed_is_the_default():
    typed = TIM(solver="adm", steps=150, cross_entropy_weight=0.1, conditional_entropy_weight=0.1)
    assert typed == TIM()
    assert TIM(solver="gd", alpha=5, steps=1000, cross_entropy_weight=1.0) == TIM(alpha=5)


def test_published_values_are_recorded():
    recorded = TIM().hyper_parameters()
    assert (recorded["solver"], recorded["steps"], recorded["cross_entropy_weight"]) == ("adm", 150, 0.1)
    assert "learning_rate" not in recorded
    recorded = TIM(alpha=5).hyper_parameters()
    assert (recorded["solver"], recorded["steps"], recorded["cross_entropy_weight"]) == ("gd", 1000, 1.0)
    assert (recorded["learning_rate"], recorded["metric"], recorded["coordinates"]) == (1e-4, "euclidean", "full")


@pytest.mark.parametrize("adaptation", [TIM(), TIM(alpha=5), TIM(solver="gd")])
def test_it_is_transductive_and_assumes_no_balance(adaptation):
    assert adaptation.is_transductive
    assert not adaptation.assumes_balanced_queries


def test_large_embeddings_give_finite_scores():
    split = clustered_split(norm=1e4)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=2))
    for settings in ({}, {"solver": "gd", "steps": 5}, {"alpha": 7.0, "steps": 5}, {"alpha": 0.5, "steps": 5}):
        assert torch.isfinite(TIM(features="raw", **settings).scores(split, support, query)).all()


def test_rounding_to_float32_changes_few_predictions():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(100, shot=1))
    single = TIM().scores(split, support, query).argmax(-1)
    double = TIM().scores(in_float64(split), support, query).argmax(-1)
    assert (single != double).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"solver": "sgd"}, "solver of tim should be one of adm, gd, not sgd"),
        ({"metric": "manhattan"}, "metric of tim should be one of cosine, euclidean, not manhattan"),
        ({"coordinates": "polar"}, "coordinates of tim should be one of full, span, not polar"),
        ({"alpha": 0}, "alpha of tim should be positive, not 0"),
        ({"alpha": float("nan")}, "alpha of tim should be positive, not nan"),
        ({"temperature": -1.0}, "temperature of tim should be positive, not -1.0"),
        ({"steps": 0}, "steps of tim should be a whole number of 1 or more, not 0"),
        ({"steps": 1.5}, "steps of tim should be a whole number of 1 or more, not 1.5"),
        ({"cross_entropy_weight": -0.1}, "cross_entropy_weight of tim should be 0 or more, not -0.1"),
        ({"conditional_entropy_weight": "many"}, "conditional_entropy_weight of tim should be 0 or more, not many"),
        ({"solver": "adm", "alpha": 5}, "tim with alpha=5 has no closed-form updates. Use --set solver=gd"),
        ({"learning_rate": 1e-3}, "learning_rate of tim belongs to Adam. Add --set solver=gd"),
        ({"metric": "cosine"}, "metric of tim belongs to Adam"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(StudyError, match=message):
        TIM(**setting)


@pytest.mark.parametrize("shape", [(1, 5, 4), (1, 5, 5), (5, 5)])
def test_products_of_another_shape_are_refused(shape):
    with pytest.raises(ShapeError, match="products"):
        alternating_information_maximisation(torch.zeros(shape), way=5, shot=1)


def test_unit_embeddings_are_what_easyfsl_sees():
    assert torch.allclose(unit_split().embeddings, normalize(unit_split().embeddings, dim=1))


@pytest.mark.parametrize("shot", [1, 3])
def test_no_order_changes_so_much_as_a_rounding_error_of_alternating_updates(shot):
    support, query = support_and_query(drawn_episodes(8, shot=shot))
    alike = clustered_split().embeddings + 200  # cosines of nearly 1, as those of an untrained network
    split = EmbeddedSplit(alike, len(alike)).with_features("l2")
    expected = TIM(temperature=7.5).scores(split, support, query)
    generator = torch.Generator().manual_seed(0)
    queries, classes, images = (torch.randperm(count, generator=generator) for count in (query.shape[1], 5, shot))
    reordered = TIM(temperature=7.5).scores(split, support[:, classes][:, :, images], query[:, queries])
    assert torch.equal(reordered, expected[:, queries][:, :, classes])


@pytest.fixture
def one_thread():
    """Several threads divide a batch of matrix products by its size, and round by how they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("shot", "query"), [(1, 15), (5, 15)])
def test_no_chunk_changes_so_much_as_a_rounding_error_of_alternating_updates(shot, query):
    support, query = support_and_query(drawn_episodes(8, shot=shot, query=query))
    alike = clustered_split().embeddings + 200
    split = EmbeddedSplit(alike, len(alike)).with_features("l2")
    expected = TIM(temperature=7.5).scores(split, support, query)
    for chunk in (1, 3):
        parts = [TIM(temperature=7.5).scores(split, *some) for some in in_parts(chunk, support, query)]
        assert torch.equal(torch.cat(parts), expected)
