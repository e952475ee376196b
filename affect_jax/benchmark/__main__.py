"""`python -m affect_jax.benchmark SUITE`; `SUITE --help` lists the options."""

import importlib
import sys

SUITES = (
    "cost",
    "infer",
    "input",
    "memory",
    "scaling",
    "smoke",
    "synthetic",
    "tools",
    "train",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the suite named first, with the options that follow."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in SUITES:
        wrong = f"no suite {arguments[0]!r}; " if arguments and arguments[0][0] != "-" else ""
        print(
            f"{wrong}usage: python -m affect_jax.benchmark {{{','.join(SUITES)}}} [--json FILE]",
            file=sys.stderr,
        )
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    return importlib.import_module(f"affect_jax.benchmark.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
