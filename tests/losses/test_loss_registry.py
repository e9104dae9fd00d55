"""The losses that a study can name: what they mix, what they pay attention to."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from fewshot_bench.errors import ShapeError, StudyError, UnknownNameError
from fewshot_bench.losses import LOSSES, cross_entropy, schane, simclr, supcon
from fewshot_bench.losses.registry import Loss

CONTRASTIVE = {
    "ce+schane": lambda z, y, images: schane(z, y, tau=0.4, reading="out"),
    "ce+supcon": lambda z, y, images: supcon(z, y, tau=0.4, reading="out"),
    "ce+simclr": lambda z, y, images: simclr(z, images, tau=0.4),
}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two views of six images of three classes, for four batches: logits, embeddings, labels, images."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 12, 3, generator=generator)
    embeddings = torch.randn(4, 12, 5, generator=generator)
    return logits, embeddings, torch.tensor([0, 0, 1, 1, 2, 2]).repeat(2), torch.arange(6).repeat(2)


def mixed(loss: Loss, batch: tuple[Tensor, Tensor, Tensor, Tensor], lambda_: float) -> Tensor:
    return loss(*batch, lambda_=lambda_, tau=0.4, reading="out")


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_lambda_zero_is_exactly_cross_entropy(name: str, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, _, labels, _ = batch
    assert torch.equal(mixed(LOSSES[name].factory, batch, lambda_=0), cross_entropy(logits, labels))


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_lambda_one_is_exactly_the_contrastive_term(name: str, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    _, embeddings, labels, images = batch
    expected = CONTRASTIVE[name](embeddings, labels, images)
    assert torch.equal(mixed(LOSSES[name].factory, batch, lambda_=1), expected)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_lambda_weighs_the_two_terms(name: str, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, embeddings, labels, images = batch
    expected = 0.1 * cross_entropy(logits, labels) + 0.9 * CONTRASTIVE[name](embeddings, labels, images)
    torch.testing.assert_close(mixed(LOSSES[name].factory, batch, lambda_=0.9), expected)


def test_ce_pays_no_attention_to_lambda(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, _, labels, _ = batch
    assert torch.equal(mixed(LOSSES["ce"].factory, batch, lambda_=0.9), cross_entropy(logits, labels))


def test_cross_entropy_of_every_batch_is_that_of_torch(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, _, labels, _ = batch
    expected = torch.stack([torch.nn.functional.cross_entropy(rows, labels) for rows in logits])
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    torch.testing.assert_close(cross_entropy(logits, labels.expand(4, 12)), expected)


def test_one_batch_of_logits_serves_many_sets_of_labels(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, _, labels, _ = batch
    many = torch.stack([labels, labels.flip(0)])
    expected = torch.stack([torch.nn.functional.cross_entropy(logits[0], labels) for labels in many])
    torch.testing.assert_close(cross_entropy(logits[0], many), expected)


def test_labels_that_do_not_fit_the_logits_are_refused(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, _, labels, _ = batch
    with pytest.raises(ShapeError, match=r"labels \[7\]"):
        cross_entropy(logits, labels[:7])


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_cross_entropy_is_that_of_torch(
    smoothing: float, batch: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    logits, _, labels, _ = batch
    whole = torch.nn.functional.cross_entropy
    expected = torch.stack([whole(rows, labels, label_smoothing=smoothing) for rows in logits])
    torch.testing.assert_close(cross_entropy(logits, labels, label_smoothing=smoothing), expected)
    assert not torch.allclose(expected, cross_entropy(logits, labels))


@pytest.mark.parametrize("name", ["ce", *CONTRASTIVE])
def test_every_loss_smooths_its_cross_entropy_alone(name: str, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, _, labels, _ = batch
    loss, settings = LOSSES[name].factory, {"lambda_": 0.25, "tau": 0.4}
    change = loss(*batch, **settings, reading="out", label_smoothing=0.2) - loss(*batch, **settings, reading="out")
    share = 1.0 if name == "ce" else 0.75
    expected = share * (cross_entropy(logits, labels, label_smoothing=0.2) - cross_entropy(logits, labels))
    torch.testing.assert_close(change, expected)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(StudyError, match="label_smoothing should be at least 0 and less than 1"):
        cross_entropy(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), label_smoothing=smoothing)


def test_every_loss_says_what_it_is() -> None:
    assert LOSSES.names() == ["ce", "ce+schane", "ce+simclr", "ce+supcon"]
    assert {entry.name for entry in LOSSES if entry.facts["is_contrastive"]} == set(CONTRASTIVE)
    assert all(entry.summary for entry in LOSSES)
    assert all(re.search(r", 20\d\d, ", LOSSES[name].facts["paper"]) for name in CONTRASTIVE)


def test_a_wrong_name_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean .*ce\+schane"):
        LOSSES["ce+shane"]
