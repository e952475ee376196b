"""Reading and checking of label trees."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.hierarchies import tree
from data_pipelines.schema import DataError

TWO_LEVELS = """
[coarse]
fear = ["anxiety", "worry"]
joy = ["cheerful"]
"""
THREE_LEVELS = """
name = "mine"

[poles]
good = ["joy"]
bad = ["fear", "anger"]

[coarse]
fear = ["anxiety", "worry"]
anger = ["anger", "wrath"]
joy = ["cheerful"]
"""


def write(folder, text, name="my_tree.toml"):
    path = folder / name
    path.write_text(text)
    return path


def refusal(folder, text):
    with pytest.raises(DataError) as caught:
        tree.load(write(folder, text))
    return str(caught.value)


def test_fg_emotions():
    found = tree.load("fg_emotions")
    assert found.name == "fg_emotions" and len(found.fine) == 33
    assert found.coarse == ("fear", "sadness", "anger", "surprise", "happiness", "love")
    sizes = [found.coarse_of.count(i) for i in range(6)]
    assert sizes == [5, 7, 9, 3, 6, 3]
    first = [found.fine[found.coarse_of.index(i)] for i in range(6)]
    assert first == ["anxiety", "depression", "anger", "amaze", "cheerful", "thrill"]
    last = [found.fine[::-1][found.coarse_of[::-1].index(i)] for i in range(6)]
    assert last == ["nervous", "suffering", "wrath", "surprise", "relief", "lust"]
    assert found.poles == ("unpleasant", "pleasant") and found.pole_of == (0, 0, 0, 1, 1, 1)


def test_two_levels(tmp_path):
    found = tree.load(write(tmp_path, TWO_LEVELS))
    assert found == tree.Hierarchy(
        name="my_tree",
        fine=("anxiety", "worry", "cheerful"),
        coarse=("fear", "joy"),
        coarse_of=(0, 0, 1),
    )


def test_three_levels_and_one_name_on_two(tmp_path):
    found = tree.load(str(write(tmp_path, THREE_LEVELS)))
    assert found.name == "mine" and found.coarse_of == (0, 0, 1, 1, 2)
    assert found.fine[2] == found.coarse[1] == "anger"
    assert found.poles == ("good", "bad") and found.pole_of == (1, 1, 0)


def test_fine_sets_the_order(tmp_path):
    found = tree.load(write(tmp_path, 'fine = ["cheerful", "worry", "anxiety"]\n' + TWO_LEVELS))
    assert found.fine == ("cheerful", "worry", "anxiety") and found.coarse_of == (1, 0, 0)


def test_classes_of_the_data_decide_order_spelling_and_what_stays(tmp_path):
    whole = tree.load(write(tmp_path, THREE_LEVELS))
    part = whole.for_classes(["Wrath", "cheerful", "angry"])
    assert part.fine == ("Wrath", "cheerful", "angry")
    assert part.coarse == ("anger", "joy") and part.coarse_of == (0, 1, 0)
    assert part.poles == ("good", "bad") and part.pole_of == (1, 0)
    bad = whole.for_classes(["wrath", "worry"])
    assert bad.coarse == ("fear", "anger") and bad.coarse_of == (1, 0)
    assert bad.poles == ("bad",) and bad.pole_of == (0, 0)


def test_a_class_that_the_tree_lacks(tmp_path):
    whole = tree.load(write(tmp_path, TWO_LEVELS))
    with pytest.raises(DataError, match=r"no fine class 'wory'.*did you mean 'worry'"):
        whole.for_classes(["anxiety", "wory"])
    with pytest.raises(
        DataError, match="'fear', 'happiness', which the data have; these are coarse"
    ):
        whole.for_classes(["fear", "happiness"])


@given(st.permutations(range(33)), st.integers(1, 33))
def test_plain_form_and_any_order(order, count):
    whole = tree.load("fg_emotions")
    names = [whole.fine[i] for i in order[:count]]
    part = whole.for_classes(names)
    assert tree.Hierarchy.from_plain(json.loads(json.dumps(part.to_plain()))) == part
    for name, place in zip(names, part.coarse_of, strict=True):
        assert part.coarse[place] == whole.coarse[whole.coarse_of[whole.fine.index(name)]]
        pole = whole.pole_of[whole.coarse.index(part.coarse[place])]
        assert part.poles[part.pole_of[place]] == whole.poles[pole]
    assert part.for_classes(whole.for_classes(names).fine) == part


REFUSED = {
    "fine class without parent": (
        'fine = ["anxiety", "worry", "cheerful", "pride"]' + TWO_LEVELS,
        "fine class 'pride' has no coarse class above it",
    ),
    "fine list that lacks a class": (
        'fine = ["anxiety", "cheerful"]' + TWO_LEVELS,
        "a coarse class has 'worry' below it, which fine does not list",
    ),
    "coarse class without pole": (
        TWO_LEVELS + '[poles]\ngood = ["joy"]',
        "coarse class 'fear' has no pole above it",
    ),
    "coarse class that does not exist": (
        TWO_LEVELS + '[poles]\ngood = ["joy"]\nbad = ["fear", "rage"]',
        "a pole has 'rage' below it, which coarse does not list",
    ),
    "cycle": (
        '[coarse]\nfear = ["anger"]\nanger = ["fear"]',
        "anger > fear > anger is a cycle",
    ),
    "cycle over three levels": (
        '[coarse]\njoy = ["good"]\n[poles]\ngood = ["joy"]',
        "good > happy > good is a cycle",
    ),
    "two parents": (
        '[coarse]\nfear = ["panic"]\nanger = ["panic", "hate"]',
        "'panic' is below 'fear' and again below 'anger'",
    ),
    "twice below one parent": ('[coarse]\nfear = ["panic", "panic"]', "again below 'fear'"),
    "synonyms": (
        '[coarse]\na = ["happy"]\nb = ["happiness"]',
        "'happiness' is below 'a' and again",
    ),
    "two coarse classes of one name": (
        '[coarse]\nhappy = ["a"]\njoy = ["b"]',
        "'happy', 'joy' in coarse: the same class twice",
    ),
    "coarse class without fine one": (
        '[coarse]\nfear = []\njoy = ["pride"]',
        "coarse class 'fear' has no fine class below it",
    ),
    "empty file": ("", "the tree has no classes; write, for example, [coarse]"),
    "empty section": ("[coarse]", "the tree has no classes"),
    "empty name": ('[coarse]\nfear = [" "]', "a name in fine is empty"),
    "text for a list": (
        '[coarse]\nfear = "panic"',
        "coarse.fear must be a list of names in quotes",
    ),
    "numbers": ("[coarse]\nfear = [1]", "coarse.fear must be a list of names in quotes, got [1]"),
    "one level too many": (
        '[coarse.fear]\npanic = ["terror"]',
        "no more levels than poles, coarse, fine",
    ),
    "list for a section": ('coarse = ["fear"]', "coarse must be a section"),
    "text for fine": ('fine = "a"\n[coarse]\nb = ["a"]', "fine must be a list of names"),
    "misspelt section": ('[course]\nfear = ["panic"]', "no key 'course'; did you mean 'coarse'"),
    "unknown section": ('[xyz]\nfear = ["panic"]', "there are name, fine, coarse, poles"),
    "name of another type": ('name = 3\n[coarse]\na = ["b"]', "name = 3; it must be a text"),
    "not TOML": ("fear: [panic]", "not a TOML file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    text, message = REFUSED[case]
    found = refusal(tmp_path, text)
    assert message in found and "my_tree" in found


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"'fg_emotion': there is no such file; .* fg_emotions"):
        tree.load("fg_emotion")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        tree.load(tmp_path)
    binary = tmp_path / "image.toml"
    binary.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"image\.toml: not a TOML file"):
        tree.load(binary)


def test_plain_forms_that_are_no_tree():
    plain = tree.load("fg_emotions").to_plain()
    with pytest.raises(DataError, match="needs exactly the keys"):
        tree.Hierarchy.from_plain({"name": "x"})
    with pytest.raises(DataError, match="coarse_of must be a list of int"):
        tree.Hierarchy.from_plain({**plain, "coarse_of": ["fear"] * 33})
    with pytest.raises(DataError, match="33 names, but 2 parents, of a fine class"):
        tree.Hierarchy.from_plain({**plain, "coarse_of": [0, 1]})
    with pytest.raises(DataError, match="'anxiety' has no coarse class above it"):
        tree.Hierarchy.from_plain({**plain, "coarse_of": [9, *plain["coarse_of"][1:]]})
