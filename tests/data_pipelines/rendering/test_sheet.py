"""Contact sheets."""

import numpy as np

from data_pipelines.rendering import sheet


def test_the_sheet_of_fine_classes_has_a_strip_for_each_coarse_expression():
    image = sheet.fine_classes(people=1, side=32, seed=3, ambiguity=0.0)
    # Six lines of names and six rows; anger is the widest with nine classes.
    assert image.shape == (6 * (14 + 32), 9 * 32, 3) and image.dtype == np.uint8
    rows = image.reshape(6, 46, 9, 32, 3)
    blank = (rows[:, 14:] == 255).all(axis=(1, 3, 4))
    assert (~blank).sum(axis=1).tolist() == [5, 7, 9, 3, 6, 3]
    faces = [rows[strip, 14:, place] for strip, place in zip(*np.nonzero(~blank), strict=True)]
    assert len({face.tobytes() for face in faces}) == 33
