"""How many images a network embeds at once, and whether it is compiled: chosen while it embeds many images.

The first images are embedded in the default way and timed. Where the rest would take long, a short trial chooses the
batch size: on a CPU, batches whose activations fit into memory that is used again are up to twice as fast. Where the
rest still takes longer than `torch.compile` takes, the network is compiled. Embeddings differ in their last bits at
most, so neither is part of a content key. Both are remembered per machine, in the cache.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot_bench._io.locations import machine_cache_folder
from fewshot_bench.cache import COMPILED
from fewshot_bench.cache.trials import Trial, choose, keep_text, kept_text
from fewshot_bench.progress import Progress

Forward = Callable[[Tensor], object]
"""Preprocessed images [B, C, S, S] -> what the network gives, [B, D]."""
Embed = Callable[[Tensor, Forward], NDArray[np.float32]]
"""uint8 images [B, C, H, W], by a network -> [B, D]."""

BLOCK = 256
"""Images that are read together."""
_CPU_SIZES, _GPU_SIZES = (16, 64), (1024,)
_FEWEST = 4096
"""Images of the smallest split that is tuned."""
_LONG = 20.0
"""Seconds of embedding left that are worth a trial of batch sizes."""
_SHARE = 16
"""A trial embeds at most one of so many images left."""
_FIRST_SECONDS, _SECONDS_PER_LAYER, _USUAL_GAIN = 20.0, 0.15, 1.4
"""What compiling takes and gains where it was never tried: EfficientNet-Lite0, 215 layers, takes 30 to 100 s."""
_MARGIN = 1.25
"""Compiling should save this multiple of the time it takes."""
_WORTHWHILE = 1.05
_AGREEMENT = 1e-4
"""Relative difference of compiled embeddings from others, at most; rounding gives 1e-6."""
_SWITCHES = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")
_LOG = logging.getLogger(__name__)
_compiled_here: WeakKeyDictionary[nn.Module, set[int]] = WeakKeyDictionary()
"""The batch sizes for which this process has compiled a network: a second time takes a second."""


def default_batch_size(image_size: int, device: str) -> int:
    """Many images at once on a GPU; on a CPU few enough that the allocator reuses memory."""
    if device == "cpu":
        return max(8, min(BLOCK, (1 << 19) // image_size**2))
    return BLOCK


def is_never_tuned(images: int) -> bool:
    """Whether a split of that many images is embedded in the default way, so that a machine repeats every bit."""
    return images < _FEWEST


@dataclass(frozen=True)
class _Compiling:
    """What compiling a network takes, in seconds, and how many times faster it then is."""

    seconds: float
    gain: float

    def pays_for(self, seconds: float) -> bool:
        """Whether it clearly shortens that many seconds of embedding."""
        return self.gain > _WORTHWHILE and seconds * (1 - 1 / self.gain) > _MARGIN * self.seconds


class EmbeddingTuner:
    """Tunes the batch size and the forward pass while many images are left to be embedded.

    Attributes:
        batch_size: images at once.
        forward: the network, or its compiled form.
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: int,
        device: str,
        embed: Embed,
        identity: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """Start with the default batch size, uncompiled.

        Args:
            network: in evaluation mode, on the device.
            image_size: side of its input, in pixels.
            device: a torch device.
            embed: embeds a batch.
            identity: of the network, see `network_identity`.
            progress: shown while the network is compiled.
        """
        self.batch_size = default_batch_size(image_size, device)
        self.forward: Forward = network
        self._network, self._device, self._embed, self._progress = network, torch.device(device), embed, progress
        self._key = f"{identity['layers']}, {image_size} px"
        # The user's own code runs as it was written.
        self._may_compile = self._device.type == "cpu" and set(identity) == {"layers"} and can_compile()
        self._steps = [self._choose_batch_size, self._compile_if_it_pays]

    def tune(self, images: Tensor, left: int, seconds: float) -> None:
        """Choose the batch size after the first block of images, and whether to compile after the second.

        Args:
            images: the block, uint8 [B, C, H, W].
            left: how many are still to be embedded.
            seconds: that the block took.
        """
        if self._steps:
            self._steps.pop(0)(images, left, left * seconds / len(images))

    def _choose_batch_size(self, images: Tensor, left: int, seconds_left: float) -> None:
        others = (self.batch_size // 2, *_CPU_SIZES) if self._device.type == "cpu" else _GPU_SIZES
        sizes = list(dict.fromkeys([self.batch_size, *others]))
        count = max(sizes)
        if seconds_left < _LONG or left < _SHARE * 2 * len(sizes) * count:
            return
        repeated = images[torch.arange(count) % len(images)]
        runs = {str(size): lambda size=size: self._run(repeated, size, self.forward) for size in sizes}
        trial = Trial(f"batch size of {self._key}", runs)
        self.batch_size = int(choose([trial], self._device)[trial.key])

    def _compile_if_it_pays(self, images: Tensor, left: int, seconds_left: float) -> None:
        if not self._may_compile or len(images) < self.batch_size:
            return
        key = f"compiling {self._key}, {self.batch_size} at once"
        known = _kept(key, self._device)
        expected = known or _Compiling(_FIRST_SECONDS + _SECONDS_PER_LAYER * _layers(self._network), _USUAL_GAIN)
        if self.batch_size in _compiled_here.get(self._network, ()):
            expected = _Compiling(1.0, expected.gain)
        if not expected.pays_for(seconds_left):
            return
        with self._progress.step("compiling the network", 0):
            found = self._compile(images[: len(images) // self.batch_size * self.batch_size])
        if found is not None:
            measured, forward = found
            if known is None or self.batch_size not in _compiled_here.get(self._network, ()):
                keep_text(key, json.dumps([round(measured.seconds, 1), round(measured.gain, 2)]), self._device)
            if measured.gain > _WORTHWHILE:
                _compiled_here.setdefault(self._network, set()).add(self.batch_size)
                self.forward = forward

    def _compile(self, images: Tensor) -> tuple[_Compiling, Forward] | None:
        """The compiled network with what it took and gains; None where it fails, or gives other embeddings."""
        network, batch_size = self._network, self.batch_size
        began = time.perf_counter()
        try:
            with _quiet(), _own_compiler_cache():
                # One graph for one shape: a network that needs more gains little, and a second shape compiles again.
                compiled: Forward = torch.compile(network, fullgraph=True, dynamic=False)
                given = self._embed(images[:batch_size], compiled)
        except Exception:  # of the compiler: the network runs uncompiled
            _LOG.debug("%s is not compiled", type(network).__name__, exc_info=True)
            return None
        seconds = time.perf_counter() - began
        wanted = self._embed(images[:batch_size], network)
        distance = np.linalg.norm(given - wanted, axis=1)
        if not (distance <= _AGREEMENT * np.linalg.norm(wanted, axis=1)).all():
            _LOG.debug("%s gives other embeddings once compiled", type(network).__name__)
            return None
        eager_times, compiled_times = [], []
        for _ in range(2):
            eager_times.append(_seconds(lambda: self._run(images, batch_size, network)))
            compiled_times.append(_seconds(lambda: self._run(images, batch_size, compiled)))

        def full_batches_compiled(pixels: Tensor) -> object:
            return compiled(pixels) if len(pixels) == batch_size else network(pixels)

        return _Compiling(seconds, min(eager_times) / min(compiled_times)), full_batches_compiled

    def _run(self, images: Tensor, batch_size: int, forward: Forward) -> None:
        for first in range(0, len(images), batch_size):
            self._embed(images[first : first + batch_size], forward)


def can_compile() -> bool:
    """Whether there is a C++ compiler, and the user has not switched `torch.compile` off."""
    if any(os.environ.get(name) == "1" for name in _SWITCHES):
        return False
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX", usual)) is not None


def _layers(network: nn.Module) -> int:
    return sum(1 for module in network.modules() if not any(True for _ in module.children()))


def _kept(key: str, device: torch.device) -> _Compiling | None:
    try:
        seconds, gain = json.loads(kept_text(key, device) or "")
        return _Compiling(float(seconds), float(gain))
    except (ValueError, TypeError):
        return None


def _seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@contextmanager
def _own_compiler_cache() -> Iterator[None]:
    """Let the compiler keep its results in our cache: its own folder is in /tmp, where others may write first."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(machine_cache_folder() / COMPILED / "torchinductor")
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of the compiler, such as that a GPU is missing."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
