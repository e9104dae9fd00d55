"""Training a classifier of the base classes by a teacher: another network that was trained on the same classes."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fewshot_bench.backbones.backbone import Backbone
from fewshot_bench.errors import StudyError
from fewshot_bench.losses.contrastive import at_least_float32
from fewshot_bench.losses.distillation import distillation
from fewshot_bench.training.batches import Samples
from fewshot_bench.training.classification import Batch, BatchLoss, Classification, joined_views
from fewshot_bench.training.objective import Encoder
from fewshot_bench.training.optimisation import autocast


class Distillation(Classification):
    """An objective: the loss of the labels and the divergence from the predictions of a teacher (Hinton et al., 2015).

    A network may learn from one of its own kind ("born again", Furlanello et al., 2018), as in RFS (Tian et al., 2020).
    The teacher sees the very views of its student, in evaluation mode.

    Args:
        encoder: of the student.
        teacher: with its base head.
    """

    def __init__(self, encoder: Encoder, teacher: Backbone) -> None:
        super().__init__(encoder)
        if encoder.computing.processes is not None:
            raise StudyError("distillation takes one process. Leave out torchrun.")
        if teacher.base_head is None or teacher.base_head.classes != encoder.split.class_names:
            raise StudyError(
                f"the teacher {teacher.name} was not trained to tell the base classes of {encoder.split.dataset} "
                "apart. Use a --teacher that was trained on this dataset."
            )
        self._teacher = copy.deepcopy(teacher.network).to(encoder.device).eval().requires_grad_(False)
        self._teacher_sees, self._teacher_head = teacher.preprocessing, teacher.base_head

    def views(self, samples: Samples) -> Batch:
        """Random views of each image, with the logits of the teacher as the last target."""
        batch = super().views(samples)
        logits = [self._of_teacher(part.views) for part in batch.parts(self._micro_batch)]
        return replace(batch, targets=(*batch.targets, joined_views(logits, batch.per_image)))

    def _bound_loss(self) -> BatchLoss:
        return partial(_distilled_loss, super()._bound_loss(), self.recipe.soft_share, self.recipe.temperature)

    @torch.no_grad()
    def _of_teacher(self, views: Tensor) -> Tensor:
        """Its logits of views [B, C, H, W], [B, C]."""
        with autocast(self.recipe.precision, self.encoder.device):
            embeddings: Tensor = self._teacher(self._teacher_sees(views))
        return self._teacher_head(at_least_float32(embeddings))


def _distilled_loss(loss: BatchLoss, soft_share: float, temperature: float, logits: Tensor, *others: Tensor) -> Tensor:
    """The mean loss of labels and of a teacher's logits, which come last."""
    *columns, teacher = others
    divergence = distillation(logits, teacher, temperature=temperature)
    return (1 - soft_share) * loss(logits, *columns) + soft_share * divergence
