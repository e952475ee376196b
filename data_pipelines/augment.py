"""Augmentation: one affine warp and one colour matrix a picture, then degradations in place.

Framing (crop, resize), rotation, scale, translation, random crop and mirror are composed into one
2x3 matrix and one `cv2.warpAffine`; landmarks go through the same matrix and change sides with the
mirror. Brightness, contrast, saturation, hue and grey are one 3x4 matrix. Every random choice is a
pure function of (seed, epoch, index): a counter-based generator, no state.

Contact sheet of a preset, and of every preset into a folder:
  python -m data_pipelines.augment --preset arbex_heavy --output sheet.png [IMAGE...]
  python -m data_pipelines.augment --preset all --output sheets [IMAGE...]
"""

import argparse
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from data_pipelines.images.presets import PRESETS, Params
from data_pipelines.images.transforms import augment
from data_pipelines.schema import DecodeError

# --- Random numbers -------------------------------------------------------------------------


# --- Composed transforms --------------------------------------------------------------------


# --- Contact sheet --------------------------------------------------------------------------


def contact_sheet(
    pictures: Sequence[tuple[np.ndarray, np.ndarray | None]], params: Params, size: int, draws: int
) -> np.ndarray:
    """One row a picture: the evaluation framing, then `draws` draws with their landmarks dotted.

    Args:
      pictures: (uint8 [H, W, 3], landmarks float32 [68, 2] or None).
      params: the augmentation to show.
      size: side of a cell in pixels.
      draws: cells after the first.

    Returns:
      uint8 [rows * size, (1 + draws) * size, 3].
    """
    rows = []
    for index, (image, landmarks) in enumerate(pictures):
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
    """Command line: writes the contact sheets of one preset or of all."""
    from data_pipelines.images import decode

    parser = argparse.ArgumentParser("python -m data_pipelines.augment", description=__doc__)
    parser.add_argument("--preset", required=True, choices=[*sorted(PRESETS), "all"])
    parser.add_argument("--output", required=True, help="PNG file; for all: a folder of them")
    parser.add_argument("--size", type=int, default=128, help="side of a cell in pixels")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("images", nargs="*", help="default: four synthetic faces")
    options = parser.parse_args(arguments)
    if options.images:
        pictures = []
        for name in options.images:
            try:
                pictures.append((decode.decode(pathlib.Path(name).read_bytes()), None))
            except (OSError, DecodeError) as e:
                parser.error(f"{name}: {getattr(e, 'strerror', None) or e}")
    else:
        from data_pipelines.sources.synthetic import SyntheticFaces

        faces = SyntheticFaces(64, image_size=256)
        pictures = [(faces[i]["image"], faces[i]["landmarks"]) for i in range(0, 64, 16)]
    sheets = {options.preset: pathlib.Path(options.output)}
    if options.preset == "all":
        sheets = {name: pathlib.Path(options.output) / f"{name}.png" for name in sorted(PRESETS)}
    try:
        for name, path in sheets.items():
            sheet = contact_sheet(pictures, PRESETS[name], options.size, options.draws)
            _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
            if options.preset == "all":
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
            print(path)
    except OSError as e:
        parser.error(f"cannot write {options.output} ({e.strerror})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
