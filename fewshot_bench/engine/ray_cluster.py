"""Connect to a Ray cluster, or start one on this machine for as long as a study runs."""

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

os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or messages about dead workers go to stdout

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
    """What a worker needs on a node.

    Attributes:
        cpus: cores, one per thread.
        gpus: GPUs, or a part of one that workers share.
    """

    cpus: int = 1
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")

    def room_on(self, resources: dict[str, float]) -> int:
        """How many workers an idle node has room for."""
        room = [resources.get("CPU", 0) / self.cpus]
        if self.gpus:
            each = resources.get("GPU", 0)
            room.append(each // self.gpus if self.gpus >= 1 else int(each) * (1 // self.gpus))
        return int(min(room))


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to the cluster at an address, or to one on this machine that ends with the context.

    A process that is already connected stays so.

    Args:
        address: host and port of the head node, "auto" for the cluster of this machine, None to start one.

    Raises:
        StudyError: there is no cluster at the address, or it cannot be joined.
    """
    is_connected = ray.is_initialized()
    try:
        if not is_connected:
            _connect(address)
        # Ray shares plain arrays between the processes of a node, but would copy a memory map into each message.
        ray.util.register_serializer(np.memmap, serializer=np.asarray, deserializer=_unchanged)
        yield
    finally:
        if not is_connected:
            with _ignored_signals():
                ray.shutdown()


def _connect(address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    silence: AbstractContextManager[None] = nullcontext()
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address, quiet = "local", {**quiet, "include_dashboard": False}
    else:
        address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        _check_ray_answers(address)
        silence = _silence()
    try:
        with _keeping_handlers(signal.SIGTERM), silence, _outside_current_folder():  # Ray replaces the handler
            ray.init(address=address, **quiet)
    except Exception as error:  # a plain one where a node is slow to start
        raise StudyError(f"the Ray cluster at '{address}' cannot be joined: {_why(error)}") from error


@contextmanager
def _outside_current_folder() -> Iterator[None]:
    """Leave the current folder, which may be a stranger's: Ray's workers look for modules there first.

    The workers get the folders of the user's own code from `WithCode`.
    """
    here = os.getcwd()
    os.chdir(Path(sys.executable).parent)
    try:
        yield
    finally:
        os.chdir(here)


def _why(error: Exception) -> str:
    """Why this process cannot join a cluster, in one line; Ray mentions a missing token only in a cause."""
    chain: list[str] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(" ".join(str(link).split()))
        link = link.__cause__ or link.__context__
    if "AuthToken" in "".join(chain):
        return "it wants a token. Set RAY_AUTH_MODE=token here too, and see: ray get-auth-token"
    return f"{chain[0].rstrip('.')}. {_HOW}"


@contextmanager
def _ignored_signals() -> Iterator[None]:
    """Ignore a second Ctrl-C or SIGTERM: if Ray is interrupted while it shuts down, it may kill this process."""
    with _keeping_handlers(signal.SIGINT, signal.SIGTERM) as kept:
        for number in kept:
            signal.signal(number, lambda *_: None)
        yield


@contextmanager
def _keeping_handlers(*numbers: signal.Signals) -> Iterator[tuple[signal.Signals, ...]]:
    """Restore replaced signal handlers; yields the signals whose handlers this thread can restore."""
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
    """Hide what Ray's core writes while it fails to join; the error says it too."""
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDERR)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


def _check_ray_answers(address: str) -> None:
    """Try the address once (Ray would try for minutes); raises StudyError if Ray does not answer."""
    if address in ("auto", "local"):
        return
    is_client = address.startswith("ray://")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdigit()):
        raise StudyError(f"--ray-address takes HOST:PORT or auto, not '{address}'. {_HOW}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE) as connection:
            if not is_client and os.environ.get("RAY_USE_TLS", "0") in ("", "0") and not _speaks_http2(connection):
                raise StudyError(f"the server at '{address}' is not a Ray cluster. {_HOW}")
    except (OSError, OverflowError) as error:
        raise StudyError(f"no Ray cluster answers at '{address}': {error}. {_HOW}") from error


def _speaks_http2(connection: socket.socket) -> bool:
    connection.sendall(_HTTP2)
    start = connection.recv(9)
    return len(start) > 3 and start[3] == _SETTINGS


def room_by_node(needs: Needs) -> dict[str, int]:
    """How many workers each node has room for while it is idle, by the node's id."""
    return {node["NodeID"]: needs.room_on(node["Resources"]) for node in _nodes()}


def cluster_has_gpus() -> bool:
    """Whether a node has a GPU."""
    return any(node["Resources"].get("GPU", 0) for node in _nodes())


def described() -> str:
    """The resources of the cluster, in words."""
    nodes = _nodes()
    cpus, gpus = (sum(node["Resources"].get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus:g} CPUs and {gpus:g} GPUs"


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _unchanged(array: Any) -> Any:
    return array
