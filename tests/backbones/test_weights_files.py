"""What a file of weights may hold, and what is refused in one line."""

from __future__ import annotations

import argparse
import collections
import importlib
import pickle
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.backbones.weights import fit_by_name, fit_by_order, fit_words, weights_digest
from fewshot_bench.backbones.weights_file import read_weights
from fewshot_bench.errors import WeightsError


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))


class WithIntegers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("index", torch.arange(3))
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))


def fitted(state, path: Path, target: torch.nn.Module | None = None) -> tuple[torch.nn.Module, dict]:
    target = target or network()
    torch.save(state, path)
    return target, fit_by_name(target, read_weights(path), path.name)


def quantised(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def first_with(value):
    def spoil(tensor):
        spoiled = tensor.clone()
        spoiled.view(-1)[0] = value
        return spoiled

    return spoil


MISFITS = {
    "int8": (lambda t: (t * 100).to(torch.int8), "is int8"),
    "uint8": (lambda t: t.to(torch.uint8), "is uint8"),
    "int16": (lambda t: t.to(torch.int16), "is int16"),
    "int64": (lambda t: t.to(torch.int64), "is int64"),
    "bool": (lambda t: t > 0, "is bool"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
    "complex64": (lambda t: t.to(torch.complex64), "is complex"),
    "sparse COO": (lambda t: t.to_sparse(), "is sparse"),
    "quantised": (quantised, "is quantised"),
    "meta": (lambda t: t.to("meta"), "is without values"),
    "NaN": (first_with(float("nan")), "NaN or infinite"),
    "inf": (first_with(float("inf")), "NaN or infinite"),
    "too large for float32": (lambda t: first_with(1e300)(t.double()), "NaN or infinite"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["0.weight", "1.running_mean", "2.bias"])
@pytest.mark.parametrize("kind", MISFITS)
def test_what_is_no_finite_floating_point_tensor_is_refused_in_one_line(tmp_path, kind, place):
    convert, told = MISFITS[kind]
    target = network()
    before = weights_digest(target)
    state = {**target.state_dict(), place: convert(target.state_dict()[place])}
    with pytest.raises(WeightsError, match=told) as refused:
        fitted(state, tmp_path / "w.pth", target)
    assert f"'{place}' in w.pth" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert weights_digest(target) == before, "nothing of it was loaded"


@pytest.mark.parametrize("kind", [kind for kind in MISFITS if kind not in ("sparse COO", "quantised", "meta")])
def test_safetensors_are_refused_alike(tmp_path, kind):
    convert, told = MISFITS[kind]
    state = network().state_dict()
    save_file({**state, "0.weight": convert(state["0.weight"])}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=told):
        fit_by_name(network(), read_weights(tmp_path / "w.safetensors"), "w")


def test_misfits_among_tensors_that_are_not_needed_are_no_harm(tmp_path):
    extra = {
        "head.weight": torch.ones(2).to_sparse(),
        "scale": torch.ones(2, dtype=torch.int8),
        "nan": torch.tensor([torch.nan]),
    }
    _, record = fitted({**network().state_dict(), **extra}, tmp_path / "w.pth")
    assert record == {"unused": ["head.weight", "scale", "nan"], "unused_count": 3}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_converted_and_recorded(tmp_path, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in network().state_dict().items()}
    loaded, record = fitted(state, tmp_path / "w.pth")
    assert record == {"converted": [str(dtype).removeprefix("torch.")]}
    assert all(t.dtype in (torch.float32, torch.int64) for t in loaded.state_dict().values())
    assert torch.equal(loaded[0].weight, state["0.weight"].float())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("index", torch.arange(3.0)),
        ("index", torch.ones(3, dtype=torch.bool)),
        ("mask", torch.ones(3)),
        ("mask", torch.ones(3, dtype=torch.int64)),
        ("weight", torch.ones(2, dtype=torch.int64)),
    ],
)
def test_every_tensor_keeps_its_kind(tmp_path, name, value):
    target = WithIntegers()
    with pytest.raises(WeightsError, match=f"'{name}' in w.pth is "):
        fitted({**target.state_dict(), name: value}, tmp_path / "w.pth", target)


def test_a_counter_that_was_averaged_stays_whole(tmp_path):
    state = network().state_dict()
    loaded, record = fitted({**state, "1.num_batches_tracked": torch.tensor(7.0)}, tmp_path / "w.pth")
    assert loaded[1].num_batches_tracked.dtype == torch.int64
    assert int(loaded[1].num_batches_tracked) == 7
    assert record == {"converted": ["float32"]}
    with pytest.raises(WeightsError, match="num_batches_tracked"):
        fitted({**state, "1.num_batches_tracked": torch.tensor(7.5)}, tmp_path / "w.pth")


def test_a_variance_below_zero_is_refused(tmp_path):
    state = network().state_dict()
    with pytest.raises(WeightsError, match=r"'1\.running_var' in w\.pth holds negative variances"):
        fitted({**state, "1.running_var": torch.tensor([1.0, -1e-3, 1.0, 1.0])}, tmp_path / "w.pth")


def test_weights_by_order_are_checked_alike():
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="'a' in x is int8"):
        fit_by_order(linear, {"a": torch.zeros(2, 2, dtype=torch.int8), "b": torch.zeros(2)}, "x")
    with pytest.raises(WeightsError, match="NaN"):
        fit_by_order(linear, {"a": torch.full((2, 2), torch.nan), "b": torch.zeros(2)}, "x")


VIEWS = {
    "parameters": lambda state: {
        name: torch.nn.Parameter(t, requires_grad=t.is_floating_point()) for name, t in state.items()
    },
    "transposed views": lambda state: {name: t.t().contiguous().t() if t.ndim == 2 else t for name, t in state.items()},
    "channels last": lambda state: {
        name: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in state.items()
    },
    "slices of one storage": lambda state: (
        lambda flat: {name: flat[i].reshape(t.shape).to(t.dtype) for i, (name, t) in enumerate(state.items())}
    )(torch.cat([t.flatten().float() for t in state.values()]).split([t.numel() for t in state.values()])),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_however_tensors_lie_in_memory_they_are_the_same_weights(tmp_path, kind):
    source = network()
    torch.nn.init.normal_(source[0].weight)
    loaded, record = fitted(VIEWS[kind](source.state_dict()), tmp_path / "w.pth")
    assert weights_digest(loaded) == weights_digest(source)
    assert record == {}


def test_a_tensor_that_claims_to_be_huge_takes_no_memory(tmp_path):
    state = {**network().state_dict(), "0.weight": torch.zeros(1).expand(1 << 40)}
    torch.save(state, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < 10_000
    with pytest.raises(WeightsError, match=r"'0\.weight' is \[1099511627776\] in w\.pth"):
        fit_by_name(network(), read_weights(tmp_path / "w.pth"), "w.pth")


def test_a_compressed_file_is_refused_before_it_grows(tmp_path):
    torch.save({"weight": torch.zeros(1 << 22)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for part in plain.infolist():
            small.writestr(part.filename, plain.read(part))
    with pytest.raises(WeightsError, match=r"small\.pth is compressed"):
        read_weights(tmp_path / "small.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bytearray_of_any_size_is_not_made(tmp_path, monkeypatch, legacy):
    torch.save({"a": bytearray(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(WeightsError, match="holds a bytearray"):
        read_weights(tmp_path / "w.pth")


def test_a_header_that_lies_about_its_tensors_is_damage(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.safetensors")


def nested(depth: int):
    value: object = torch.zeros(1)
    for _ in range(depth):
        value = {"a": value}
    return value


def holding_itself():
    content: list = [{"a": torch.zeros(1)}]
    content += [content] * 20
    return content


STRANGE = {
    "a tensor": (torch.zeros(3), "no state dict"),
    "nothing": ({}, "no state dict"),
    "numbers": ({"accuracy": 0.5, "epoch": 3}, "no state dict"),
    "text": ("weights", "no state dict"),
    "very deep": (nested(40), "no state dict"),
    "many values": ({"a": list(range(300_000))}, "more than 200,000 values"),
    "one name twice": ({"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}, "two tensors that are called 'a.b'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STRANGE)
def test_a_file_without_a_state_dict_says_so(tmp_path, kind):
    content, told = STRANGE[kind]
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=told):
        read_weights(tmp_path / "w.pth")


def test_a_list_that_holds_itself_ends(tmp_path):
    torch.save(holding_itself(), tmp_path / "w.pth")
    assert list(read_weights(tmp_path / "w.pth")) == ["0.a"]


@pytest.mark.parametrize("cut", [0, 1, 7, 50, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_or_spoiled_file_is_refused_in_one_line(tmp_path, kind, cut):
    path = tmp_path / "w.pth"
    if kind == "safetensors":
        save_file(network().state_dict(), path)
    else:
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    at = int(cut if cut >= 1 or cut == 0 else cut * len(content))
    path.write_bytes(content[:at])
    with pytest.raises(WeightsError) as refused:
        read_weights(path)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_flipped_bytes_end_in_weights_or_in_one_line(tmp_path, kind):
    path = tmp_path / "w.pth"
    state = {"model": network().state_dict(), "args": argparse.Namespace(lr=1.0)}
    torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content, lines = path.read_bytes(), []
    for seed in range(60):
        random, spoiled = np.random.default_rng(seed), bytearray(content)
        for at in random.integers(0, len(content), 8):
            spoiled[at] = random.integers(256)
        path.write_bytes(bytes(spoiled))
        with suppress(WeightsError):
            try:
                fit_by_name(network(), read_weights(path), "w.pth")
            except WeightsError as error:
                lines.append(str(error))
                raise
    assert lines, "some bytes matter"
    assert not [line for line in lines if "\n" in line or "weights_only=False" in line]


FOREIGN = {
    "npz": lambda path: np.savez(path.open("wb"), weight=np.zeros(3)),
    "npy": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "an empty file": lambda path: path.write_bytes(b""),
    "a pointer of Git LFS": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    "a page of the web": lambda path: path.write_text("<!doctype html><html><body>404</body></html>"),
    "HDF5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "an empty zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "TorchScript": lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
    "a list of numbers": lambda path: path.write_bytes(pickle.dumps([1, 2])),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_other_formats_are_refused_in_one_line(tmp_path, kind, suffix):
    FOREIGN[kind](tmp_path / f"w{suffix}")
    with pytest.raises(WeightsError, match=rf"w\{suffix} (cannot be read as weights|is compressed)") as refused:
        read_weights(tmp_path / f"w{suffix}")
    assert "\n" not in str(refused.value)


def test_the_format_is_that_of_the_content_whatever_the_file_is_called(tmp_path):
    state = network().state_dict()
    save_file(state, tmp_path / "w.bin")
    assert read_weights(tmp_path / "w.bin").keys() == state.keys()


class TestWhatElseACheckpointHolds:
    """Arguments, numbers of NumPy and objects of other packages are neither imported nor made."""

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize(
        "other",
        [
            argparse.Namespace(lr=0.1, data=Path("/somewhere")),
            np.float64(0.5),
            np.int64(3),
            np.arange(3),
            {"best": np.float32(0.5), 3: np.bool_(True)},
            collections.defaultdict(list, a=[1]),
            collections.Counter("aab"),
            Path("/somewhere"),
            {1, 2},
            complex(1, 2),
            slice(1, 2),
            BackboneRequest("conv4_32"),
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1).state_dict(),
            torch.device("cpu"),
            torch.Size([1]),
            [argparse.Namespace(), {"deep": argparse.Namespace()}],
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_is_passed_over(self, tmp_path, other, legacy):
        path = tmp_path / "w.pth"
        torch.save({"args": other, "model": network().state_dict()}, path, _use_new_zipfile_serialization=not legacy)
        target = network()
        record = fit_by_name(target, read_weights(path), "w.pth")
        assert record["prefix"] == "model."
        assert weights_digest(target) == weights_digest(network())

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("held", ["Held", "Called", "Keyed"])
    def test_runs_nothing_and_imports_nothing(self, tmp_path, monkeypatch, held, legacy):
        (tmp_path / "planted.py").write_text(
            f"from pathlib import Path\nPath({str(tmp_path / 'imported')!r}).touch()\n"
            f"def run(*_): Path({str(tmp_path / 'ran')!r}).touch()\n"
            "class Held:\n    def __init__(self): self.a = 1\n    def __setstate__(self, state): run()\n"
            "class Called:\n    def __reduce__(self): return run, (1,)\n"
            "class Keyed(dict):\n    def __setitem__(self, key, value): run()\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        planted = importlib.import_module("planted")
        content = {"args": getattr(planted, held)(), "model": network().state_dict()}
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        monkeypatch.delitem(sys.modules, "planted")
        for name in ("ran", "imported"):
            (tmp_path / name).unlink(missing_ok=True)
        assert set(read_weights(tmp_path / "w.pth")) == {f"model.{name}" for name in network().state_dict()}
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "imported").exists()

    def test_a_whole_pickled_network_is_told_what_to_save(self, tmp_path):
        torch.save(network(), tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"Save .*state_dict"):
            create_backbone(BackboneRequest("conv4_32", weights=tmp_path / "w.pth"))

    def test_functions_of_the_system_are_refused_as_a_whole(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return (eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

        torch.save({"args": Payload(), **network().state_dict()}, tmp_path / "w.pth")
        read_weights(tmp_path / "w.pth")
        (tmp_path / "p.pth").write_bytes(pickle.dumps({"a": Payload()}))
        with pytest.raises(WeightsError, match="never unpickled"):
            read_weights(tmp_path / "p.pth")
        assert not (tmp_path / "ran").exists()


def test_words_name_what_was_taken_and_what_was_not():
    record = {
        "prefix": "model.backbone.",
        "other_networks": ["ema."],
        "unused": ["fc.weight", "fc.bias", "a", "b"],
        "unused_count": 9,
        "converted": ["float16"],
    }
    assert fit_words(record) == (
        "taken from 'model.backbone.'; not from 'ema.'; unused: 'fc.weight', 'fc.bias', 'a' and 6 more; "
        "converted from float16"
    )
    assert fit_words({}) == ""
