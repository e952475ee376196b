"""Turn a checkpoint of a run into a model directory that `affect_jax.load` reads.

python -m affect_jax.export --workdir DIR --output MODEL [--checkpoint best|latest|STEP]
python -m affect_jax.export --model DIR --output MODEL    (of a model directory, as of `convert`)

--formats orbax,stablehlo,onnx,savedmodel adds files that run without this package, see
docs/export.md. The directory holds a model card, `MODEL_CARD.md`.

--temperature auto keeps the divisor of the logits that fits the run's validation split with the
model. If the run was trained on whole images, it is measured where faces lie in up to 64 of them,
so that predict cuts faces out of larger pictures as training showed them.
"""

import argparse
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.exporting import formats as formats_lib
from affect_jax.exporting import model_card
from affect_jax.exporting import temperature as temperature_lib
from affect_jax.exporting.face_crop import with_face_crop
from affect_jax.exporting.program import Program
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.runtime import xla_flags
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import average, load_run, model_dir
from affect_jax.weights.model_dir import LoadedModel
from data_pipelines import disk

_ASKED = ("licence", "contact")  # of every model; the labellers may be known from the data


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What to write of a model.

    Attributes:
      formats: keys of `exporting.formats.FORMATS`.
      outputs: names to keep in the formats that hold a program; empty: all.
      landmarks: whether those give landmarks in place of heatmaps.
      temperature: of the model; "auto": fitted on the validation predictions of its run; None: the
        one that it has, 1 for a run.
      average_with: model directories; the weights become the mean of the run's and theirs.
    """

    formats: tuple[str, ...] = ("orbax",)
    outputs: tuple[str, ...] = ()
    landmarks: bool = False
    temperature: float | str | None = None
    average_with: tuple[str, ...] = ()


def export(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    checkpoint: str = "best",
    stated: Mapping[str, str] | None = None,
    chosen: Chosen = Chosen(),
) -> int:
    """Write the model of a checkpoint to `output` atomically; return its step.

    Args:
      workdir: of the run.
      output: the model directory; replaced if it is one already.
      checkpoint: "best", "latest" or a step.
      stated: what only people know, by the keys of `model_card.STATED`.
      chosen: the formats.

    Raises:
      UserError: the run or checkpoint does not exist, `output` holds something else, or a format
        cannot be written.
    """
    model_dir.check_writable(output)
    run = load_run.load_run(workdir, checkpoint, Mapper())
    plain = config_lib.to_plain(run.config)
    temperature: float | str = 1.0 if chosen.temperature is None else chosen.temperature
    if isinstance(temperature, str):
        if temperature != temperature_lib.AUTO:
            raise UserError(
                f"--temperature {temperature}: the evaluation of a model belongs to --model; give "
                f"{temperature_lib.AUTO} or a number for a run"
            )
        if chosen.average_with:
            raise UserError(
                f"--temperature {temperature} would fit the run's own weights, not the mean with "
                f"{', '.join(chosen.average_with)}; export the mean without it, evaluate that on "
                "validation images, and export it again with --model and --temperature FOLDER of "
                "the evaluation"
            )
        temperature = temperature_lib.fitted(pathlib.Path(workdir), run.step, plain)
    if chosen.average_with:
        average.average_with(run.model, chosen.average_with)
    provenance = {
        "workdir_config": plain,
        "step": run.step,
        "trained_for": sorted(run.system.known),
        **({"averaged_with": list(chosen.average_with)} if chosen.average_with else {}),
        **({} if run.labels is None else {"label_vectors": run.labels}),
        **{key: stated[key] for key in model_card.STATED if stated and stated.get(key)},
    }
    loaded = LoadedModel(
        run.model,
        run.config.model.name,
        run.system.model_arguments(),
        with_face_crop(Preprocessing.of_config(run.config), run.config),
        run.class_names,
        provenance,
        run.system.hierarchy,
        temperature,
    )
    name = pathlib.Path(output).absolute().name
    _write(loaded, output, chosen, lambda: model_card.of_run(loaded, workdir, name))
    return run.step


def export_model(
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    chosen: Chosen = Chosen(),
) -> None:
    """Write a model directory again with other formats, atomically.

    Args:
      source: a model directory. Its card, and other files and folders next to it, are kept; the
        card's title and what it says of the temperature are brought up to date.
      output: the new one, which may be the same.
      chosen: the formats.

    Raises:
      UserError: as `export`.
    """
    model_dir.check_writable(output)
    loaded = old = model_dir.load_model(source)
    place, temperature = pathlib.Path(source), chosen.temperature
    if temperature == temperature_lib.AUTO:
        raise UserError(
            f"--temperature {temperature} belongs to --workdir; give a number for a model "
            "directory, or the folder of its evaluation on validation images"
        )
    if isinstance(temperature, str):
        temperature = temperature_lib.of_evaluation(pathlib.Path(temperature), loaded, place)
    if temperature is not None:
        loaded = dataclasses.replace(loaded, temperature=temperature)
    name = pathlib.Path(output).absolute().name

    def own_card() -> str:
        if (card := place / model_card.CARD_FILE).is_file():
            names = (place.absolute().name, name)
            return model_card.updated(card.read_text(encoding="utf-8"), old, loaded, names)
        return model_card.of_converted(loaded, name) if loaded.is_converted else ""

    _write(loaded, output, chosen, own_card, place)


def _write(
    loaded: LoadedModel,
    output: str | pathlib.Path,
    chosen: Chosen,
    card: Callable[[], str],
    source: pathlib.Path | None = None,
) -> None:
    # Before anything is written: an unknown output is the caller's mistake.
    loaded.model.eval()
    program = Program.of(loaded, chosen.outputs, landmarks=chosen.landmarks)

    def further(folder: pathlib.Path) -> None:
        if source is not None:
            formats_lib.copy_others(source, folder, pathlib.Path(output))
        written = formats_lib.write(program, folder, chosen.formats)
        if text := card():
            text = formats_lib.with_section(text, written)
            (folder / model_card.CARD_FILE).write_text(text, encoding="utf-8")

    model_dir.save_model(
        output,
        loaded.name,
        loaded.arguments,
        loaded.model,
        preprocessing=loaded.preprocessing,
        class_names=loaded.class_names,
        hierarchy=loaded.hierarchy,
        temperature=loaded.temperature,
        provenance=loaded.provenance,
        further=further,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m affect_jax.export", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", default="", help="folder of the run")
    source.add_argument("--model", default="", help="model directory, such as a converted one")
    parser.add_argument("--output", required=True, help="model directory to write")
    parser.add_argument("--checkpoint", default="", help="best (default), latest or a step")
    named = ", ".join(formats_lib.FORMATS)
    parser.add_argument("--formats", default="orbax", help=f"any of {named}, as a,b")
    parser.add_argument(
        "--outputs", default="", help="what the formats give, as logits,valence (default: all)"
    )
    parser.add_argument(
        "--landmarks", action="store_true", help="give landmarks in place of heatmaps"
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        help=f"divisor of the logits, kept with the model: a number; {temperature_lib.AUTO} to fit "
        "it on the validation split of a run; or, for a model directory, the folder of its "
        "evaluation to fit it on (default: 1, or the model's own)",
    )
    parser.add_argument(
        "--average_with",
        default="",
        metavar="MODELS",
        help="write the mean of the run's weights and those of these model directories (a,b), "
        "which were trained on from the same weights",
    )
    for key, text in model_card.STATED.items():
        parser.add_argument(f"--{key}", default="", help=f"{text}, for the model card")
    options = parser.parse_args(arguments)
    runtime.setup_logging()
    xla_flags.choose()
    stated = {key: getattr(options, key) for key in model_card.STATED}
    try:
        with disk.explained(options.output):
            chosen = _chosen(options)
            if options.model:
                _check_no_run(options, stated)
                export_model(options.model, options.output, chosen)
                print(f"wrote the model of {options.model} to {options.output}")
            else:
                checkpoint = options.checkpoint or "best"
                step = export(options.workdir, options.output, checkpoint, stated, chosen)
                print(f"wrote the model of step {step} to {options.output}")
    except (UserError, OSError) as error:
        print(f"affect_jax: {error}", file=sys.stderr)
        return 2
    for line in formats_lib.summary(pathlib.Path(options.output)):
        print(f"  {line}")
    if options.workdir and (absent := [f"--{key}" for key in _ASKED if not stated[key]]):
        print(f"{model_card.CARD_FILE} in it lacks what {' and '.join(absent)} would state")
    return 0


def _chosen(options: argparse.Namespace) -> Chosen:
    outputs, averaged = _names(options.outputs), _names(options.average_with)
    formats = formats_lib.parse(options.formats)
    if (outputs or options.landmarks) and formats == ("orbax",):
        raise UserError(
            "--outputs and --landmarks change what a program gives, and orbax holds none; add "
            "--formats=stablehlo, onnx or savedmodel"
        )
    return Chosen(formats, outputs, options.landmarks, options.temperature, averaged)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _temperature(text: str) -> float | str:
    if text == temperature_lib.AUTO or pathlib.Path(text).is_dir():
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a positive number nor {temperature_lib.AUTO} nor a folder"
        )
    return number


def _check_no_run(options: argparse.Namespace, stated: Mapping[str, str]) -> None:
    given = [f"--{key}" for key in stated if stated[key]]
    given += ["--average_with"] if options.average_with else []
    if given or options.checkpoint:
        named = ", ".join([*given, *(["--checkpoint"] if options.checkpoint else [])])
        raise UserError(
            f"{named} belong to --workdir; the model directory {options.model} holds one "
            f"checkpoint, and a {model_card.CARD_FILE} that you can edit"
        )


if __name__ == "__main__":
    sys.exit(main())
