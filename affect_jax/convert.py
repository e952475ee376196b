"""Released weights to a model directory.

python -m affect_jax.convert --architecture emonet --source emonet_8.pth --output models/emonet8
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.exporting import model_card
from affect_jax.runtime import xla_flags
from affect_jax.weights import model_dir
from affect_jax.weights.released import convert
from data_pipelines import disk

_MANY = 10
# Option -> help; all are optional.
_OPTIONS = {
    "classes": "names in the order of the last layer, as a,b,c, or a label order as affectnet8 "
    "(default: the release's, or config.json next to the file)",
    "mean": "of RGB in [0, 1], as 0.5,0.5,0.5; together with --std",
    "std": "of RGB in [0, 1], as 0.5,0.5,0.5; together with --mean",
    "strip_prefix": "use only entries whose names begin with it, and remove it",
    "entry": "which state dict to use, if the file holds several",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m affect_jax.convert", description="Convert released weights."
    )
    names = ", ".join(convert.architectures())
    parser.add_argument("--architecture", required=True, help=f"one of {names}")
    parser.add_argument("--source", required=True, help=".pth, .npz or .safetensors file")
    parser.add_argument("--output", required=True, help="directory to write the model to")
    for name, text in _OPTIONS.items():
        parser.add_argument(f"--{name}", default="", help=text)
    options = parser.parse_args(arguments)
    runtime.setup_logging()
    xla_flags.choose()
    try:
        with disk.explained(options.output):
            loaded = convert.convert(
                options.architecture,
                options.source,
                options.output,
                classes=options.classes,
                mean=_numbers("mean", options.mean),
                std=_numbers("std", options.std),
                entry=options.entry,
                strip_prefix=options.strip_prefix,
                describe=lambda loaded: {
                    model_card.CARD_FILE: model_card.of_converted(
                        loaded, pathlib.Path(options.output).absolute().name
                    )
                },
            )
    except (UserError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    built = ", ".join(f"{k}={v}" for k, v in loaded.arguments.items())
    print(f"{options.output}: {loaded.name}({built})")
    for line in _describe(loaded):
        print(f"  {line}")
    if not loaded.provenance["preprocessing_certain"]:
        print(
            "warning: nothing tells the mean and deviation that these weights were trained with, "
            "and wrong ones cost accuracy. Look them up; for DeiT, DINO and MAE add "
            "--mean=0.485,0.456,0.406 --std=0.229,0.224,0.225",
            file=sys.stderr,
        )
    return 0


def _describe(loaded: model_dir.LoadedModel) -> list[str]:
    """Return lines about a converted network and its origin."""
    about, seen = loaded.provenance, loaded.preprocessing
    lines = []
    if about["entry"]:
        others = ", ".join(about["other_entries"])
        more = f"; there is {others} too (--entry)" if others else ""
        lines.append(f"weights: the entry {about['entry']}{more}")
    if about["left_out"]:
        lines.append(f"left out: {about['left_out']} entries without the prefix")
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (seen.mean, seen.std))
    lines.append(
        f"preprocessing: {seen.image_size} x {seen.image_size} RGB over {seen.scale:g}, mean "
        f"({mean}), std ({std}): {about['preprocessing_from']}"
    )
    if names := loaded.class_names:
        more = f", ... ({len(names)} in all)" if len(names) > _MANY else ""
        lines.append(f"classes: {', '.join(names[:_MANY])}{more}: {about['classes_from']}")
    elif count := loaded.arguments.get("n_expression"):
        lines.append(f"classes: {count}, whose names are not known; give them as --classes")
    return lines


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--{name} {text}: give three numbers, as 0.5,0.5,0.5") from None


if __name__ == "__main__":
    sys.exit(main())
