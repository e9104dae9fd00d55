"""The literature's own networks, which are trained on the base split of the dataset itself."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench.backbones.backbone import BACKBONES, Backbone, BackboneRequest, Preprocessing
from fewshot_bench.backbones.conv4 import conv4_32, conv4_64
from fewshot_bench.backbones.literature_network import LiteratureNetwork
from fewshot_bench.backbones.resnet12 import resnet12
from fewshot_bench.backbones.weights import fit_by_name
from fewshot_bench.backbones.weights_file import read_weights
from fewshot_bench.backbones.wrn28_10 import wrn28_10

_NETWORKS: dict[str, Callable[..., LiteratureNetwork]] = {
    "conv4_32": conv4_32,
    "conv4_64": conv4_64,
    "resnet12": resnet12,
    "wrn28_10": wrn28_10,
}
_CONV4 = "Vinyals et al., 2016, Matching Networks; Snell et al., 2017, Prototypical Networks"
_RESNET12 = "Oreshkin et al., 2018, TADAM; Lee et al., 2019, MetaOptNet; Tian et al., 2020, RFS"
_WRN = "Zagoruyko and Komodakis, 2016, Wide Residual Networks; Rusu et al., 2019, LEO; Dhillon et al., 2020"


@BACKBONES.register("conv4_32", "four convolution blocks of 32 filters, trained on the base split", paper=_CONV4)
@BACKBONES.register("conv4_64", "four convolution blocks of 64 filters, trained on the base split", paper=_CONV4)
@BACKBONES.register("resnet12", "four residual blocks, D = 640, trained on the base split", paper=_RESNET12)
@BACKBONES.register("wrn28_10", "wide ResNet of 28 layers, D = 640, trained on the base split", paper=_WRN)
def literature_backbone(request: BackboneRequest) -> Backbone:
    """A network of the literature for images of the dataset's own size and channels, untrained unless given weights.

    Raises:
        StudyError: the images are too small for the network.
        WeightsError: the weights cannot be read or do not fit.
    """
    size = request.image_size or request.native_size
    network = _NETWORKS[request.name](in_chans=request.channels, img_size=size)
    fit = {}
    if request.weights is not None:
        fit = fit_by_name(network, read_weights(request.weights), str(request.weights), network.spellings)
    half = (0.5,) * request.channels
    preprocessing = Preprocessing(size, half, half, request.interpolation or "bilinear")
    changes = preprocessing.changes_from(Preprocessing(request.native_size, half, half, "bilinear"))
    is_pretrained = request.weights is not None
    return Backbone(request.name, network.eval(), preprocessing, network.num_features, is_pretrained, changes, fit=fit)
