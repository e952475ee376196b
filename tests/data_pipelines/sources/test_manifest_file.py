import json
import ntpath
import pathlib
import types

import pytest

from data_pipelines.schema import DataError, TooManyBadRecords
from data_pipelines.sources import manifest_file
from data_pipelines.sources.make import make_sources
from data_pipelines.sources.manifest_file import common_folder, joined, read_rows
from tests.data_pipelines.made_images import encode, manifest_source, smooth

PICTURE = encode(smooth(8, 8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for k in range(12):
        (tmp_path / "images" / f"{k}.jpg").write_bytes(PICTURE)
    return tmp_path


def write(folder, text, encoding="utf-8", name="m.csv"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("first", ["", "sep={}", "SEP={}", '"sep={}"', "sep={}{}"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_excel_writes_is_read(folder, delimiter, first, encoding, ending):
    lines = [first.format(delimiter, delimiter)] if first else []
    lines += ["path;expression;person", "images/0.jpg;sad;Zoë", "images/1.jpg;happy;", ";;"]
    lines = [line if "=" in line else line.replace(";", delimiter) for line in lines]
    text = ending.join(lines)
    rows = dict(read_rows(write(folder, text, encoding)))
    start = 2 + bool(first)
    assert rows == {
        start: {"path": "images/0.jpg", "expression": "sad", "person": "Zoë"},
        start + 1: {"path": "images/1.jpg", "expression": "happy", "person": ""},
    }


def test_files_that_are_no_csv_say_what_to_do(folder):
    (folder / "m.csv").write_bytes(b"PK\x03\x04" + bytes(30))
    with pytest.raises(DataError, match="is an Excel workbook; in Excel, save it as"):
        list(read_rows(folder / "m.csv"))
    with pytest.raises(DataError, match=r"zero bytes: UTF-16 without .*CSV UTF-8"):
        list(read_rows(write(folder, "path,expression\n", "utf-16-le")))
    with pytest.raises(DataError, match="CSV UTF-8"):
        list(read_rows(write(folder, "path,expression\nä.jpg,sad\n", "cp1252")))


@pytest.mark.parametrize(
    "header", ["path,expression,expression", "path,expression,Expression ", "path,PATH,expression"]
)
def test_a_column_that_stands_twice_is_refused(folder, header):
    with pytest.raises(DataError, match=r"column (expression|path) occurs more than once"):
        manifest_source(write(folder, f"{header}\nimages/0.jpg,sad,happy\n"))


def test_a_name_that_stands_twice_in_a_json_line_is_refused(folder):
    for second in ("expression", " Expression"):
        line = f'{{"path": "images/0.jpg", "expression": "sad", "{second}": "happy"}}'
        with pytest.raises(DataError, match=r"m\.jsonl:1: column expression occurs more than once"):
            manifest_source(write(folder, line, name="m.jsonl"))


def test_columns_without_a_name_are_of_no_account(folder):
    source = manifest_source(write(folder, "path,expression,,\nimages/0.jpg,sad,,x\n"))
    assert source.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,expression,", "images/0.jpg,sad"),
        ("path,expression", "images/0.jpg,sad,"),
        ("path,expression", "images/0.jpg,sad, ,"),
        ("\n \npath,expression", "images/0.jpg,sad"),
    ],
)
def test_empty_cells_at_the_end_and_empty_lines_at_the_top_do_not_count(folder, header, row):
    ((number, read),) = read_rows(write(folder, f"{header}\n{row}\n"))
    assert (read["path"], read["expression"]) == ("images/0.jpg", "sad")
    assert number == 2 + header.count("\n")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_refused_with_what_to_do(folder, indent):
    rows = [{"path": "images/0.jpg", "expression": "sad"}]
    with pytest.raises(DataError, match="is one JSON array; write one object per line"):
        manifest_source(write(folder, json.dumps(rows, indent=indent), name="m.json"))


def test_json_values_may_be_nested(folder):
    row = {"path": "images/0.jpg", "expression": "sad", "box": [0, 1, 5, 6], "extra": {"a": [{}]}}
    assert dict(read_rows(write(folder, json.dumps(row), name="m.jsonl"))) == {1: row}


def test_rows_cut_short_are_bad(folder):
    rows = [f"images/{k}.jpg,{('sad', 'happy')[k % 2]},train" for k in range(11)]
    text = "\n".join(["path,expression,split", *rows, "images/11.jpg"])
    source = manifest_source(write(folder, text))
    assert source.bad_rows == [(13, "", "1 cells where the header has 3")]


def test_two_columns_for_a_person_and_misspelt_columns_are_warned_of(folder, caplog):
    manifest_source(write(folder, "path,expression,subject,Person,persn\nimages/0.jpg,sad,a,b,c\n"))
    assert "columns person, subject: the first of them" in caplog.text
    assert "column persn is not read; did you mean person?" in caplog.text


@pytest.mark.parametrize("path", ["images\\0.jpg", ".\\images\\0.jpg", "images/0.jpg"])
def test_paths_of_windows_are_found(folder, path):
    source = manifest_source(write(folder, f"path,expression\n{path},sad\n"))
    assert source[0]["image"] == PICTURE and "\\" not in source.paths[0]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_are_found_in_either_form(folder, form):
    import unicodedata

    (folder / unicodedata.normalize("NFD", "Zoë.jpg")).write_bytes(PICTURE)
    name = unicodedata.normalize(form, "Zoë.jpg")
    assert manifest_source(write(folder, f"path,expression\n{name},sad\n"))[0]["image"] == PICTURE


def test_a_folder_as_a_picture_and_a_drive_of_windows_are_bad(folder):
    for path, reason in (("images", "this is a folder"), (r"C:\a\b.jpg", "missing file")):
        with pytest.raises(TooManyBadRecords, match=reason):
            manifest_source(write(folder, f"path,expression\n{path},sad\n"))


def test_a_decimal_comma_is_named(folder):
    text = "path;valence;arousal\nimages/0.jpg;0,5;0,1\n"
    with pytest.raises(TooManyBadRecords, match=r"'0,5' is not a number; write a point instead of"):
        manifest_source(write(folder, text))


def test_splits_without_labels_are_told(folder, caplog):
    rows = [f"images/{k}.jpg,{('sad', 'happy')[k % 2]},p{k},train" for k in range(8)]
    rows += ["images/8.jpg,,q,validation", "images/9.jpg,,r,test", "images/10.jpg,sad,s,test"]
    path = write(folder, "\n".join(["path,expression,person,split", *rows]))
    make_sources({"manifest": str(path)})
    assert "none of the 1 images of the validation split has expression" in caplog.text
    assert "of the test split has" not in caplog.text
    rows = [f"images/{k}.jpg,,p{k},train" for k in range(8)] + ["images/9.jpg,sad,r,test"]
    path = write(folder, "\n".join(["path,expression,person,split", *rows]))
    with pytest.raises(DataError, match=r"none of the .* training images has a label"):
        make_sources({"manifest": str(path)})


def test_folders_on_windows(monkeypatch):
    windows = types.SimpleNamespace(path=ntpath, sep="\\", curdir=".")
    monkeypatch.setattr(manifest_file, "os", windows)
    root, places = common_folder([pathlib.Path(p) for p in (r"C:\d\one\deep", r"C:\d\two")])
    assert str(root) == r"C:\d" and places == ["one/deep", "two"]
    assert joined("one/deep", r"i\0.jpg") == "one/deep/i/0.jpg"
    assert joined("one", r"D:\0.jpg") == "D:/0.jpg"
    with pytest.raises(DataError, match=r"on different drives \(C:.*, D:.*\); put them on one"):
        common_folder([pathlib.Path(p) for p in (r"C:\d", r"D:\d")])
