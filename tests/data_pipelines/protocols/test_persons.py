import hashlib
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.protocols import persons

NAMES = [f"person {k // 3}" for k in range(600)]


def test_the_test_fold_is_the_hash_of_the_name():
    for name in ("Aaron_Sorkin", "x", "Ω"):
        number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
        assert persons.fold_of(name, 4) == number % 4
        assert persons.fold_of(name, 7) == number % 7


def test_no_person_stands_on_two_sides():
    split = persons.assign(NAMES)
    assert persons.shared_persons(NAMES, split) == []
    sizes = np.bincount(split, minlength=3) / len(NAMES)
    assert abs(sizes[2] - 0.25) < 0.1 and abs(sizes[1] - 0.75 * 0.15) < 0.05
    np.testing.assert_array_equal(split == 2, [persons.fold_of(n, 4) == 1 for n in NAMES])


def test_the_cut_does_not_depend_on_the_order_of_rows():
    order = np.random.default_rng(0).permutation(len(NAMES))
    shuffled = persons.assign([NAMES[i] for i in order])
    np.testing.assert_array_equal(shuffled, persons.assign(NAMES)[order])


def test_seed_and_fraction_of_the_validation_cut():
    one, two = (persons.choose_validation(NAMES, 0.2, seed) for seed in (0, 1))
    assert len(one) == len(two) == 40 and one != two
    assert persons.choose_validation(NAMES, 0.0) == set()
    assert persons.choose_validation(["only"], 0.5) == set()
    assert len(persons.choose_validation(["a", "b"], 0.01)) == 1
    assert len(persons.choose_validation(["a", "b"], 0.99)) == 1


def test_given_splits_are_followed():
    given = np.array([0, 0, 1, 2, -1] * 120)
    split = persons.assign(NAMES, given=given)
    np.testing.assert_array_equal(split[given > 0], given[given > 0])
    assert (split[given == 0] == 0).all()  # both sides are given: nothing more is cut
    only_test = persons.assign(NAMES, given=np.where(given == 2, 2, 0))
    assert (only_test == 1).any()
    only_validation = persons.assign(NAMES, given=np.where(given == 1, 1, 0))
    assert (only_validation == 2).any() and (only_validation[given == 1] == 1).all()


def test_rows_without_a_given_split_follow_their_person():
    names = ["a", "a", "b", "b", "c", "c", "d", "d", "d", "e"]
    given = np.array([2, -1, 1, -1, 0, -1, 0, 2, -1, -1])
    split = persons.assign(names, given=given)
    np.testing.assert_array_equal(split, [2, 2, 1, 1, 0, 0, 0, 2, 2, 0])


def test_test_persons_are_not_drawn_from_given_validation_persons():
    # Every second picture of every third person is for validation; no test row is given.
    number = np.array([int(n.split()[-1]) for n in NAMES])
    given = np.where((number % 3 == 0) & (np.arange(len(NAMES)) % 2 == 0), 1, -1)
    split = persons.assign(NAMES, given=given)
    assert (split == 2).any() and (split == 1).any()
    assert persons.shared_persons(NAMES, split) == []


def test_shared_persons_are_named():
    assert persons.shared_persons(["b", "a", "a", "b", "c"], np.array([0, 0, 1, 2, 0])) == [
        "a",
        "b",
    ]


def join(rows, header="person,video", paths=None):
    """Names of the components of rows, each written as its cells with commas between them."""
    header = header.split(",")
    cells = [dict(zip(header, row.split(","), strict=True)) for row in rows]
    names = [tuple(c.get(column, "") for column in persons.NAME_COLUMNS) for c in cells]
    paths = paths or [f"{k}.jpg" for k in range(len(rows))]
    return persons.components(names, [f"/photos/{p}" for p in paths], paths)


def test_full_tables_keep_the_names_of_persons():
    # Each person has a video "1"; nothing joins them.
    rows = [f"{p},{v}" for p in ("ann", "bob", "cat") for v in ("1", "2", "")]
    found = join(rows)
    assert found.names == [p for p in ("ann", "bob", "cat") for _ in range(3)]
    assert found.joined == () and found.unnamed == 0 and found.ambiguous == ("1", "2")


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        # A video that names its person in some rows only.
        (["ann,v", ",v", "bob,w", ",w"], ["ann", "ann", "bob", "bob"]),
        # Over several steps: ann - v - w - bob, by rows of ann's in w and of no one in both.
        (["ann,v", ",v", "ann,w", ",w", "bob,w"], ["ann"] * 5),
        # No person at all: as the video is called.
        ([",v", ",w", ",v", ","], ["v", "w", "v", "3.jpg"]),
    ],
)
def test_rows_without_a_person_follow_their_video(rows, names):
    assert join(rows).names == names
    backwards = join(rows[::-1], paths=[f"{k}.jpg" for k in range(len(rows))][::-1])
    assert backwards.names == names[::-1]


def test_a_video_of_one_person_in_two_spellings_is_not_ambiguous():
    assert join(["1,v", "01,v", "1.0,V"]).ambiguous == ()
    assert join(["1,v", "2,V"]).ambiguous == ("V",)


def test_joined_persons_are_listed():
    found = join(["cat,1", "bob,1", "ann,2", ",1", "dan,"])
    assert found.names == ["bob", "bob", "ann", "bob", "dan"]
    assert found.joined == (("bob", "cat"),)
    assert found.ambiguous == ()


def test_groups_clips_subjects_and_identities_join_too():
    header = "person,subject,identity,group,clip"
    rows = ["ann,7,,,", ",7,,,", ",,x,,", "bob,,x,,", ",,,g,c", ",,,g,d", ",,,,d"]
    assert join(rows, header).names == ["ann", "ann", "bob", "bob", "c", "c", "c"]
    # Numbers of subjects and of persons that count different things join nothing.
    assert join(["1,2,,,", "2,1,,,"], header).names == ["1", "2"]


def test_a_picture_that_is_listed_twice_is_one():
    paths = ["a.jpg", "b.jpg", "a.jpg", "c.jpg", "c.jpg", "d.jpg", "d.jpg"]
    rows = [",", ",", ",", "ann,", ",", "ann,", "bob,"]
    found = join(rows, paths=paths)
    # Two named persons on one photo stay two.
    assert found.names == ["a.jpg", "b.jpg", "a.jpg", "ann", "ann", "ann", "bob"]
    assert found.unnamed == 4


def test_capitals_do_not_tell_persons_apart():
    found = join(["Ann,", "ann,", "ANN,v", "Bob,"])
    assert found.names == ["ANN", "ANN", "ANN", "Bob"] and found.joined == ()


@pytest.mark.parametrize(
    "names",
    [
        ("1", "01", "001", "1.0", " 1 ", "\uff11"),
        ("0", "00", "0.0"),
        ("Ann Lee", "ann  lee", "Ann\tLee", "Ann\u00a0Lee"),
        ("Ren\u00e9", "RENE\u0301"),
    ],
)
def test_spellings_that_programs_make_of_a_name_are_one_person(names):
    found = join([f"{name}," for name in (*names, "other")]).names
    assert len(set(found[:-1])) == 1 and found[-1] == "other"
    # A person is never cut by a spelling in one row.
    assert len(set(join([f",{name}" for name in names]).names)) == 1


@pytest.mark.parametrize("names", [("1", "10"), ("1", "1.5"), ("S1", "S01"), ("1", "-1")])
def test_other_names_are_other_persons(names):
    assert join([f"{name}," for name in names]).names == list(names)


def test_splits_do_not_depend_on_how_accents_are_stored():
    names = [f"Ren\u00e9 {k}" for k in range(40)]
    decomposed = [unicodedata.normalize("NFD", name) for name in names]
    assert join([f"{name}," for name in decomposed]).names == names


def test_one_name_in_two_unicode_forms_is_one_video():
    assert len(set(join([",Jos\u00e9", ",Jose\u0301"]).names)) == 1


def cells(*names):
    """Cells of one column; columns have names of their own, so that none meet by chance."""
    return st.sampled_from(["", *names])


row = st.tuples(cells("p", "q", "r"), cells("v", "w", "x"), cells("g", "h"), cells("1", "2", "3"))


@settings(max_examples=150, deadline=None)
@given(st.lists(row, min_size=1, max_size=14))
def test_components_are_those_of_the_rules_applied_pair_by_pair(rows):
    names = [(p, "", "", v, g, "") for p, v, g, _ in rows]
    paths = [f"{path or f'own {k}'}.jpg" for k, (*_, path) in enumerate(rows)]
    found = persons.components(names, paths, paths).names

    def together(i, j):
        (p, *one, _), (q, *two, _) = rows[i], rows[j]
        if p and q:
            return p == q
        return (
            i == j
            or paths[i] == paths[j]
            or any(a and a == b for a, b in zip(one, two, strict=True))
        )

    reach = np.array([[together(i, j) for j in range(len(rows))] for i in range(len(rows))])
    for _ in rows:
        reach = reach @ reach
    np.testing.assert_array_equal(reach, np.equal.outer(found, found))
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    again = persons.components(
        [names[k] for k in order], [paths[k] for k in order], [paths[k] for k in order]
    )
    assert again.names == [found[k] for k in order]
