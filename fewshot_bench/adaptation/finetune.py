"""Fine-tuning of the whole backbone, or a part of it, on each support set.

Dhillon et al. (2020), "A baseline for few-shot image classification", fine-tune with cross-entropy; it can be mixed
with SCHaNe (Long et al., 2023, who do not say which split they fine-tune on). `EpisodeRecipe` says what is trained and
how; the training itself is in the room `finetuning`.

Dhillon et al. put a new head on the rectified, L2-normalised logits z of the base-trained network:
p(y | x) = softmax(W normalize(relu(z(x))) + b). At first b is 0, and row k of W is the mean of relu(z) over the support
images of class k, scaled to length one. Each epoch makes two updates of Adam: one on the cross-entropy of the support
set, one on the mean Shannon entropy of p(. | x) over the queries. Their recipe is start="support", on="logits",
query_entropy=1, epochs=25, learning_rate=5e-5, optimizer="adam", weight_decay=0 and dropout=0. Their public code also
augments the queries and moves the running statistics of batch normalisation; here `bn` says what normalises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fewshot_bench.adaptation.base import ADAPTATIONS, Adaptation
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.tuned_parameters import parse_tuning


@ADAPTATIONS.register(
    "finetune",
    "the whole backbone, its last blocks, norms, biases, adapters or a head, trained on each support set",
    paper="Dhillon et al., 2020, A Baseline for Few-Shot Image Classification; Long et al., 2023",
    family="fine-tuning",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class Finetune(EpisodeRecipe, Adaptation):
    """Fine-tuning of a backbone on each support set; the hyper-parameters are those of `EpisodeRecipe`.

    >>> import fewshot_bench as fb
    >>> fb.Finetune(tune="last:1", loss="ce+schane").stage
    'episode-ce+schane'
    >>> fb.Finetune(tune="head", bn="frozen").trains_on_embeddings  # so every image is embedded once for all episodes
    True
    """

    name: ClassVar[str] = "finetune"

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UnknownNameError: the loss is not known.
            StudyError: a value is out of range.
        """
        super().__post_init__()
        parse_tuning(self.tune)
        self.check()
        if self.trains_on_embeddings and self.precision != "float32":
            raise StudyError(
                f"--tune head learns from embeddings in float32 and cannot use --precision {self.precision}."
            )

    @property
    def is_transductive(self) -> bool:
        """Whether batch normalisation sees the queries together, or their entropy is lowered."""
        return self.bn == "transductive" or self.sees_queries

    @property
    def trains_on_embeddings(self) -> bool:
        """Whether the backbone stays frozen, so that every image is embedded once for all episodes."""
        is_frozen = self.tune == "head" and self.bn == "frozen"
        return is_frozen and (self.views is None or self.views > 0) and self.start != "trained"

    @property
    def augmented_views(self) -> int:
        """Views of every image that are embedded once, where the backbone stays frozen."""
        return self.fixed_views

    @property
    def stage(self) -> str:
        """The episode stage of the method's name."""
        return f"episode-{self.loss}"

    def hyper_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter that matters for the loss."""
        return self.recorded()
