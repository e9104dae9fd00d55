"""`fewshot-bench train`: fine-tune a backbone on the base split, under a name that `run` can use."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import JsonOption

if TYPE_CHECKING:
    from fewshot_bench.study import Checkpoint


def train(
    name: Annotated[str, typer.Option(help="What the trained network will be called.")],
    dataset: Annotated[str, typer.Option(help="Its base split is trained on. See: fewshot-bench data ls.")] = "glyphs",
    backbone: Annotated[
        str, typer.Option(help="See: fewshot-bench ls backbones; or timm:NAME for any timm model.")
    ] = "conv4_64",
    loss: Annotated[str, typer.Option(help="See: fewshot-bench ls losses; e.g. ce+schane.")] = "ce",
    weights: Annotated[Path | None, typer.Option(help="Weights to start from: safetensors or state dict.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=16, max=1024, help="Side in pixels instead of the backbone's own.")
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="bicubic, bilinear or nearest instead of the backbone's own.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the split. Default here and below: the recipe's.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, each in two views.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Images in memory at once; by default what fits. Gradients are of the batch.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adamw (weight decay decoupled) or adam (added to the gradient).")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine or one-cycle.")] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Epochs in which the learning rate rises, for a constant or cosine schedule.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of weight matrices and filters.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout before the linear head.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing of the cross-entropy.")] = None,
    lambda_: Annotated[float | None, typer.Option("--lambda", help="Weight of the contrastive term.")] = None,
    tau: Annotated[float | None, typer.Option(help="Temperature of the contrastive term.")] = None,
    reading: Annotated[
        str | None, typer.Option(help="How ce+schane reads Equation 4 of its paper: in or out. Default: in.")
    ] = None,
    augmentation: Annotated[str | None, typer.Option(help="auto, autoaugment, jitter, affine or none.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bf16 or fp16 (autocast).")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first weights, the batches, the views and dropout.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; the last bits of the weights depend on their number.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    is_compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first; pays for long trainings on a GPU.")
    ] = False,
    validate_every: Annotated[
        int | None,
        typer.Option(help="Epochs between two looks at validation episodes, 0 for none. Default: about ten looks."),
    ] = None,
    validation_episodes: Annotated[int, typer.Option(help="Per number of shots.")] = 200,
    save_every: Annotated[int, typer.Option(help="Epochs between two writes of the state to go on from.")] = 1,
    keeps_last: Annotated[
        bool, typer.Option("--keep-last", help="Keep the last epoch too, as NAME.last, where another one is chosen.")
    ] = False,
    is_fresh: Annotated[
        bool, typer.Option("--fresh", help="Train anew under a name that is taken, whatever was trained there.")
    ] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder to write TensorBoard's files to.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a backbone on the base split; the epoch that is best on validation episodes is kept.

    After a stop, the same command goes on from the last epoch that was saved.
    """
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.study.known_names import refuse_misspelt_training

    recipe = {
        "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "learning_rate": learning_rate,
        "schedule": schedule, "warmup_epochs": warmup_epochs, "weight_decay": weight_decay, "dropout": dropout,
        "label_smoothing": label_smoothing, "lambda_": lambda_, "tau": tau, "reading": reading,
        "augmentation": augmentation, "precision": precision, "seed": seed, "threads": threads,
    }  # fmt: skip
    refuse_misspelt_training(dataset, backbone, loss, recipe)
    from fewshot_bench.study import TrainingPlan, train_backbone  # after the names have been looked at
    from fewshot_bench.study.provenance import weights_note

    plan = TrainingPlan(
        name=name, dataset=dataset, backbone=backbone, loss=loss, recipe=recipe, weights=weights,
        image_size=image_size, interpolation=interpolation, device=device, micro_batch=micro_batch,
        is_compiled=is_compiled, validate_every=validate_every, validation_episodes=validation_episodes,
        save_every=save_every, keeps_last=keeps_last, is_fresh=is_fresh, tensorboard=tensorboard,
    )  # fmt: skip
    with ProgressBars() as progress:
        checkpoint = train_backbone(plan, progress=progress)
    if note := weights_note(checkpoint.computing):
        typer.echo(printable(f"note: {note}"), err=True)
    if as_json:
        typer.echo(json.dumps({"name": checkpoint.name, **checkpoint.facts()}, indent=1))
        return
    _report(plan.dataset, checkpoint)


def _report(dataset: str, checkpoint: Checkpoint) -> None:
    """Say what was trained, where it is, and what to type next."""
    typer.echo(f"trained      {checkpoint.name}: {checkpoint.summary()}")
    if checkpoint.micro_batches[-1:] and checkpoint.micro_batches[-1] < checkpoint.recipe.batch_size:
        sizes = ", then ".join(str(size) for size in checkpoint.micro_batches)
        typer.echo(f"             in micro-batches of {sizes} images")
    typer.echo(f"checkpoint   {checkpoint.path}")
    typer.echo(f"log          {checkpoint.path.with_suffix('.csv')}")
    typer.echo(f"next         fewshot-bench run --dataset {shlex.quote(dataset)} --checkpoint {checkpoint.name}")
    typer.echo("             fewshot-bench ls checkpoints")
