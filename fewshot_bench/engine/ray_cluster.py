"""The Ray cluster that a study runs on: one that is there already, or one of this machine for as long as it runs.

Ray itself, which only the files of its engine import, or one sentence that says how to get it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench.errors import StudyError

os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or its news of dead workers would go to standard output

try:
    import ray
except ImportError as error:
    raise StudyError("--engine ray needs the package ray. Run: pip install 'fewshot-bench[ray]'") from error

__all__ = ["ray"]

_PATIENCE = 5  # seconds for an address to answer
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4  # the type of the frame that an HTTP/2 server sends first
_STDERR = 2  # the number of the file
_HOW = "Start a cluster with: ray start --head"


@dataclass(frozen=True)
class Needs:
    """What a worker takes of a node.

    Attributes:
        cpus: cores, which are its threads too.
        gpus: GPUs, or a part of one, which workers share.
    """

    cpus: int = 1
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")

    def room_on(self, resources: dict[str, float]) -> int:
        """How many workers a node has room for while nobody else uses it."""
        rooms = [resources.get("CPU", 0) / self.cpus]
        if self.gpus:
            each = resources.get("GPU", 0)
            rooms.append(each // self.gpus if self.gpus >= 1 else int(each) * (1 // self.gpus))
        return int(min(rooms))


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster: to the one at an address, or to one of this machine that ends with the context.

    Where this process is connected already, it stays so.

    Args:
        address: host and port of the head node, "auto" for the cluster that this machine belongs to, None for none.

    Raises:
        StudyError: there is no cluster at the address, or it cannot be joined.
    """
    is_connected = ray.is_initialized()
    try:
        if not is_connected:
            _connect(address)
        # Ray shares plain arrays between the processes of a node, but would copy a memory map into each message.
        ray.util.register_serializer(np.memmap, serializer=np.asarray, deserializer=_as_it_is)
        yield
    finally:
        if not is_connected:
            with _undisturbed():
                ray.shutdown()


def _connect(address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    silence: AbstractContextManager[None] = nullcontext()
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address, quiet = "local", {**quiet, "include_dashboard": False}
    else:
        address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        _check_that_it_answers(address)
        silence = _silence()
    try:
        with _keeping_handlers(signal.SIGTERM), silence, _away():  # Ray replaces that one
            ray.init(address=address, **quiet)
    except Exception as error:  # a plain one where a node is slow to start
        raise StudyError(f"the Ray cluster at '{address}' cannot be joined: {_why(error)}") from error


@contextmanager
def _away() -> Iterator[None]:
    """Another current folder, for Ray has every worker look for modules in it first, and it may be a stranger's.

    A folder in which code of the user's own was found is handed to the workers with its name; see `WithCode`.
    """
    here = os.getcwd()
    os.chdir(Path(sys.executable).parent)
    try:
        yield
    finally:
        os.chdir(here)


def _why(error: Exception) -> str:
    """What kept this process from joining a cluster, in one line; of a missing token Ray tells only deep below."""
    chain: list[str] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(" ".join(str(link).split()))
        link = link.__cause__ or link.__context__
    if "AuthToken" in "".join(chain):
        return "it wants a token. Set RAY_AUTH_MODE=token here too, and see: ray get-auth-token"
    return f"{chain[0].rstrip('.')}. {_HOW}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C, nor SIGTERM, in: Ray that is interrupted while it ends may take the process with it."""
    with _keeping_handlers(signal.SIGINT, signal.SIGTERM) as kept:
        for number in kept:
            signal.signal(number, lambda *_: None)
        yield


@contextmanager
def _keeping_handlers(*numbers: signal.Signals) -> Iterator[tuple[signal.Signals, ...]]:
    """Put the handlers of signals back that are replaced meanwhile; gives those of which this thread may do so."""
    is_main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in numbers if is_main}
    before = {number: handler for number, handler in found.items() if handler is not None}  # set from Python
    try:
        yield tuple(before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back what Ray's core writes line by line while it fails to join; the error says it too."""
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDERR)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


def _check_that_it_answers(address: str) -> None:
    """Ask once, and briefly: Ray itself would try for minutes, and write a page about it.

    Raises:
        StudyError: nobody answers, or it is no server of Ray's protocol.
    """
    if address in ("auto", "local"):
        return
    is_client = address.startswith("ray://")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdigit()):
        raise StudyError(f"--ray-address takes HOST:PORT or auto, not '{address}'. {_HOW}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE) as connection:
            if not is_client and os.environ.get("RAY_USE_TLS", "0") in ("", "0") and not _speaks_http2(connection):
                raise StudyError(f"what answers at '{address}' is no Ray cluster. {_HOW}")
    except (OSError, OverflowError) as error:
        raise StudyError(f"no Ray cluster answers at '{address}': {error}. {_HOW}") from error


def _speaks_http2(connection: socket.socket) -> bool:
    connection.sendall(_HTTP2)
    start = connection.recv(9)
    return len(start) > 3 and start[3] == _SETTINGS


def rooms(needs: Needs) -> dict[str, int]:
    """How many workers each node has room for while nobody else uses it, by the node's id."""
    return {node["NodeID"]: needs.room_on(node["Resources"]) for node in _nodes()}


def cluster_has_gpus() -> bool:
    """Whether a node has one."""
    return any(node["Resources"].get("GPU", 0) for node in _nodes())


def described() -> str:
    """What the cluster has, in words."""
    nodes = _nodes()
    cpus, gpus = (sum(node["Resources"].get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus:g} CPUs and {gpus:g} GPUs"


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _as_it_is(array: Any) -> Any:
    return array
