"""Code of somebody's own, written into a folder: what a user has in mind who types `module:callable`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from fewshot_bench import code_identity, registry
from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.datasets import DATASETS
from fewshot_bench.losses import LOSSES

ADAPTATION = dedent("""
    from dataclasses import dataclass
    from typing import ClassVar
    from fewshot_bench.adaptation import EmbeddingAdaptation, nearest_centroid
    from {helper} import changed

    @dataclass(frozen=True, kw_only=True)
    class Mine(EmbeddingAdaptation):
        '''Nearest centroid, and what the helper makes of it.'''

        name: ClassVar[str] = "mine"

        def scores(self, split, support, query):
            return changed(nearest_centroid(split.embeddings[support], split.embeddings[query]))
    """)
LOSS = dedent("""
    from fewshot_bench.losses import cross_entropy

    def loss(logits, embeddings, labels, images, **_):
        return {factor} * cross_entropy(logits, labels)
    """)
BACKBONE = dedent("""
    from fewshot_bench.backbones.networks import conv4_32, Preprocessing, Backbone

    def backbone(request):
        network = conv4_32(in_chans=request.channels, img_size=request.native_size)
        half = (0.5,) * request.channels
        preprocessing = Preprocessing(request.native_size, half, half, "bilinear")
        return Backbone(request.name, network.eval(), preprocessing, network.num_features, False)
    """)


def helper(factor: float) -> str:
    return f"def changed(scores):\n    return {factor} * scores\n"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, whose modules are forgotten after the test, as is what was admitted."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as of a user, whose edits within a second count, too
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for one in (ADAPTATIONS, BACKBONES, LOSSES, DATASETS):
        monkeypatch.setattr(one, "_entries", dict(one._entries))
        monkeypatch.setattr(one, "_admitted", {})
    monkeypatch.setattr(registry, "_ADMITTED", {})
    monkeypatch.setattr(code_identity, "_KNOWN", {})
    yield folder
    files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
    forget({name for name, file in files.items() if not file.startswith(str(tmp_path))})


def forget(others: set[str]) -> None:
    """Have modules imported anew, as the next process would, but for others."""
    for name in set(sys.modules) - others:
        del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    """Write modules; `a__b` is a module b in a package a, and `a__INIT` the package itself."""
    for name, source in files.items():
        path = folder.joinpath(*name.replace("INIT", "#").split("__")).with_suffix(".py")
        path = path.with_name(path.name.replace("#", "__init__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != folder:
            (path.parent / "__init__.py").touch()
        path.write_text(source, encoding="utf-8")
