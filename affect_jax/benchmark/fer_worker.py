"""Read photos with the `fer` package, in the interpreter that has it.

`tools.py` runs this file as a script; it needs `fer` (MIT) and what that needs, and nothing of
this package. Its input is a JSON file with the list `photos`; what it finds goes to another.
"""

import json
import sys
import time
from typing import Any

WHOLE, DETECTOR = "whole picture", "own detector"
_FACES = {WHOLE: False, DETECTOR: True}  # whether fer looks for them


def read(photos: list[str]) -> dict[str, Any]:
    """Return the classes of `fer`, and for either way what it says of each photo.

    Its settings are its own defaults: OpenCV's Haar cascade, and the quantised network. Of several
    faces the largest counts, since a cascade gives no scores. `fer` rounds probabilities to two
    digits; they are taken before that.

    Returns:
      `version`, `classes` in the order of the probabilities, and `runs`: for each way
      `probabilities`, a list for each photo or None without a face, and `seconds` for all of them,
      with reading the files and without loading the model.
    """
    from importlib import metadata

    import cv2
    from fer.fer import FER

    class Exact(FER):
        """Keeps the probabilities as the network gives them."""

        def _classify_emotions(self, gray_faces: Any) -> Any:
            self.exact = super()._classify_emotions(gray_faces)
            return self.exact

    reader = Exact()

    def predict(photo: str, detects: bool) -> list[float] | None:
        image = cv2.imread(photo)
        if image is None:
            return None
        height, width = image.shape[:2]
        faces = reader.detect_emotions(image, None if detects else [(0, 0, width, height)])
        if not faces:
            return None
        areas = [int(face["box"][2]) * int(face["box"][3]) for face in faces]
        return [float(p) for p in reader.exact[areas.index(max(areas))]]

    runs = {}
    for way, detects in _FACES.items():
        predict(photos[0], detects)  # the first is slow
        start = time.perf_counter()
        found = [predict(photo, detects) for photo in photos]
        runs[way] = {"probabilities": found, "seconds": time.perf_counter() - start}
    classes = [name for _, name in sorted(FER._get_labels().items())]
    return {"version": metadata.version("fer"), "classes": classes, "runs": runs}


def main(source: str, target: str) -> None:
    """Read the photos that the file `source` lists; write what is found to `target`."""
    with open(source) as file:
        photos = json.load(file)["photos"]
    try:
        result = read(photos)
    except ImportError as error:
        result = {"missing": str(error)}
    with open(target, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
