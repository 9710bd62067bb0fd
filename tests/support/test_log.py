"""metrics.jsonl: appended, cut back to a checkpoint, read whatever a killed process left."""

import builtins
import errno
import json
import math
import sys
from types import ModuleType

import pytest

from fastkd.support import log
from fastkd.support.errors import UserError
from fastkd.support.log import MetricsLog, import_tensorboard, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def written(path, *records):
    metrics = MetricsLog(path)
    for record in records:
        metrics.append(record)
    return metrics


class TestFile:
    def test_records_are_lines_in_their_order(self, path):
        written(path, {"step": 1}, {"step": 2, "train": {"loss": 0.5}})
        assert path.read_text() == '{"step": 1}\n{"step": 2, "train": {"loss": 0.5}}\n'
        assert read_metrics(path) == [{"step": 1}, {"step": 2, "train": {"loss": 0.5}}]

    def test_a_second_log_goes_on_where_the_first_stopped(self, path):
        written(path, {"step": 1})
        written(path, {"step": 2})
        assert [record["step"] for record in read_metrics(path)] == [1, 2]

    def test_numbers_that_are_not_finite_survive(self, path):
        written(path, {"loss": math.nan, "kl": math.inf})
        (record,) = read_metrics(path)
        assert math.isnan(record["loss"]) and record["kl"] == math.inf

    def test_a_cut_forgets_what_came_after_the_checkpoint(self, path):
        metrics = written(path, {"step": 1})
        size = metrics.size()
        metrics.append({"step": 2})
        assert metrics.size() > size
        metrics.cut(size)
        metrics.append({"step": 3})
        assert [record["step"] for record in read_metrics(path)] == [1, 3]

    def test_a_cut_to_more_than_there_is_changes_nothing(self, path):
        """A person emptied the log of a run: no NUL bytes fill it up."""
        metrics = written(path, {"step": 1})
        metrics.cut(10_000)
        assert read_metrics(path) == [{"step": 1}]

    def test_without_a_file_there_is_nothing_to_count_to_cut_or_to_read(self, path):
        metrics = MetricsLog(path)
        assert metrics.size() == 0 and read_metrics(path) == []
        metrics.cut(0)
        assert not path.exists(), "a dry run writes nothing"

    def test_a_full_disk_is_one_line(self, path, monkeypatch):
        def full(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(builtins, "open", full)
        with pytest.raises(UserError, match=r"^cannot write .*metrics\.jsonl: the disk is full$"):
            MetricsLog(path).append({"step": 1})

    def test_a_folder_that_is_gone_is_one_line(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot write .*gone/metrics\.jsonl: No such file"):
            MetricsLog(tmp_path / "gone" / "metrics.jsonl").append({})


class TestReading:
    @pytest.mark.parametrize("kept", (1, 5, 11))
    def test_a_last_line_that_a_killed_process_left_half_written_is_skipped(self, kept, path):
        line = json.dumps({"step": 123})
        assert kept < len(line)
        path.write_text('{"step": 1}\n' + line[:kept])
        assert read_metrics(path) == [{"step": 1}]

    def test_a_damaged_line_in_the_middle_is_named(self, path):
        path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is not JSON$"):
            read_metrics(path)

    def test_an_empty_file_has_no_records(self, path):
        path.write_text("")
        assert read_metrics(path) == []


class Writer:
    """Stands for tensorboard's SummaryWriter."""

    def __init__(self, folder):
        self.folder, self.scalars = folder, []

    def add_scalar(self, *scalar):
        self.scalars.append(scalar)


class TestTensorboard:
    def test_every_number_of_a_record_is_a_curve_of_its_stage(self, path, monkeypatch):
        monkeypatch.setattr(log, "import_tensorboard", lambda: Writer)
        metrics = MetricsLog(path, tensorboard=True)
        metrics.append(
            {"stage": "student", "step": 4, "train": {"loss": 0.5, "kl": math.nan}, "test": {}, "done": True}
        )
        metrics.append({"seconds": 2})
        assert metrics.tensorboard.folder == str(path.parent / "tensorboard")
        names = [(name, step) for name, _, step in metrics.tensorboard.scalars]
        assert names == [("student/step", 4), ("student/train/loss", 4), ("student/train/kl", 4), ("run/seconds", 0)]
        assert len(read_metrics(path)) == 2, "the file has them all the same"

    def test_without_the_package_one_line_says_how_to_get_it(self, path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(UserError, match=r"^--tensorboard needs the package tensorboard: pip install 'fastkd\["):
            MetricsLog(path, tensorboard=True)

    def test_the_class_is_tensorboards_own(self, monkeypatch):
        module = ModuleType("torch.utils.tensorboard")
        module.SummaryWriter = Writer
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        assert import_tensorboard() is Writer

    def test_it_is_not_imported_unless_it_is_asked_for(self, path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        written(path, {"step": 1})
