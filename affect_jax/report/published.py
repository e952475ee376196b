"""Numbers that papers report, to be set beside a run's own.

They hold for the papers' data and test lists; beside a run on other data they are no comparison,
and a table that shows them says where they come from.
"""

from __future__ import annotations

from affect_jax.runtime.tables import Results

_NAMES = (
    "accuracy",
    *(f"{dim}_{name}" for dim in ("valence", "arousal") for name in ("rmse", "sagr", "pcc", "ccc")),
)

# Toisoul et al., Nature Machine Intelligence 3 (2021), tables on AffectNet, SEWA and AFEW-VA. O, F:
# original or recomputed landmarks; R: regression; C: categories; A: attention; S: shake-shake loss;
# D: distillation. Accuracy, then RMSE SAGR PCC CCC of valence and of arousal.
_EMOFAN = {
    "ResNet-18 O+R": "- .39 .78 .66 .66 .34 .77 .60 .60",
    "ResNet-18 F+R": "- .37 .79 .69 .69 .34 .78 .61 .60",
    "ResNet-18 F+R+C": ".59 .37 .79 .70 .70 .33 .79 .62 .62",
    "EmoFAN F+R": "- .38 .79 .70 .70 .34 .78 .62 .62",
    "EmoFAN F+R+C": ".60 .36 .80 .71 .71 .33 .80 .64 .64",
    "EmoFAN F+R+C+A": ".60 .35 .81 .72 .72 .33 .80 .64 .64",
    "EmoFAN F+R+C+A+D": ".62 .34 .80 .72 .72 .31 .80 .64 .64",
    "EmoFAN F+R+C+A+S": ".60 .35 .80 .72 .72 .31 .81 .64 .64",
    "EmoFAN F+R+C+A+S+D": ".62 .33 .81 .73 .73 .30 .81 .65 .65",
    "EmoFAN F+R+C+A+S+D, clean test set": ".75 .29 .84 .82 .82 .27 .80 .75 .75",
    "human agreement": ".66 .34 .82 .82 .82 .36 .67 .57 .55",
}
_OTHER_SETS = {
    "affectnet5": {"EmoNet release, clean test set": ".82 .24 .85 .90 .90 .24 .79 .80 .80"},
    "sewa": {
        "EmoFAN": "- .32 .70 .66 .65 .35 .77 .61 .61",
        "ResNet-18": "- .37 .60 .35 .35 .37 .69 .35 .29",
        "human agreement": "- .24 .64 .38 .27 .24 .62 .33 .23",
    },
    "afew_va": {
        "EmoFAN": "- .23 .65 .70 .69 .22 .81 .67 .66",
        "ResNet-18": "- .43 .42 .05 .03 .41 .68 .06 .05",
    },
}
_TABLES = {"affectnet8": _EMOFAN, **_OTHER_SETS}


def emofan(dataset: str) -> Results:
    """The EmoFAN paper's results on one data set, as `references` of a results table.

    Args:
        dataset: `affectnet8`, `affectnet5` (from the official release), `sewa` or `afew_va`.

    Raises:
        ValueError: if the paper has no such data set.
    """
    if dataset not in _TABLES:
        raise ValueError(f"no published EmoFAN results on {dataset!r}; there are {[*_TABLES]}")
    return {
        model: {
            name: float(number)
            for name, number in zip(_NAMES, numbers.split(), strict=True)
            if number != "-"
        }
        for model, numbers in _TABLES[dataset].items()
    }


# Wasi et al. (ARBEx, 2023), Aff-Wild2 with 8 classes: clusters of the embeddings (figure 6), and
# standard deviation of the class probabilities over 60 images (figure 5 and its text).
ARBEX_CLUSTERS = {
    "ARBEx": {"davies_bouldin": 1.969, "calinski_harabasz": 1227.8},
    "POSTER++": {"davies_bouldin": 1.990, "calinski_harabasz": 1199.5},
    "SCN": {"davies_bouldin": 2.534, "calinski_harabasz": 915.2},
}
ARBEX_DEVIATIONS = {"primary": 0.1316, "corrected": 0.0881}
