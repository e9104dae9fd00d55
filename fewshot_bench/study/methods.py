"""The methods of a study: from the names and settings that a user gives to adaptations, and their names.

A group of adaptations, such as "all-inductive", is expanded when a study is resolved, and its members are what is
recorded: a later version may know more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from inspect import isabstract
from typing import Any

from fewshot_bench._io.toml import value_of
from fewshot_bench.adaptation import (
    ADAPTATIONS,
    MAML,
    Adaptation,
    EmbeddingAdaptation,
    TrainedClassifier,
    WholeAdaptation,
)
from fewshot_bench.adaptation.checked_predictions import HOW_TO_WRITE_ONE, check_adaptation
from fewshot_bench.adaptation.hyper_parameter_choice import OneShotError, alternatives, nothing_to_choose
from fewshot_bench.datasets import Dataset
from fewshot_bench.errors import PluginError, StudyError
from fewshot_bench.losses import EXTRA_SETTINGS, LOSSES, extra_settings, reading_of, readings_of, takes
from fewshot_bench.plugins import described, is_raised_in_plugin, place_of, plugin_errors
from fewshot_bench.study.known_names import GROUPS, OWN_NAMES
from fewshot_bench.study.study import Study

_OPTIONS_OF_THEIR_OWN = {
    "loss": "--loss",
    "lambda_": "--lambda",
    "tau": "--tau",
    "reading": "--reading",
    "stop_gradient": "--stop-gradient",
    "anchors": "--anchors",
}
_SIMPLEST = "centroid"
_FIELDS_OF_CHOICE = frozenset({"choose", "candidates"})
"""Fields of an adaptation that say how the others are chosen; --set does not take them."""


def expand_groups(study: Study, dataset: Dataset | None = None) -> tuple[Study, tuple[str, ...]]:
    """Replace groups of adaptations by their members, without those that cannot run.

    Args:
        study: with or without groups.
        dataset: the images, once they are open: there may be no base split.

    Returns:
        The study, and one sentence for each member that is left out.

    Raises:
        StudyError: no member of a group can run, or a named adaptation needs a base split that is missing.
    """
    named = [name for name in study.adaptations if name not in GROUPS]
    for name in named:
        if (reason := _lacks_base(study, name, dataset)) is not None:
            raise StudyError(f"{name} cannot run: {reason}")
    if len(named) == len(study.adaptations):
        return study, ()
    names: dict[str, None] = {}
    left_out: dict[str, str] = {}
    for name in study.adaptations:
        if name not in GROUPS:
            names[name] = None
            continue
        members = members_of(name)
        if not members:
            raise StudyError(f"{name} has no members.")
        reasons = {member: _why_not(study, member, dataset) for member in members if member not in named}
        refused = {member: reason for member, reason in reasons.items() if reason is not None}
        if len(refused) == len(members):
            raise StudyError(f"none of the heads in '{name}' can run here: {refused[members[0]]}")
        names |= dict.fromkeys(member for member in members if member not in refused)
        left_out |= {member: f"{member} is left out of {name}: {reason}" for member, reason in refused.items()}
    return study.model_copy(update={"adaptations": tuple(names)}), tuple(left_out.values())


def members_of(group: str) -> tuple[str, ...]:
    """The adaptations of a group: those of this package that classify frozen embeddings.

    The simplest comes first, since the first method of a study is its baseline; the others are sorted by name.
    Other packages' adaptations are named one by one. An alias is in no group, since its method is there already.

    >>> "centroid" in members_of("all-inductive"), "finetune" in members_of("all")
    (True, False)
    """
    members = []
    for name in OWN_NAMES["adaptation"]:
        factory = ADAPTATIONS[name].factory
        if isinstance(factory, type) and issubclass(factory, EmbeddingAdaptation):
            kind = "all-transductive" if factory().is_transductive else "all-inductive"
            if group in (kind, "all") and not ADAPTATIONS[name].preset:
                members.append(name)
    return tuple(sorted(members, key=lambda name: name != _SIMPLEST))


def _why_not(study: Study, name: str, dataset: Dataset | None) -> str | None:
    """Why an adaptation cannot run in a study; None where it can as far as is known."""
    try:
        adaptations_of(study, name)
    except OneShotError as error:
        return str(error)
    return _lacks_base(study, name, dataset)


def _lacks_base(study: Study, name: str, dataset: Dataset | None) -> str | None:
    """What an adaptation needs from a base split that a dataset does not have, in one sentence."""
    if dataset is None or "base" in dataset.splits:
        return None
    needs = filter(None, map(_need_of_base, adaptations_of(study, name)))
    return next(
        (f"{need} needs a base split, which {dataset.name} does not have. Use {instead}." for need, instead in needs),
        None,
    )


def _need_of_base(adaptation: object) -> tuple[str, str] | None:
    """The setting of an adaptation that needs the base split, and the one that does not."""
    if isinstance(adaptation, EmbeddingAdaptation):
        if adaptation.features == "cl2":
            return "features=cl2", "features=l2"
        if adaptation.needs_base_covariance:
            return "covariance=base", "covariance=support"
    return None


def planned_adaptations(study: Study) -> list[Adaptation]:
    """Every adaptation of a study without groups; those that train with a loss once per loss.

    Raises:
        UnknownNameError: an adaptation or a loss is not known.
        StudyError: a hyper-parameter belongs to none of the adaptations, or a value is refused.
    """
    for loss in study.losses:
        LOSSES[loss]
    if "choose" in study.hyper_parameters:
        raise StudyError("--set choose is not taken; use --choose instead.")
    planned = [adaptation for name in study.adaptations for adaptation in adaptations_of(study, name)]
    _check_protocol(study, planned)
    accepted = set().union(*(hyper_parameters_of(name) for name in study.adaptations))
    unused = sorted(set(study.hyper_parameters) - accepted)
    if unused:
        whose = f"of this study ({', '.join(study.adaptations)})"
        raise StudyError(unknown_hyper_parameter(unused[0], accepted, whose))
    _check_choice_acts(study, planned)
    return planned


def _check_protocol(study: Study, planned: Iterable[Adaptation]) -> None:
    """Refuse adaptations to support sets where there are none, and those of whole datasets in episodes."""
    for adaptation in planned:
        if isinstance(adaptation, WholeAdaptation) == study.is_whole:
            continue
        if study.is_whole:
            raise StudyError(
                f"{adaptation.name} learns from support sets, and --protocol full has none. Use --adapt classifier."
            )
        raise StudyError(f"{adaptation.name} classifies whole datasets. Add --protocol full.")


def adaptations_of(study: Study, name: str) -> list[Adaptation]:
    """One adaptation with a study's settings, once per loss it trains with; raises as `planned_adaptations`."""
    accepted, preset = hyper_parameters_of(name), ADAPTATIONS[name].preset
    chosen = {key: value for key, value in study.hyper_parameters.items() if key in accepted}
    for setting, value in preset.items():
        if chosen.get(setting, value) != value:
            raise StudyError(
                f"{name} means {setting}={value}, so --set {setting}={chosen[setting]} contradicts it. "
                f"Use --adapt {ADAPTATIONS.target_of(name)}."
            )
    chosen = {**preset, **chosen}
    if "loss" not in accepted:
        return [_build(study, chosen, name)]
    taken = sorted(set(chosen) & _OPTIONS_OF_THEIR_OWN.keys())
    if taken:
        raise StudyError(f"--set {taken[0]} is not taken; use {_OPTIONS_OF_THEIR_OWN[taken[0]]} instead.")
    planned = []
    for loss in study.losses:
        shared = {"lambda_": study.lambda_, "tau": study.tau, "loss": loss, **chosen_contrast(study, loss)}
        planned.append(_build(study, chosen | {key: shared[key] for key in shared if key in accepted}, name))
    return planned


def chosen_contrast(study: Study, loss: str) -> dict[str, Any]:
    """How a study takes the contrastive term of a loss: what it names where the loss can be taken in several ways."""
    chosen = {name: value for name, value in _named_settings(study).items() if takes(loss, name)}
    return {"reading": study.reading if len(readings_of(loss)) > 1 else None, **chosen}


def refuse_contrast_without_effect(study: Study, base_losses: Iterable[str]) -> None:
    """Raise StudyError for a way of taking the contrast that no loss has, on the base split or in episodes."""
    trains = any("loss" in hyper_parameters_of(name) for name in study.adaptations)
    used = list(dict.fromkeys([*base_losses, *(study.losses if trains else ())]))
    if not used:
        return
    if study.reading is not None and not any(study.reading in readings_of(loss) for loss in used):
        reading_of(used[-1], study.reading)
    for name, value in _named_settings(study).items():
        if not any(takes(loss, name) for loss in used):
            extra_settings(used[-1], **{name: value})


def _named_settings(study: Study) -> dict[str, str]:
    """The extra settings of losses that a study names."""
    return {name: value for name in EXTRA_SETTINGS if (value := getattr(study, name)) is not None}


def wants_base_head(study: Study) -> bool:
    """Whether a method of a study sees the logits of the classes that its network was trained on."""
    is_on_logits = "finetune" in study.adaptations and study.hyper_parameters.get("on") == "logits"
    return is_on_logits or TrainedClassifier.name in study.adaptations


def wants_task_head(study: Study) -> bool:
    """Whether a method of a study starts from a head that was trained for tasks."""
    is_set = "finetune" in study.adaptations and study.hyper_parameters.get("start") == "trained"
    return MAML.name in study.adaptations or is_set


def unknown_hyper_parameter(name: str, accepted: Collection[str], whose: str) -> str:
    """The message about a hyper-parameter that no adaptation has, with the accepted ones; `whose` says of what."""
    offered = {known.casefold(): known for known in accepted if known not in _OPTIONS_OF_THEIR_OWN}
    nearest = get_close_matches(name.casefold(), offered, n=1, cutoff=0.5)
    offer = f"Did you mean {offered[nearest[0]]}?" if nearest else f"Known: {', '.join(sorted(offered.values()))}."
    return f"no adaptation {whose} has a hyper-parameter '{name}'. {offer}"


def hyper_parameters_of(name: str) -> set[str]:
    """Names of the hyper-parameters that --set may set of an adaptation, or of all members of a group.

    Raises:
        UnknownNameError: the adaptation is not known.
        PluginError: it is not a class of adaptations.
    """
    if name in GROUPS and name not in ADAPTATIONS:
        return set().union(*map(hyper_parameters_of, members_of(name)))
    factory = ADAPTATIONS[name].factory
    if isinstance(factory, type) and issubclass(factory, Adaptation):
        return {field.name for field in fields(factory)} - _FIELDS_OF_CHOICE
    raise PluginError(f"{place_of(factory)}{name} is {described(factory)}, not a class. {HOW_TO_WRITE_ONE}")


def several_values(value: Any) -> tuple[Any, ...] | None:
    """The values of a list, or of a text with commas such as "0.1,1,10"; None for a single value.

    >>> several_values("0.1,1,euclidean"), several_values([1, 2]), several_values("cosine")
    ((0.1, 1, 'euclidean'), (1, 2), None)
    """
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, str) and "," in value:
        return tuple(value_of(part.strip()) for part in value.split(",") if part.strip())
    return None


def _with_choice(study: Study, adaptation: type[Adaptation], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an adaptation with a study's values: one is fixed, several replace those of its grid."""
    if study.choose == "none" or not issubclass(adaptation, EmbeddingAdaptation):
        return dict(values)
    listed = {name: several for name, value in values.items() if (several := several_values(value)) is not None}
    fixed = {name: value for name, value in values.items() if name not in listed}
    tried = {name: several for name, several in adaptation.grid.items() if name not in fixed} | listed
    if not tried:
        return fixed
    return fixed | {"choose": study.choose} | ({"candidates": tried} if tried != dict(adaptation.grid) else {})


def _check_choice(study: Study, adaptation: Adaptation) -> None:
    """Refuse an adaptation that cannot choose as a study asks.

    Raises:
        StudyError: there is one image per class, a value is refused, or there is too much to choose between.
    """
    if not isinstance(adaptation, EmbeddingAdaptation) or adaptation.choose == "none":
        return
    fewest = (study.least_shot or 1) if study.sampler == "varied" else min(study.shots)
    if adaptation.choose == "support-cv" and fewest < 2:
        raise OneShotError(adaptation.name)
    alternatives(adaptation)


def _check_choice_acts(study: Study, planned: list[Adaptation]) -> None:
    """Refuse --choose where it acts on no adaptation of the study."""
    heads = [adaptation for adaptation in planned if isinstance(adaptation, EmbeddingAdaptation)]
    if study.choose == "none" or not planned or any(head.choose != "none" for head in heads):
        return
    if heads:
        raise StudyError(nothing_to_choose(heads[0].name, heads[0].grid))
    raise StudyError(
        f"{planned[0].name} does not work on frozen embeddings, so nothing of it is chosen. Leave out --choose."
    )


def _build(study: Study, hyper_parameters: dict[str, Any], name: str) -> Adaptation:
    factory: Any = ADAPTATIONS[name].factory
    hyper_parameters = _with_choice(study, factory, hyper_parameters)
    _check_types(factory, hyper_parameters, name)
    for candidate, values in hyper_parameters.get("candidates", {}).items():
        for value in values:
            _check_types(factory, {candidate: value}, name)
    if isabstract(factory):
        missing = " and ".join(sorted(factory.__abstractmethods__))
        raise PluginError(f"{place_of(factory)}{name} lacks {missing}. {HOW_TO_WRITE_ONE}")
    with plugin_errors(factory):
        try:
            adaptation = factory(**hyper_parameters)
            _check_choice(study, adaptation)
        except (TypeError, ValueError) as error:
            if is_raised_in_plugin(error):
                raise
            raise StudyError(f"{name} refuses its hyper-parameters: {error}.") from error
    return check_adaptation(adaptation, name)


_TYPES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "float": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "int": ("a whole number", lambda value: type(value) is int),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
}


def _check_types(adaptation: type[Adaptation], values: dict[str, Any], name: str) -> None:
    """Raise StudyError for a value that is not of the type of its field."""
    for field in fields(adaptation):
        if field.name not in values:
            continue
        value = values[field.name]
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        if value is None and kind.endswith(" | None"):
            continue
        expected, is_right = _TYPES.get(kind.removesuffix(" | None"), ("", lambda _: True))
        if not is_right(value):
            several = " Several values are tried with --choose." if several_values(value) is not None else ""
            raise StudyError(f"{field.name} of {name} should be {expected}, not {value!r}.{several}")


def method_name(backbone: str, backbone_settings: Mapping[str, Any], base: str, adaptation: Adaptation) -> str:
    """A method's name: its stages in the order they happen, with the settings that are not the default.

    Args:
        backbone: name of the backbone.
        backbone_settings: settings of the backbone that differ from its default.
        base: stage on the base split, such as "base-ce"; empty for none.
        adaptation: what is done with each support set.

    Examples: `conv4_32/base-ce+schane/centroid`, `efficientnet_lite0@image_size=128/logistic@C=10`.
    """
    stages = [backbone + _settings(backbone_settings), base, adaptation.stage]
    in_stage = {"loss"} if adaptation.stage else set()
    that_matter = set(adaptation.hyper_parameters()) - in_stage
    changed = {
        field.name: getattr(adaptation, field.name)
        for field in fields(adaptation)
        if field.name in that_matter
        and field.default is not MISSING
        and getattr(adaptation, field.name) != field.default
    }
    if isinstance(adaptation, EmbeddingAdaptation) and adaptation.choose != "none":
        tried, grid = adaptation.tried, adaptation.grid
        changed |= {name: ";".join(map(str, several)) for name, several in tried.items() if several != grid.get(name)}
        changed |= {name: getattr(adaptation, name) for name in grid if name not in tried}
    return "/".join([stage for stage in stages if stage] + [adaptation.name + _settings(changed)])


def _settings(values: Mapping[str, Any]) -> str:
    return "@" + ",".join(f"{name.rstrip('_')}={values[name]}" for name in sorted(values)) if values else ""
