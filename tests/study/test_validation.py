"""Validation episodes come from the validation split alone, and are as large as it allows."""

from __future__ import annotations

import pytest
import torch
from conftest import toy_split
from torch import Tensor, nn

from fewshot_bench.backbones import Backbone, Preprocessing
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.study.validation import selection_card, validation, validation_protocols


def sizes(split: ImageSplit) -> list[tuple[int, int, int]]:
    return [(protocol.way, protocol.shot, protocol.query) for protocol in validation_protocols(split, 10)]


@pytest.mark.parametrize(
    ("classes", "images", "expected"),
    [
        (8, 24, [(5, 1, 15), (5, 5, 15)]),
        (3, 24, [(3, 1, 15), (3, 5, 15)]),
        (8, 12, [(5, 1, 7), (5, 5, 7)]),
        (8, 5, [(5, 1, 4)]),
        (2, 2, [(2, 1, 1)]),
    ],
)
def test_episodes_are_as_large_as_the_split_allows(
    classes: int, images: int, expected: list[tuple[int, int, int]]
) -> None:
    assert sizes(toy_split("validation", classes=classes, images=images)) == expected


@pytest.mark.parametrize(("classes", "images"), [(1, 24), (8, 1)])
def test_a_split_without_episodes_is_refused(classes: int, images: int) -> None:
    with pytest.raises(StudyError, match="Use --validate-every 0"):
        validation_protocols(toy_split("validation", classes=classes, images=images), 10)


def test_the_novel_split_is_refused() -> None:
    with pytest.raises(StudyError, match="never validated on the novel split"):
        validation_protocols(toy_split("novel"), 10)


class Blind(nn.Module):
    """Every image has the same embedding, up to noise that knows nothing of it."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.rand(len(images), 4, generator=torch.Generator().manual_seed(len(images)))


def test_accuracies_are_those_of_nearest_centroids() -> None:
    split = toy_split("validation", classes=5, images=24)
    backbone = Backbone("pixels", nn.Flatten(), Preprocessing(16, (0.5,) * 3, (0.5,) * 3), 768, True)
    look = validation(backbone, split, validation_protocols(split, 50), "cpu")
    seeing, blind = look(nn.Flatten(), nn.Identity()), look(_with_size(Blind()), nn.Identity())
    assert list(seeing) == ["validation_1shot", "validation_5shot"]
    assert seeing["validation_5shot"] > 0.9
    assert abs(blind["validation_5shot"] - 0.2) < 0.05
    assert look(nn.Flatten(), nn.Identity()) == seeing, "the same episodes at every look"


def _with_size(network: nn.Module) -> nn.Module:
    return nn.Sequential(network, nn.ZeroPad1d((0, 764)))


def test_what_decides_the_choice_is_recorded() -> None:
    protocols = validation_protocols(toy_split("validation"), 10)
    card = selection_card(protocols, 2)
    assert card == {"split": "validation", "way": 5, "shots": [1, 5], "query": 15, "episodes": 10, "every": 2}
    assert selection_card([], 0) == {}
