"""Draw contact sheets of the augmentation presets.

python -m data_pipelines.augment --preset arbex_heavy --output sheet.png [IMAGE...]
python -m data_pipelines.augment --preset all --output sheets [IMAGE...]
"""

import argparse
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from data_pipelines.images.decode import decode
from data_pipelines.images.presets import PRESETS, Params
from data_pipelines.images.transforms import augment
from data_pipelines.schema import DecodeError


def contact_sheet(
    images: Sequence[tuple[np.ndarray, np.ndarray | None]], params: Params, size: int, draws: int
) -> np.ndarray:
    """Return a row for each image: the evaluation framing, then `draws` draws.

    Args:
      images: (uint8 [H, W, 3], landmarks float32 [68, 2] or None); landmarks are dotted.
      size: side of a cell in pixels.

    Returns:
      uint8 [rows * size, (1 + draws) * size, 3].
    """
    rows = []
    for index, (image, landmarks) in enumerate(images):
        cells = []
        for epoch in range(draws + 1):
            shown = params if epoch else params.framing_only()
            cell, points = augment(
                image, landmarks, params=shown, size=size, epoch=epoch, index=index
            )
            for x, y in points if points is not None else ():
                cv2.circle(cell, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1)
            cells.append(cell)
        rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the contact sheets of one preset or of all; return the exit status."""
    parser = argparse.ArgumentParser("python -m data_pipelines.augment", description=__doc__)
    parser.add_argument("--preset", required=True, choices=[*sorted(PRESETS), "all"])
    parser.add_argument("--output", required=True, help="PNG file; for all: a folder of them")
    parser.add_argument("--size", type=int, default=128, help="side of a cell in pixels")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("images", nargs="*", help="default: four synthetic faces")
    options = parser.parse_args(arguments)
    images = []
    for name in options.images:
        try:
            images.append((decode(pathlib.Path(name).read_bytes()), None))
        except (OSError, DecodeError) as e:
            parser.error(f"{name}: {e.strerror if isinstance(e, OSError) else e}")
    if not images:
        from data_pipelines.sources.synthetic import SyntheticFaces  # drawing code

        faces = SyntheticFaces(64, image_size=256)
        images = [(faces[i]["image"], faces[i]["landmarks"]) for i in range(0, 64, 16)]
    sheets = {options.preset: pathlib.Path(options.output)}
    if options.preset == "all":
        sheets = {name: pathlib.Path(options.output) / f"{name}.png" for name in sorted(PRESETS)}
    try:
        for name, path in sheets.items():
            sheet = contact_sheet(images, PRESETS[name], options.size, options.draws)
            _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
            if options.preset == "all":
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png.tobytes())
            print(path)
    except OSError as e:
        parser.error(f"cannot write {options.output} ({e.strerror})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
