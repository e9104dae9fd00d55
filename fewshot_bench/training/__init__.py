"""Learning on the base split: recipes, augmentation, the training loop, and trained networks on disk."""

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import lazily

if TYPE_CHECKING:
    from fewshot_bench.training.augmentation import AUGMENTATION_VERSION as AUGMENTATION_VERSION
    from fewshot_bench.training.augmentation import Augmentation as Augmentation
    from fewshot_bench.training.augmentation import choose_augmentation as choose_augmentation
    from fewshot_bench.training.augmentation import random_views as random_views
    from fewshot_bench.training.checkpoints import checkpoint_metadata as checkpoint_metadata
    from fewshot_bench.training.checkpoints import load_checkpoint as load_checkpoint
    from fewshot_bench.training.checkpoints import load_network as load_network
    from fewshot_bench.training.checkpoints import save_checkpoint as save_checkpoint
    from fewshot_bench.training.fit import Selection as Selection
    from fewshot_bench.training.fit import StateFile as StateFile
    from fewshot_bench.training.fit import TrainingResult as TrainingResult
    from fewshot_bench.training.fit import train_on_base as train_on_base
    from fewshot_bench.training.history import History as History
    from fewshot_bench.training.objective import Computing as Computing
    from fewshot_bench.training.objective import Encoder as Encoder
    from fewshot_bench.training.objective import Measured as Measured
    from fewshot_bench.training.objective import ObjectiveFactory as ObjectiveFactory
    from fewshot_bench.training.optimisation import StepMemory as StepMemory
    from fewshot_bench.training.optimisation import batch_norms as batch_norms
    from fewshot_bench.training.optimisation import fitting_micro_batch as fitting_micro_batch
    from fewshot_bench.training.optimisation import refuse_batches_that_do_not_fit as refuse_batches_that_do_not_fit
    from fewshot_bench.training.randomness import episode_keys as episode_keys
    from fewshot_bench.training.randomness import image_keys as image_keys
    from fewshot_bench.training.randomness import keyed_uniform as keyed_uniform
    from fewshot_bench.training.randomness import seeded_randomness as seeded_randomness
    from fewshot_bench.training.recipe import Recipe as Recipe
    from fewshot_bench.training.recipe import paper_recipe as paper_recipe
    from fewshot_bench.training.recipe import scratch_recipe as scratch_recipe

# Imported on first use: a misspelt option of `train` must not wait for torch.
_HOMES = {
    name: module
    for module, names in {
        "augmentation": ("AUGMENTATION_VERSION", "Augmentation", "choose_augmentation", "random_views"),
        "checkpoints": ("checkpoint_metadata", "load_checkpoint", "load_network", "save_checkpoint"),
        "fit": ("Selection", "StateFile", "TrainingResult", "train_on_base"),
        "history": ("History",),
        "objective": ("Computing", "Encoder", "Measured", "ObjectiveFactory"),
        "optimisation": ("StepMemory", "batch_norms", "fitting_micro_batch", "refuse_batches_that_do_not_fit"),
        "randomness": ("episode_keys", "image_keys", "keyed_uniform", "seeded_randomness"),
        "recipe": ("Recipe", "paper_recipe", "scratch_recipe"),
    }.items()
    for name in names
}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
