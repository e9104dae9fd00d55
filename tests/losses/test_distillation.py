"""Distillation is Hinton's divergence with the factor of RFS's code; cosine logits ignore lengths."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.losses import cosine_logits, distillation


def test_distillation_is_the_sum_over_classes_and_the_mean_over_views_times_the_squared_temperature():
    torch.manual_seed(0)
    logits, teacher = torch.randn(6, 5), torch.randn(6, 5)
    # the arithmetic of RFS: a sum over everything, divided by the number of views
    expected = kl_div(log_softmax(logits / 4, dim=1), softmax(teacher / 4, dim=1), reduction="sum") * 16 / 6
    torch.testing.assert_close(distillation(logits, teacher, temperature=4), expected)


def test_a_batch_of_batches_gives_a_loss_for_each():
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 6, 5), torch.randn(2, 6, 5)
    each = torch.stack([distillation(logits[i], teacher[i], temperature=2) for i in range(2)])
    torch.testing.assert_close(distillation(logits, teacher, temperature=2), each)


def test_the_gradient_at_a_high_temperature_is_that_of_matching_centred_logits():
    # Hinton et al. (2015), section 2.1: T^2 * dL/dz = (z - v) / C for logits of zero mean, in the limit of T
    torch.manual_seed(0)
    logits, teacher = (values - values.mean(1, keepdim=True) for values in torch.randn(2, 3, 4, dtype=torch.float64))
    logits.requires_grad_()
    distillation(logits, teacher, temperature=1e4).backward()
    torch.testing.assert_close(logits.grad, (logits.detach() - teacher) / 4 / 3, rtol=1e-3, atol=1e-6)


def test_another_number_of_classes_or_no_temperature_is_refused():
    with pytest.raises(ShapeError, match=r"\[2, 3\] of a student and \[2, 4\]"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 4), temperature=1)
    with pytest.raises(StudyError, match="temperature should be positive, not 0"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0)


def test_cosine_logits_ignore_lengths_and_take_a_factor_for_each_class():
    torch.manual_seed(0)
    embeddings, weights, norms = torch.randn(6, 8), torch.randn(3, 8), torch.rand(3)
    expected = 2 * (normalize(embeddings) @ normalize(weights).T) * norms
    torch.testing.assert_close(cosine_logits(9 * embeddings, 0.1 * weights, norms, scale=2), expected)
