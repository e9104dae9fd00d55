"""`fewshot-bench fit`: fit a method to all classes of a split, and keep the classifier in a folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import JsonOption, SetOption, TrustCodeOption
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.study_options import study_fields, takes_fields, validated_study
from fewshot_bench.study.study import NamedHyperParameters, Study

if TYPE_CHECKING:
    from fewshot_bench.evaluation.classifier import Classifier

_WITHOUT = (
    "protocol", "shots", "way", "query", "episodes", "runs", "until_ci", "max_episodes", "sampler", "alpha",
    "least_way", "least_shot", "training_seeds", "recipe", "baseline", "chunk",
)  # fmt: skip
_TEXTS = {
    "backbone": "Name (fewshot-bench ls backbones), or timm:NAME. Default: as of run.",
    "checkpoints": "Name given to fewshot-bench train; replaces --backbone.",
    "base_losses": "Train on the base split first with this loss; or none.",
    "losses": "Loss of a method that trains.",
    "split": "Split whose classes are learned, or fractions that divide your own classes.",
    "adaptations": "The method (fewshot-bench ls adaptations); an inductive one on embeddings.",
    "choose": "Choose hyper-parameters once: cross-validate the images, or average over a grid.",
    "results": "Results folder or URL in which run stored the accuracy of the method.",
    "seed": "Seed of choosing images and of dividing your own classes.",
}


@takes_fields(Study, NamedHyperParameters, without=_WITHOUT, texts=_TEXTS)
def fit(
    context: typer.Context,
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", rich_help_panel="Output", help="Folder to make.")
    ],
    shot: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel="Method", help="Images of each class to learn from. Default: all."),
    ] = None,
    with_weights: Annotated[
        bool,
        typer.Option(
            "--with-weights",
            rich_help_panel="Output",
            help="Copy the network's weights too, so that the folder works on another machine.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", rich_help_panel="Output", help="Replace a classifier that is there.")
    ] = False,
    set_: SetOption = None,
    trust_code: TrustCodeOption = False,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Fit a method to all classes of a split, and keep the classifier for fewshot-bench predict.

    The accuracy that run measured for the same method and images is kept with it.
    """
    study = validated_study(study_fields(context.params))
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.evaluation.classifier import check_free  # after the names have been checked
    from fewshot_bench.evaluation.fit import fit_study
    from fewshot_bench.study.admission import admit_all

    check_free(output, replace=replace)
    if trust_code:
        admit_all(study)
    with ProgressBars() as progress:
        classifier = fit_study(study, shot=shot, progress=progress)
    classifier.save(output, with_weights=with_weights, replace=replace)
    if as_json:
        print_json({"folder": str(output), **classifier.card.model_dump(mode="json")})
    else:
        _report(classifier, output, with_weights)


def _report(classifier: Classifier, output: Path, with_weights: bool) -> None:
    """Say what was fitted, how good it is, where it is, and what to type next."""
    card = classifier.card
    count = sum(card.class_sizes)
    typer.echo(printable(f"fitted       {card.method}: {len(card.class_names):,} classes, {count:,} images"))
    if card.note:
        typer.echo(printable(f"note         {card.note}"))
    if card.measured is None:
        typer.echo("accuracy     not measured: run has stored no outcomes of this method on these images")
    for accuracy in card.measured or ():
        typer.echo(f"accuracy     {accuracy.text}")
    kinds = {"folder": "in the folder", "checkpoint": f"of the checkpoint {card.backbone.checkpoint}"}
    source = "in the folder" if with_weights else kinds.get(card.backbone.weights_from, "found by name")
    typer.echo(printable(f"weights      {card.backbone.name}, {source}"))
    typer.echo(printable(f"classifier   {output}"))
    typer.echo(printable(f"next         fewshot-bench predict {shlex.quote(str(output))} IMAGE_OR_FOLDER ..."))
