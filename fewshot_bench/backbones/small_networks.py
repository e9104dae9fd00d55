"""The literature's small networks, which are trained on the base split of the dataset itself."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench.backbones.backbone import BACKBONES, Backbone, BackboneRequest
from fewshot_bench.backbones.conv4 import Conv4, conv4_32, conv4_64
from fewshot_bench.backbones.preprocessing import Preprocessing
from fewshot_bench.backbones.weights import fit_by_name, read_weights

_PAPER = "Vinyals et al., 2016, Matching Networks; Snell et al., 2017, Prototypical Networks"


@BACKBONES.register("conv4_32", "four convolution blocks of 32 filters, trained on the base split", paper=_PAPER)
def small_conv4(request: BackboneRequest) -> Backbone:
    """Conv4 with 32 filters."""
    return _conv4(request, conv4_32)


@BACKBONES.register("conv4_64", "four convolution blocks of 64 filters, trained on the base split", paper=_PAPER)
def literature_conv4(request: BackboneRequest) -> Backbone:
    """Conv4 with 64 filters, 64-64-64-64 in the tables of the literature."""
    return _conv4(request, conv4_64)


def _conv4(request: BackboneRequest, build: Callable[..., Conv4]) -> Backbone:
    size = request.image_size or request.native_size
    network = build(in_chans=request.channels, image_size=size)
    if request.weights is not None:
        fit_by_name(network, read_weights(request.weights), str(request.weights))
    half = (0.5,) * request.channels
    preprocessing = Preprocessing(size, half, half, request.interpolation or "bilinear")
    changes = preprocessing.changes_from(Preprocessing(request.native_size, half, half, "bilinear"))
    is_pretrained = request.weights is not None
    return Backbone(request.name, network.eval(), preprocessing, network.num_features, is_pretrained, changes)
