"""Predict the faces of photos and videos: one row a face.

python -m affect_jax.predict [--model MODEL] INPUT... [--output out.csv|.parquet|.jsonl]

INPUT is an image, a video, a folder, a pattern such as "photos/**/*.jpg", or a manifest (CSV or
JSONL with the column `path` and optionally a box). The table is written as it grows. After a crash
or Ctrl-C, the same command goes on where it was. The exit status is 0, 2 for a wrong command, 3
where some inputs could not be read, 130 after Ctrl-C.
"""

import argparse
import hashlib
import os
import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # The imports below take seconds. Ctrl-C in them ends the process by its signal, which shells
    # report as status 130, without a traceback.
    sys.excepthook = lambda kind, *rest: (
        None if kind is KeyboardInterrupt else sys.__excepthook__(kind, *rest)
    )

from affect_jax import load, runtime
from affect_jax.errors import UserError
from affect_jax.inference import inputs
from affect_jax.inference.boxes import BoxFile
from affect_jax.inference.frames import KnownFaces
from affect_jax.inference.prediction_run import BATCH_SIZE, Settings
from affect_jax.inference.predictor import place_of
from affect_jax.inference.table_run import Command, Counts, TableRun
from affect_jax.inference.writers import FORMATS, format_of
from affect_jax.weights.model_dir import MODEL_FILE
from data_pipelines import disk
from data_pipelines.images.decode import MAX_PIXELS

FAILED = 3
INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m affect_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, video, folder, pattern or manifest")
    add("--model", help="model directory; default: the model that comes with the package")
    add("--output", help="table, or a folder/ for one table a video")
    add("--format", choices=FORMATS, default="csv", help="of the tables in a folder")
    add("--overlay", type=pathlib.Path, help="folder for photos and videos with what was found")
    add("--overwrite", action="store_true", help="begin again instead of resuming")
    add("--landmarks", action="store_true", help="add the landmarks, in pixels of the image")
    add("--fps", type=float, default=0.0, help="frames a second of a video to read; default: all")
    add("--max_faces", type=int, default=0, help="faces a frame, the best; default: all")
    add("--boxes", type=pathlib.Path, help="table of boxes, instead of finding faces")
    add("--no_detect", action="store_true", help="an image is a crop of one face already")
    add("--no_smooth", action="store_true", help="do not average over the frames of a track")
    add("--flip", action="store_true", help="average with the mirror image")
    add("--temperature", type=float, help="divisor of the logits; default: the model's own")
    add("--clip_va", action="store_true", help="keep valence and arousal within [-1, 1]")
    add("--shard", type=_shard, default=(1, 1), metavar="I/N", help="only part I of N")
    add("--max_pixels", type=int, default=MAX_PIXELS, help="larger images are not decoded")
    add("--batch_size", type=int, default=BATCH_SIZE, help="faces that the network sees at once")
    add("--workers", type=int, default=0, help="threads that find faces; default: one a core")
    return parser


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 2/8")
    return int(index), int(count)


def predict(options: argparse.Namespace) -> Counts:
    """Predict what the options of the command name; return what was found.

    Raises:
      UserError: an option or input is wrong.
      OSError: a table cannot be written.
    """
    settings = Settings(
        detect=not options.no_detect,
        max_faces=options.max_faces,
        fps=options.fps,
        smooth=not options.no_smooth,
        flip=options.flip,
        temperature=options.temperature,
        clip_va=options.clip_va,
        landmarks=options.landmarks,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    model = place_of(options.model)
    output, in_folder = _output(options)
    predictor = load(model, batch_size=options.batch_size, max_pixels=options.max_pixels)
    items = inputs.find(options.inputs, own=[output, options.overlay])
    known = _known(options.boxes, items) if options.boxes else None
    identity: dict[str, str | int] = {"model": _digest(model / MODEL_FILE)}
    identity["max_pixels"] = options.max_pixels
    identity |= {"boxes": _digest(options.boxes)} if options.boxes else {}
    command = Command(
        items,
        output,
        in_folder=in_folder,
        table_format=options.format,
        shard=options.shard,
        overlay=options.overlay,
        overwrite=options.overwrite,
        identity=identity,
    )
    return TableRun(predictor, command, settings, known=known).run()


def _output(options: argparse.Namespace) -> tuple[pathlib.Path | None, bool]:
    """Return where tables go, and whether it is a folder.

    Raises:
      UserError: the name is no table, or a file that is read.
    """
    if not options.output:
        return None, False
    path = pathlib.Path(options.output)
    is_folder = path.is_dir() or options.output.endswith(("/", os.sep)) or not path.suffix
    if not is_folder and not format_of(path):
        raise UserError(
            f"--output {path}: a table ends in {', '.join(f'.{name}' for name in FORMATS)}; for a "
            f"folder, write {path}/"
        )
    for one in [*options.inputs, *filter(None, [options.boxes])]:
        if not is_folder and os.path.realpath(one) == os.path.realpath(path):
            raise UserError(f"--output {path} is read by this command too; name another")
    return path, is_folder


def _known(path: pathlib.Path, items: Sequence[inputs.Item]) -> KnownFaces:
    """Return the faces of a file with boxes; say which of its paths are no inputs."""
    boxes = BoxFile(path)
    if unused := boxes.unused(items):
        print(
            f"affect_jax: boxes {path}: {len(unused)} paths are no inputs, such as {unused[0]!r}",
            file=sys.stderr,
        )
    return boxes.faces


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    runtime.setup_logging()
    try:
        with disk.explained(options.output or "the output"):
            counts = predict(options)
    except KeyboardInterrupt:
        resume = ""
        if options.output:
            resume = "; the same command goes on from here"
            resume += ", without --overwrite" if options.overwrite else ""
        print(f"affect_jax: stopped{resume}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of standard output has enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        print(f"affect_jax: {error}", file=sys.stderr)
        return 2
    print(
        f"{counts.files} files, {counts.frames} frames, {counts.faces} faces, "
        f"{counts.faceless} frames without a face, {counts.failed} files with errors",
        file=sys.stderr,
    )
    return FAILED if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
