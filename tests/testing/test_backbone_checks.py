"""Every check of a backbone finds what it is for, in networks that somebody could write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, dropout

from fewshot_bench.backbones import Backbone, BackboneRequest, Preprocessing
from fewshot_bench.testing import BACKBONE_PROPERTIES, ConformanceError, check_backbone

Forward = Callable[[nn.Module, Tensor], Any]


class Net(nn.Module):
    """The means of rows, and what a test does with them."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))
        self.register_buffer("seen", torch.zeros(()))
        self.does = forward

    def forward(self, images: Tensor) -> Any:
        return self.does(self, images.mean((1, 3))[:, :8] * self.weight)


def made(forward: Forward = lambda network, means: means, **changes: Any) -> Callable[[BackboneRequest], Backbone]:
    def backbone(request: BackboneRequest) -> Backbone:
        half = (0.5,) * request.channels
        plain = Backbone(request.name, Net(forward), Preprocessing(request.native_size, half, half), 8, False)
        return replace(plain, **changes)

    return backbone


def unseeded(request: BackboneRequest) -> Backbone:
    backbone = made()(request)
    numbers = np.random.default_rng().normal(size=8).astype(np.float32)
    backbone.network.load_state_dict({"weight": torch.from_numpy(numbers), "seen": torch.zeros(())})
    return backbone


def counting(network: Any, means: Tensor) -> Tensor:
    network.seen.add_(1)
    return means


BROKEN: Mapping[str, Mapping[str, Callable[[BackboneRequest], Backbone]]] = {
    "preprocessing": {
        "none": made(preprocessing=None),
        "a function": made(preprocessing=lambda images: images / 255),
        "pixels in 0..255": made(preprocessing=Preprocessing(28, (127.0,), (60.0,))),
        "a spread of zero": made(preprocessing=Preprocessing(28, (0.5,), (0.0,))),
        "two channels": made(preprocessing=Preprocessing(28, (0.5, 0.5), (0.5, 0.5))),
        "one mean, three spreads": made(preprocessing=Preprocessing(28, (0.5,), (0.5, 0.5, 0.5))),
    },
    "embeddings": {
        "another size": made(embedding_size=7),
        "a map": made(lambda network, means: means[:, :, None]),
        "NaN of a black image": made(lambda network, means: means / (means + network.weight)),  # type: ignore[operator]
        "all the same": made(lambda network, means: torch.ones_like(means)),
        "a pair": made(lambda network, means: (means, means)),
    },
    "batches": {
        "batch norm by the batch": made(lambda network, means: batch_norm(means, None, None, training=len(means) > 1)),
        "centred": made(lambda network, means: means - means.mean(0)),
    },
    "determinism": {
        "dropout": made(lambda network, means: dropout(means)),
        "noise": made(lambda network, means: means + torch.randn_like(means)),
        "NumPy": made(lambda network, means: means * float(np.random.random())),  # noqa: NPY002
        "unused random numbers": made(lambda network, means: means + 0 * torch.rand(1)),
    },
    "weights": {
        "a counter": made(counting),
        "random and said to be pretrained": made(is_pretrained=True),
        "unseeded": unseeded,
    },
}
CASES = [(name, how) for name, backbones in BROKEN.items() for how in backbones]


@pytest.mark.parametrize(("name", "how"), CASES, ids=lambda text: text)
def test_a_backbone_that_lacks_a_property_is_told_which(name: str, how: str) -> None:
    with pytest.raises(ConformanceError, match=f"lacks the property '{name}': "):
        check_backbone(BROKEN[name][how], name)


def test_every_property_has_a_backbone_that_lacks_it() -> None:
    assert set(BROKEN) == set(BACKBONE_PROPERTIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONE_PROPERTIES)
@pytest.mark.parametrize(
    "backbone",
    ["conv4_32", "conv4_64_gap", made(), made()(BackboneRequest("own"))],
    ids=["name", "another name", "function", "backbone"],
)
def test_what_has_the_property_passes_as_name_function_or_backbone(backbone: Any, name: str) -> None:
    check_backbone(backbone, name)


@pytest.mark.parametrize("subject", [3, Net, Net(lambda network, means: means)], ids=["number", "class", "network"])
def test_what_is_no_backbone_is_refused(subject: Any) -> None:
    with pytest.raises(ConformanceError, match="Pass a function from BackboneRequest to Backbone"):
        check_backbone(subject)


def test_a_factory_that_returns_a_network_is_told_what_to_return() -> None:
    with pytest.raises(ConformanceError, match=r"returned a Net\. The factory of a backbone takes a BackboneRequest"):
        check_backbone(lambda request: Net(lambda network, means: means), "embeddings")  # type: ignore[arg-type,return-value]
