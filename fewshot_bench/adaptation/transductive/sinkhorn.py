"""Assign queries to classes so that every class receives a given share: entropic optimal transport.

Cuturi (2013), "Sinkhorn distances", scales the rows and the columns of exp(A) in turn until the rows sum to one and the
columns to the totals of the classes. The plan is the only one of the form

    P[j, i] = exp(A[j, i] + v[j]) / sum over classes l of exp(A[l, i] + v[l])

that has these totals, and v minimises a convex function of one number per class,

    f(v) = sum over queries i of log sum over classes j of exp(A[j, i] + v[j])  -  sum over j of total[j] * v[j].

With a few classes and many queries Newton's method on v reaches that plan in about five passes over A; scaling takes
hundreds if the plan is sharp. Everything is in logarithms, so a plan of zeros and ones cannot overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot_bench.errors import ShapeError

_TOLERANCE = 1e-6
_LARGEST_STEPS = 200
_LARGEST_HALVINGS = 30
_LONGEST_STEP = 10.0
_IMPOSSIBLE = -1e6
_TIE_BREAK = 1e-5


def transport_plan(
    log_affinities: Tensor,
    totals: Tensor,
    *,
    counts: Tensor | None = None,
    potentials: Tensor | None = None,
    tolerance: float = _TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """Find the plan that gives every query one class and every class its total, the limit of Sinkhorn's iteration.

    Args:
        log_affinities: A, [E, N, M]; only differences within a query matter, and those within a class do not.
        totals: how many queries each class receives, [E, N]; those of an episode sum to its number of queries.
        counts: how often each query counts, [E, M]: 0 leaves one out. All count once by default.
        potentials: v to start from, [E, N]; those of a similar problem save steps.
        tolerance: largest difference between the totals of the plan and the given ones, relative to the largest total.

    Returns:
        The plan, float64 [E, N, M]: for each query, numbers of 0 or more that sum to one. The potentials, [E, N]. An
        episode that has converged does not change while others continue.

    Raises:
        ShapeError: the shapes do not fit.

    >>> import torch
    >>> affinities = torch.tensor([[[2.0, 1.0], [0.0, 0.0]]])  # both queries prefer class 0, the first one more
    >>> plan, _ = transport_plan(affinities * 10, torch.ones(1, 2))
    >>> plan.round().tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    if log_affinities.ndim != 3 or totals.shape != log_affinities.shape[:2]:
        raise ShapeError(
            f"affinities [E, N, M] and totals [E, N] do not fit: {list(log_affinities.shape)} and {list(totals.shape)}."
        )
    totals = totals.double()
    # A class that receives nothing would need a potential of minus infinity.
    affinities = log_affinities.double().masked_fill((totals <= 0).unsqueeze(2), _IMPOSSIBLE)
    counts = totals.new_ones(len(totals), affinities.shape[2]) if counts is None else counts.double()
    potentials = torch.zeros_like(totals) if potentials is None else potentials.double().clone()
    allowed = tolerance * totals.amax(1)
    plan, value = _plan(affinities, totals, counts, potentials)
    active = torch.arange(len(totals), device=totals.device)
    for _ in range(_LARGEST_STEPS):
        excess = (plan[active] @ counts[active].unsqueeze(2)).squeeze(2) - totals[active]
        unfinished = torch.nonzero(excess.abs().amax(1) > allowed[active]).squeeze(1)
        if not len(unfinished):
            break
        active, excess = active[unfinished], excess[unfinished]
        problem = affinities[active], totals[active], counts[active]
        direction = _direction(plan[active], excess, problem[2])
        found = _step(problem, potentials[active], value[active], direction, (excess * direction).sum(1))
        potentials[active], plan[active], value[active] = found
    return plan, potentials


def decide_ties(plan: Tensor, log_affinities: Tensor, totals: Tensor) -> Tensor:
    """Let affinities decide where the totals alone fix the plan, as for the last query of an episode.

    Adds a hundred-thousandth of the classes' own probabilities to a plan by `transport_plan`, [E, N, M].
    """
    open_to_all = log_affinities.double().masked_fill((totals <= 0).unsqueeze(2), _IMPOSSIBLE)
    return torch.lerp(plan, torch.softmax(open_to_all, dim=1), _TIE_BREAK)


def _plan(affinities: Tensor, totals: Tensor, counts: Tensor, potentials: Tensor) -> tuple[Tensor, Tensor]:
    """The plan of some potentials, [E, N, M], and the value of f there, [E]."""
    shifted = affinities + potentials.unsqueeze(2)
    largest = shifted.amax(1, keepdim=True)
    plan = (shifted - largest).exp_()
    sums = plan.sum(1, keepdim=True)
    value = ((largest + sums.log()).squeeze(1) * counts).sum(1) - (totals * potentials).sum(1)
    return plan.div_(sums), value


def _direction(plan: Tensor, excess: Tensor, counts: Tensor) -> Tensor:
    """Newton's direction, downhill is minus it, [E, N]; no longer than what a plan can turn over in."""
    weighted = plan * counts.unsqueeze(1)
    sums = weighted.sum(2)
    curvature = torch.diag_embed(sums) - weighted @ plan.transpose(1, 2)
    # Adding one number to all potentials changes nothing: the constant direction gets a curvature of its own.
    scale = sums.sum(1).clamp_min(1).view(-1, 1, 1)
    curvature += scale / plan.shape[1]
    curvature.diagonal(dim1=1, dim2=2).add_(1e-12 * scale.squeeze(2))
    direction = torch.linalg.solve_ex(curvature, excess.unsqueeze(2))[0].squeeze(2)
    # A plan of zeros and ones has no curvature, so the gradient's direction is taken.
    direction = torch.where(torch.isfinite(direction).all(1, keepdim=True), direction, excess)
    length = direction.abs().amax(1, keepdim=True).clamp_min(_LONGEST_STEP)
    return direction * (_LONGEST_STEP / length)


def _step(
    problem: tuple[Tensor, Tensor, Tensor], potentials: Tensor, value: Tensor, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials, plan and value after a step along minus the direction, halved until the value falls enough."""
    affinities, totals, counts = problem
    slack = 1e-13 * (value.abs() + (totals * potentials).abs().sum(1))
    moved = potentials - direction
    plan, after = _plan(affinities, totals, counts, moved)
    length = torch.ones_like(value)
    for _ in range(_LARGEST_HALVINGS):
        too_far = torch.nonzero(~(after <= value - 1e-4 * length * slope + slack)).squeeze(1)
        if not len(too_far):
            break
        length[too_far] /= 2
        moved[too_far] = potentials[too_far] - length[too_far].unsqueeze(1) * direction[too_far]
        found = _plan(affinities[too_far], totals[too_far], counts[too_far], moved[too_far])
        plan[too_far], after[too_far] = found
    return moved, plan, after
