"""A hub is asked once and briefly, and only for what is not on this machine."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from fewshot_bench._io import hub
from fewshot_bench.backbones import create_backbone, is_fetched_already
from fewshot_bench.backbones.timm_backbones import why_not_fetchable
from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets.own_tables import list_hugging_face
from fewshot_bench.errors import DatasetError, WeightsError

SMALL = "resnet10t"


@pytest.fixture
def hub_at(monkeypatch: pytest.MonkeyPatch) -> object:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_PATIENCE", 5.0)
    return lambda url: monkeypatch.setattr(constants, "ENDPOINT", url)


@pytest.fixture
def nothing_is_connected(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whatever would have been looked up or connected to."""
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("this test has no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the hub's library keeps the files of a model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    name = timm.get_pretrained_cfg(SMALL).hf_hub_id
    folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.fixture
def answering() -> Iterator[str]:
    """A server that refuses everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_that_nobody_answers_for_is_given_up_in_one_line(hub_at, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hub_at(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(timm, "create_model", None)  # nothing is tried again
    with pytest.raises(WeightsError) as refused:
        create_backbone(f"timm:{SMALL}")
    told = str(refused.value)
    assert "127.0.0.1 cannot be reached: " in told
    assert told.endswith("Give a file with --weights FILE.")
    assert "\n" not in told


def test_a_hub_that_is_silent_is_given_up(hub_at, monkeypatch):
    monkeypatch.setattr(hub, "_PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "127.0.0.1 " in why_not_fetchable(SMALL)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_does_not_speak_http_is_not_a_hub(hub_at):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=greet, daemon=True).start()
        hub_at(f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert "127.0.0.1 cannot be reached: SSH-2.0" in why_not_fetchable(SMALL)


def test_a_name_that_is_looked_up_for_ever_is_given_up(hub_at, monkeypatch):
    ended = threading.Event()

    def look_up_for_ever(*_: object, **__: object) -> None:
        ended.wait()
        raise socket.gaierror("this test is over")

    monkeypatch.setattr(hub, "_PATIENCE", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_for_ever)
    hub_at("http://hub.invalid")
    assert why_not_fetchable(SMALL).endswith("hub.invalid did not answer within 0 s")
    ended.set()


def test_whatever_a_hub_answers_it_is_there(hub_at, answering):
    hub_at(answering)
    assert why_not_fetchable(SMALL) == ""


def test_offline_nobody_is_asked(monkeypatch, nothing_is_connected, cache):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="they are not on this machine, and HF_HUB_OFFLINE is set"):
        create_backbone(f"timm:{SMALL}")
    assert nothing_is_connected == []


def test_a_model_that_has_no_weights_says_so(nothing_is_connected):
    without = next(name for name in timm.list_models() if name not in timm.list_pretrained() and not has_weights(name))
    with pytest.raises(WeightsError, match=r"could not be fetched \(timm has none\)\. Give a file with --weights"):
        create_backbone(f"timm:{without}")
    assert nothing_is_connected == []


def has_weights(name: str) -> bool:
    config = timm.get_pretrained_cfg(name)
    return config is not None and bool(config.hf_hub_id or config.url)


def test_weights_that_were_fetched_before_are_taken_without_asking(hub_at, cache, nothing_is_connected):
    assert not is_fetched_already(SMALL)
    torch.manual_seed(0)
    state = timm.create_model(SMALL).state_dict()
    save_file(state, cache / "model.safetensors")
    assert is_fetched_already(SMALL)
    own = create_backbone(f"timm:{SMALL}").network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())
    assert nothing_is_connected == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["ls", "backbones"],
        ["run", "--help"],
        ["run", "--backbone", f"timm:{SMALL}", "--image-size", "32", "--episodes", "2", "--runs", "1", "--dry-run"],
    ],
    ids=lambda command: " ".join(command[:2]) + (" --dry-run" if "--dry-run" in command else ""),
)
@pytest.mark.parametrize("is_fetched", [False, True])
def test_nothing_that_only_looks_asks_a_hub(command, is_fetched, hub_at, cache, nothing_is_connected, capsys):
    if is_fetched:
        save_file(timm.create_model(SMALL).state_dict(), cache / "model.safetensors")
    assert exit_code(command) == 0, capsys.readouterr().err
    assert nothing_is_connected == []


def test_a_dataset_of_the_hub_is_given_up_alike(hub_at, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra 'huggingface' is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hub_at(f"http://127.0.0.1:{port}")
    were_offline = []

    def load(*_: object) -> None:
        were_offline.append(constants.HF_HUB_OFFLINE)
        raise ConnectionError("not here")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DatasetError, match=r"hf:some/thing cannot be loaded .* \(127\.0\.0\.1 cannot be reached"):
        list_hugging_face("hf:some/thing")
    assert were_offline == [True], "what is on this machine is taken, without asking"
    assert constants.HF_HUB_OFFLINE is False
