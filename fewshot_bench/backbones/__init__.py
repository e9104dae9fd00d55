"""From images to embeddings: the networks, their weights, and cached embeddings."""

from fewshot_bench.backbones import networks
from fewshot_bench.backbones.backbone import BACKBONES, Backbone, BackboneRequest, Preprocessing
from fewshot_bench.backbones.blocks import last_blocks, parameter_blocks
from fewshot_bench.backbones.embedding import check_embeddings, embed, embeddings_file, network_identity
from fewshot_bench.backbones.task_head import TaskHead, read_task_head
from fewshot_bench.backbones.timm_backbones import create_backbone, is_fetched_already, known_backbone, model_of_hub
from fewshot_bench.backbones.weights import fit_words
from fewshot_bench.backbones.weights_file import BaseHead, read_base_head, without_base_head

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneRequest",
    "BaseHead",
    "Preprocessing",
    "TaskHead",
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
    "networks",
    "parameter_blocks",
    "read_base_head",
    "read_task_head",
    "without_base_head",
]
