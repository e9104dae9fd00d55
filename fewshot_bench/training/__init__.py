"""Fine-tuning a backbone on the base split."""

from fewshot_bench.training.augment import AUGMENTATION_VERSION, Augmentation, choose_augmentation, two_views
from fewshot_bench.training.base_split import TrainingResult, train_on_base
from fewshot_bench.training.checkpoints import checkpoint_metadata, load_checkpoint, save_checkpoint
from fewshot_bench.training.course import History, Selection, StateFile
from fewshot_bench.training.gradients import batch_norms
from fewshot_bench.training.learner import Computing
from fewshot_bench.training.memory import fitting_micro_batch, refuse_batches_that_do_not_fit
from fewshot_bench.training.randomness import episode_keys, image_keys, keyed_uniform
from fewshot_bench.training.recipe import Recipe, paper_recipe, scratch_recipe
from fewshot_bench.training.reproducibility import seeded_randomness

__all__ = [
    "AUGMENTATION_VERSION",
    "Augmentation",
    "Computing",
    "History",
    "Recipe",
    "Selection",
    "StateFile",
    "TrainingResult",
    "batch_norms",
    "checkpoint_metadata",
    "choose_augmentation",
    "episode_keys",
    "fitting_micro_batch",
    "image_keys",
    "keyed_uniform",
    "load_checkpoint",
    "paper_recipe",
    "refuse_batches_that_do_not_fit",
    "save_checkpoint",
    "scratch_recipe",
    "seeded_randomness",
    "train_on_base",
    "two_views",
]
