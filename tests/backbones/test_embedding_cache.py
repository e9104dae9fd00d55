"""What is cached is what the network gives: nothing that changes an embedding meets the embeddings from before."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench.backbones import Backbone, Preprocessing, embed, network_identity
from fewshot_bench.cache import cache_entries
from fewshot_bench.datasets.dataset import split_fingerprint


class Scaled(torch.nn.Module):
    """Mean and spread of each channel of half the pixels; counts the images it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("unsaved", torch.ones(1), persistent=False)
        self.pool = torch.nn.AvgPool2d(2)
        self.factor = 1.0
        self.images = 0

    def forward(self, pixels):
        self.images += len(pixels)
        pixels = self.pool(pixels)
        rows = torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], dim=1)
        return self.factor * self.scale * self.unsaved * rows


class OtherClass(Scaled):
    pass


def backbone(network: torch.nn.Module | None = None, **preprocessing) -> Backbone:
    options = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3, **preprocessing}
    return Backbone("scaled", network or Scaled(), Preprocessing(**options), 6, is_pretrained=True)


def is_computed(split, backbone, **options) -> bool:
    """Whether all images are embedded, and the result is what it is without a cache."""
    before = backbone.network.images
    embeddings = embed(split, backbone, **options)
    asked = backbone.network.images - before
    plain = {name: value for name, value in options.items() if name in ("augment", "batch_size")}
    np.testing.assert_allclose(embeddings, embed(split, backbone, use_cache=False, **plain), rtol=1e-5, atol=1e-6)
    assert asked in (2, len(split), len(split) + 2)
    return asked >= len(split)


def test_the_second_time_a_few_images_are_asked_about():
    split = toy_split()
    assert is_computed(split, backbone())
    assert not is_computed(split, backbone())
    assert not is_computed(split, backbone(), batch_size=5)


def renamed(split):
    names = tuple(f"other-{name}" for name in split.class_names)
    return replace(split, class_names=names, fingerprint=split_fingerprint(split.images, names, split.class_sizes))


def with_attribute(name: str, value: object) -> Backbone:
    changed = backbone()
    if isinstance(value, float) and name != "factor":
        torch.nn.init.constant_(getattr(changed.network, name), value)
    else:
        setattr(changed.network, name, value)
    return changed


OTHER_BACKBONES = {
    "weights": lambda: with_attribute("scale", 2.0),
    "a layer without weights": lambda: with_attribute("pool", torch.nn.MaxPool2d(2)),
    "a setting of a layer": lambda: with_attribute("pool", torch.nn.AvgPool2d(2, stride=1)),
    "the network's class": lambda: backbone(OtherClass()),
    "the backbone's name": lambda: replace(backbone(), name="other"),
    "an attribute that nobody shows": lambda: with_attribute("factor", 1.5),
    "a buffer that is not saved": lambda: with_attribute("unsaved", 3.0),
    "image size": lambda: backbone(image_size=20),
    "interpolation": lambda: backbone(image_size=24, interpolation="nearest"),
    "mean": lambda: backbone(mean=(0.4, 0.5, 0.5)),
    "std": lambda: backbone(std=(0.25, 0.25, 0.5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", OTHER_BACKBONES)
def test_another_backbone_never_meets_the_embeddings_of_this_one(change):
    split = toy_split()
    embed(split, backbone())
    embed(split, backbone(image_size=24))
    assert is_computed(split, OTHER_BACKBONES[change]())


@pytest.mark.parametrize("change", ["pixels", "class names"])
def test_other_images_never_meet_the_embeddings_of_these(change):
    split = toy_split()
    embed(split, backbone())
    assert is_computed(toy_split(seed=5) if change == "pixels" else renamed(split), backbone())


def test_a_view_is_kept_under_its_name_and_without_a_name_not_at_all():
    split = toy_split()
    embed(split, backbone())

    def darker(images, which):
        return images // 2

    assert is_computed(split, backbone(), augment=darker)
    assert is_computed(split, backbone(), augment=darker)
    assert is_computed(split, backbone(), augment=darker, augmentation_name="darker")
    assert not is_computed(split, backbone(), augment=darker, augmentation_name="darker")
    assert is_computed(split, backbone(), augment=darker, augmentation_name="darker, version 2")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("fewshot_bench.backbones.embedding.EMBEDDING_VERSION", 99),
        ("fewshot_bench.backbones.embedding.installed_version", lambda package: "99.0"),
        ("torch.get_float32_matmul_precision", lambda: "medium"),
    ],
)
def test_another_version_or_precision_never_meets_the_embeddings_of_this_one(monkeypatch, place, value):
    split = toy_split()
    embed(split, backbone())
    monkeypatch.setattr(place, value)
    assert is_computed(split, backbone())


def test_tf32_on_a_gpu_is_another_precision(monkeypatch):
    from fewshot_bench.backbones import embedding

    before = torch.backends.cudnn.allow_tf32
    keys = []
    for is_allowed in (True, False):
        torch.backends.cudnn.allow_tf32 = is_allowed
        keys.append(embedding.embedding_key(toy_split(), backbone(), "", "cuda"))
    torch.backends.cudnn.allow_tf32 = before
    assert keys[0] != keys[1]


def test_autocast_of_the_caller_changes_no_embedding():
    split, network = toy_split(), torch.nn.Sequential(torch.nn.Conv2d(3, 6, 16), torch.nn.Flatten())
    with torch.autocast("cpu", torch.bfloat16):
        inside = embed(split, backbone(network), use_cache=False)
    assert (inside == embed(split, backbone(network), use_cache=False)).all()


def test_weights_that_change_after_their_digest_was_taken_are_noticed():
    split, changing = toy_split(), backbone()
    embed(split, changing)
    torch.nn.init.constant_(changing.network.scale, 2.0)
    assert is_computed(split, changing)


def test_the_source_of_a_class_that_has_no_version_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    identities = []
    for activation in ("relu", "tanh"):
        (tmp_path / "my_network.py").write_text(
            "import torch\n\n\nclass Mine(torch.nn.Module):\n"
            f"    def forward(self, pixels):\n        return torch.{activation}(pixels)\n"
        )
        sys.modules.pop("my_network", None)
        import my_network

        identities.append(network_identity(my_network.Mine()))
    sys.modules.pop("my_network")
    assert identities[0]["my_network"] != identities[1]["my_network"]
    assert identities[0]["layers"] == identities[1]["layers"]


def test_the_identity_of_a_network_does_not_depend_on_where_it_lies_in_memory():
    class WithFunction(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.activation = lambda x: x

        def extra_repr(self) -> str:
            return str(self.activation)

    first, second = WithFunction(), WithFunction()
    assert str(first) != str(second)
    assert network_identity(first)["layers"] == network_identity(second)["layers"]


@pytest.mark.parametrize("damage", ["truncated", "a flipped byte of an embedding", "old format", "another shape"])
def test_a_damaged_entry_is_made_again(home, damage):
    from fewshot_bench._io.tensors import write_tensors

    split = toy_split()
    embed(split, backbone())
    (path,) = (home / "cache" / "embeddings").glob("*.safetensors")
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "old format":
        np.save(path.with_suffix(".npy"), np.zeros((len(split), 6), np.float32))
        path.with_suffix(".npy").replace(path)
    elif damage == "another shape":
        write_tensors(path, {"embeddings": torch.zeros(len(split), 5)}, {})
    else:
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert is_computed(split, backbone())
    assert len(path.read_bytes()) == len(content)
    assert not is_computed(split, backbone())


def test_cached_embeddings_are_mapped_and_no_writing_reaches_the_file(home):
    split = toy_split()
    embed(split, backbone())
    (path,) = (home / "cache" / "embeddings").glob("*.safetensors")
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that cannot be written to
        mapped = torch.from_numpy(embed(split, backbone()))
    if Path("/proc/self/maps").exists():
        assert path.name in Path("/proc/self/maps").read_text()
    mapped.zero_()
    assert path.read_bytes() == content


def test_an_entry_says_what_it_is():
    split, scaled = toy_split(), backbone()
    embed(split, scaled)
    embed(split, scaled, augment=lambda images, which: images, augmentation_name="same, view 1")
    plain, view = cache_entries()
    assert plain.what == f"embeddings of toy novel by scaled {scaled.weights[:8]}"
    assert view.what == f"{plain.what}, same, view 1"
    assert plain.facts == {
        "dataset": "toy", "split": "novel", "images": "192", "backbone": "scaled", "weights": scaled.weights,
        "view": "plain",
    }  # fmt: skip


def test_a_read_is_the_last_use(home):
    split = toy_split()
    embed(split, backbone())
    (path,) = (home / "cache" / "embeddings").glob("*.safetensors")
    os.utime(path, (1, 1))
    embed(split, backbone())
    assert path.stat().st_mtime > 1


PROGRAM = """
import hashlib, sys
import torch
torch.set_num_threads(1)
from fewshot_bench.backbones import BackboneRequest, create_backbone, embed
from fewshot_bench.datasets import open_dataset
backbone = create_backbone(BackboneRequest("conv4_32", 1, 32))
for number, parameter in enumerate(backbone.network.parameters()):
    torch.nn.init.constant_(parameter, 0.01 * number)
embeddings = embed(open_dataset("glyphs").novel, backbone)
print(hashlib.sha256(embeddings.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_processes_that_embed_the_same_split_at_once_have_the_same_bytes(home):
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=300) for process in processes}
    assert len(answers) == 1, answers
    (output, errors) = answers.pop()
    assert (len(output.strip()), errors) == (64, "")
    assert len(list((home / "cache" / "embeddings").glob("*.safetensors"))) == 1
