"""Released weights to a model directory.

python -m affect_jax.convert --architecture emonet --source emonet_8.pth --output models/emonet8
"""

import argparse
import sys
from collections.abc import Sequence

from affect_jax import pretrained
from affect_jax.errors import UserError
from data_pipelines import disk


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m affect_jax.convert", description="Convert released weights."
    )
    parser.add_argument(
        "--architecture", required=True, help="one of " + ", ".join(pretrained.architectures())
    )
    parser.add_argument("--source", required=True, help=".pth, .npz or .safetensors file")
    parser.add_argument("--output", required=True, help="directory to write the model to")
    options = parser.parse_args(arguments)
    try:
        with disk.explained(options.output):
            loaded = pretrained.convert(options.architecture, options.source, options.output)
    except (UserError, ImportError, disk.DiskFullError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    built = ", ".join(f"{k}={v}" for k, v in loaded.arguments.items())
    print(f"{options.output}: {loaded.name}({built})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
