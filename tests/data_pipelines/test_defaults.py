import dataclasses
import math

import pytest

from configs import base
from data_pipelines.defaults import DataConfig, section
from data_pipelines.images.presets import Params
from data_pipelines.loading.pipeline import make_pipeline
from data_pipelines.schema import DataError
from data_pipelines.sources.make import make_sources
from tests.data_pipelines.made_images import Listed, encode, smooth

WRONG = [
    *[("validation_fraction", v) for v in (1.5, 1.0, 1, -0.1, math.nan, math.inf, "0.2", True)],
    *[("max_bad_fraction", v) for v in (1.5, -0.1, math.nan, math.inf)],
    *[("folds", v) for v in (0, 1, -4, 2.5, 4.0, True, math.nan)],
    *[("test_fold", v) for v in (4, -1, 1.0, 99)],
    *[("split_seed", v) for v in (-1, 0.5)],
    *[("image_size", v) for v in (0, -96, 96.5)],
    *[("crop_scale", v) for v in (-1, math.nan, math.inf)],
    *[("max_pixels", v) for v in (0, -1, math.nan)],
    *[(name, -1) for name in ("num_workers", "num_threads", "prefetch", "cache_megabytes")],
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(DataError, match=rf"data\.{name} = {value}; "):
        make_sources({"source": "synthetic", name: value})


def test_fields_that_do_not_exist_are_refused():
    with pytest.raises(DataError, match=r"data\.imagesize: .* did you mean 'image_size'"):
        DataConfig.of({"imagesize": 64})
    with pytest.raises(DataError, match=r"data\.refine\.per_clas: .* 'per_class'"):
        DataConfig.of({"refine": {"per_clas": 3}})
    with pytest.raises(DataError, match=r"data\.source is 'files'; known: synthetic, manifest"):
        DataConfig.of({"source": "files"})


def test_the_base_config_holds_every_field():
    assert DataConfig.of(base.get_config().data) == dataclasses.replace(
        DataConfig.of({}),
        source="synthetic",
        augment_overrides=dict.fromkeys(f.name for f in dataclasses.fields(Params)),
    )
    assert DataConfig.of({"folds": None}).folds == 4


@pytest.mark.parametrize("protocol", ["folds", "split"])
def test_folds_are_checked_where_they_are_cut(protocol):
    with pytest.raises(DataError, match=r"data\.folds = 1; "):
        DataConfig.of({"folds": 1, "test_fold": 0, "protocol": protocol})
    DataConfig.of({"folds": 1, "test_fold": 99, "protocol": "leave_one_out"})
    # The number of folds is known where they are cut.
    DataConfig.of({"folds": 2, "test_fold": 2, "protocol": "folds"})


def test_pipelines_check_too():
    with pytest.raises(DataError, match=r"data\.max_bad_fraction = nan"):
        make_pipeline(
            {"max_bad_fraction": math.nan}, Listed([encode(smooth(8, 8))]), train=True, batch_size=1
        )
    with pytest.raises(DataError, match=r"data\.refine\.per_class = 0"):
        DataConfig.of({"refine": {"per_class": 0}})


def test_defaults_and_bounds_pass():
    DataConfig.of({})
    assert DataConfig.of(section()) == DataConfig()
    DataConfig.of({"validation_fraction": 0, "max_bad_fraction": 1, "folds": 2, "test_fold": 0})
