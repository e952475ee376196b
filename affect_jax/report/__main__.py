"""Command line of the report.

python -m affect_jax.report --workdir DIR [--output report.html]
python -m affect_jax.report --workdir DIR --pictures NAME,NAME [--compare OTHER] [--split test]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.report.build import write_html
from affect_jax.runtime import xla_flags
from data_pipelines import disk

# Options of --pictures.
_OPTIONS = ("compare", "split", "checkpoint", "faces", "indices", "points", "context")


def main(arguments: list[str] | None = None) -> int:
    """Write the report or pictures of a finished run; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m affect_jax.report",
        description="Write one HTML page of a finished run; or, with --pictures, pictures that "
        "need another pass over the data, each with its numbers as JSON. Later pages include "
        "the pictures of the test split.",
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
        "predicted class), cam_true (of the true one), attention, confusion; and rald for all of "
        "neighbours, label_relations, coarse_embedding, coarse_errors, class_table, cases",
    )
    group.add_argument("--compare", metavar="DIR", help="a second model, shown next to it")
    group.add_argument("--split", help="test (default), validation or train")
    group.add_argument("--checkpoint", help="of a run: best (default), latest or a step")
    group.add_argument("--faces", type=int, help="number of faces (default: 8)")
    group.add_argument("--indices", help="show these examples instead: comma-separated")
    group.add_argument("--points", type=int, help="maximum points of an embedding (default: 2500)")
    group.add_argument(
        "--context",
        help="images that neighbours are taken from: bank (default, if it is filled) or batch",
    )
    options = parser.parse_args(arguments)
    runtime.setup_logging()
    xla_flags.choose()
    given = {name: value for name in _OPTIONS if (value := getattr(options, name)) is not None}
    try:
        with disk.explained(options.output or options.workdir):
            if options.pictures is None:
                if given:
                    raise UserError(
                        f"--{next(iter(given))} has no effect without --pictures; add "
                        "--pictures NAMES, or leave it out"
                    )
                print(write_html(options.workdir, options.output))
            else:
                for path in _pictures(options, given):
                    print(path)
    except (UserError, OSError) as error:
        print(f"affect_jax.report: {error}", file=sys.stderr)
        return 2
    return 0


def _pictures(options: argparse.Namespace, given: dict[str, Any]) -> list[Path]:
    from affect_jax.report.pictures import write_pictures

    names = dict.fromkeys(name.strip() for name in options.pictures.split(",") if name.strip())
    if given.get("faces", 1) < 1 or given.get("points", 4) < 4:
        raise UserError("--faces must be at least 1 and --points at least 4")
    if "indices" in given:
        if "faces" in given:
            raise UserError("--faces and --indices exclude each other; give one of them")
        try:
            given["indices"] = [int(i) for i in given["indices"].split(",") if i.strip()]
        except ValueError:
            given["indices"] = []
        if not given["indices"]:
            raise UserError(f"--indices {options.indices}: give whole numbers, as 3,17")
    return write_pictures(options.workdir, list(names), output=options.output, **given)


if __name__ == "__main__":
    sys.exit(main())
