"""Fine-tuning a backbone on the base split."""

from typing import TYPE_CHECKING

from fewshot_bench.lazy import lazily

if TYPE_CHECKING:
    from fewshot_bench.training.augment import AUGMENTATION_VERSION as AUGMENTATION_VERSION
    from fewshot_bench.training.augment import Augmentation as Augmentation
    from fewshot_bench.training.augment import choose_augmentation as choose_augmentation
    from fewshot_bench.training.augment import two_views as two_views
    from fewshot_bench.training.base_split import TrainingResult as TrainingResult
    from fewshot_bench.training.base_split import train_on_base as train_on_base
    from fewshot_bench.training.checkpoints import checkpoint_metadata as checkpoint_metadata
    from fewshot_bench.training.checkpoints import load_checkpoint as load_checkpoint
    from fewshot_bench.training.checkpoints import load_network as load_network
    from fewshot_bench.training.checkpoints import save_checkpoint as save_checkpoint
    from fewshot_bench.training.course import History as History
    from fewshot_bench.training.course import Selection as Selection
    from fewshot_bench.training.course import StateFile as StateFile
    from fewshot_bench.training.gradients import batch_norms as batch_norms
    from fewshot_bench.training.learner import Computing as Computing
    from fewshot_bench.training.memory import fitting_micro_batch as fitting_micro_batch
    from fewshot_bench.training.memory import refuse_batches_that_do_not_fit as refuse_batches_that_do_not_fit
    from fewshot_bench.training.randomness import episode_keys as episode_keys
    from fewshot_bench.training.randomness import image_keys as image_keys
    from fewshot_bench.training.randomness import keyed_uniform as keyed_uniform
    from fewshot_bench.training.recipe import Recipe as Recipe
    from fewshot_bench.training.recipe import paper_recipe as paper_recipe
    from fewshot_bench.training.recipe import scratch_recipe as scratch_recipe
    from fewshot_bench.training.reproducibility import seeded_randomness as seeded_randomness

# Imported on first use: a misspelt option of `train` must not wait for torch.
_HOMES = {
    "AUGMENTATION_VERSION": "augment",
    "Augmentation": "augment",
    "Computing": "learner",
    "History": "course",
    "Recipe": "recipe",
    "Selection": "course",
    "StateFile": "course",
    "TrainingResult": "base_split",
    "batch_norms": "gradients",
    "checkpoint_metadata": "checkpoints",
    "choose_augmentation": "augment",
    "episode_keys": "randomness",
    "fitting_micro_batch": "memory",
    "image_keys": "randomness",
    "keyed_uniform": "randomness",
    "load_checkpoint": "checkpoints",
    "load_network": "checkpoints",
    "paper_recipe": "recipe",
    "refuse_batches_that_do_not_fit": "memory",
    "save_checkpoint": "checkpoints",
    "scratch_recipe": "recipe",
    "seeded_randomness": "reproducibility",
    "train_on_base": "base_split",
    "two_views": "augment",
}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
