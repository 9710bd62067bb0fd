"""What every command does with a mistake in its options."""

import pytest

from fastkd import compare, evaluate, report, train
from fastkd.support.errors import UserError


@pytest.mark.parametrize("main", (evaluate.main, report.main, compare.main))
def test_every_command_names_the_nearest_option(main):
    with pytest.raises(UserError, match="no option --outt|no option --jsonn"):
        main(["somewhere", "--outt" if main is not evaluate.main else "--jsonn", "x"])


@pytest.mark.parametrize(
    "main, arguments, words",
    [
        (train.main, ["--epochs", "abc"], "^Error parsing --epochs: expected INT, got 'abc'$"),
        (train.main, ["--epochs"], "^Missing value for argument '--epochs'"),
        (train.main, ["--kd.temperature", "x"], "^Error parsing --kd.temperature: expected FLOAT"),
        (train.main, ["digits", "cifar"], "^Unrecognized options: cifar$"),
        (train.main, ["--teacher-training", "nope"], "invalid choice 'nope'.*'standard', 'sftn'"),
        (evaluate.main, [], "^Missing from python -m fastkd.evaluate: RUN"),
        (report.main, [], "^name the folder of a run"),
    ],
)
def test_a_bad_value_is_one_line(main, arguments, words, capsys):
    with pytest.raises(UserError, match=words) as error:
        main(arguments)
    assert "\n" not in str(error.value) and "│" not in str(error.value)
    assert capsys.readouterr() == ("", "")
