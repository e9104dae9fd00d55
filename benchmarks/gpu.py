"""Check and measure on a GPU everything that needs one, in one command that ends in time.

    python benchmarks/gpu.py --prepare --python 3.12    # once, where the images are: files to carry, in build/gpu-data
    python benchmarks/gpu.py --minutes 10               # on the machine with the GPU
    python benchmarks/gpu.py --device cpu --minutes 4   # tries the script itself, with small sizes
    python benchmarks/gpu.py --evaluate build/gpu       # the trained network that came back, on this CPU

It needs PyTorch, timm and this project's dependencies, and no network. Each stage is a process with a share of the
time: one that crashes or hangs does not keep the others from running. Results are in report.md and results.jsonl of
--out as soon as they are known, error output in log.txt. The report ends with what went wrong; exit code 1 if anything
did.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gpu_packages import NOT_CARRIED, ROOT, dependencies, download_wheels, install_wheels, missing
from gpu_stages import Report, Stage, run_stages

STAGES = ("machine", "smoke", "checks", "finetune", "heads", "training", "partial", "resnet12")
DATA, OUT = ROOT / "build" / "gpu-data", ROOT / "build" / "gpu"
_PAGE_ONLY = ("itables", "plotly")
_TO_FINISH = 10.0  # seconds to end the last stage


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    if arguments.prepare:
        _prepare(arguments)
    elif arguments.evaluate is not None:
        from gpu_training import evaluate

        sys.exit(evaluate(arguments.evaluate, arguments.dataset, arguments.episodes))
    else:
        sys.exit(1 if _measure(arguments).problems else 0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu tries the script")
    parser.add_argument("--only", nargs="+", metavar="STAGE", choices=STAGES, help=f"some of {', '.join(STAGES)}")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results, at most eight files")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the carried files")
    parser.add_argument("--half", action="store_true", help="bring the trained network back in half precision")
    preparing = parser.add_argument_group("--prepare and --evaluate")
    preparing.add_argument("--prepare", action="store_true", help="write images and wheels to carry along into --data")
    preparing.add_argument("--dataset", default="cifar-fs", help="imported dataset whose base split is carried")
    preparing.add_argument("--images", type=int, default=300, help="images of each class to carry, at most")
    preparing.add_argument("--python", help="version of Python on the machine, such as 3.12: carry wheels for it")
    preparing.add_argument("--evaluate", type=Path, metavar="FOLDER", help="folder with the shards that came back")
    preparing.add_argument("--episodes", type=int, default=600, help="of the evaluation, per run and number of shots")
    return parser.parse_args(argv)


# What is carried


def _prepare(arguments: argparse.Namespace) -> None:
    from gpu_data import write_mosaics

    from fewshot_bench.datasets import open_dataset

    size = write_mosaics(open_dataset(arguments.dataset).base, arguments.data / "base.npz", per_class=arguments.images)
    print(f"{arguments.data / 'base.npz'}: {size / 2**20:.1f} MiB, verified")
    if arguments.python:
        wheels = download_wheels(arguments.data / "wheels", arguments.python)
        size = sum(wheel.stat().st_size for wheel in wheels)
        print(
            f"{arguments.data / 'wheels'}: {size / 2**20:.1f} MiB, {len(wheels)} wheels for Python {arguments.python}"
        )
        print(f"not among them: {', '.join(NOT_CARRIED)}")
    print("Git ignores build/: name this folder where you say what is carried.")


def _with_wheels(data: Path, site: Path, report: Report) -> str:
    """Say which packages are missing, and install those that are carried; returns the folder to import them from."""
    absent = missing(dependencies())
    if not absent:
        return ""
    folder = data / "wheels"
    report.line("packages", f"Missing: {' '.join(absent)}. With a network: pip install {' '.join(absent)}")
    if not any(folder.glob("*.whl")):
        if set(absent) - set(_PAGE_ONLY):
            report.problem("packages", f"{', '.join(absent)} missing; no wheels are in {folder}")
        return ""
    error = install_wheels(folder, site)
    if error:
        report.problem("packages", "carried wheels could not be installed", error)
        return ""
    report.line("packages", f"Installed for this run: the wheels of {folder}.")
    return str(site)


# What is measured


def _stages(arguments: argparse.Namespace) -> list[Stage]:
    """In order of worth; the shares are seconds of ten minutes on a GPU, and on a CPU the sizes are small."""
    device, is_gpu = ["--device", arguments.device], arguments.device != "cpu"
    carried = ["--data", str(arguments.data), "--out", str(arguments.out), *(["--half"] if arguments.half else [])]
    heads = ["--synthetic", "--alone", "--episodes", "3000" if is_gpu else "100", "--repeats", "2" if is_gpu else "1"]
    heads += ["--seconds", "0.2"] if is_gpu else ["--seconds", "0.2", "--images", "60"]
    training = "--only conv4 resnet12 vit-b autoaugment --precision bf16 float32 --repeats 2"
    if not is_gpu:
        training = "--only conv4 autoaugment --repeats 1 --steps 1"
    return [
        Stage("machine", "The machine", 20, 20, "gpu_machine", device, is_timed=False),
        Stage("smoke", "Every adaptation, against the CPU", 110, 60, "gpu_smoke", device),
        Stage("checks", "Checks", 45, 25, "gpu_checks", device),
        Stage("finetune", "Fine-tuning of whole backbones", 170, 20, "finetune", [*device, *_fine_tuning(is_gpu)]),
        Stage("heads", "Heads on cached embeddings", 50, 15, "adaptation", [*device, *heads]),
        Stage("training", "Training", 75, 15, "training", [*device, *training.split()]),
        Stage("partial", "Fine-tuning of parts", 50, 20, "finetune", [*device, *_partial_tuning(is_gpu)]),
        Stage("resnet12", "A ResNet-12 to take home", 90, 40, "gpu_training", [*device, *carried]),
    ]


def _fine_tuning(is_gpu: bool) -> list[str]:
    """Options of benchmarks/finetune.py that leave every network and number of shots some seconds."""
    networks = "conv4-32 resnet12-32 vit-b vit-s conv4-84 resnet12-84" if is_gpu else "conv4-32"
    sizes = "1 4 16 64 256 --steps 6 --repeats 2 --precision bf16" if is_gpu else "1 2 --steps 2 --repeats 1 --shots 1"
    return f"--tune all --networks {networks} --episodes-at-once {sizes}".split()


def _partial_tuning(is_gpu: bool) -> list[str]:
    """The same for a part of the weights."""
    networks, sizes = ("lite0-64 resnet12-32 vit-s-96", "16 64") if is_gpu else ("conv4-32", "2 --shots 1")
    steps = "--steps 6 --repeats 2 --precision bf16" if is_gpu else "--steps 2 --repeats 1"
    return f"--tune last:1 norm --networks {networks} --episodes-at-once {sizes} {steps}".split()


def _measure(arguments: argparse.Namespace) -> Report:
    """Run the stages; what is printed is also in the report."""
    until = time.monotonic() + 60 * arguments.minutes - _TO_FINISH
    try:
        report = Report(arguments.out)
    except OSError as error:
        sys.exit(f"--out {arguments.out} cannot be written to ({error.strerror}). Name another folder.")
    report.line("", f"# Measured on {arguments.device} in {arguments.minutes:g} minutes\n")
    signal.signal(signal.SIGTERM, _stop)
    with suppress(ImportError):  # on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a stage that crashes should not write its memory to disk
    with tempfile.TemporaryDirectory(prefix="fewshot-bench-gpu-") as work:
        site = _with_wheels(arguments.data, Path(work) / "site", report)
        paths = [site, str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "FEWSHOT_BENCH_HOME": str(Path(work) / "home"),
        }
        stages = [stage for stage in _stages(arguments) if not arguments.only or stage.name in arguments.only]
        try:
            run_stages(stages, report, until=until, environment=environment)
        except KeyboardInterrupt:
            report.problem("all stages", "stopped from outside")
        finally:
            report.finish()
    return report


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
