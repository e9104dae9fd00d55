"""Image to embedding: the networks, their weights, and the cache of what they gave."""

from fewshot_bench.backbones import small_networks
from fewshot_bench.backbones.backbone import BACKBONES, Backbone, BackboneRequest
from fewshot_bench.backbones.base_head import BaseHead, read_base_head, without_base_head
from fewshot_bench.backbones.blocks import last_blocks, parameter_blocks
from fewshot_bench.backbones.embedding import check_embeddings, embed, embeddings_file
from fewshot_bench.backbones.embedding_key import network_identity
from fewshot_bench.backbones.hub import is_fetched_already
from fewshot_bench.backbones.preprocessing import Preprocessing
from fewshot_bench.backbones.timm_backbones import create_backbone, known_backbone, model_of_hub
from fewshot_bench.backbones.weights import fit_words

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneRequest",
    "BaseHead",
    "Preprocessing",
    "check_embeddings",
    "create_backbone",
    "embed",
    "embeddings_file",
    "fit_words",
    "is_fetched_already",
    "known_backbone",
    "last_blocks",
    "model_of_hub",
    "network_identity",
    "parameter_blocks",
    "read_base_head",
    "small_networks",
    "without_base_head",
]
