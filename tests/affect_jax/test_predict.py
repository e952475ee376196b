"""The command: photos and videos of all kinds, tables that resume, exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest

import affect_jax
from affect_jax import predict
from affect_jax.errors import UserError
from affect_jax.inference import predictor, table_run, writers
from affect_jax.inference.face_table import FIXED, NO_FACE
from affect_jax.inference.video import read_video
from tests.affect_jax.inference import media
from tests.affect_jax.inference.conftest import photo_folder, tiny, tiny_model
from tests.affect_jax.inference.test_prediction_run import scene

__all__ = ["photo_folder", "tiny", "tiny_model"]  # fixtures

P = [f"p_{name}" for name in media.CLASSES]
FAULTS = {
    "cut.jpg": "truncated or damaged JPEG",
    "empty.jpg": "zero bytes",
    "notes.txt": "not an image in a known format",
}


def run(model, *arguments):
    return predict.main(["--model", str(model), "--batch_size", "4", *map(str, arguments)])


def read(path):
    table = pd.read_csv(path)
    return table.assign(error=table["error"].astype(object).fillna(""))


@pytest.fixture(scope="module", autouse=True)
def opened_once(tiny):
    """The command with a model that is open already: compiling takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "load", lambda path, **options: tiny)
        yield


@pytest.fixture(scope="module")
def photo_table(tiny_model, photo_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "photos.csv"
    assert run(tiny_model, photo_folder, "--output", output) == 3
    return output


def test_a_folder_of_all_kinds_of_photos_is_one_table(photo_table, photo_folder):
    table = read(photo_table)
    assert tuple(table.columns) == (*FIXED, *P)
    names = [os.path.relpath(file, photo_folder) for file in table["file"]]
    assert list(dict.fromkeys(names)) == sorted(media.photos())
    rows = dict(zip(names, table.to_dict("records"), strict=True))
    for name in media.photos():
        if name in FAULTS:
            assert FAULTS[name] in rows[name]["error"]
            assert (rows[name]["frame"], rows[name]["face"]) == (-1, -1)
        elif name == "no_face.png":
            assert rows[name]["error"] == NO_FACE and rows[name]["frame"] == 0
        else:
            assert rows[name]["error"] == "" and rows[name]["expression"] in media.CLASSES
            assert names.count(name) == (12 if name == "sub/twelve.png" else 1)
    seen = table[table["face"] >= 0]
    np.testing.assert_allclose(seen[P].sum(axis=1), 1, atol=1e-6)
    assert rows["border.png"]["left"] < 0


def test_a_turned_face_is_read_as_an_upright_one(photo_table):
    table = read(photo_table).set_index("file")
    table.index = [os.path.basename(file) for file in table.index]
    upright = table.loc["plain.png", [*P, "valence", "arousal"]].to_numpy(float)
    for name in ("turned_90.png", "turned_180.png", "upside_down_exif.jpg", "alpha.png"):
        found = table.loc[name, [*P, "valence", "arousal"]].to_numpy(float)
        np.testing.assert_allclose(found, upright, atol=0.15)


def test_the_same_command_finds_its_table_complete(photo_table, photo_folder, tiny_model, capsys):
    before = photo_table.read_bytes()
    assert run(tiny_model, photo_folder, "--output", photo_table) == 3
    assert "is complete" in capsys.readouterr().err
    assert photo_table.read_bytes() == before


def test_another_command_is_refused(photo_table, photo_folder, tiny_model, capsys):
    assert run(tiny_model, photo_folder, "--flip", "--output", photo_table) == 2
    assert "differs in flip (False, now True)" in capsys.readouterr().err


@pytest.fixture
def short(tiny_model, tmp_path, monkeypatch):
    """Options of a command on a video and two photos, and a save after every frame."""
    monkeypatch.setattr(table_run, "_SAVE_EVERY", 0.0)
    folder = tmp_path / "in"
    folder.mkdir()
    frames = [scene((0, 10 + n), (1, 120 - n)) for n in range(12)]
    media.write_video(folder / "b.mp4", frames)
    for name, person in (("a.png", 2), ("c.png", 3)):
        (folder / name).write_bytes(media.encoded(scene((person, 40)), "PNG"))
    return [tiny_model, folder, "--workers", "1"]


@pytest.fixture(autouse=True)
def bright(request, monkeypatch):
    if "short" in request.fixturenames:
        name = "affect_jax.inference.prediction_run.default_detector"
        monkeypatch.setattr(name, lambda: media.find_bright)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_crash_or_a_key_in_the_middle_changes_nothing(short, tmp_path, suffix, monkeypatch):
    whole, broken = tmp_path / f"whole.{suffix}", tmp_path / f"broken.{suffix}"
    assert run(*short, "--output", whole) == 0
    real = table_run.TableRun._count
    for error, status in ((KeyboardInterrupt, 130), (MemoryError, None)):
        left = [7]

        def stop(*arguments, left=left, error=error):
            real(*arguments)
            left[0] -= 1
            if not left[0]:
                raise error

        monkeypatch.setattr(table_run.TableRun, "_count", stop)
        if status:
            assert run(*short, "--output", broken) == status
        else:
            with pytest.raises(error):
                run(*short, "--output", broken)
        assert not broken.exists()
    monkeypatch.setattr(table_run.TableRun, "_count", real)
    assert run(*short, "--output", broken) == 0
    assert broken.read_bytes() == whole.read_bytes()
    records = [json.loads(p.with_name(p.name + ".run.json").read_text()) for p in (whole, broken)]
    assert records[0]["position"]["counts"] == records[1]["position"]["counts"]
    assert records[0]["position"]["counts"]["frames"] == 14


def test_a_save_between_a_photo_and_its_end_counts_it_once(short, tmp_path, monkeypatch):
    output, real, left = tmp_path / "t.csv", writers.TableFile.save, [3]

    def stop(self, position):
        real(self, position)  # first: nothing yet; second: the photo; third: its end
        left[0] -= 1
        if left[0] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(writers.TableFile, "save", stop)
    assert run(*short, "--output", output) == 130
    monkeypatch.setattr(writers.TableFile, "save", real)
    assert run(*short, "--output", output) == 0
    record = json.loads((tmp_path / "t.csv.run.json").read_text())
    assert record["position"]["counts"]["files"] == 3


def test_a_stopped_run_with_overwrite_is_resumed_without(tiny_model, monkeypatch, capsys):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict", stop)
    assert run(tiny_model, "a.jpg", "--output", "t.csv", "--overwrite") == 130
    assert "the same command goes on from here, without --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "shown"), [("KeyboardInterrupt", -2, ""), ("ImportError", 1, "ImportError")]
)
def test_a_key_during_the_imports_is_quiet(error, status, shown):
    code = "import runpy, sys\nclass Stop:\n  def find_spec(self, name, *_):\n"
    code += f"    if name == 'affect_jax.inference': raise {error}\n"
    code += "sys.meta_path.insert(0, Stop())\n"
    code += "runpy.run_module('affect_jax.predict', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.split("\n")[-2:-1] == [shown] * bool(shown)


def test_a_reader_that_has_enough_is_no_error():
    code = (
        "import sys; from affect_jax import predict\ndef fail(_): print('x'); raise BrokenPipeError"
    )
    code += "\npredict.predict = fail; sys.exit(predict.main(['a.jpg']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jpg", "--output", "out.xlsx"], "a table ends in .csv, .parquet, .jsonl; for a folder"),
        (["m.csv", "--output", "./m.csv", "--overwrite"], "m.csv is read by this command too"),
        (["a.jpg", "--boxes", "b.csv", "--output", "b.csv"], "b.csv is read by this command too"),
    ],
)
def test_outputs_that_are_refused(tiny_model, tmp_path, monkeypatch, arguments, message, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("m.csv", "b.csv"):
        (tmp_path / name).write_text("path\na.jpg\n")
    assert run(tiny_model, *arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.csv", "m.csv"]


def test_shards_write_a_table_a_video_and_one_of_photos(short, tmp_path, capsys):
    out = tmp_path / "out"
    for index in (1, 2):
        assert run(*short, "--output", out, "--shard", f"{index}/2") == 0
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*.csv"))
    assert names == ["b.mp4.csv", "photos-1-of-2.csv"]
    assert len(read(out / "b.mp4.csv")) == 24 and len(read(out / names[1])) == 2
    assert run(*short, "--output", out, "--shard", "2/2") == 0
    assert "b.mp4.csv is complete" in capsys.readouterr().err


def test_a_folder_may_have_the_name_of_a_table(short, tmp_path):
    (tmp_path / "there.csv").mkdir()
    photo = tmp_path / "in" / "a.png"
    for output in (f"{tmp_path}/there.csv", f"{tmp_path}/new.csv/"):
        assert run(short[0], photo, "--output", output) == 0
        assert len(read(os.path.join(output, "photos.csv"))) == 1


def test_a_folder_may_hold_its_own_table(short, tmp_path):
    output = tmp_path / "in" / "table.csv"
    assert run(*short, "--output", output) == 0
    before = output.read_bytes()
    assert run(*short, "--output", output) == 0
    assert output.read_bytes() == before


def overlays(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*"))


def test_overlays_of_photos_and_videos(short, tmp_path):
    folder, output = tmp_path / "in" / "drawn", tmp_path / "t.csv"
    drawn = [*short, "--output", output, "--overlay", folder]
    assert run(*drawn) == 0
    assert overlays(folder) == ["a.png", "b.mp4", "c.png"]
    photo = cv2.imread(str(folder / "a.png"))[..., ::-1]
    assert photo.shape == (180, 600, 3)  # three times as large
    x, y = (3 * read(output)[name][0] for name in ("left", "top"))
    assert tuple(photo[int(y) + 40, int(x)]) == (86, 180, 233)
    frames = list(read_video(folder / "b.mp4"))
    assert [frame.time for frame in frames] == pytest.approx([0.04 * n for n in range(12)])
    assert frames[0].image.shape == (180, 600, 3)
    # The same command draws what is missing, and reads no overlay as an input.
    (folder / "b.mp4").unlink()
    (folder / "c.png").unlink()
    before = output.read_bytes()
    assert run(*drawn) == 0
    assert overlays(folder) == ["a.png", "b.mp4", "c.png"]
    assert output.read_bytes() == before and len(list(read_video(folder / "b.mp4"))) == 12


def test_a_resumed_run_draws_an_unfinished_video_from_its_beginning(short, tmp_path, monkeypatch):
    real, left = table_run.TableRun._count, [7]
    folder, output = tmp_path / "drawn", tmp_path / "t.csv"

    def stop(*arguments):
        real(*arguments)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(table_run.TableRun, "_count", stop)
    drawn = [*short, "--output", output, "--overlay", folder]
    assert run(*drawn) == 130
    assert overlays(folder) == ["a.png"]
    assert run(*drawn) == 0
    assert overlays(folder) == ["a.png", "b.mp4", "c.png"]
    assert [frame.number for frame in read_video(folder / "b.mp4")] == list(range(12))
    assert run(*short, "--output", tmp_path / "whole.csv") == 0
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_an_overlay_is_no_file_and_holds_no_input(short, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(*short, "--overlay", tmp_path / "file") == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert run(short[0], tmp_path / "in" / "a.png", "--overlay", tmp_path / "in") == 2
    assert "is written to, and holds the input" in capsys.readouterr().err
    assert run(*short, "--overlay", tmp_path / "in") == 2
    assert "hold no file other than in" in capsys.readouterr().err


def test_what_has_no_frame_is_a_row_and_is_not_read_again(short, tmp_path, monkeypatch, capsys):
    folder, output = tmp_path / "in", tmp_path / "t.csv"
    (folder / "b.mp4").unlink()
    media.write_sound(folder / "sound.mp4")
    media.write_no_frames(folder / "zero.avi")
    (folder / "d.txt").write_text("not a photo\n")
    command = [*short, "--output", output, "--overlay", tmp_path / "drawn"]
    assert run(*command) == 3
    table = read(output)
    names = ["a.png", "c.png", "d.txt", "sound.mp4", "zero.avi"]
    assert [os.path.basename(file) for file in table["file"]] == names
    assert table["frame"].tolist() == [0, 0, -1, -1, -1]
    assert table["error"].tolist()[3:] == [
        "the file has no video stream",
        "the video has no frame that can be decoded",
    ]
    assert overlays(tmp_path / "drawn") == ["a.png", "c.png"]

    def never(*arguments):
        raise AssertionError("read again")

    monkeypatch.setattr(table_run.TableRun, "_predictions", never)
    assert run(*command) == 3
    assert "5 files, 2 frames, 2 faces, 0 frames without a face, 3 files" in capsys.readouterr().err


def test_boxes_of_a_file_take_the_place_of_a_detector(short, tmp_path):
    video, photo = tmp_path / "in" / "b.mp4", tmp_path / "in" / "a.png"
    lines = [f"{video},3,10,15,40,45", f"{photo},,40,15,70,45"]
    (tmp_path / "boxes.csv").write_text("path,frame,left,top,right,bottom\n" + "\n".join(lines))
    output = tmp_path / "t.csv"
    assert run(*short, "--boxes", tmp_path / "boxes.csv", "--output", output) == 0
    table = read(output)
    assert len(table) == 14
    seen = table[table["face"] == 0]
    assert seen["left"].tolist() == [40, 10] and seen["frame"].tolist() == [0, 3]
    assert (table[table["face"] < 0]["error"] == NO_FACE).all()


def test_without_an_output_rows_are_printed(short, capsys):
    assert run(*short) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("file,frame,time") and len(lines) == 27


def test_without_a_model_the_one_in_the_box_is_used(tiny_model, tmp_path, monkeypatch, capsys):
    photo = tmp_path / "a.png"
    photo.write_bytes(media.encoded(scene((0, 40)), "PNG"))
    monkeypatch.setattr(predictor, "BOX_MODEL", tmp_path / "none")
    assert predict.main([str(photo)]) == 2
    assert "no model was named, and this installation has none" in capsys.readouterr().err
    with pytest.raises(UserError, match="no model was named"):
        affect_jax.load()
    monkeypatch.setattr(predictor, "BOX_MODEL", tiny_model)
    assert affect_jax.load().loaded.class_names == media.CLASSES
    assert predict.main([str(photo), "--no_detect", "--batch_size", "4"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["*.none"], "holds no file"),
        (["a.jpg", "--fps", "-3"], "fps = -3.0"),
        (["a.jpg", "--temperature", "0"], "temperature = 0.0"),
    ],
)
def test_wrong_commands(tiny_model, arguments, message, capsys):
    assert run(tiny_model, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_shard_that_does_not_exist(tiny_model, capsys):
    with pytest.raises(SystemExit) as error:
        run(tiny_model, "a.jpg", "--shard", "3/2")
    assert error.value.code == 2
    assert "is not I/N with I from 1 to N" in capsys.readouterr().err


def test_a_missing_file_is_a_row_and_status_three(tiny_model, tmp_path, capsys):
    assert run(tiny_model, tmp_path / "none.jpg") == 3
    assert "No such file or directory" in capsys.readouterr().out


@pytest.mark.slow
def test_kill_and_resume(tiny_model, tmp_path):
    frames = [scene((0, 10 + n % 40), (1, 120 - n % 40)) for n in range(600)]
    media.write_video(tmp_path / "v.mp4", frames)
    command = [sys.executable, "-m", "affect_jax.predict", "--model", tiny_model, "--no_detect"]
    command += [tmp_path / "v.mp4", "--output"]
    subprocess.run([*command, tmp_path / "whole.csv"], check=True, timeout=300)
    kills = 0
    for _ in range(3):
        process = subprocess.Popen([*command, tmp_path / "killed.csv"])
        partial, size = tmp_path / "killed.csv.partial", 0
        while process.poll() is None:
            if partial.exists() and partial.stat().st_size > size + 20_000:
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
                break
            size = size or (partial.stat().st_size if partial.exists() else 0)
            time.sleep(0.01)
    assert kills >= 2
    subprocess.run([*command, tmp_path / "killed.csv"], check=True, timeout=300)
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
