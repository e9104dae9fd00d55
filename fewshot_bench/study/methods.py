"""From the words of a study to adaptations, and from what was done to a method's name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import MISSING, fields
from difflib import get_close_matches
from inspect import isabstract
from typing import Any

from fewshot_bench.adaptation import ADAPTATIONS, Adaptation
from fewshot_bench.adaptation.returned import HOW_TO_WRITE_ONE, check_adaptation
from fewshot_bench.errors import PluginError, StudyError
from fewshot_bench.losses import LOSSES, Reading, reading_of, readings_of
from fewshot_bench.plugins import described, is_raised_in_plugin, place_of, plugin_errors
from fewshot_bench.study.study import Study

_OPTIONS_OF_THEIR_OWN = {"loss": "--loss", "lambda_": "--lambda", "tau": "--tau", "reading": "--reading"}


def planned_adaptations(study: Study) -> list[Adaptation]:
    """Every adaptation of a study; those that train with a loss once per loss.

    Raises:
        UnknownNameError: an adaptation or a loss is not known.
        StudyError: a hyper-parameter belongs to none of the adaptations, or a value is refused.
    """
    for loss in study.losses:
        LOSSES[loss]
    planned: list[Adaptation] = []
    used: set[str] = set()
    for name in study.adaptations:
        factory = ADAPTATIONS[name].factory
        accepted = hyper_parameters_of(name)
        chosen = {key: value for key, value in study.hyper_parameters.items() if key in accepted}
        used |= set(chosen)
        taken = sorted(set(chosen) & _OPTIONS_OF_THEIR_OWN.keys())
        if taken and "loss" in accepted:
            raise StudyError(f"--set {taken[0]} is not taken; use {_OPTIONS_OF_THEIR_OWN[taken[0]]} instead.")
        if "loss" in accepted:
            for loss in study.losses:
                shared = {
                    "lambda_": study.lambda_,
                    "tau": study.tau,
                    "reading": chosen_reading(study, loss),
                    "loss": loss,
                }
                shared = {key: value for key, value in shared.items() if key in accepted}
                planned.append(_build(factory, chosen | shared, name))
        else:
            planned.append(_build(factory, chosen, name))
    unused = sorted(set(study.hyper_parameters) - used)
    if unused:
        names = ", ".join(study.adaptations)
        accepted = set().union(*(hyper_parameters_of(name) for name in study.adaptations))
        raise StudyError(unknown_hyper_parameter(unused[0], accepted, f"of this study ({names})"))
    return planned


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
    """Names of the hyper-parameters of an adaptation.

    Raises:
        UnknownNameError: the adaptation is not known.
        PluginError: it is no class of adaptations.
    """
    factory = ADAPTATIONS[name].factory
    if isinstance(factory, type) and issubclass(factory, Adaptation):
        return {field.name for field in fields(factory)}
    raise PluginError(f"{place_of(factory)}{name} is {described(factory)}, not a class. {HOW_TO_WRITE_ONE}")


def _build(factory: Any, hyper_parameters: dict[str, Any], name: str) -> Adaptation:
    _refuse_what_is_no_number(factory, hyper_parameters, name)
    if isabstract(factory):
        missing = " and ".join(sorted(factory.__abstractmethods__))
        raise PluginError(f"{place_of(factory)}{name} lacks {missing}. {HOW_TO_WRITE_ONE}")
    with plugin_errors(factory):
        try:
            adaptation = factory(**hyper_parameters)
        except (TypeError, ValueError) as error:
            if is_raised_in_plugin(error):
                raise
            raise StudyError(f"{name} refuses its hyper-parameters: {error}.") from error
    return check_adaptation(adaptation, name)


def _refuse_what_is_no_number(adaptation: type[Adaptation], values: dict[str, Any], name: str) -> None:
    """See that what is a number by default stays one, and a whole one whole.

    Raises:
        StudyError: it does not.
    """
    for field in fields(adaptation):
        if field.name not in values:
            continue
        value = values[field.name]
        if field.type in ("float", float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise StudyError(f"{field.name} of {name} should be a number, not {value!r}.")
        if field.type in ("int", int) and type(value) is not int:
            raise StudyError(f"{field.name} of {name} should be a whole number, not {value!r}.")


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
    return "/".join([stage for stage in stages if stage] + [adaptation.name + _settings(changed)])


def _settings(values: dict[str, Any]) -> str:
    return "@" + ",".join(f"{name.rstrip('_')}={values[name]}" for name in sorted(values)) if values else ""
