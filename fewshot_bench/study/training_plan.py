"""What a user says about the training of a backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from fewshot_bench.backbones.preprocessing import Interpolation
from fewshot_bench.errors import StudyError
from fewshot_bench.study.checkpoints import LAST, checkpoint_file


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything that `fewshot-bench train` needs to know.

    Attributes:
        name: what the network will be called.
        dataset: name or place of a dataset with a base split.
        backbone: name of a backbone.
        loss: name of a loss.
        recipe: settings that differ from the default, which is the paper's recipe for pretrained networks and the
            one for small networks otherwise; None leaves a setting at its default.
        weights: a file to start from instead of the backbone's own weights.
        image_size: side in pixels instead of the backbone's own.
        interpolation: instead of the backbone's own.
        device: "auto", "cpu", "cuda", ...
        micro_batch: images whose activations are kept at the same time; None for what fits into memory.
        is_compiled: whether the network is compiled by torch.compile.
        validate_every: epochs between two looks at the validation split; 0 for none, None for about ten looks.
        validation_episodes: per number of shots.
        save_every: epochs between two writes of the state.
        keeps_last: whether the network after the last epoch is kept as `NAME.last` too.
        is_fresh: whether to forget what was trained under that name before.
        tensorboard: folder for TensorBoard.
    """

    name: str
    dataset: str = "glyphs"
    backbone: str = "conv4_64"
    loss: str = "ce"
    recipe: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    image_size: int | None = None
    interpolation: str | None = None
    device: str = "auto"
    micro_batch: int | None = None
    is_compiled: bool = False
    validate_every: int | None = None
    validation_episodes: int = 200
    save_every: int = 1
    keeps_last: bool = False
    is_fresh: bool = False
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a name that cannot be one, and another value that is out of its range.

        Raises:
            StudyError: a value is not what it should be.
        """
        checkpoint_file(self.name)
        if self.name.endswith(LAST):
            raise StudyError(f"names that end with {LAST} are those of last epochs; choose another than {self.name}.")
        if "," in self.backbone:
            raise StudyError(f"a training makes one network: --backbone takes one name, not {self.backbone}.")
        if self.interpolation not in (None, *get_args(Interpolation)):
            choices = ", ".join(get_args(Interpolation))
            raise StudyError(f"an interpolation should be one of {choices}, not {self.interpolation}.")
        for name in ("save_every", "validation_episodes"):
            if getattr(self, name) < 1:
                raise StudyError(f"--{name.replace('_', '-')} should be 1 or more, not {getattr(self, name)}.")
