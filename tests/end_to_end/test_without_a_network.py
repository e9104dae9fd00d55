"""Without a network, what would be downloaded is refused in one line that says what to do instead."""

from __future__ import annotations

import socket

import pytest

from fewshot_bench._io import hub
from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import fetch

pytestmark = pytest.mark.slow


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Names of hosts are not found, and nothing is connected to."""

    def refuse(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # which the tests' environment sets
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run --backbone timm:resnet18 --episodes 20", "Give a file with --weights FILE"),
        ("train --name x --backbone timm:resnet18", "Give a file with --weights FILE"),
        ("embeddings timm:resnet18", "Give a file with --weights FILE"),
        ("data get cifar-fs", "fewshot-bench data import cifar-fs --from PATH"),
        ("data get mini-imagenet --accept-terms", "fewshot-bench data import mini-imagenet --from PATH"),
    ],
)
def test_a_missing_network_is_one_line_with_the_way_out(no_network, monkeypatch, capsys, command, told):
    monkeypatch.setattr(hub, "_PATIENCE", 2.0)
    assert exit_code(command.split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "resol" in lines[0] or "reached" in lines[0]
