"""Command line: `python -m affect_jax.report --workdir DIR [--output report.html]`."""

from __future__ import annotations

import argparse
import sys

from affect_jax.errors import UserError
from affect_jax.report.build import write_html


def main(arguments: list[str] | None = None) -> int:
    """Writes the HTML report of a finished run; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m affect_jax.report",
        description="One HTML page, pictures included, of a finished run.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--output", help="file to write (default: DIR/report/report.html)")
    options = parser.parse_args(arguments)
    try:
        path = write_html(options.workdir, options.output)
    except (UserError, OSError) as error:
        print(f"affect_jax.report: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
