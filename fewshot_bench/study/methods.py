"""From the words of a study to adaptations, and from what was done to a method's name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from inspect import isabstract
from typing import Any

from fewshot_bench.adaptation import ADAPTATIONS, Adaptation, EmbeddingAdaptation
from fewshot_bench.adaptation.checked_predictions import HOW_TO_WRITE_ONE, check_adaptation
from fewshot_bench.errors import PluginError, StudyError
from fewshot_bench.losses import LOSSES, Reading, reading_of, readings_of
from fewshot_bench.plugins import described, is_raised_in_plugin, place_of, plugin_errors
from fewshot_bench.study.choice import (
    check_choice,
    check_something_is_chosen,
    hyper_parameter_fields,
    settings_of_choice,
    several_values,
    with_choice,
)
from fewshot_bench.study.known_names import GROUPS, OWN_NAMES
from fewshot_bench.study.study import Study

_OPTIONS_OF_THEIR_OWN = {"loss": "--loss", "lambda_": "--lambda", "tau": "--tau", "reading": "--reading"}
_SIMPLEST = "centroid"


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
    accepted = set().union(*(hyper_parameters_of(name) for name in study.adaptations))
    unused = sorted(set(study.hyper_parameters) - accepted)
    if unused:
        whose = f"of this study ({', '.join(study.adaptations)})"
        raise StudyError(unknown_hyper_parameter(unused[0], accepted, whose))
    check_something_is_chosen(study, planned)
    return planned


def adaptations_of(study: Study, name: str) -> list[Adaptation]:
    """One adaptation as a study has it; once per loss where it trains with one.

    Raises:
        FewshotBenchError: see `planned_adaptations`.
    """
    accepted, preset = hyper_parameters_of(name), ADAPTATIONS[name].preset
    chosen = {key: value for key, value in study.hyper_parameters.items() if key in accepted}
    _refuse_contradiction(name, preset, chosen)
    chosen = {**preset, **chosen}
    taken = sorted(set(chosen) & _OPTIONS_OF_THEIR_OWN.keys())
    if taken and "loss" in accepted:
        raise StudyError(f"--set {taken[0]} is not taken; use {_OPTIONS_OF_THEIR_OWN[taken[0]]} instead.")
    if "loss" not in accepted:
        return [_build(study, chosen, name)]
    planned = []
    for loss in study.losses:
        shared = {
            "lambda_": study.lambda_,
            "tau": study.tau,
            "reading": chosen_reading(study, loss),
            "loss": loss,
        }
        shared = {key: value for key, value in shared.items() if key in accepted}
        planned.append(_build(study, chosen | shared, name))
    return planned


def _refuse_contradiction(name: str, preset: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """See that nothing is chosen against what an alias stands for.

    Raises:
        StudyError: something is.
    """
    for setting, value in preset.items():
        if chosen.get(setting, value) != value:
            raise StudyError(
                f"{name} means {setting}={value}, so --set {setting}={chosen[setting]} contradicts it. "
                f"Use --adapt {ADAPTATIONS.target_of(name)}."
            )


def chosen_reading(study: Study, loss: str) -> Reading | None:
    """What a study says of the reading, for a loss that can be read in several ways; None for the loss's own."""
    return study.reading if len(readings_of(loss)) > 1 else None


def refuse_reading_without_effect(study: Study, base_losses: Iterable[str]) -> None:
    """See that a reading which a study names is one that a loss of it can have.

    Args:
        study: whose reading and losses.
        base_losses: that it trains with on the base split.

    Raises:
        StudyError: no loss can be read so.
    """
    trains = any("loss" in hyper_parameters_of(name) for name in study.adaptations)
    used = list(dict.fromkeys([*base_losses, *(study.losses if trains else ())]))
    if study.reading is not None and used and not any(study.reading in readings_of(loss) for loss in used):
        reading_of(used[-1], study.reading)


def wants_base_head(study: Study) -> bool:
    """Whether a method of a study sees the logits of the base classes."""
    return "finetune" in study.adaptations and study.hyper_parameters.get("on") == "logits"


def unknown_hyper_parameter(name: str, accepted: Collection[str], whose: str) -> str:
    """What to say of a hyper-parameter that no adaptation has.

    Args:
        name: of the hyper-parameter.
        accepted: those there are.
        whose: adaptations these are, in words.
    """
    offered = {known.casefold(): known for known in accepted if known not in _OPTIONS_OF_THEIR_OWN}
    nearest = get_close_matches(name.casefold(), offered, n=1, cutoff=0.5)
    offer = f"Did you mean {offered[nearest[0]]}?" if nearest else f"Known: {', '.join(sorted(offered.values()))}."
    return f"no adaptation {whose} has a hyper-parameter '{name}'. {offer}"


def hyper_parameters_of(name: str) -> set[str]:
    """Names of the hyper-parameters of an adaptation, or of all of a group.

    Raises:
        UnknownNameError: the adaptation is not known.
        PluginError: it is no class of adaptations.
    """
    if name in GROUPS and name not in ADAPTATIONS:
        return set().union(*map(hyper_parameters_of, members_of(name)))
    factory = ADAPTATIONS[name].factory
    if isinstance(factory, type) and issubclass(factory, Adaptation):
        return hyper_parameter_fields(factory)
    raise PluginError(f"{place_of(factory)}{name} is {described(factory)}, not a class. {HOW_TO_WRITE_ONE}")


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


def _build(study: Study, hyper_parameters: dict[str, Any], name: str) -> Adaptation:
    factory: Any = ADAPTATIONS[name].factory
    hyper_parameters = with_choice(study, factory, hyper_parameters)
    _refuse_what_is_no_number(factory, hyper_parameters, name)
    for candidate, values in hyper_parameters.get("candidates", {}).items():
        for value in values:
            _refuse_what_is_no_number(factory, {candidate: value}, name)
    if isabstract(factory):
        missing = " and ".join(sorted(factory.__abstractmethods__))
        raise PluginError(f"{place_of(factory)}{name} lacks {missing}. {HOW_TO_WRITE_ONE}")
    with plugin_errors(factory):
        try:
            adaptation = factory(**hyper_parameters)
            check_choice(study, adaptation)
        except (TypeError, ValueError) as error:
            if is_raised_in_plugin(error):
                raise
            raise StudyError(f"{name} refuses its hyper-parameters: {error}.") from error
    return check_adaptation(adaptation, name)


def _refuse_what_is_no_number(adaptation: type[Adaptation], values: dict[str, Any], name: str) -> None:
    """See that what is a number by default stays one, and a whole one whole; that what is true or false stays so.

    Raises:
        StudyError: it does not.
    """
    for field in fields(adaptation):
        if field.name not in values:
            continue
        value = values[field.name]
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        if value is None and kind.endswith(" | None"):
            continue
        expected, is_right = _KINDS.get(kind.removesuffix(" | None"), ("", _anything))
        if not is_right(value):
            several = " Several values are tried with --choose." if several_values(value) is not None else ""
            raise StudyError(f"{field.name} of {name} should be {expected}, not {value!r}.{several}")


def _anything(value: object) -> bool:
    return True


_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "float": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "int": ("a whole number", lambda value: type(value) is int),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
}


def method_name(backbone: str, backbone_settings: dict[str, Any], base: str, adaptation: Adaptation) -> str:
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
    changed |= settings_of_choice(adaptation)
    return "/".join([stage for stage in stages if stage] + [adaptation.name + _settings(changed)])


def _settings(values: dict[str, Any]) -> str:
    return "@" + ",".join(f"{name.rstrip('_')}={values[name]}" for name in sorted(values)) if values else ""
