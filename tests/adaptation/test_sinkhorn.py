"""Balanced assignment: the plan is the one that scaling rows and columns in turn would reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from fewshot_bench.adaptation import transport_plan
from fewshot_bench.errors import ShapeError


def affinities(*shape: int, sharpness: float = 3.0, seed: int = 0) -> torch.Tensor:
    return sharpness * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scaled(log_affinities, totals, counts=None, *, steps=20_000):
    """Sinkhorn's iteration in numpy, one problem at a time, [N, M]."""
    plan = np.exp(log_affinities - log_affinities.max(0))
    counts = np.ones(plan.shape[1]) if counts is None else counts
    for _ in range(steps):
        plan = plan * (totals / (plan @ counts))[:, None]
        plan = plan / plan.sum(0)
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [0.1, 3.0, 8.0])
def test_the_plan_is_the_limit_of_scaling_rows_and_columns_in_turn(sharpness):
    problems = affinities(4, 5, 40, sharpness=sharpness)
    totals = torch.tensor([[8.0] * 5, [8.0] * 5, [4.0, 12.0, 8.0, 6.0, 10.0], [1.5, 14.5, 8.0, 8.0, 8.0]])
    plan, _ = transport_plan(problems, totals, tolerance=1e-10)
    for found, problem, total in zip(plan.numpy(), problems.numpy(), totals.double().numpy(), strict=True):
        np.testing.assert_allclose(found, scaled(problem, total), atol=1e-6)


def test_every_query_is_assigned_once_and_every_class_gets_its_total():
    plan, _ = transport_plan(affinities(6, 7, 63, sharpness=20), torch.full((6, 7), 9.0))
    torch.testing.assert_close(plan.sum(1), torch.ones(6, 63, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(2), torch.full((6, 7), 9.0, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_sharp_plan_is_the_best_assignment():
    problems = affinities(5, 4, 12)
    plan, _ = transport_plan(problems * 300, torch.full((5, 4), 3.0))
    for found, problem in zip(plan, problems.numpy(), strict=True):
        slots, queries = linear_sum_assignment(np.repeat(problem, 3, axis=0), maximize=True)
        assert (found.argmax(0).numpy()[queries] == slots // 3).all()


def test_queries_that_count_nothing_leave_the_others_as_they_would_be_without_them():
    problems, counts = affinities(3, 4, 20), torch.ones(3, 20)
    counts[:, 12:] = 0
    totals = torch.full((3, 4), 3.0)
    plan, _ = transport_plan(problems, totals, counts=counts, tolerance=1e-9)
    without, _ = transport_plan(problems[:, :, :12], totals, tolerance=1e-9)
    torch.testing.assert_close(plan[:, :, :12], without, rtol=1e-6, atol=1e-8)


def test_a_class_without_a_total_receives_nothing():
    plan, _ = transport_plan(affinities(2, 3, 8), torch.tensor([[4.0, 0.0, 4.0]] * 2))
    assert (plan[:, 1] == 0).all()
    torch.testing.assert_close(plan.sum(2)[:, 0], torch.full((2,), 4.0, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_start_elsewhere_ends_at_the_same_plan():
    problems, totals = affinities(4, 5, 30), torch.full((4, 5), 6.0)
    plan, potentials = transport_plan(problems, totals, tolerance=1e-10)
    far = 50 * affinities(4, 5, sharpness=1.0, seed=1)
    for start in (potentials, far):
        again, _ = transport_plan(problems, totals, potentials=start, tolerance=1e-10)
        torch.testing.assert_close(again, plan, rtol=1e-6, atol=1e-8)


def test_a_problem_is_solved_the_same_whatever_is_solved_beside_it():
    easy, hard = affinities(1, 5, 30, sharpness=0.01), affinities(3, 5, 30, sharpness=200.0)
    totals = torch.full((4, 5), 6.0)
    alone, _ = transport_plan(easy, totals[:1])
    together, _ = transport_plan(torch.cat([easy, hard]), totals)
    assert torch.equal(alone[0], together[0])


@pytest.mark.parametrize("sharpness", [0.0, 1e-12, 1e4, 1e6])
def test_no_problem_is_too_flat_or_too_sharp(sharpness):
    problems = affinities(3, 5, 20, sharpness=sharpness)
    problems[0, :, 1:] = problems[0, :, :1]
    plan, potentials = transport_plan(problems, torch.full((3, 5), 4.0))
    assert torch.isfinite(plan).all()
    assert torch.isfinite(potentials).all()
    torch.testing.assert_close(plan.sum(1), torch.ones(3, 20, dtype=torch.float64))


def test_totals_of_other_classes_are_refused():
    with pytest.raises(ShapeError, match=r"affinities \[E, N, M\] and totals \[E, N\] do not fit"):
        transport_plan(affinities(2, 3, 8), torch.ones(2, 4))
