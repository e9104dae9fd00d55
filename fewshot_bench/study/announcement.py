"""What a run is going to do, in a few lines that need neither torch nor pandas: they come before both are imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench._io.locations import Location
from fewshot_bench.study.known_names import GROUPS, OWN_NAMES, timm_models
from fewshot_bench.study.study import MOST_EPISODES_BY_DEFAULT, Study

if TYPE_CHECKING:
    from fewshot_bench.study.study_file import StudyFile

_MOST = 4
_PRETRAINED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Of this project's own networks."""
_TAKE_A_LOSS = ("finetune", "finetune-head")
"""Of this project's own adaptations."""


def announced(studies: Sequence[Study], *, is_fresh: bool = False) -> list[str]:
    r"""What studies that share a results folder are going to do, a line each.

    Args:
        studies: in the order in which they run.
        is_fresh: whether they start in a new folder beside theirs.

    >>> print("\n".join(announced([Study(dataset="cifar-fs", adaptations=("centroid", "svm"), shots=(1, 5))])))
    plan         cifar-fs, novel split: 5-way 1-shot and 5-shot, 3 runs of 3,000 episodes
    network      efficientnet_lite0, pretrained
    methods      2: centroid and svm; 4 cells, 36,000 episodes
    results      results
    """
    lines = []
    for study in studies[:_MOST]:
        plan = f"plan         {study.dataset}, {_tasks(study)}"
        lines += [plan, f"network{_networks(study)}", f"methods      {_methods(study)}"]
    if len(studies) > _MOST:
        lines.append(f"and          {len(studies) - _MOST:,} more studies")
    return [*lines, _results(studies[0].results, is_fresh=is_fresh)]


def announced_file(file: StudyFile, name: str, *, is_fresh: bool = False) -> list[str]:
    """What the studies of a file are going to do, a line each.

    Args:
        file: whose names of methods need not have been checked.
        name: of the file.
        is_fresh: whether they start in a new folder beside theirs.
    """
    lines = [f"plan         {name}: {_both(file.datasets)}, {_tasks(file)}"]
    for table in file.methods[:_MOST] or (file,):
        chosen = {
            field: getattr(table if field in table.model_fields_set else file, field)
            for field in ("backbone", "recipe", "checkpoints", "base_losses", "adaptations")
        }
        networks = chosen["checkpoints"] or chosen["recipe"] or chosen["backbone"] or ("the default network",)
        trained = [f"with {loss}" for loss in chosen["base_losses"] or ()]
        with_heads = "" if file.protocol == "full" or chosen["recipe"] else f": {_both(chosen['adaptations'])}"
        lines.append(f"methods      {_both(networks)}{f' trained {_both(trained)}' if trained else ''}{with_heads}")
    if len(file.methods) > _MOST:
        lines.append(f"and          {len(file.methods) - _MOST:,} more tables of methods")
    return [*lines, _results(file.results, is_fresh=is_fresh)]


def _results(results: Location, *, is_fresh: bool) -> str:
    is_there = isinstance(results, Path) and (results / "outcomes").is_dir()
    where = "a new folder beside it" if is_fresh else "what is stored there already is kept" if is_there else ""
    return f"results      {results}{f' ({where})' if where else ''}"


def _tasks(study: Study | StudyFile) -> str:
    """The episodes of a study."""
    if study.protocol == "full":
        return "all images of the test split"
    sampler = "" if study.sampler == "standard" else f" {study.sampler}"
    shots = _both([f"{shot}-shot" for shot in study.shots])
    return f"{study.split} split: {study.way}-way {shots}{sampler}, {_episodes(study)}"


def _episodes(study: Study | StudyFile) -> str:
    runs = f"{study.runs} run{'' if study.runs == 1 else 's'}"
    if study.sampler == "disjoint" and not {"episodes", "runs"} <= study.model_fields_set:
        return "as many episodes as share no image"
    if study.until_ci is not None:
        most = study.max_episodes or MOST_EPISODES_BY_DEFAULT
        return f"{runs} until every interval is ±{study.until_ci:g} points, at most {most:,} episodes each"
    return f"{runs} of {study.episodes:,} episodes"


def _networks(study: Study) -> str:
    """What follows "network": its end in the plural, the networks, and whether they are trained first."""
    split = study.trained_split
    if study.checkpoints is not None:
        return _padded(len(study.checkpoints), _both(study.checkpoints))
    seeds = len(study.seeds_of_trainings)
    if study.recipe is not None:
        return _padded(seeds, f"{study.recipe}, trained first on the {split} split unless that is done{_each(seeds)}")
    losses = _base_losses(study)
    if losses is None:
        return _padded(1, f"{study.backbone_name}, trained first on the {split} split unless it is pretrained")
    if not losses:
        return _padded(1, f"{study.backbone_name}, {'pretrained' if _is_pretrained(study) else 'not trained'}")
    with_losses = _both([f"with {loss}" for loss in losses])
    first = f"trained first on the {split} split {with_losses}{_each(seeds)}, unless the cache has it"
    return _padded(len(losses) * seeds, f"{study.backbone_name}, {first}")


def _padded(count: int, text: str) -> str:
    return f"{'s' if count > 1 else ' '}     {text}"


def _each(seeds: int) -> str:
    return f", {seeds} times" if seeds > 1 else ""


def _is_pretrained(study: Study) -> bool | None:
    """Whether the backbone starts with trained weights; None where only importing it would tell."""
    name = study.backbone_name
    if study.weights is not None or name in _PRETRAINED:
        return True
    if name in OWN_NAMES["backbone"]:
        return False
    is_of_timm = name.startswith("timm:") or name.partition(".")[0] in timm_models()
    return True if is_of_timm else None


def _base_losses(study: Study) -> Sequence[str] | None:
    """The losses of the trainings that come first; None where only importing the backbone would tell."""
    if study.base_losses is not None:
        return study.base_losses
    is_pretrained = _is_pretrained(study)
    return None if is_pretrained is None else () if is_pretrained else ("ce", "ce+schane")


def _methods(study: Study) -> str:
    """The adaptations, and how many cells and episodes there are if that is known by now."""
    names = list(study.adaptations)
    if study.recipe is not None and "adaptations" not in study.model_fields_set:
        return "the adaptation of the recipe"
    texts = [f"{name} ({', '.join(study.losses)})" if name in _TAKE_A_LOSS else name for name in names]
    losses = _base_losses(study)
    if not set(names) <= set(OWN_NAMES["adaptation"]) or losses is None:
        heads = [f"the heads of {text}" if text in GROUPS else text for text in texts]
        return _both(heads)
    trainings = len(study.seeds_of_trainings) * (1 if study.recipe is not None else len(losses) or 1)
    networks = len(study.checkpoints) if study.checkpoints is not None else trainings
    methods = networks * sum(len(study.losses) if name in _TAKE_A_LOSS else 1 for name in names)
    cells = methods * (1 if study.is_whole else len(study.shots))
    has_count = not study.is_whole and study.until_ci is None and study.sampler != "disjoint"
    episodes = f", {cells * study.runs * study.episodes:,} episodes" if has_count else ""
    return f"{methods}: {_both(texts)}; {cells} cell{'' if cells == 1 else 's'}{episodes}"


def _both(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
