"""Command line of the report.

python -m affect_jax.report --workdir DIR [--output report.html]
python -m affect_jax.report --workdir DIR --pictures NAME,NAME [--compare OTHER] [--split test]
"""

from __future__ import annotations

import argparse
import sys

from affect_jax.errors import UserError
from affect_jax.report.build import write_html
from data_pipelines import disk


def main(arguments: list[str] | None = None) -> int:
    """Writes the HTML report or the pictures of a finished run; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m affect_jax.report",
        description="One HTML page of a finished run, pictures included; or, with --pictures, "
        "pictures that take another pass over the data, each with its numbers as JSON. Later pages "
        "show those of the test split too.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument(
        "--output",
        help="file to write (default: DIR/report/report.html); with --pictures the folder "
        "(default: DIR/report/pictures)",
    )
    group = parser.add_argument_group(
        "pictures", "--workdir and --compare may also be model directories exported from a run"
    )
    group.add_argument(
        "--pictures",
        metavar="NAMES",
        help="comma-separated: calibration, embedding, correction, cam (class activation of the "
        "predicted class), cam_true (of the true one), attention, confusion",
    )
    group.add_argument("--compare", metavar="DIR", help="a second model, shown beside it")
    group.add_argument("--split", default="test", help="test, validation or train")
    group.add_argument("--checkpoint", default="best", help="best, latest or a step")
    group.add_argument("--faces", type=int, default=8, help="how many faces are shown")
    group.add_argument("--indices", default="", help="show these examples: comma-separated")
    group.add_argument("--points", type=int, default=2500, help="most points of an embedding")
    options = parser.parse_args(arguments)
    try:
        with disk.explained(options.output or options.workdir):
            if options.pictures is None:
                print(write_html(options.workdir, options.output))
            else:
                for path in _pictures(options):
                    print(path)
    except (UserError, OSError) as error:
        print(f"affect_jax.report: {error}", file=sys.stderr)
        return 2
    return 0


def _pictures(options: argparse.Namespace) -> list:
    from affect_jax.report.pictures import write_pictures

    if options.faces < 1 or options.points < 4:
        raise UserError("--faces must be at least 1 and --points at least 4")
    try:
        indices = [int(i) for i in options.indices.split(",") if i]
    except ValueError:
        raise UserError(f"--indices {options.indices}: give whole numbers, as 3,17") from None
    return write_pictures(
        options.workdir,
        list(dict.fromkeys(name.strip() for name in options.pictures.split(",") if name.strip())),
        compare=options.compare,
        output=options.output,
        split=options.split,
        checkpoint=options.checkpoint,
        faces=options.faces,
        indices=indices,
        points=options.points,
    )


if __name__ == "__main__":
    sys.exit(main())
