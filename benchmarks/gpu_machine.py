"""What a device is and what it can do at most: its name, versions, and the rates of large products and copies."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Sequence

import torch
from finetune_device import matmul_rate, wait_for
from gpu_stages import attempt

from fewshot_bench.devices import tf32_on

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "peft", "ray")
_COPIED = 1 << 28


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    device = torch.device(parser.parse_args(argv).device)
    print("| what | value |\n| --- | --- |")
    for what, value in _facts(device):
        print(f"| {what} | {value} |", flush=True)
    for products in ("bf16", "tf32", "float32") if device.type == "cuda" else ("float32",):
        with attempt(f"large products in {products}"):
            print(f"| large products in {products} | {matmul_rate(device, products) / 1e12:,.2f} TFLOP/s |", flush=True)
    if device.type == "cuda":
        for kind in ("pageable", "pinned"):
            with attempt(f"copies from {kind} memory"):
                print(f"| copies to the device from {kind} memory | {_copy_rate(device, kind) / 1e9:,.1f} GB/s |")


def _facts(device: torch.device) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    facts = [
        ("Python", f"{platform.python_version()}, {platform.machine()}"),
        ("packages", versions),
        ("cores", f"{os.cpu_count()}, {torch.get_num_threads()} threads of torch"),
    ]
    if device.type != "cuda":
        return [("device", "CPU"), *facts]
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    free, total = (f"{size / 2**30:,.1f} GiB" for size in torch.cuda.mem_get_info(device))
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]  # untyped in torch
    tf32 = f"convolutions {tf32_on(device).convolutions}, products {tf32_on(device).matrix_products}"
    facts = [("device", name), ("libraries", libraries), ("memory", f"{free} free of {total}"), *facts]
    return [*facts, ("TF32 in float32, PyTorch's own setting", tf32)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "is absent"


def _copy_rate(device: torch.device, kind: str) -> float:
    """Bytes per second of a copy from the host; median of five."""
    values = torch.empty(_COPIED, dtype=torch.uint8, pin_memory=kind == "pinned")
    times = []
    for _ in range(6):
        wait_for(device)
        began = time.perf_counter()
        values.to(device, non_blocking=True)
        wait_for(device)
        times.append(time.perf_counter() - began)
    return _COPIED / statistics.median(times[1:])


if __name__ == "__main__":
    main()
