"""A person: everything about a synthetic face that no expression changes."""

import bisect
from typing import NamedTuple

import numpy as np

from data_pipelines.rendering import hashing
from data_pipelines.rendering.canvas import Colour, mix, shade

ATTRIBUTE_NAMES = ("skin_tone_band", "age_band", "glasses")
ATTRIBUTE_VALUES = (("light", "medium", "tan", "dark"), ("young", "middle", "old"), ("no", "yes"))

NUMBERS = (24, 24)
# Upper ends of the bands on the unit interval: the darker tones, the old and the people with
# glasses are rarer on purpose, so that an audit by subgroup has something to find.
_TONE_BANDS = (0.40, 0.70, 0.88)
_AGE_BANDS = (0.50, 0.82)
_GLASSES_SHARE = 0.15

_TONES = (  # light to dark skin, sRGB, at positions 0, 1/6, ... 1
    *((244, 213, 192), (236, 194, 166), (222, 172, 138), (197, 142, 106)),
    *((164, 110, 78), (126, 82, 58), (88, 58, 44)),
)
_HAIR = ((28, 22, 20), (48, 34, 26), (78, 52, 34), (120, 82, 48), (176, 138, 88), (132, 62, 34))
_IRIS = ((62, 40, 24), (84, 56, 32), (98, 92, 50), (84, 120, 140), (108, 124, 128))
_FRAMES = ((25, 25, 28), (90, 60, 35), (120, 120, 125), (60, 20, 30))
HAIR_STYLES = ("bald", "buzz", "short", "side", "fringe", "long", "long_fringe", "curly", "bun")


class Person(NamedTuple):
    """Traits of a person: lengths in mm, colours RGB 0 to 255, strengths in [0, 1]."""

    age: float
    glasses: bool
    attributes: tuple[int, int, int]
    masculine: bool
    skin: Colour
    hair: Colour
    iris: Colour
    brow_colour: Colour
    lip_colour: Colour
    style: str
    hair_volume: float
    hairline: float
    beard: float
    moustache: float
    head_width: float
    jaw_width: float
    chin: float
    chin_width: float
    nose_length: float
    nose_width: float
    nose_height: float
    mouth_drop: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    eye_size: float
    eye_width: float
    eye_spacing: float
    eye_tilt: float
    brow_height: float
    brow_arch: float
    brow_tilt: float
    brow_thickness: float
    hood: float
    cheek: float
    wrinkles: float
    expressiveness: float
    asymmetry: np.ndarray
    glasses_shape: float
    glasses_colour: Colour
    make_up: float


def attributes(keys: np.ndarray) -> np.ndarray:
    """Return int32 [n, 3]: skin tone (0 light to 3 dark), age (0 to 2), glasses."""
    u = hashing.uniforms(keys, 3)
    return np.stack(
        [
            np.searchsorted(_TONE_BANDS, u[:, 0], side="right"),
            np.searchsorted(_AGE_BANDS, u[:, 1], side="right"),
            u[:, 2] < _GLASSES_SHARE,
        ],
        axis=1,
    ).astype(np.int32)


def _spread(u: float, edges: tuple[float, ...], values: tuple[float, ...]) -> float:
    """Map [0, 1] piecewise linearly."""
    k = next(k for k in range(1, len(edges)) if u <= edges[k])
    part = (u - edges[k - 1]) / (edges[k] - edges[k - 1])
    return values[k - 1] + part * (values[k] - values[k - 1])


def _along(scale: tuple[Colour, ...], position: float) -> Colour:
    """Return the colour at a position in [0, 1] along a scale."""
    place = position * (len(scale) - 1)
    start = min(int(place), len(scale) - 2)
    return mix(scale[start], scale[start + 1], place - start)


def _style(u: float, masculine: bool, age: float) -> str:
    if masculine:
        weights = (0.10 + 0.15 * age, 0.18, 0.32, 0.22, 0.06, 0.03, 0.0, 0.09, 0.0)
    else:
        weights = (0.0, 0.02, 0.10, 0.12, 0.06, 0.30, 0.14, 0.13, 0.13)
    rest = u * sum(weights)
    for style, weight in zip(HAIR_STYLES, weights, strict=True):
        rest -= weight
        if rest < 0:
            return style
    return HAIR_STYLES[2]


def describe(u: list[float], n: list[float]) -> Person:
    """Return the person of these uniform and normal numbers (`NUMBERS` of each)."""
    # Each band takes an even part of its scale, however many people it holds.
    tone = _spread(u[0], (0.0, *_TONE_BANDS, 1.0), (0.0, 0.30, 0.55, 0.78, 1.0))
    age = _spread(u[1], (0.0, *_AGE_BANDS, 1.0), (0.0, 0.40, 0.72, 1.0))
    masculine = u[3] < 0.5
    red, green, blue = _along(_TONES, tone)
    skin = (min(250.0, red + 4.0 * n[0]), green, max(30.0, blue - 5.0 * n[0]))

    # Light hair goes with light skin, grey hair with age.
    hair = _along(_HAIR, u[4] * max(0.12, 1.0 - 1.25 * tone))
    grey = max(0.0, (age - 0.62) / 0.38) * u[5] ** 0.5
    brow_colour = shade(mix(hair, (120.0, 120.0, 120.0), 0.6 * grey), 0.8)
    hair = mix(hair, (196.0, 194.0, 192.0), grey)
    iris = _IRIS[min(4, int(u[6] * (5.0 if tone < 0.3 else 1.8)))]
    bearded = masculine and u[8] < 0.45
    make_up = 0.0 if masculine else max(0.0, u[10] - 0.35)
    lip_base = (0.86 * skin[0] + 8.0, 0.62 * skin[1], 0.60 * skin[2] + 4.0)
    rouge = (150.0 + 50.0 * u[11], 34.0, 50.0)
    return Person(
        age=age,
        glasses=u[2] < _GLASSES_SHARE,
        attributes=(
            bisect.bisect_right(_TONE_BANDS, u[0]),
            bisect.bisect_right(_AGE_BANDS, u[1]),
            int(u[2] < _GLASSES_SHARE),
        ),
        masculine=masculine,
        skin=skin,
        hair=hair,
        iris=iris,
        brow_colour=brow_colour,
        lip_colour=mix(lip_base, rouge, 0.7 * make_up),
        style=_style(u[7], masculine, age),
        hair_volume=0.05 + 0.07 * u[12],
        hairline=4.0 * n[1] + (10.0 * age if masculine else 0.0),
        beard=(0.25 + 0.6 * u[9]) if bearded else 0.0,
        moustache=(0.3 + 0.6 * u[13]) if bearded or (masculine and u[14] < 0.08) else 0.0,
        head_width=1.0 + 0.04 * n[2] + 0.02 * masculine,
        jaw_width=0.97 + 0.05 * n[3] + 0.06 * masculine,
        chin=3.0 * n[4] + 2.0 * masculine,
        chin_width=1.0 + 0.12 * n[5] + 0.12 * masculine,
        nose_length=2.6 * n[6],
        nose_width=1.0 + 0.10 * n[7] + 0.22 * max(0.0, tone - 0.4),
        nose_height=1.0 + 0.12 * n[8],
        mouth_drop=1.5 * n[9],
        mouth_width=1.0 + 0.06 * n[10],
        upper_lip=6.0 * (1.0 + 0.16 * n[11] + 0.35 * max(0.0, tone - 0.4) - 0.15 * age),
        lower_lip=8.5 * (1.0 + 0.14 * n[12] + 0.25 * max(0.0, tone - 0.4) - 0.12 * age),
        eye_size=1.08 + 0.08 * n[13] - 0.05 * age,
        eye_width=1.04 + 0.04 * n[14],
        eye_spacing=1.1 * n[15],
        eye_tilt=1.3 * n[16],
        brow_height=1.6 * n[17],
        brow_arch=1.0 + 0.4 * n[18],
        brow_tilt=0.8 * n[19],
        brow_thickness=(4.0 if masculine else 2.9) * (1.0 + 0.18 * n[20]),
        hood=u[15],
        cheek=n[21],
        wrinkles=max(0.0, age - 0.25) / 0.75 * (0.6 + 0.4 * u[16]),
        expressiveness=1.0 + 0.08 * n[22],
        asymmetry=1.0 + 0.07 * np.array([n[23], -n[23]]),
        glasses_shape=u[17],
        glasses_colour=_FRAMES[int(u[18] * 4)],
        make_up=make_up,
    )
