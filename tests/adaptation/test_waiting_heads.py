"""How often the host would wait for a GPU while heads are fitted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adaptations_to_test import ADAPTATIONS
from synchronisation import GPU, fake_gpu
from synchronisation import _zero_gradients as zero_gradients
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from waiting_operations import WaitingOperations

from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation, FinetuneHead, logistic, svm
from fewshot_bench.adaptation.embedded_split import steps_per_check
from fewshot_bench.adaptation.transductive import ilpc, laplacian_shot
from fewshot_bench.testing.clusters import as_wanted, clustered_split, drawn_episodes, support_and_query

SPLIT = clustered_split(views=2)
SUPPORT, QUERY = support_and_query(drawn_episodes(8, shot=2))
CHECKING = {"logistic": logistic, "svm": svm, "laplacian-shot": laplacian_shot, "ilpc": ilpc}
BY_STEPS = ("baseline++", "tim", "tim-gd", "alpha-tim", "entropy")
TRAINED_HEADS = [name for name, adaptation in ADAPTATIONS.items() if isinstance(adaptation, FinetuneHead)]


def waits(adaptation: EmbeddingAdaptation) -> tuple[int, Tensor]:
    """How often the host would wait, and the scores."""
    split = as_wanted(SPLIT, adaptation)
    adaptation.scores(split, SUPPORT, QUERY)  # what is cached is computed
    with WaitingOperations() as operations:
        scores = adaptation.scores(split, SUPPORT, QUERY)
    return len(operations.names), scores


@pytest.mark.parametrize("name", BY_STEPS)
def test_more_steps_make_the_host_wait_no_more_often(name: str) -> None:
    adaptation = ADAPTATIONS[name]
    steps = "steps" if hasattr(adaptation, "steps") else "epochs"
    assert waits(replace(adaptation, **{steps: 3}))[0] == waits(replace(adaptation, **{steps: 6}))[0]


@pytest.mark.parametrize("name", TRAINED_HEADS)
def test_a_head_is_trained_without_waiting_but_for_one_look_at_its_last_loss(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a GPU, Adam counts its steps on the CPU.
    monkeypatch.setattr("torch.autograd.backward", zero_gradients)
    with fake_gpu() as synchronisations:
        rows = len(SPLIT.embeddings)
        split = EmbeddedSplit(torch.zeros(rows, 40, device=GPU), SPLIT.images, gram=torch.zeros(rows, rows, device=GPU))
        support, query = (torch.zeros(part.shape, dtype=torch.int64, device=GPU) for part in (SUPPORT, QUERY))
        with pytest.raises(DataDependentOutputException):
            ADAPTATIONS[name].scores(split, support, query)
    assert {"isfinite(losses)" in place for place in synchronisations.places} == {True}


@pytest.mark.parametrize("name", [name for name in ADAPTATIONS if name.startswith(tuple(CHECKING))])
def test_asking_rarely_whether_all_have_finished_makes_the_host_wait_less_and_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    often, expected = waits(ADAPTATIONS[name])
    for module in CHECKING.values():
        monkeypatch.setattr(module, "steps_per_check", lambda device: steps_per_check(torch.device("cuda")))
    rarely, found = waits(ADAPTATIONS[name])
    assert rarely < often
    if name.startswith("svm"):  # projections take another step, which rounds
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    else:
        assert torch.equal(found, expected)


def test_a_cpu_is_asked_after_every_step() -> None:
    assert steps_per_check(torch.device("cpu")) == 1
