"""Turn a checkpoint of a run into a model directory that `affect_jax.load` reads.

python -m affect_jax.export --workdir DIR --output MODEL [--checkpoint best|latest|STEP]
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import load_run, model_dir
from data_pipelines import disk


def export(
    workdir: str | pathlib.Path, output: str | pathlib.Path, checkpoint: str = "best"
) -> int:
    """Write the model of a checkpoint to `output` atomically; return its step.

    Raises:
      UserError: the run or checkpoint does not exist, or `output` holds something else.
    """
    model_dir.check_writable(output)
    run = load_run.load_run(workdir, checkpoint, Mapper())
    model_dir.save_model(
        output,
        run.config.model.name,
        run.system.model_arguments(),
        run.model,
        preprocessing=Preprocessing.of_config(run.config),
        class_names=run.class_names,
        hierarchy=run.system.hierarchy,
        provenance={
            "workdir_config": config_lib.to_plain(run.config),
            "step": run.step,
            "trained_for": sorted(run.system.known),
            **({} if run.labels is None else {"label_vectors": run.labels}),
        },
    )
    return run.step


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m affect_jax.export", description=__doc__)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--output", required=True, help="model directory to write")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    options = parser.parse_args(arguments)
    runtime.setup_logging()
    try:
        with disk.explained(options.output):
            step = export(options.workdir, options.output, options.checkpoint)
    except (UserError, OSError) as error:
        print(f"affect_jax: {error}", file=sys.stderr)
        return 2
    print(f"wrote the model of step {step} to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
