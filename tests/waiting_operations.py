"""Counts operations whose result the host reads, on a CPU: on a GPU it would wait for each of them.

`synchronisation` fakes a GPU, on which values are unknown; here the numbers are real, and so are the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {
    "aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::masked_select", "aten::nonzero",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
}  # fmt: skip
_FROM_HOST = {"aten::lift_fresh", "aten::lift_fresh_copy"}  # torch.tensor(numbers)
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}


class WaitingOperations(TorchDispatchMode):
    """`names` are the operations so far that read values, index by a mask, or make a tensor of the host's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function._schema.name
        by_mask = name in _INDEXING and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in _READS or name in _FROM_HOST or by_mask:
            self.names.append(name)
        return function(*args, **(kwargs or {}))
