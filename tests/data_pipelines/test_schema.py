import numpy as np
import pytest

from data_pipelines import schema


def test_flip_index_is_an_involution_that_keeps_the_midline():
    index = schema.FLIP_INDEX
    np.testing.assert_array_equal(index[index], np.arange(68))
    midline = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    np.testing.assert_array_equal(np.flatnonzero(index == np.arange(68)), midline)


def test_label_orders_follow_the_data_sets():
    orders = schema.LABEL_ORDERS
    assert orders["affectnet8"][3] == "surprise"
    assert orders["affectnet8"][6] == "anger"
    assert orders["affectnet5"][4] == "anger"
    assert orders["rafdb"][6] == "neutral"
    assert orders["affwild2"][7] == "other"
    assert orders["fer2013"] == ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert orders["ferplus"][1] == "happiness"
    assert {name: len(order) for name, order in orders.items()} == {
        "affectnet8": 8,
        "affectnet7": 7,
        "affectnet5": 5,
        "affwild2": 8,
        "rafdb": 7,
        "fer2013": 7,
        "ferplus": 8,
        "ckplus7": 7,
        "jaffe": 7,
    }


def test_infer_order_takes_a_known_order_or_the_alphabet():
    assert schema.infer_order(["anger", "happiness", "neutral"]) == (
        "neutral",
        "happiness",
        "anger",
    )
    assert schema.infer_order(["other", "anger", "neutral"]) == ("neutral", "anger", "other")
    assert schema.infer_order(["zebra", "ape"]) == ("ape", "zebra")


def test_resolve_classes():
    assert schema.resolve_classes("rafdb") == schema.LABEL_ORDERS["rafdb"]
    assert schema.resolve_classes("calm, tense") == ("calm", "tense")
    assert schema.resolve_classes(["x", "y"]) == ("x", "y")
    with pytest.raises(schema.DataError, match="distinct"):
        schema.resolve_classes("happy,happiness")
    with pytest.raises(schema.DataError, match=r"'affectnet9', a single name; .* affectnet8,"):
        schema.resolve_classes("affectnet9")


def record(**changes):
    fields = schema.empty_labels() | {"image": np.zeros((4, 4, 3), np.uint8)}
    return fields | changes


def test_check_record_accepts_what_is_well_formed():
    schema.check_record(record(), 3)
    schema.check_record(record(image=b"...", expression=2), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((4, 4), np.uint8)}, "image"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "image"),
        ({"expression": 3}, "expression 3"),
        ({"valence_arousal": np.array([0.0, 1.5], np.float32)}, "outside"),
        ({"valence_arousal": np.zeros(2)}, "valence_arousal must be float32"),
        ({"landmarks": np.zeros((5, 2), np.float32)}, "landmarks"),
        ({"box": np.array([0, 0, np.inf, 1], np.float32)}, "box"),
    ],
)
def test_check_record_names_the_wrong_field(change, message):
    with pytest.raises(schema.DataError, match=message):
        schema.check_record(record(**change), 3)
