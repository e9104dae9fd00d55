"""What a training step minimises: the interface of an objective, and the encoder that it gets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.backbone import checked_embeddings
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.losses.contrastive import at_least_float32
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.training.augmentation import choose_augmentation
from fewshot_bench.training.batches import SampleLoader, Samples
from fewshot_bench.training.data_parallel import Processes
from fewshot_bench.training.optimisation import autocast
from fewshot_bench.training.recipe import Recipe

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Measured:
    """The mean loss of a step, and how many of its views were classified correctly.

    Both have no dimensions and stay on the device: reading them waits for it, so they are read for many steps at once.

    Attributes:
        loss: the mean.
        hits: views that were classified correctly.
        classified: views that were classified.
        images: that the step took, of all processes.
    """

    loss: Tensor
    hits: Tensor
    classified: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How a training is computed; without batch normalisation results change by rounding at most.

    Attributes:
        micro_batch: images whose activations are kept at the same time; None for the whole batch. Gradients are those
            of the whole batch, statistics of batch normalisation those of a micro-batch.
        is_compiled: whether the network is compiled by torch.compile.
        processes: that share every batch; None for this one alone. Each has the same arguments in all else.
    """

    micro_batch: int | None = None
    is_compiled: bool = False
    processes: Processes | None = None

    def __post_init__(self) -> None:
        """Raise StudyError for an empty micro-batch."""
        if self.micro_batch is not None and self.micro_batch < 1:
            raise StudyError(f"a micro-batch should hold 1 image or more, not {self.micro_batch}.")


class Encoder:
    """A copy of a backbone in training, with the images that it learns from.

    Attributes:
        backbone: the copy, on the device.
        loader: of the images; they are augmented on a GPU, since other accelerators lack some of the operations.
        augmentation: makes the views.
        embedding_size: D.
    """

    def __init__(
        self,
        backbone: nn.Module,
        split: ImageSplit,
        recipe: Recipe,
        normalise: Normalise,
        device: torch.device,
        computing: Computing,
    ) -> None:
        self.split, self.recipe, self.normalise = split, recipe, normalise
        self.device, self.computing = device, computing
        self.loader = SampleLoader(split, device if device.type == "cuda" else torch.device("cpu"))
        height, width, channels = split.images.shape[1:]
        self.augmentation = choose_augmentation(recipe.augmentation, channels=channels, image_size=min(height, width))
        self.backbone = backbone
        self._forward = torch.compile(backbone) if computing.is_compiled else backbone
        self.embedding_size = self._embedding_size()

    def embed(self, views: Tensor) -> Tensor:
        """Embeddings of views, uint8 [V, C, H, W] -> [V, D] in float32 or more."""
        with autocast(self.recipe.precision, self.device), plugin_errors(self.backbone, "forward"):
            embeddings: Tensor = self._forward(self.normalise(views))
        return at_least_float32(embeddings)

    @torch.no_grad()
    def _embedding_size(self) -> int:
        two_images = self.loader.load(torch.arange(2)).images.to(self.device)
        with plugin_errors(self.backbone, "forward"):
            embeddings = self.backbone.eval()(self.normalise(two_images))
        return int(checked_embeddings(embeddings, self.backbone, 2).shape[1])


class Objective(Protocol):
    """What the steps of a training minimise.

    Attributes:
        head: is trained with the backbone and kept with it; without parameters where nothing else is trained.
        steps_per_epoch: number of batches of an epoch.
    """

    head: nn.Module
    steps_per_epoch: int

    def batches(self, epoch: int) -> Generator[Samples, None, None]:
        """The images of the steps of an epoch, counted from 0; close it to end early."""

    def gradients(self, samples: Samples, backward: Callable[[Tensor], None]) -> Measured:
        """Add the gradients of the loss of a batch to those of backbone and head, without waiting for a GPU.

        Args:
            samples: a batch of `batches`.
            backward: adds the gradients of a loss, scaled if the precision needs it.
        """


ObjectiveFactory = Callable[[Encoder], Objective]
"""From a network and its images to an objective, whose head it initialises by PyTorch's random numbers."""
