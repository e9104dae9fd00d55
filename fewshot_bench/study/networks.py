"""The networks of a study: a backbone each, and its training on the base split if there is one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fewshot_bench.backbones import Backbone, BackboneRequest, is_fetched_already, model_of_hub
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.engine.engine import Engine
from fewshot_bench.errors import DatasetError, StudyError
from fewshot_bench.losses import LOSSES
from fewshot_bench.progress import Progress
from fewshot_bench.study.base_stage import (
    base_recipe,
    base_stage_name,
    fine_tuned_on_base,
    initialised_backbone,
    on_whole_dataset,
    stage_name,
    validation_split,
    whole_recipe,
)
from fewshot_bench.study.checkpoints import (
    Checkpoint,
    checkpoint_name,
    checkpoint_stages,
    read_checkpoint,
    refuse_other_tasks,
)
from fewshot_bench.study.known_names import finished_names
from fewshot_bench.study.methods import (
    chosen_contrast,
    refuse_contrast_without_effect,
    wants_base_head,
    wants_task_head,
)
from fewshot_bench.study.study import Study
from fewshot_bench.training import Recipe
from fewshot_bench.training.division import divided
from fewshot_bench.training.named_recipes import NamedRecipe, named_recipe, recipe_names
from fewshot_bench.training.recipe import DERIVED_FIELDS, refuse_settings_without_effect, refuse_wrong_types

_IMAGES = (32, 32, 3)
"""Height, width and channels of the images of a dataset that is not here."""


class Backbones:
    """Makes backbones; the last one is kept, since the studies of a file mostly start from the same one.

    Args:
        fetches: whether pretrained weights may be fetched; otherwise the same network with random weights stands in
            for one whose weights are not here.
    """

    def __init__(self, *, fetches: bool = True) -> None:
        self._fetches = fetches
        self._key: Hashable = None
        self._kept: Backbone | None = None

    def initial(self, study: Study, dataset: Dataset | None, *, to_train: bool = False) -> Backbone:
        """The backbone of a study before its base stage; random initial weights depend on the training seed alone.

        Args:
            study: without named checkpoints.
            dataset: whose images it sees; None where they are not here, and only the backbone's name matters.
            to_train: whether the caller is going to change it; otherwise it is shared.
        """
        shape = _IMAGES if dataset is None else dataset.split(study.split).images.shape[1:]
        height, _, channels = shape
        request = BackboneRequest(
            study.backbone_name, channels, height, study.image_size, study.interpolation, study.weights
        )
        is_stand_in = not self._fetches and not is_fetched(study)
        seed = study.training_seed
        key = (request, None if is_stand_in else seed)  # all stand-ins cost the same
        return self._get(key, lambda: initialised_backbone(request, seed, is_stand_in=is_stand_in), to_train)

    def trained(self, checkpoint: Checkpoint, *, with_head: bool) -> Backbone:
        """The backbone of a named checkpoint, with the classifier of its training where that is wanted."""

        def read() -> Backbone:
            return checkpoint.backbone_and_head()[0] if with_head else checkpoint.backbone()

        return self._get((checkpoint.path, with_head), read, to_train=False)

    def _get(self, key: Hashable, make: Callable[[], Backbone], to_train: bool) -> Backbone:
        backbone = self._kept if self._kept is not None and key == self._key else make()
        self._key, self._kept = (None, None) if to_train else (key, backbone)
        return backbone


@dataclass(frozen=True, eq=False)
class Network:
    """A network of a study, made when it is needed.

    Attributes:
        backbone_name: in the method's name.
        settings: of the backbone that differ from its default, for the method's name.
        stage: the base stage in the method's name, such as "base-ce"; empty for none.
        hyper_parameters: of the base stage.
        recipe: of the training on that split; None where the network is used as it starts.
        is_checkpoint: whether it was trained under a name, so that its weights tell which loss gave them.
        start: the backbone before the base stage; to change it, say `to_train=True`.
        split: that it is trained on.
        checkpoint: name of the checkpoint that a named recipe trains; empty if the base stage is kept in the cache.
    """

    backbone_name: str
    settings: Mapping[str, Any]
    stage: str
    hyper_parameters: Mapping[str, Any]
    recipe: Recipe | None
    is_checkpoint: bool
    start: Callable[..., Backbone]
    split: SplitName = "base"
    checkpoint: str = ""

    def trained(self, dataset: Dataset, engine: Engine, progress: Progress) -> Backbone:
        """The backbone after its base stage, trained or from the cache; raises DatasetError without a base split."""
        if self.recipe is None:
            return self.start()
        if self.split == "base" and dataset.is_few_shot and "base" not in dataset.splits:
            raise DatasetError(
                f"{self.start().name} trains on a base split, which {dataset.name} does not have. "
                "Use a pretrained network, e.g. --backbone efficientnet_lite0."
            )
        backbone, split, validation = self.start(to_train=True), *self.images(dataset)
        return fine_tuned_on_base(
            backbone,
            split,
            self.recipe,
            device=engine.device,
            engine=engine,
            progress=progress,
            validation=validation,
        )

    def images(self, dataset: Dataset) -> tuple[ImageSplit, ImageSplit | None]:
        """The split that it is trained on, and the validation split if its own classifier is validated on one."""
        split = dataset.split(self.split)
        return split, None if self.split == "base" else validation_split(dataset, split)


def resolve_networks(study: Study, dataset: Dataset | None, backbones: Backbones) -> tuple[Network, ...]:
    """The networks of a study: its backbone after each base stage, or unchanged; or its named checkpoints.

    The trainings of a base stage that differ in their seed follow each other.

    Args:
        study: that names them.
        dataset: whose images they see; None where they are not here, which leaves out named checkpoints.
        backbones: makes the backbones.

    Raises:
        FewshotBenchError: a name is unknown, weights are missing or damaged, or options contradict each other.
    """
    if study.checkpoints is not None:
        return _checkpoint_networks(study, dataset, backbones) if dataset is not None else ()
    if study.recipe is not None:
        return _recipe_networks(study, dataset, backbones)

    def initial_backbone(seed: int) -> Callable[..., Backbone]:
        """The factory of the backbone before a training with a seed, which decides its random initial weights."""
        seeded = study.model_copy(update={"training_seed": seed})
        return lambda *, to_train=False: backbones.initial(seeded, dataset, to_train=to_train)

    start = initial_backbone(study.training_seed)
    backbone = start()
    settings = dict(backbone.changes) | ({"weights": study.weights.stem} if study.weights else {})
    networks = []
    for recipe in base_recipes(study, backbone, dataset):
        for seed in study.seeds_of_trainings:
            seeded = replace(recipe, seed=seed)
            stage = base_stage_name(seeded, _default_recipe(study, backbone, recipe.loss, dataset))
            values = seeded.hyper_parameters() | _division_record(study, dataset, recipe)
            known = (values, seeded, False, initial_backbone(seed), study.trained_split)
            networks.append(Network(study.backbone_name, settings, stage, *known))
    if not networks and study.training_seeds is not None and study.training_seeds > 1:
        raise StudyError(
            f"--training-seeds {study.training_seeds} repeats the training on the base split, and {backbone.name} is "
            "not trained there. Add --base-loss ce, or leave it out."
        )
    return tuple(networks) or (Network(study.backbone_name, settings, "", {}, None, False, start),)


def _default_recipe(study: Study, backbone: Backbone, loss: str, dataset: Dataset | None, **changes: Any) -> Recipe:
    """The recipe of a study's base stage with a loss: the default, or with changed fields."""
    if study.is_whole:
        return whole_recipe(backbone, loss, dataset, **changes)
    return base_recipe(backbone, loss, **changes)


def _division_record(study: Study, dataset: Dataset | None, recipe: Recipe) -> dict[str, str]:
    """The training split of a whole dataset and the digest of its division; empty in few-shot studies."""
    record: dict[str, str] = {"split": study.trained_split} if study.is_whole else {}
    if recipe.divides_images and dataset is not None:
        record["division"] = divided(dataset.split(study.trained_split).class_sizes, recipe).digest
    return record


def trainings_of(study: Study) -> list[tuple[str, dict[str, Any]]]:
    """The trainings of a study with a named recipe: the checkpoint of each, and the settings that differ.

    Raises:
        StudyError: the method maml does not fit the recipe.
    """
    assert study.recipe is not None
    named = named_recipe(study.recipe)
    recipe = named.recipe(study.dataset)
    if wants_task_head(study):
        way = recipe.way if recipe.learns_by_gradient_steps else None
        refuse_other_tasks(f"the recipe {named.name}", way, study)
    changes: dict[str, Any] = {
        "epochs": study.base_epochs,
        "batch_size": study.base_batch,
        "precision": study.base_precision,
        "reading": study.reading,
        "stop_gradient": study.stop_gradient,
        "anchors": study.anchors,
        **_other_settings(study),
    }
    recorded = recipe.hyper_parameters()
    for name in ("lambda_", "tau"):
        value = getattr(study, name)
        changes[name] = value if name in recorded and value != recorded[name] else None
    seeds = [{**changes, "seed": seed or None} for seed in study.seeds_of_trainings]
    return [(checkpoint_name(study.recipe, study.dataset, settings), settings) for settings in seeds]


def with_checkpoint(study: Study, name: str) -> Study:
    """The study of one checkpoint of a study with a named recipe."""
    given = dict.fromkeys(Study.fields_where("is_fixed_by_checkpoint"))
    return study.model_copy(update={**given, "recipe": None, "checkpoints": (name,)})


def _recipe_networks(study: Study, dataset: Dataset | None, backbones: Backbones) -> tuple[Network, ...]:
    """The networks of a named recipe: the checkpoints that are there, and the trainings that are missing."""
    assert study.recipe is not None
    named, networks = named_recipe(study.recipe), list[Network]()
    finished = set(finished_names()) if dataset is not None else set()
    for checkpoint, settings in trainings_of(study):
        if dataset is not None and checkpoint in finished:
            _refuse_another_training(checkpoint, named, _named(study, named, dataset, **settings))
            networks += _checkpoint_networks(with_checkpoint(study, checkpoint), dataset, backbones)
        else:
            networks.append(_untrained(study, dataset, backbones, named, settings))
    return tuple(networks)


def missing_teachers(study: Study, dataset: Dataset, backbones: Backbones, student: Network) -> Iterator[Network]:
    """The networks that a distillation trains first: its teacher's recipe, and that of the teacher's teacher.

    Raises:
        UnknownNameError: a teacher is neither a recipe nor a checkpoint.
        StudyError: a network would learn from itself.
    """
    names, recipe = {student.checkpoint}, student.recipe
    while recipe is not None and recipe.teacher in recipe_names():
        network = _untrained(
            study, dataset, backbones, named_recipe(str(recipe.teacher)), {"seed": recipe.seed or None}
        )
        if network.checkpoint in finished_names():
            return
        if network.checkpoint in names:
            raise StudyError(f"{network.checkpoint} would learn from itself, or from a network that learns from it.")
        yield network
        names, recipe = names | {network.checkpoint}, network.recipe


def _untrained(
    study: Study, dataset: Dataset | None, backbones: Backbones, named: NamedRecipe, settings: Mapping[str, Any]
) -> Network:
    """The network of a named recipe before its training, with the settings that differ.

    Raises:
        UnknownNameError: a teacher is neither a recipe nor a checkpoint.
    """
    seed = settings["seed"] or 0
    fields = {"backbone": named.backbone, "image_size": named.image_size, "recipe": None, "training_seed": seed}
    start = partial(backbones.initial, study.model_copy(update=fields), dataset)
    recipe = _named(study, named, dataset, **settings)
    if recipe.teacher is not None and recipe.teacher not in recipe_names():
        read_checkpoint(recipe.teacher)
    stage = stage_name(named.name, recipe.changes_from(_named(study, named, dataset)))
    known = (recipe.hyper_parameters(), recipe, False, start, study.trained_split)
    checkpoint = checkpoint_name(named.name, study.dataset, settings)
    return Network(named.backbone, dict(start().changes), stage, *known, checkpoint)


def _named(study: Study, named: NamedRecipe, dataset: Dataset | None, **settings: Any) -> Recipe:
    """A named recipe on the dataset of a study."""
    recipe = named.recipe(study.dataset, **settings)
    return on_whole_dataset(recipe, dataset) if study.is_whole else recipe


def _refuse_another_training(name: str, named: NamedRecipe, recipe: Recipe) -> None:
    """Raise StudyError for a checkpoint that is called like that of a recipe, and was trained by another."""
    found = read_checkpoint(name)
    changed = {"backbone", "loss", *found.recipe.changes_from(recipe)}
    changed -= {"backbone"} if found.card.backbone == named.backbone else set()
    changed -= {"loss"} if found.recipe.loss == recipe.loss else set()
    if changed:
        raise StudyError(
            f"{name} was trained otherwise than {named.name} says now: it differs in {', '.join(sorted(changed))}. "
            "Delete it to train it anew, or use --checkpoint to evaluate it."
        )


def _checkpoint_networks(study: Study, dataset: Dataset, backbones: Backbones) -> tuple[Network, ...]:
    with_head = wants_base_head(study)
    return tuple(
        Network(
            checkpoint.card.backbone,
            settings,
            stage,
            hyper_parameters,
            None,
            True,
            lambda checkpoint=checkpoint: backbones.trained(checkpoint, with_head=with_head),
        )
        for checkpoint, _, settings, stage, hyper_parameters in checkpoint_stages(study, dataset)
    )


def base_recipes(study: Study, backbone: Backbone, dataset: Dataset | None = None) -> list[Recipe]:
    """How a study without named checkpoints trains its backbone on the base split, once per loss.

    Raises:
        UnknownNameError: a loss is not known.
        StudyError: a setting of the contrast fits no loss, or a head is wanted that nothing here trains.
    """
    losses, other_settings = study.base_losses, _other_settings(study)
    if losses is None:
        losses = () if backbone.is_pretrained else ("ce", "ce+schane")
    for loss in losses:
        LOSSES[loss]
    refuse_contrast_without_effect(study, losses)
    if wants_task_head(study):
        raise StudyError(
            "maml starts from a network that was trained for its steps: --checkpoint NAME, of fewshot-bench train "
            "--recipe maml-conv4. The steps alone, from any network: --adapt finetune."
        )
    if not losses and backbone.base_head is None and wants_base_head(study):
        raise StudyError(
            f"on=logits needs a classifier of base classes, and {backbone.name} is not trained on any here. Use "
            "--base-loss ce, --checkpoint NAME, or on=embeddings."
        )
    recipes = [
        _default_recipe(
            study,
            backbone,
            loss,
            dataset,
            **{
                "epochs": study.base_epochs,
                "batch_size": study.base_batch,
                "precision": study.base_precision,
                "seed": study.training_seed,
                "lambda_": study.lambda_,
                "tau": study.tau,
                **chosen_contrast(study, loss),
                **other_settings,
            },
        )
        for loss in losses
    ]
    for recipe in recipes:
        refuse_settings_without_effect(other_settings, recipe)
    return recipes


_WITH_OPTIONS = {
    "loss": "--base-loss",
    "epochs": "--base-epochs",
    "batch_size": "--base-batch",
    "precision": "--base-precision",
    "seed": "--training-seed",
    "lambda_": "--lambda",
    "tau": "--tau",
    "reading": "--reading",
    "stop_gradient": "--stop-gradient",
    "anchors": "--anchors",
}
"""Fields of a recipe that have an option of their own in a study."""


def _other_settings(study: Study) -> dict[str, Any]:
    """The fields of the recipe that `base_settings` names; raises StudyError if one is unknown or of another type."""
    settings = study.base_settings
    for name in settings:
        if name in _WITH_OPTIONS:
            raise StudyError(f"--base-set {name} is not taken; use {_WITH_OPTIONS[name]} instead.")
        if name not in Recipe.__dataclass_fields__ or name in DERIVED_FIELDS:
            raise StudyError(f"--base-set {name}: a training on the base split has no setting '{name}'.")
    refuse_wrong_types(settings)
    return dict(settings)


def backbone_of_hub(study: Study) -> str | None:
    """The backbone whose pretrained weights come from a model hub; None where no hub is involved."""
    if study.checkpoints is not None:
        return None
    name = study.backbone_name if study.recipe is None else named_recipe(study.recipe).backbone
    model = model_of_hub(BackboneRequest(name, weights=study.weights))
    return None if model is None else f"timm:{model}"


def is_fetched(study: Study) -> bool:
    """Whether the weights that a study starts from are on this machine, or need no fetching."""
    backbone = backbone_of_hub(study)
    return backbone is None or is_fetched_already(backbone.removeprefix("timm:"))
