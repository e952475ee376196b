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
