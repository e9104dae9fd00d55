"""Differentiable heads: gradients against finite differences, solutions against other solvers and the adaptations."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fewshot_bench.adaptation import Centroid, EmbeddedSplit, Matching, Ridge, SupportVectorMachine, svm_in_span
from fewshot_bench.adaptation.centroid import nearest_centroid
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.objectives.heads import differentiable_svm, matching, ridge, svm

TASKS, WAY, QUERIES, SIZE = 2, 3, 4, 6

HEADS = {
    "centroid": partial(nearest_centroid, metric="euclidean"),
    "matching": matching,
    "matching-10": partial(matching, scale=10.0),
    "ridge": partial(ridge, penalty=0.5),
    "ridge-50": ridge,
    "svm-bound": partial(svm, C=0.02),
    "svm": partial(svm, C=0.3),
    "svm-free": partial(svm, C=100.0),
}


def drawn(shot, size=SIZE, tasks=TASKS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    support = torch.randn(tasks, WAY, shot, size, dtype=torch.float64, generator=generator)
    query = torch.randn(tasks, QUERIES, size, dtype=torch.float64, generator=generator)
    return support.requires_grad_(), query.requires_grad_()


# A random projection of the gradient: a difference for each number takes a hundred times as long.
gradcheck = partial(torch.autograd.gradcheck, fast_mode=True)


def labels_of(shot):
    return torch.arange(WAY).repeat_interleave(shot)


def coefficients_of(support, C):
    rows = support.flatten(1, 2)
    return differentiable_svm(rows @ rows.transpose(1, 2), labels_of(support.shape[2]), C=C)


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 3])
@pytest.mark.parametrize("size", [2, SIZE], ids=["more-images-than-dimensions", "more-dimensions"])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_gradients_are_those_of_finite_differences(head, size, shot):
    assert gradcheck(head, drawn(shot, size))


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 2])
def test_a_machine_with_every_image_at_its_bound_is_differentiated(shot):
    support, query = drawn(shot)
    coefficients = coefficients_of(support, 1e-3)
    targets = torch.nn.functional.one_hot(labels_of(shot)).double()
    # Every image violates its margin: all of C goes to its class.
    assert torch.allclose((coefficients * targets).sum(2), torch.tensor(1e-3, dtype=torch.float64))
    assert gradcheck(partial(svm, C=1e-3), (support, query))


@pytest.mark.slow
def test_a_machine_whose_bounds_do_not_matter_is_differentiated_too():
    support, query = drawn(2)
    coefficients = coefficients_of(support, 1e3)
    targets = torch.nn.functional.one_hot(labels_of(2)).double()
    assert ((coefficients * targets).sum(2) < 1e3 * (1 - 1e-9)).all()
    assert gradcheck(partial(svm, C=1e3), (support, query))


def test_support_images_at_right_angles_of_norm_one_have_a_known_derivative():
    # Both lie on the margin: the score of q is a_0 x_0 . q - a_1 x_1 . q, with 2 (a_0 |x_0|^2 - a_1 x_0 . x_1) = 1 and
    # 2 (a_1 |x_1|^2 - a_0 x_0 . x_1) = 1. For q = (1, 0) it is 1 / 2 (1 + e) with x_0 = (1 + e, 0), 1 / 2 (1 - e) with
    # x_0 = (1, e), and 1 / 2 with x_1 = (e, 1) or x_1 = (0, 1 + e), up to e squared.
    support = torch.eye(2, dtype=torch.float64).view(1, 2, 1, 2).requires_grad_()
    query = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    logits = svm(support, query, C=10.0)
    assert logits.tolist() == [[pytest.approx([0.5, -0.5])]]
    (gradient,) = torch.autograd.grad(logits[0, 0, 0], support)
    assert gradient[0, :, 0].tolist() == [pytest.approx([-0.5, 0.5], abs=1e-9), pytest.approx([0.0, 0.0], abs=1e-9)]


def solved_by_slsqp(rows, labels, C):
    """Weights [N, D] of the machine, from its primal problem with slack variables."""
    images, size = rows.shape

    def value(x):
        return 0.5 * (x[: WAY * size] ** 2).sum() + C * x[WAY * size :].sum()

    def slope(x):
        return np.concatenate([x[: WAY * size], np.full(images, C)])

    def left(x):
        scores = rows @ x[: WAY * size].reshape(WAY, size).T
        own = scores[np.arange(images), labels][:, None]
        return (own - scores - (1 - np.eye(WAY)[labels]) + x[WAY * size :, None]).ravel()

    start = np.concatenate([np.zeros(WAY * size), np.ones(images)])
    solution = minimize(
        value,
        start,
        jac=slope,
        method="SLSQP",
        constraints={"type": "ineq", "fun": left},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return solution.x[: WAY * size].reshape(WAY, size)


@pytest.mark.parametrize("C", [0.05, 0.5, 20.0])
def test_the_machine_is_that_of_another_solver(C):
    support, _ = drawn(3, size=4)
    weights = coefficients_of(support, C).transpose(1, 2) @ support.flatten(1, 2)
    labels = labels_of(3).numpy()
    for task in range(TASKS):
        rows = support[task].flatten(0, 1).detach().numpy()
        theirs = solved_by_slsqp(rows, labels, C)
        assert np.allclose(weights[task].detach().numpy(), theirs, atol=1e-5)


def test_the_gradient_is_the_difference_of_another_solver_s_solutions():
    support, _ = drawn(3, size=4, tasks=1)
    direction = torch.randn(support.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels, query = labels_of(3).numpy(), np.ones(4)

    def score(step):
        rows = (support + step * direction).detach()[0].flatten(0, 1).numpy()
        return (solved_by_slsqp(rows, labels, 0.5) @ query)[0]

    logits = svm(support, torch.ones(1, 1, 4, dtype=torch.float64), C=0.5)
    (gradient,) = torch.autograd.grad(logits[0, 0, 0], support)
    assert (gradient * direction).sum().item() == pytest.approx((score(1e-3) - score(-1e-3)) / 2e-3, abs=2e-4)


class TestDegenerateTasks:
    @pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
    def test_equal_images_of_a_class_give_finite_gradients(self, head):
        support, query = drawn(2)
        support = support[:, :, :1].detach().repeat(1, 1, 2, 1).requires_grad_()
        logits = head(support, query)
        gradients = torch.autograd.grad(logits.square().sum(), (support, query))
        assert all(gradient.isfinite().all() for gradient in (logits, *gradients))

    @pytest.mark.slow
    @pytest.mark.parametrize("C", [0.02, 100.0])
    def test_moving_equal_images_together_moves_the_scores_by_the_gradient(self, C):
        single, query = drawn(1)
        head = partial(svm, C=C)
        assert gradcheck(lambda support: head(support.repeat(1, 1, 2, 1), query.detach()), single)

    @pytest.mark.slow
    @pytest.mark.parametrize("C", [0.02, 0.3, 100.0])
    def test_one_image_in_two_classes_gives_the_gradient_of_finite_differences(self, C):
        support, query = drawn(2)
        with torch.no_grad():
            support[:, 1, 0] = support[:, 0, 0]
        assert gradcheck(partial(svm, C=C), (support, query))

    @pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
    def test_embeddings_of_zero_give_finite_gradients(self, head):
        support, query = (torch.zeros_like(values).requires_grad_() for values in drawn(2))
        logits = head(support, query)
        gradients = torch.autograd.grad(logits.square().sum(), (support, query))
        assert all(gradient.isfinite().all() for gradient in (logits, *gradients))

    def test_a_tie_gives_a_derivative_between_those_of_its_two_sides(self):
        # Norm and C are such that the optimum touches the bound: a = 1 / |x_0 - x_1|^2 = C.
        def score(shift):
            support = torch.tensor([[1.0 + shift, 0.0], [0.0, 1.0]], dtype=torch.float64).view(1, 2, 1, 2)
            return svm(support.requires_grad_(), torch.ones(1, 1, 2, dtype=torch.float64), C=0.5), support

        (here, support), step = score(0.0), 1e-5
        (gradient,) = torch.autograd.grad(here[0, 0, 0], support)
        sides = sorted((score(s)[0] - here)[0, 0, 0].item() / s for s in (step, -step))
        assert sides[0] - 1e-4 <= gradient[0, 0, 0, 0].item() <= sides[1] + 1e-4

    @pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_diverged_embeddings_give_scores_that_are_not_numbers(self, head, value):
        support, query = drawn(2)
        with torch.no_grad():
            support[0, 0, 0, 0] = value
        assert not head(support, query).isfinite().all()


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize(
    ("head", "adaptation"),
    [
        (HEADS["centroid"], Centroid(metric="euclidean", features="raw")),
        (HEADS["matching-10"], Matching(scale=10.0, features="raw")),
        (HEADS["ridge"], Ridge(penalty=0.5, features="raw")),
        (HEADS["svm"], SupportVectorMachine(C=0.3, features="raw")),
    ],
    ids=["centroid", "matching", "ridge", "svm"],
)
def test_scores_are_those_of_the_adaptation(head, adaptation, shot):
    support, query = (values.detach().float() for values in drawn(shot, tasks=8, size=32))
    rows = torch.cat([support.flatten(1, 2), query], dim=1)
    split = EmbeddedSplit(rows.flatten(0, 1), rows.shape[0] * rows.shape[1])
    places = torch.arange(split.images).view(8, -1)
    theirs = adaptation.scores(split, places[:, : WAY * shot].reshape(8, WAY, shot), places[:, WAY * shot :])
    ours = head(support, query)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), theirs.double(), atol=2e-4)
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_task_is_classified_alike_whatever_else_is_in_the_step(head):
    support, query = drawn(3, tasks=4)
    alone = torch.cat([head(support[task : task + 1], query[task : task + 1]) for task in range(4)])
    assert torch.allclose(head(support, query), alone, atol=1e-9)


@pytest.mark.parametrize("head", [matching, ridge, svm])
@pytest.mark.parametrize(
    ("support", "query"), [((2, 3, 1, 4), (2, 5, 3)), ((2, 3, 4), (2, 5, 4)), ((2, 3, 1, 4), (3, 5, 4))]
)
def test_embeddings_that_do_not_fit_are_refused(head, support, query):
    with pytest.raises(ShapeError):
        head(torch.zeros(support), torch.zeros(query))


def test_a_machine_that_does_not_converge_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("fewshot_bench.objectives.heads.svm_in_span", partial(svm_in_span, max_iterations=1))
    with pytest.raises(StudyError, match="smaller --head-penalty or --learning-rate"):
        svm(*drawn(3), C=0.3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_of_float32_embeddings_are_those_of_float64(scale):
    support, query = (values.detach() * scale for values in drawn(5, size=8))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        inputs = [values.to(dtype).requires_grad_() for values in (support, query)]
        gradients.append(torch.autograd.grad(svm(*inputs, C=0.3 / scale**2).square().sum(), inputs))
    for single, double in zip(*gradients, strict=True):
        assert torch.allclose(single.double(), double, rtol=1e-3, atol=1e-3 * double.abs().max().item())
