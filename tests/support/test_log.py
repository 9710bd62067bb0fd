"""metrics.jsonl: appended, cut back to a checkpoint, read whatever a killed process left."""

import contextlib
import errno
import json
import math

import pytest

from fastkd.support import log as log_module
from fastkd.support.errors import UserError
from fastkd.support.log import MetricsLog, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def line(step, **more):
    """A record as a training writes it."""
    return {"stage": "teacher", "step": step, "train": {"loss": 0.5}} | more


def written(path, *records):
    metrics = MetricsLog(path)
    for record in records:
        metrics.append(record)
    return metrics


class TestFile:
    def test_records_are_lines_in_their_order(self, path):
        written(path, line(1), line(2))
        assert [json.loads(text) for text in path.read_text().splitlines()] == [line(1), line(2)] == read_metrics(path)

    def test_a_second_log_goes_on_where_the_first_stopped(self, path):
        written(path, line(1))
        written(path, line(2))
        assert [record["step"] for record in read_metrics(path)] == [1, 2]

    def test_numbers_that_are_not_finite_survive(self, path):
        written(path, line(1, train={"loss": math.nan, "kl": math.inf}))
        (record,) = read_metrics(path)
        assert math.isnan(record["train"]["loss"]) and record["train"]["kl"] == math.inf

    def test_a_cut_forgets_what_came_after_the_checkpoint(self, path):
        metrics = written(path, line(1))
        size = metrics.size()
        metrics.append(line(2))
        assert metrics.size() > size
        metrics.cut(size)
        metrics.append(line(3))
        assert [record["step"] for record in read_metrics(path)] == [1, 3]

    def test_a_cut_to_more_than_there_is_changes_nothing(self, path):
        """A person emptied the log of a run: no NUL bytes fill it up."""
        metrics = written(path, line(1))
        metrics.cut(10_000)
        assert read_metrics(path) == [line(1)]

    def test_without_a_file_there_is_nothing_to_count_to_cut_or_to_read(self, path):
        metrics = MetricsLog(path)
        assert metrics.size() == 0 and read_metrics(path) == []
        metrics.cut(0)
        assert not path.exists(), "a dry run writes nothing"

    def test_a_full_disk_is_one_line(self, path, monkeypatch):
        def full(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(log_module, "open_in_place", full)
        with pytest.raises(UserError, match=r"^cannot write .*metrics\.jsonl: the disk is full$"):
            MetricsLog(path).append({"step": 1})

    def test_a_folder_that_is_gone_is_one_line(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot write .*gone/metrics\.jsonl: No such file"):
            MetricsLog(tmp_path / "gone" / "metrics.jsonl").append({})


class TestReading:
    @pytest.mark.parametrize("kept", (1, 5, 11))
    def test_a_last_line_that_a_killed_process_left_half_written_is_skipped(self, kept, path):
        path.write_text(json.dumps(line(1)) + "\n" + json.dumps(line(123))[:kept])
        assert read_metrics(path) == [line(1)]

    def test_damage_in_the_middle_costs_its_lines_alone(self, path):
        lines = [json.dumps(line(1)), '{"ste', "\0\0\0", "[]", json.dumps(line(2) | {"step": -1}), json.dumps(line(3))]
        path.write_text("\n".join(lines) + "\n")
        assert [record["step"] for record in read_metrics(path)] == [1, 3]

    def test_an_empty_file_has_no_records(self, path):
        path.write_text("")
        assert read_metrics(path) == []


class TestRepair:
    """What a resumed run does with a log that is not what its checkpoint counts on."""

    @pytest.fixture
    def log(self, path):
        return written(path, line(1), line(2), line(3))

    def test_one_that_is_whole_is_cut_without_a_word(self, log, path):
        assert log.cut(log.size()) == "" and len(read_metrics(path)) == 3

    @pytest.mark.parametrize("kept", (0, 10, 100))
    def test_one_that_a_power_cut_shortened(self, kept, log, path):
        size = log.size()
        path.write_bytes(path.read_bytes()[:kept])
        assert f"{size - kept:,} bytes are gone" in log.cut(size)
        log.append(line(4))
        assert [record["step"] for record in read_metrics(path)] == [*([1] if kept == 100 else []), 4]

    def test_one_that_ends_in_zeros(self, log, path):
        size, half = log.size(), log.size() // 2
        path.write_bytes(path.read_bytes()[:half] + bytes(size - half))
        assert "lines are no records" in log.cut(size)
        log.append(line(4))
        assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [1, 4]

    def test_it_is_on_the_disk_before_a_checkpoint_counts_its_bytes(self, log, monkeypatch):
        synced = []
        monkeypatch.setattr(log_module.os, "fsync", lambda number: synced.append(number))
        assert log.size() > 0 and synced

    @pytest.mark.parametrize("action", ("append", "size", "cut"))
    def test_a_link_in_its_place_is_not_written_through(self, action, path, tmp_path):
        precious = tmp_path / "precious"
        precious.write_bytes(b"x" * 900)
        path.symlink_to(precious)
        call = {"append": lambda m: m.append(line(1)), "size": lambda m: m.size(), "cut": lambda m: m.cut(10)}[action]
        with contextlib.suppress(UserError):
            call(MetricsLog(path))
        assert precious.read_bytes() == b"x" * 900
