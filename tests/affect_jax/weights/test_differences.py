"""Differences: missing, unexpected and reshaped arrays, and how they are listed."""

from affect_jax.weights.differences import Differences, is_under


def test_differences_are_grouped_and_cut_short():
    source = {"a": [1], "b": [2], **{f"x{i}": [i] for i in range(12)}}
    found = Differences.between(source, {"b": (3,), "c": (4, 5)})
    first, *rest = str(found).splitlines()
    assert (first, rest[0]) == ("1 missing:", "  c (4, 5)")
    assert rest[1:3] == ["13 unexpected:", "  a (1,)"] and "  ... and 3 more" in rest
    assert rest[-2:] == ["1 of another shape:", "  b: (2,), the model has (3,)"]
    assert not Differences.between(source, source)


def test_allowed_names_are_left_out():
    found = Differences.between({"a/x": [1], "b": [2]}, {"c": [1], "b": [1]})
    allowed = found.without(lambda name: name == "b", lambda name: is_under(name, ("a",)))
    assert allowed == Differences({"c": (1,)}, {}, {})
    assert found.without(lambda _: False, lambda _: False) == found
    assert is_under("a/x", ("a/",)) and not is_under("ab", ("a",))
