"""The interface of a loss, and the registry of losses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from fewshot_bench.errors import PluginError, StudyError
from fewshot_bench.losses.contrastive import Anchors, Reading, StopGradient
from fewshot_bench.plugins import described, is_code, is_plugin, is_raised_in_plugin, place_of, plugin_errors
from fewshot_bench.registry import Registry


class Loss(Protocol):
    """From logits and embeddings of the same views to one number per batch, for any leading dimensions.

    A loss without a contrastive term ignores `embeddings`, `images`, `lambda_`, `tau` and `reading`. A loss may also
    take `label_smoothing` and the `EXTRA_SETTINGS`, which are passed only where they are not the default.
    """

    def __call__(
        self,
        logits: Tensor,
        embeddings: Tensor,
        labels: Tensor,
        images: Tensor,
        *,
        lambda_: float,
        tau: float,
        reading: Reading,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The loss of every batch.

        Args:
            logits: outputs of the classification head, [..., B, C].
            embeddings: outputs of the encoder, of any norm, [..., B, D].
            labels: class of each view, [..., B] or anything that broadcasts to it.
            images: id of the image that each view comes from, [..., B] or anything that broadcasts to it.
            lambda_: share of the contrastive term, 0 to 1.
            tau: temperature of the contrastive term.
            reading: how the mean over positives is taken, see `contrastive_loss`; one of `readings_of` the loss.
            label_smoothing: of the cross-entropy, see `cross_entropy`.

        Returns:
            [...].
        """


LOSSES: Registry[Loss] = Registry("loss")

EXTRA_SETTINGS: dict[str, tuple[str, ...]] = {"stop_gradient": get_args(StopGradient), "anchors": get_args(Anchors)}
"""Settings of the contrastive term that only some losses take, with their values, the default first."""


def readings_of(loss: str) -> tuple[Reading, ...]:
    """The readings that a loss offers, its default first; none if it takes no mean over positives.

    The losses of this project register them. A plug-in's loss takes both; its default is that of its argument
    `reading`, or "in", also before its code is admitted.

    Raises:
        UnknownNameError: the loss is not known.

    Examples:
        >>> readings_of("ce+schane"), readings_of("ce+supcon"), readings_of("ce")
        (('in', 'out'), ('out',), ())
    """
    if _is_not_admitted(loss):
        return ("in", "out")
    entry = LOSSES[loss]
    if "readings" in entry.facts:
        offered: tuple[Reading, ...] = entry.facts["readings"]
        return offered
    return ("out", "in") if _default_of(entry.factory, "reading") == "out" else ("in", "out")


def reading_of(loss: str, asked: Reading | None = None) -> Reading:
    """How a loss takes the mean over positives: as asked for, or by its default.

    Raises:
        UnknownNameError: the loss is not known.
        StudyError: the loss has no such reading.

    >>> reading_of("ce+schane"), reading_of("ce+schane", "out"), reading_of("ce+supcon")
    ('in', 'out', 'out')
    """
    offered = readings_of(loss)
    if asked is None:
        return offered[0] if offered else "out"
    if asked not in get_args(Reading):
        raise StudyError(f"reading should be one of {', '.join(get_args(Reading))}, not {asked}.")
    if asked not in offered:
        own = f"always takes '{offered[0]}', as its paper defines it" if offered else "has none"
        raise StudyError(f"the reading '{asked}' belongs to ce+schane; {loss} {own}. Do not set reading for it.")
    return asked


def other_reading(loss: str, asked: Reading | None) -> Reading | None:
    """The reading asked for, or None if it is the loss's default, so that one value has one spelling.

    Raises:
        UnknownNameError: the loss is not known.
        StudyError: the loss has no such reading.

    >>> other_reading("ce+schane", "out"), other_reading("ce+schane", "in") is None
    ('out', True)
    """
    reading = reading_of(loss, asked)
    if _is_not_admitted(loss):  # its default is known only afterwards
        return asked
    return None if reading == reading_of(loss) else reading


def takes(loss: str, setting: str) -> bool:
    """Whether a loss takes one of the `EXTRA_SETTINGS`; assumed of a plug-in's loss until its code is admitted.

    Raises:
        UnknownNameError: the loss is not known.

    Examples:
        >>> takes("ce+schane", "stop_gradient"), takes("ce+supcon", "stop_gradient"), takes("ce+supcon", "anchors")
        (True, False, True)
    """
    return _is_not_admitted(loss) or setting in _parameters_of(LOSSES[loss].factory)


def extra_settings(loss: str, **settings: str) -> dict[str, Any]:
    """The `EXTRA_SETTINGS` that are not the default: arguments for a loss that takes them.

    Raises:
        UnknownNameError: the loss is not known.
        StudyError: a setting has another value, or the loss does not take it.

    >>> extra_settings("ce+schane", stop_gradient="beta", anchors="mean")
    {'stop_gradient': 'beta'}
    """
    changed = {}
    for name, value in settings.items():
        values = EXTRA_SETTINGS[name]
        if value not in values:
            raise StudyError(f"{name} should be one of {', '.join(values)}, not {value}.")
        if value == values[0]:
            continue
        if not takes(loss, name):
            raise StudyError(f"the loss {loss} takes no {name}; leave it at {values[0]}.")
        changed[name] = value
    return changed


def _is_not_admitted(loss: str) -> bool:
    return is_code(loss) and loss not in LOSSES


def _default_of(function: Loss, argument: str) -> object:
    """The default of an argument; None without one, or if the function has no signature."""
    parameters = _parameters_of(function)
    return parameters[argument].default if argument in parameters else None


def _parameters_of(function: Loss) -> Mapping[str, Parameter]:
    """The parameters by name; none if the function has no signature."""
    try:
        return signature(function).parameters
    except (TypeError, ValueError):
        return {}


def loss_function(name: str) -> Loss:
    """The function of a loss; what a plug-in's loss returns is checked on every call.

    Raises:
        UnknownNameError: the loss is not known.

    >>> import torch
    >>> logits, embeddings, labels = torch.zeros(4, 2), torch.eye(4), torch.tensor([0, 0, 1, 1])
    >>> loss_function("ce")(logits, embeddings, labels, torch.arange(4), lambda_=0.9, tau=0.5, reading="out")
    tensor(0.6931)
    """
    return checked_loss(name, LOSSES[name].factory)


def checked_loss(name: str, loss: Loss) -> Loss:
    """A loss whose result is checked on every call, if it is a plug-in's; `name` is for messages."""
    if not is_plugin(loss):
        return loss

    @wraps(loss)
    def checked(logits: Tensor, embeddings: Tensor, *arguments: Tensor, **settings: Any) -> Tensor:
        with plugin_errors(loss):
            try:
                losses = loss(logits, embeddings, *arguments, **settings)
            except TypeError as error:
                if is_raised_in_plugin(error):
                    raise
                raise PluginError(f"{place_of(loss)}the loss {name} cannot be called: {error}. {_ARGUMENTS}") from error
        _check(losses, logits, embeddings, name, loss)
        return losses

    return checked


_ARGUMENTS = "A loss takes (logits, embeddings, labels, images, *, lambda_, tau, reading)."


def _check(losses: object, logits: Tensor, embeddings: Tensor, name: str, loss: Loss) -> None:
    """Check that the result of a plug-in's loss can be minimised.

    Whether it is finite is checked later, together with many steps, since looking at it waits for the device.

    Raises:
        PluginError: it cannot.
    """
    expected = list(logits.shape[:-2])
    finding = ""
    is_number = isinstance(losses, Tensor) and losses.layout == torch.strided and losses.dtype.is_floating_point
    if not isinstance(losses, Tensor) or not is_number or list(losses.shape) != expected:
        finding = described(losses)
    elif losses.device != logits.device:
        finding = f"a loss on {losses.device}"
    elif torch.is_grad_enabled() and (logits.requires_grad or embeddings.requires_grad) and not losses.requires_grad:
        finding = "a loss without a gradient (was it detached, or computed outside torch?)"
    if finding:
        raise PluginError(
            f"{place_of(loss)}the loss {name} returned {finding}; one floating-point number per "
            f"batch, {expected}, on {logits.device} and with its gradient, is expected."
        )


def mixture(cross_entropy: Tensor, contrastive: Tensor, lambda_: float) -> Tensor:
    """(1 - lambda) CE + lambda * contrastive: Eq. 1 of the SCHaNe paper."""
    return (1 - lambda_) * cross_entropy + lambda_ * contrastive
