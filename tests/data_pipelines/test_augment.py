import cv2
import pytest

from data_pipelines import augment
from data_pipelines.images.presets import PRESETS
from tests.data_pipelines.made_images import smooth


def test_contact_sheet_command(tmp_path, capsys):
    source = tmp_path / "face.png"
    cv2.imwrite(str(source), smooth(40, 40))
    output = tmp_path / "sheet.png"
    arguments = ["--output", str(output), "--size", "32", "--draws", "3"]
    assert augment.main(["--preset", "arbex_heavy", *arguments, str(source)]) == 0
    sheet = cv2.imread(str(output))
    assert sheet.shape == (32, 128, 3)
    assert augment.main(["--preset", "emofan", *arguments]) == 0
    assert cv2.imread(str(output)).shape == (128, 128, 3)
    for wrong in ([*arguments, "nowhere.jpg"], ["--output", str(tmp_path / "no/s.png")]):
        with pytest.raises(SystemExit):
            augment.main(["--preset", "emofan", *wrong])
        assert "No such file" in capsys.readouterr().err


def test_one_command_draws_the_sheets_of_all_presets(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "sheets"), "--size", "16", "--draws", "2"]
    assert augment.main(["--preset", "all", *arguments]) == 0
    sheets = sorted((tmp_path / "sheets").iterdir())
    assert [s.stem for s in sheets] == sorted(PRESETS)
    assert capsys.readouterr().out.splitlines() == [str(s) for s in sheets]
    assert {cv2.imread(str(s)).shape for s in sheets} == {(64, 48, 3)}
