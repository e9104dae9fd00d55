"""What other toolkits call the options of this command line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

_CALLED = {
    "--way": "--n-way --ways --n-ways --num-ways --num-way --num-classes --classes-per-episode -n",
    "--shots": "--shot --n-shot --n-shots --k-shot --k-shots --k --num-shots --num-shot -k",
    "--shot": "--shots --n-shot --n-shots --k-shot --k-shots --k --num-shots --num-shot -k",
    "--query": "--queries --n-query --n-queries --num-query --num-queries -q",
    "--episodes": "--n-episodes --num-episodes --n-tasks --num-tasks --tasks --n-test-episodes --test-episodes --ep",
    "--runs": "--n-runs --num-runs --repeats --n-repeats --trials",
    "--dataset": "--data --datasets --data-dir --data-path --data-root --dataset-name -d",
    "--backbone": "--model --backbones --arch --network --encoder --feature-extractor -m -b",
    "--adapt": "--method --methods --adaptation --adaptations --head --heads --classifier --algorithm",
    "--loss": "--losses --criterion --objective-function",
    "--base-loss": "--base-losses --train-loss",
    "--base-epochs": "--epochs --n-epochs --num-epochs --max-epochs",
    "--epochs": "--base-epochs --n-epochs --num-epochs --max-epochs",
    "--base-batch": "--batch-size --batch --bs",
    "--batch-size": "--base-batch --batch --bs",
    "--learning-rate": "--lr",
    "--set learning_rate=0.01": "--lr --learning-rate",
    "--optimizer": "--optim --opt",
    "--temperature": "--temp",
    "--tau": "--temperature --temp",
    "--checkpoint": "--checkpoints --ckpt --pretrained",
    "--weights": "--weights-path --ckpt-path --checkpoint-path --pretrained-path",
    "--results": "--output --output-dir --out --out-dir --outdir --save-dir --logdir --log-dir --result --folder -o",
    "--out": "--output --output-file -o",
    "--device cuda": "--gpu --gpus --cuda --use-gpu --use-cuda",
    "--device cpu": "--cpu --no-cuda --no-gpu",
    "--seed": "--random-seed --random-state",
    "--image-size": "--img-size --size --resolution --input-size",
    "--json": "--as-json --format",
    "--dry-run": "--dryrun --plan",
    "--fresh": "--overwrite --force --restart --from-scratch",
    "--jobs": "--n-jobs --num-workers --workers -j",
    "--workers": "--jobs --n-jobs --num-workers -j",
    "--protocol full": "--full",
    "--yes": "--force -f",
}
"""Options, with a value where one is meant, and what they are called elsewhere."""
_MOST = 3
_ALIKE = 0.6


def option_to_type(typed: str, options: Sequence[str]) -> str:
    """What to type for an option that a command does not have, e.g. "Did you mean --way?"; empty if nothing is like it.

    Args:
        typed: such as `--n-way`.
        options: of the command.

    >>> option_to_type("--n_way", ["--way", "--query"])
    'Did you mean --way?'
    """
    plain = typed.replace("_", "-").lower()
    meant = [option for option, names in _CALLED.items() if plain in names.split() and option.split()[0] in options]
    if plain in options:
        meant = [plain]
    if len(meant) > 1:
        meant = [option for option in meant if not option.startswith("--set ")]
    if not meant:
        by_word = {option.lstrip("-"): option for option in options if option.startswith("--")}
        words = [word for word in by_word if len(plain) > len("--x") and word.startswith(plain.lstrip("-"))]
        words = words or difflib.get_close_matches(plain.lstrip("-"), by_word, n=_MOST, cutoff=_ALIKE)
        meant = [by_word[word] for word in words[:_MOST]]
    return f"Did you mean {' or '.join(meant)}?" if meant else ""


def options_of(context: Any) -> list[str]:
    """The options of the command of a Click context that its help shows."""
    if context is None:
        return []
    parameters = [parameter for parameter in context.command.params if not getattr(parameter, "hidden", False)]
    found = [option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)]
    return [option for option in found if option.startswith("-")]
