"""Turn a checkpoint of a run into a model directory that `affect_jax.load` reads.

python -m affect_jax.export --workdir DIR --output MODEL [--checkpoint best|latest|STEP]

The directory holds a model card, `MODEL_CARD.md`.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.exporting import model_card
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import load_run, model_dir
from data_pipelines import disk

_ASKED = ("licence", "contact")  # of every model; the labellers may be known from the data


def export(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    checkpoint: str = "best",
    stated: Mapping[str, str] | None = None,
) -> int:
    """Write the model of a checkpoint to `output` atomically; return its step.

    Args:
      workdir: of the run.
      output: the model directory; replaced if it is one already.
      checkpoint: "best", "latest" or a step.
      stated: what only people know, by the keys of `model_card.STATED`.

    Raises:
      UserError: the run or checkpoint does not exist, or `output` holds something else.
    """
    model_dir.check_writable(output)
    run = load_run.load_run(workdir, checkpoint, Mapper())
    provenance = {
        "workdir_config": config_lib.to_plain(run.config),
        "step": run.step,
        "trained_for": sorted(run.system.known),
        **({} if run.labels is None else {"label_vectors": run.labels}),
        **{key: stated[key] for key in model_card.STATED if stated and stated.get(key)},
    }
    loaded = model_dir.LoadedModel(
        run.model,
        run.config.model.name,
        run.system.model_arguments(),
        Preprocessing.of_config(run.config),
        run.class_names,
        provenance,
        run.system.hierarchy,
    )
    card = model_card.of_run(loaded, workdir, pathlib.Path(output).absolute().name)
    model_dir.save_model(
        output,
        loaded.name,
        loaded.arguments,
        loaded.model,
        preprocessing=loaded.preprocessing,
        class_names=loaded.class_names,
        hierarchy=loaded.hierarchy,
        provenance=provenance,
        texts={model_card.CARD_FILE: card},
    )
    return run.step


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m affect_jax.export", description=__doc__)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--output", required=True, help="model directory to write")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    for key, text in model_card.STATED.items():
        parser.add_argument(f"--{key}", default="", help=f"{text}, for the model card")
    options = parser.parse_args(arguments)
    runtime.setup_logging()
    try:
        with disk.explained(options.output):
            stated = {key: getattr(options, key) for key in model_card.STATED}
            step = export(options.workdir, options.output, options.checkpoint, stated)
    except (UserError, OSError) as error:
        print(f"affect_jax: {error}", file=sys.stderr)
        return 2
    print(f"wrote the model of step {step} to {options.output}")
    if absent := [f"--{key}" for key in _ASKED if not stated[key]]:
        print(f"{model_card.CARD_FILE} in it lacks what {' and '.join(absent)} would state")
    return 0


if __name__ == "__main__":
    sys.exit(main())
