"""A fake GPU, which notes where the host would wait for a real one.

Tensors on it have shapes and no values (`FakeTensorMode`), so that nothing can be read from them. Copies from memory
that is not pinned are found too, such as those of `torch.tensor(numbers, device="cuda")`. PyTorch's own gradients are
taken as known not to wait: without a GPU its engine does not run, and gradients are zeros.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
_READS = {
    Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.nonzero, torch.nonzero, Tensor.__bool__,
    Tensor.__int__, Tensor.__float__, Tensor.__index__, torch.equal, Tensor.equal, torch.unique,
    Tensor.unique, torch.masked_select, Tensor.masked_select, torch.cuda.synchronize,
}  # fmt: skip
_WITHOUT_SHAPES = {
    torch._amp_update_scale_, torch._amp_foreach_non_finite_check_and_unscale_, torch._fused_adam_, torch._fused_adamw_
}  # fmt: skip
"""They change their arguments in place, do not wait, and know only real devices."""

_COPIES = {Tensor.to, Tensor.cuda, Tensor.copy_, Tensor.type_as}


class Synchronisations(TorchFunctionMode):
    """Notes every wait for the fake GPU; `places` are the lines that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self._pinned: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.pin_memory:
            pinned = args[0].clone()
            self._pinned.append(pinned)
            return pinned
        if function in _WITHOUT_SHAPES:
            return args[0]
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        is_read = function in _READS and any(tensor.device.type == "cuda" for tensor in tensors)
        if is_read:
            self._note(function)
        for tensor in tensors if function in _COPIES else ():
            tensor.constant = None  # its known values would be copied to a real GPU
        try:
            result = function(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if not is_read:
                self._note(function)
            raise
        if isinstance(result, Tensor) and result.device.type == "cuda":
            made_of_numbers = function in (torch.tensor, torch.as_tensor, torch.asarray) and not tensors
            copied = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.numel() > 0]
            if made_of_numbers or (function in _COPIES and any(not self._is_pinned(tensor) for tensor in copied)):
                self._note(function)
        is_on_cpu = isinstance(result, Tensor) and result.device.type == "cpu"
        if is_on_cpu and function in _COPIES and any(tensor.device.type == "cuda" for tensor in tensors):
            self._note(function)
        return result

    def _is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor is pinned for pinned in self._pinned)

    def _note(self, function: Any) -> None:
        own = (__file__, str(Path(torch.__file__).parent))
        frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(own)]
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
        self.places.append(f"{getattr(function, '__name__', function)} in {place} ({frames[-1].line})")


@contextmanager
def fake_gpu() -> Iterator[Synchronisations]:
    """Within it tensors and modules can be put on `GPU`, and steps of training be taken there."""
    synchronisations = Synchronisations()
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(nn.Module, "to", _moved),
        mock.patch.object(nn.Module, "__deepcopy__", lambda module, memo: module, create=True),
        mock.patch.object(Tensor, "backward", _zero_gradients),
        mock.patch("torch.cuda.mem_get_info", return_value=(80 << 30, 80 << 30)),
        mock.patch("torch.cuda.memory_reserved", return_value=0),
        mock.patch("torch.cuda.memory_allocated", return_value=0),
        mock.patch("torch.cuda.get_per_process_memory_fraction", return_value=1.0),
        mock.patch("torch.cuda.empty_cache"),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.current_device", return_value=0),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.cuda.get_rng_state", return_value=torch.zeros(16, dtype=torch.uint8)),  # the host keeps it
        mock.patch("torch.cuda.set_rng_state"),
        synchronisations,
    ):
        yield synchronisations


def _moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`Module.to`, with new parameters: fake ones cannot be changed in place."""

    def moved(tensor: Tensor) -> Tensor:
        if "memory_format" in kwargs and tensor.ndim != 4:
            return tensor
        return tensor.detach().to(*args, **kwargs)

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(moved(parameter), parameter.requires_grad)
        part._buffers = {name: None if buffer is None else moved(buffer) for name, buffer in part._buffers.items()}
    return module


def _zero_gradients(result: Tensor, gradient: Tensor | None = None, **_: Any) -> None:
    """Give the leaves of a graph gradients of zeros."""
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)
        waiting.extend(following for following, _ in node.next_functions)
