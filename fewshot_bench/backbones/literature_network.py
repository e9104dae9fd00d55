"""What the networks of the few-shot literature share: an interface as timm has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout

from fewshot_bench.backbones.weights import Spelling
from fewshot_bench.errors import StudyError


class LiteratureNetwork(nn.Module, ABC):
    """An encoder of images with an optional linear classifier, in the manner of timm.

    Without a classifier (`num_classes=0`, the default) it gives embeddings [B, D], otherwise logits [B, num_classes].

    Attributes:
        num_features: D, the size of the embedding.
        num_classes: outputs of the classifier, 0 for none.
        global_pool: how feature maps become an embedding; "" leaves them as they are, [B, channels, h, w].
        classifier: a linear layer, or the identity.
    """

    halvings: int
    """How often the network halves the side of an image before pooling."""
    own_pool: str = "avg"
    """The default of `global_pool`."""
    spellings: Sequence[Spelling] = ()
    """Names of the tensors in the code of other authors."""

    def __init__(self, num_features: int, num_classes: int, global_pool: str | None, drop_rate: float) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate = drop_rate
        self.global_pool = self.own_pool
        self.reset_classifier(num_classes, global_pool)

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Feature maps of images, before pooling.

        Args:
            images: float [B, C, H, W].

        Returns:
            [B, channels, h, w].
        """

    @abstractmethod
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which `timm.models.group_parameters` puts parameters into blocks from input to output.

        Args:
            coarse: by stage instead of by block.
        """

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool feature maps and classify the embedding.

        Args:
            features: [B, channels, h, w].
            pre_logits: leave the classifier out.

        Returns:
            [B, D] or [B, num_classes]; the feature maps where `global_pool` is "".
        """
        embeddings = self._pooled(features)
        if self.drop_rate:  # vmap refuses dropout even where its rate is 0
            embeddings = dropout(embeddings, self.drop_rate, self.training)
        return embeddings if pre_logits else self.classifier(embeddings)

    def forward(self, images: Tensor) -> Tensor:
        """Embed or classify images.

        Args:
            images: float [B, C, H, W].

        Returns:
            [B, D], or [B, num_classes] with a classifier.
        """
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The linear classifier, or the identity where there is none."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one.

        Args:
            num_classes: outputs, 0 for none.
            global_pool: the network's own pooling, "" for none, None for no change.

        Raises:
            StudyError: the pooling is not the network's own, or there is a classifier without pooling.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("", self.own_pool):
            raise StudyError(
                f"{type(self).__name__} has no global_pool '{pool}'. Use '{self.own_pool}', or '' for feature maps."
            )
        if not pool and num_classes:
            raise StudyError(
                f"a classifier of {num_classes} classes needs embeddings, and global_pool='' gives feature maps. "
                f"Use num_classes=0 or global_pool='{self.own_pool}'."
            )
        self.global_pool, self.num_classes = pool, num_classes
        self.classifier: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def _pooled(self, features: Tensor) -> Tensor:
        if not self.global_pool:
            return features
        return features.mean((2, 3)) if self.global_pool == "avg" else features.flatten(1)

    @classmethod
    def refuse_small_images(cls, image_size: int) -> None:
        """Refuse images that are too small; raises StudyError if the side is less than one pixel after all halvings."""
        smallest = 2**cls.halvings
        if image_size < smallest:
            raise StudyError(
                f"{cls.__name__} halves images {cls.halvings} times; {image_size} px is too small. "
                f"Use {smallest} px or more."
            )


def timm_config(first_conv: str | tuple[str, ...]) -> dict[str, Any]:
    """The timm configuration of a network without weights; `first_conv` names the convolutions that take the image."""
    half = (0.5, 0.5, 0.5)
    return {
        "num_classes": 0,
        "input_size": (3, 84, 84),
        "mean": half,
        "std": half,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": first_conv,
        "classifier": "classifier",
    }
