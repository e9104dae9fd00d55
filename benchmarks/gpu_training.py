"""Train a ResNet-12 on the carried base split with `fewshot-bench train`, and bring it home in shards.

    python benchmarks/gpu_training.py --device cuda --minutes 3 --data build/gpu-data --out build/gpu

A first epoch is timed; the training then has as many epochs as fit. Shards of a checkpoint are joined and evaluated by
`benchmarks/gpu.py --evaluate`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from gpu_data import stored_base_split
from gpu_stages import problem

from fewshot_bench._io.locations import checkpoints_folder
from fewshot_bench._io.tensors import read_tensors, write_tensors
from fewshot_bench.study.checkpoints import checkpoint_file, read_checkpoint

DATASET, NAME = "carried-base", "gpu-resnet12"
SHARD = 16 * 1000**2 - 1
_WIDTH = 2  # digits of a shard's number
_IMAGES_ON_CPU, _BATCH_ON_CPU = 1, 32


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--minutes", type=float, default=3.0, help="the training ends by then, or keeps no network")
    parser.add_argument("--data", type=Path, required=True, help="folder of the carried images; made-up ones if absent")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    parser.add_argument("--half", action="store_true", help="keep the network in half precision: half the bytes")
    arguments = parser.parse_args(argv)
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="fewshot-bench-training-") as home:
        os.environ["FEWSHOT_BENCH_HOME"] = home
        is_small = arguments.device == "cpu"
        dataset = stored_base_split(
            arguments.data / "base.npz", name=DATASET, most=_IMAGES_ON_CPU if is_small else None
        )
        images = len(dataset.base)
        print(f"{dataset.preprocessing['source']}: {images:,} images.\n", flush=True)
        began = time.monotonic()
        timed = 1 if is_small else 2  # the first also chooses kernels
        if _train("timed", arguments.device, timed, is_small):
            problem("the first epochs of a ResNet-12 could not be trained", "see log.txt")
            return
        seconds = read_checkpoint("timed").history[-1]["seconds"]
        start_up = time.monotonic() - began - timed * seconds
        left = until - time.monotonic() - start_up
        epochs = max(0, min(arguments.epochs, int(0.85 * left / seconds), 2 if is_small else arguments.epochs))
        print(f"An epoch takes {seconds:.2f} s ({images / seconds:,.0f} images/s, each in two views).")
        if epochs < 1:
            print(f"{left:.0f} s are left, too few for a training.")
            return
        print(f"Training for {epochs} epochs.", flush=True)
        if _train(NAME, arguments.device, epochs, is_small):
            problem(f"the training of {epochs} epochs failed", "see log.txt")
            return
        last = read_checkpoint(NAME).history[-1]
        print(f"\nLast epoch: loss {last['loss']:.3f}, accuracy of the augmented views {last['accuracy']:.1%}.")
        path = checkpoint_file(NAME)
        if arguments.half:
            convert(path, torch.float16)
        shards = write_shards(path, arguments.out)
        print(f"\n{len(shards)} shards of {path.stat().st_size / 1e6:,.1f} MB in {arguments.out}.")


def _train(name: str, device: str, epochs: int, is_small: bool) -> int:
    """The exit code of a training through the command line."""
    command = [sys.executable, "-m", "fewshot_bench", "train", "--name", name, "--dataset", DATASET]
    settings = ["--backbone", "resnet12", "--epochs", str(epochs), "--validate-every", "0", "--device", device]
    settings += ["--save-every", "5"]
    settings += ["--batch-size", str(_BATCH_ON_CPU)] if is_small else ["--precision", "bf16"]
    return subprocess.run([*command, *settings], stdout=sys.stderr, check=False).returncode


# Shards


def convert(path: Path, dtype: torch.dtype) -> None:
    """Write the numbers of a checkpoint in another precision; only those in float32 can be used."""
    tensors, metadata = read_tensors(path)
    converted = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    write_tensors(path, converted, metadata)


def write_shards(path: Path, folder: Path, *, size: int = SHARD) -> list[Path]:
    """Cut a file into parts of at most that many bytes, `NAME.safetensors.00` and on; earlier ones are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in shards_of(folder, path.name):
        old.unlink()
    content = path.read_bytes()
    shards = [folder / f"{path.name}.{number:0{_WIDTH}d}" for number in range(-(-len(content) // size))]
    for number, shard in enumerate(shards):
        shard.write_bytes(content[number * size : (number + 1) * size])
    return shards


def shards_of(folder: Path, name: str) -> list[Path]:
    """The shards of a file in a folder, in order."""
    return sorted(folder.glob(f"{name}.{'[0-9]' * _WIDTH}"))


def join_shards(folder: Path, path: Path) -> None:
    """Put the shards of a file together; raises FileNotFoundError if there are none, or one is missing.

    A shard that lost its end is noticed when the checkpoint is read, which has a digest.
    """
    shards = shards_of(folder, path.name)
    if [shard.name for shard in shards] != [f"{path.name}.{number:0{_WIDTH}d}" for number in range(len(shards))]:
        raise FileNotFoundError(f"{folder} has the shards {', '.join(shard.name for shard in shards)}; one is missing.")
    if not shards:
        raise FileNotFoundError(f"{folder} has no shards {path.name}.00, ...")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(shard.read_bytes() for shard in shards))


def evaluate(folder: Path, dataset: str, episodes: int) -> int:
    """Join the shards of a folder, and evaluate the network on the novel split with the product's own command.

    The checkpoint is kept among the user's own, as `gpu-resnet12`.

    Returns:
        The exit code of the command.
    """
    path = checkpoints_folder() / f"{NAME}.safetensors"
    join_shards(folder, path)
    convert(path, torch.float32)
    command = [sys.executable, "-m", "fewshot_bench", "run", "--dataset", dataset, "--checkpoint", NAME]
    settings = ["--adapt", "centroid,logistic,ridge", "--episodes", str(episodes), "--device", "cpu"]
    return subprocess.run([*command, *settings, "--results", str(folder / "evaluation")], check=False).returncode


if __name__ == "__main__":
    main()
