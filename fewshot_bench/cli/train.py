"""`fewshot-bench train`: fine-tune a backbone on the base split, under a name that `run` can use."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fewshot_bench._io.ranks import is_main_process
from fewshot_bench._io.text import printable
from fewshot_bench._io.toml import tomllib
from fewshot_bench.cli.options import JsonOption, assignment
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.study_options import field_option, takes_fields
from fewshot_bench.progress import SILENT
from fewshot_bench.study.study import Options, option

if TYPE_CHECKING:
    from fewshot_bench.study import Checkpoint


# fmt: off  # one field, one line: to be read as a table
class TrainingOptions(Options):
    """The options of `train`; those of the recipe are named like its fields, and None is the recipe's default."""

    dataset: str = option("glyphs", "Dataset with a base split (fewshot-bench data ls).", "data")
    protocol: Literal["few-shot", "full"] = option(
        "few-shot", "full: train on the train split of a dataset for classification.", "data"
    )
    named_recipe: str | None = option(
        None, "Name (fewshot-bench ls recipes), or FILE.toml; other options override it.", "method", flag="--recipe"
    )
    backbone: str | None = option(
        None, "Name (fewshot-bench ls backbones), or timm:NAME. Default: the recipe's, or conv4_64.", "method"
    )
    loss: str | None = option(
        None, "Name (fewshot-bench ls losses), e.g. ce+schane. Default: the recipe's, or ce.", "method"
    )
    weights: str | None = option(None, "Weights to start from: safetensors or a PyTorch state dict.", "method")
    interpolation: str | None = option(None, "bicubic, bilinear or nearest. Default: the backbone's.", "method")
    epochs: int | None = option(None, "Passes over the split. Default, here and below: the recipe's.", "method")
    objective: str | None = option(
        None, "classification, cosine, distillation, episodic, maml, anil or meta-sgd.", "method"
    )
    batch_size: int | None = option(None, "Images per step.", "method")
    views: int | None = option(None, "Views of each image in a step, 1 or 2.", "method")
    way: int | None = option(None, "Classes of a training task, for objectives that learn from tasks.", "method")
    shot: int | None = option(None, "Support images per class of a training task.", "method")
    query: int | None = option(None, "Query images per class of a training task.", "method")
    tasks: int | None = option(None, "Training tasks per step.", "method")
    teacher: str | None = option(
        None, "Teacher of a distillation: a checkpoint, or a recipe, which is trained first.", "method"
    )
    temperature: float | None = option(None, "Temperature of a distillation.", "method")
    soft_share: float | None = option(None, "Weight of a distillation's teacher against the labels.", "method")
    mixup: float | None = option(None, "Mix images in pairs by shares of Beta(A, A); 0: none.", "method")
    drop_block: float | None = option(None, "DropBlock rate of resnet12.", "method")
    drop_block_size: int | None = option(None, "Side of DropBlock's squares.", "method")
    steps_per_epoch: int | None = option(None, "Steps per epoch of training tasks.", "method")
    episodic_head: str | None = option(None, "Head of a training task: centroid, matching, ridge or svm.", "method")
    head_penalty: float | None = option(None, "Penalty of the head ridge, or C of svm. Default: 50 or 0.1.", "method")
    head_scale: float | None = option(None, "Factor of the head's scores; for matching, of the cosines.", "method")
    inner_steps: int | None = option(None, "Gradient steps on a support set, for maml, anil and meta-sgd.", "method")
    inner_learning_rate: float | None = option(None, "Learning rate of these steps; meta-sgd starts there.", "method")
    first_order: bool | None = option(None, "Leave out second derivatives, as first-order MAML does.", "method")
    inner_statistics: str | None = option(
        None, "Statistics of batch normalisation: batch (transductive) or support.", "method"
    )
    optimizer: str | None = option(None, "adamw (decoupled weight decay); adam, sgd (added to the gradient).", "method")
    learning_rate: float | None = option(None, "Highest learning rate.", "method")
    schedule: str | None = option(None, "constant, cosine, one-cycle or steps.", "method")
    warmup_epochs: float | None = option(None, "Warm-up epochs of a constant or cosine schedule.", "method")
    weight_decay: float | None = option(None, "Weight decay.", "method")
    decays: str | None = option(None, "Weights that decay: matrices (and filters), or all.", "method")
    dropout: float | None = option(None, "Dropout rate.", "method")
    dropout_place: str | None = option(None, "head (before it) or network (its own dropout layers).", "method")
    label_smoothing: float | None = option(None, "Label smoothing of the cross-entropy.", "method")
    lambda_: float | None = option(None, "Weight of the contrastive term.", "method")
    tau: float | None = option(None, "Temperature of the contrastive term.", "method")
    reading: str | None = option(None, "How ce+schane reads Equation 4 of its paper: in or out.", "method")
    stop_gradient: str | None = option(None, "beta: ce+schane's weights of negatives are constants; or none.", "method")
    anchors: str | None = option(None, "Contrastive term: mean or sum over its anchors.", "method")
    augmentation: str | None = option(None, "auto, autoaugment, autoaugment-policy, jitter, affine or none.", "method")
    precision: str | None = option(None, "float32, bf16 or fp16 (autocast).", "method")
    seed: int | None = option(None, "Seed of the first weights, the batches, the views and dropout.", "method")
    validate_every: int | None = option(
        None, "Epochs between validations; 0: none. Default: about ten validations.", "episodes"
    )
    validation_episodes: int | None = option(None, "Validation episodes per number of shots. Default: 200.", "episodes")
    micro_batch: int | None = option(
        None, "Images in memory at once; gradients are of the batch. Default: what fits.", "computing"
    )
    threads: int | None = option(None, "CPU threads; the last bits of the weights depend on it.", "computing")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", "computing")
    is_compiled: bool = option(
        False, "Compile the network; pays for long trainings on a GPU.", "computing", flag="--compile"
    )
    save_every: int = option(1, "Epochs between two saved training states.", "output")
    keeps_last: bool = option(
        False, "Also keep the last epoch, as NAME.last, if another is chosen.", "output", flag="--keep-last"
    )
    is_fresh: bool = option(False, "Train again under a name that is taken, and replace it.", "output", flag="--fresh")
    tensorboard: str | None = option(None, "Folder for TensorBoard's files.", "output")


# fmt: on


@takes_fields(TrainingOptions)
def train(
    *,
    name: Annotated[
        str | None,
        typer.Option(rich_help_panel="Output", help="Name of the trained network. With --recipe: RECIPE-DATASET."),
    ] = None,
    image_size: Annotated[int | None, field_option("image_size")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            rich_help_panel="Method",
            help="Another field of the recipe, such as momentum=0.8, ema=0.999 or tune=last:1. Repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Fine-tune a backbone on the base split, and keep the epoch that is best on validation episodes.

    After a stop, the same command resumes from the last epoch that was saved. On several GPUs: torchrun
    --nproc-per-node 4 -m fewshot_bench train ...
    """
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.study.known_names import refuse_misspelt_training
    from fewshot_bench.training.named_recipes import named_recipe
    from fewshot_bench.training.recipe import DERIVED_FIELDS, Recipe, refuse_wrong_types

    names = [field.name for field in fields(Recipe) if field.name not in ("loss", *DERIVED_FIELDS)]
    recipe = {field: options.pop(field, None) for field in names}
    for text in set_ or ():
        field, value = _recipe_field(text, recipe)
        if recipe[field] is not None:
            raise typer.BadParameter(f"{field} is given twice, by --set and before; leave one of them out.")
        recipe[field] = value
    refuse_wrong_types(recipe)
    named = options["named_recipe"]
    if named is not None:
        named_recipe(named)
    elif name is None:
        raise typer.BadParameter("--name is missing: it names the trained network. Only --recipe has a default for it.")
    refuse_misspelt_training(options["dataset"], options["backbone"], options["loss"], recipe)
    from fewshot_bench.study import TrainingPlan, train_backbone  # after the names have been checked
    from fewshot_bench.study.checkpoints import checkpoint_name
    from fewshot_bench.study.provenance import weights_note

    if name is None:
        changes = {"backbone": options["backbone"], "loss": options["loss"], "image_size": image_size, **recipe}
        name = checkpoint_name(named, options["dataset"], changes)
    paths = {key: Path(options[key]) for key in ("weights", "tensorboard") if options[key] is not None}
    plan = TrainingPlan(name=name, recipe=recipe, image_size=image_size, **options | paths)
    with ProgressBars() if is_main_process() else nullcontext(SILENT) as progress:
        checkpoint = train_backbone(plan, progress=progress)
    if not is_main_process():
        return
    if note := weights_note(checkpoint.computing):
        typer.echo(printable(f"note: {note}"), err=True)
    if as_json:
        print_json({"name": checkpoint.name, **checkpoint.facts()})
        return
    _report(plan.dataset, checkpoint)


def _recipe_field(text: str, recipe: Mapping[str, Any]) -> tuple[str, Any]:
    """The name and value of `--set field=value`, a value of TOML; raises typer.BadParameter for another name."""
    name, value = assignment(text)
    if name not in recipe:
        known = ", ".join(sorted(recipe))
        raise typer.BadParameter(f"a recipe has no field '{name}'. Known: {known}.")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _report(dataset: str, checkpoint: Checkpoint) -> None:
    """Say what was trained, where it is, and what to type next."""
    typer.echo(f"trained      {checkpoint.name}: {checkpoint.summary()}")
    recipe = checkpoint.recipe
    if checkpoint.micro_batches[-1:] and checkpoint.micro_batches[-1] < recipe.images_per_step(recipe.batch_size):
        sizes = ", then ".join(str(size) for size in checkpoint.micro_batches)
        typer.echo(f"             in micro-batches of {sizes} images")
    typer.echo(f"checkpoint   {checkpoint.path}")
    typer.echo(f"log          {checkpoint.path.with_suffix('.csv')}")
    protocol = "" if checkpoint.card.split == "base" else "--protocol full "
    named = f"--dataset {shlex.quote(dataset)} --checkpoint {checkpoint.name}"
    typer.echo(f"next         fewshot-bench run {protocol}{named}")
    typer.echo("             fewshot-bench ls checkpoints")
