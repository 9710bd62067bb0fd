"""python -m fastkd.sweep: every combination of some values, as one table."""

import csv

import pytest
from helpers.image_folders import write_folder

from fastkd import sweep
from fastkd.support.errors import UserError

TINY = ["digits", "--limit-train", "16", "--batch-size", "16", "--epochs", "1", "--warmup-epochs", "0"]
TINY += ["--pair", "resnet8/resnet8"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["digitz"], "no recipe 'digitz'"),
        (["digits"], "--over OPTION=A,B,C says what is tried"),
        (["digits", "--over", "lr"], "--over is OPTION=A,B,C"),
        (["digits", "--over", "lr=0.1,,0.2"], "--over is OPTION=A,B,C"),
        (["digits", "--over", "lr=0.1,0.1"], "has a value twice"),
        (["digits", "--over", "lr=0.1", "--over", "lr=0.2"], "--over lr is given twice"),
        (["digits", "--over", "pair=resnet8"], "a pair is TEACHER/STUDENT"),
        (["digits", "--over", "epochz=3"], "epochz"),
        (["digits", "--over", "epochs=x"], "epochs"),
        (["digits", "--over", "method=kd,kdd"], "no method 'kdd'"),
        (["digits", "--over", "lr=0.1", "--resume", "x"], "--resume is not for a table"),
    ],
)
def test_one_line(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        sweep.main([*arguments, "--out", str(tmp_path / "out")])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_teachers_are_shared_and_students_are_in_one_table(tmp_path, capsys):
    over = ["--over", "kd.temperature=1,4", "--over", "teacher-training=standard"]
    out = tmp_path / "out"
    assert sweep.main([*TINY, *over, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "3 trainings, 3 left" in shown.err, "a teacher and two students"
    (file,) = (out / "tables").glob("*.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    names = {row["row"] for row in rows}
    assert names == {f"kd.temperature={value}, teacher-training=standard" for value in (1, 4)}
    assert {row["column"] for row in rows} == {"teacher", "student"} and all(row["ours"] for row in rows)
    assert sweep.main([*TINY, *over, "--out", str(out)]) == 0
    assert "3 trainings, 0 left" in capsys.readouterr().err


def test_a_plan_of_everything_that_a_row_may_name(tmp_path, capsys):
    over = ["--over", "pair=resnet8/resnet8,resnet14/resnet8", "--over", "method=kd,kd+sp", "--over", "lr=0.1,0.05"]
    assert sweep.main(["digits", *over, "--plan", "--out", str(tmp_path / "out")]) == 0
    assert "8 cells" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["imagefolder={}", "imagefolder:{}"])
def test_own_data_take_the_place_of_the_recipes(written, tmp_path, capsys):
    data = written.format(write_folder(tmp_path / "birds", size=(8, 8), per_class=6))
    how = ["--over", "kd.temperature=1,4", "--batch-size", "4", "--image-size", "8", "--out", str(tmp_path / "out")]
    assert sweep.main(["digits", *how, "--data", data, "--plan"]) == 0
    assert "2 cells" in capsys.readouterr().err
    with pytest.raises(UserError, match="no data set 'birdfolder"):
        sweep.main(["digits", *how, "--data", "birdfolder=x"])
