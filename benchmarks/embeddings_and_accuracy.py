"""Do measures of embeddings follow few-shot accuracy? Every network at hand is measured and correlated.

Networks at hand are the base stages in the cache and the checkpoints that were trained on the dataset's base split, the
named backbones, and random initial weights. Accuracies are those that `fewshot-bench run` stored in the same folder;
a network without any is measured and does not count.

    python benchmarks/embeddings_and_accuracy.py --results results --backbone efficientnet_lite0 --image-size 128
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.cli.progress_bars import ProgressBars
from fewshot_bench.datasets import ImageSplit, open_dataset
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.embeddings.accuracy import correlate_with_accuracy, print_correlations, store_correlations
from fewshot_bench.report.embeddings.cards import store_cards, stored_cards
from fewshot_bench.study.base_stage import initialised_backbone, stage_name
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.study.embeddings import EmbeddingPlan, NamedNetwork, measured, network_card
from fewshot_bench.study.known_names import finished_names
from fewshot_bench.training import checkpoint_metadata

_NAMED = ("lambda", "lambda_", "tau", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar-fs")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--backbone", action="append", default=[], help="a pretrained one, or NAME=FILE with weights")
    parser.add_argument("--image-size", type=int, help="of these backbones")
    parser.add_argument("--random", default="conv4_64", help="backbone whose random initial weights are measured")
    parser.add_argument("--random-seeds", type=int, default=3)
    parser.add_argument("--intervals", action="store_true", help="intervals over classes for each measure")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.dataset)
    split = dataset.novel
    plan = EmbeddingPlan(networks=(), dataset=arguments.dataset, layout=None, has_intervals=arguments.intervals)
    networks = [
        *_base_stages(split, dataset.base.fingerprint),
        *(
            NamedNetwork(name, read_checkpoint(name).backbone())
            for name in finished_names()
            if _is_of(name, dataset.name)
        ),
        *(_backbone(text, arguments.image_size, split) for text in arguments.backbone),
        *(_random(arguments.random, seed, split) for seed in range(arguments.random_seeds)),
    ]
    stored = {card.network.key: card for card in stored_cards(arguments.results)[0]}
    with ProgressBars() as progress:
        for network in networks:  # stored one by one, so that a stopped run resumes
            described = network_card(network, split)
            known = stored.get(described.key)
            if known is not None and known.has_intervals >= arguments.intervals:
                cards = [known.model_copy(update={"network": described})]
            else:
                cards, _ = measured([network], dataset, split, plan, progress=progress)
            store_cards(arguments.results, cards, [])
    found = correlate_with_accuracy(arguments.results, OutcomeStore(arguments.results / "outcomes"))
    store_correlations(found, arguments.results)
    print_correlations(found, Console())


def _base_stages(split: ImageSplit, base_split: str) -> Iterator[NamedNetwork]:
    """The trainings in the cache on the base split."""
    for path in sorted((cache_folder() / "checkpoints").glob("[!.]*.safetensors")):
        if path.stem.endswith(".state"):
            continue
        metadata = checkpoint_metadata(path)
        if metadata.get("base_split") != base_split:
            continue
        recipe = json.loads(metadata["recipe"])
        settings = {name: recipe[name] for name in _NAMED if name in recipe}
        name = stage_name(f"{metadata['backbone']}/base-{recipe['loss']}", settings)
        yield NamedNetwork(name, create_backbone(_request(metadata["backbone"], split, weights=path)))


def _is_of(name: str, dataset: str) -> bool:
    return read_checkpoint(name).card.dataset == dataset


def _backbone(text: str, image_size: int | None, split: ImageSplit) -> NamedNetwork:
    name, _, file = text.partition("=")
    request = _request(name, split, image_size, Path(file) if file else None)
    return NamedNetwork(stage_name(name, {"image_size": image_size} if image_size else {}), create_backbone(request))


def _random(name: str, seed: int, split: ImageSplit) -> NamedNetwork:
    return NamedNetwork(f"{name}@weights=random {seed}", initialised_backbone(_request(name, split), seed))


def _request(
    name: str, split: ImageSplit, image_size: int | None = None, weights: Path | None = None
) -> BackboneRequest:
    height, _, channels = split.images.shape[1:]
    return BackboneRequest(name, channels, height, image_size, None, weights)


if __name__ == "__main__":
    main()
