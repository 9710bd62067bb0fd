"""A recipe with all that follows from it on this machine."""

from dataclasses import replace

import pytest
import torch
from helpers.courses import taught_recipe
from helpers.image_folders import write_folder
from helpers.tiny import CPU, tiny_recipe

from fastkd.data import Reading
from fastkd.recipes.course import course
from fastkd.run import Job, open_data
from fastkd.run.weights import WeightsFiles
from fastkd.support import distributed
from fastkd.support.errors import UserError
from fastkd.training.execution import EVERYTHING_OFF, Execution


@pytest.fixture(scope="module")
def data():
    return open_data(tiny_recipe())


def job(data, **changes):
    return Job.of(tiny_recipe(**changes), data, CPU)


class TestOf:
    def test_the_course_and_the_switches_are_resolved_once(self, data):
        found = job(data)
        plain = EVERYTHING_OFF._replace(write_aside=True, shard_checkpoints=True)
        assert found.course == course(found.recipe) and found.execution == plain
        assert "compiling is off on the CPU" in found.why_off

    def test_nothing_is_said_where_what_was_asked_for_is_on(self, data):
        assert job(data, execution=Execution(compile="blocks")).why_off == ""

    def test_what_the_device_cannot_do_is_refused_before_anything_is_built(self, data):
        with pytest.raises(UserError, match="^--capture on: only a GPU replays a captured step; leave it out$"):
            job(data, execution=Execution(capture="on"))

    def test_a_method_that_does_not_fit_the_recipe_is_refused_too(self, data):
        with pytest.raises(UserError, match="epochs cannot be divided into 3 anchors"):
            Job.of(taught_recipe("rco", anchors=3), data, CPU)

    def test_files_that_were_read_already_are_not_read_again(self, data):
        files = WeightsFiles()
        assert Job.of(tiny_recipe(), data, CPU, files).files is files
        assert Job.of(tiny_recipe(), data, CPU).files is not Job.of(tiny_recipe(), data, CPU).files

    def test_what_is_thrown_away_is_built_plainly_on_the_cpu(self, data):
        gpu = torch.device("cuda", 0)
        fast = replace(job(data), device=gpu, execution=EVERYTHING_OFF._replace(fold=True, channels_last=True))
        plain = fast.plainly_on_the_cpu()
        assert (plain.device, plain.execution) == (CPU, EVERYTHING_OFF)
        assert (fast.device, plain.course, plain.data) == (gpu, fast.course, fast.data)


class TestFeeding:
    def test_the_recipe_decides(self, data):
        given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "reading": Reading(loader="torchvision", workers=3)}
        feeding = replace(job(data, **given), execution=EVERYTHING_OFF._replace(channels_last=True)).feeding
        assert (feeding.mean, feeding.std, feeding.loader, feeding.workers) == (
            *list(given.values())[:2],
            "torchvision",
            3,
        )
        assert feeding.format.channels_last and feeding.image_size == 8 and feeding.device == CPU
        assert (feeding.rank, feeding.world_size) == (0, 1)

    @pytest.mark.parametrize("cores, processes, workers", [(8, 1, 8), (8, 2, 4), (2, 4, 1)])
    def test_processes_of_a_machine_share_its_cores(self, cores, processes, workers, data, monkeypatch):
        monkeypatch.setattr("fastkd.data.base.cores", lambda: cores)
        monkeypatch.setattr(distributed, "local_processes", lambda: processes)
        assert job(data).feeding.workers == workers

    def test_each_rank_has_its_own_share_of_the_images(self, data, monkeypatch):
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        seen = []
        for rank in (0, 1):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            seen += [raw.index for raw in job(data).test_source().loader.epoch(0)]
        assert sorted(torch.cat(seen).tolist()) == list(range(899))


class TestData:
    def test_every_test_image_comes_once_whatever_the_training_is_limited_to(self, data):
        assert len(data.train) == 128
        source = job(data).test_source()
        index = torch.cat([raw.index for raw in source.loader.epoch(0)])
        assert index.tolist() == list(range(899)) and source.samples == 899

    def test_test_images_are_neither_moved_nor_mirrored(self, data):
        source, zero = job(data).test_source(), torch.tensor(0)
        raw = next(iter(source.loader.epoch(0)))
        batches = [source.prepare(raw, torch.tensor(step), zero).images for step in (0, 7)]
        assert torch.equal(*batches) and batches[0].shape == (1, 256, 3, 8, 8)

    def test_the_limit_of_the_recipe_holds(self):
        assert len(open_data(tiny_recipe(limit_train=7)).train) == 7
        assert len(open_data(tiny_recipe(limit_train=None)).train) == 898

    def test_what_the_scan_of_a_folder_found_is_kept_in_the_run(self, tmp_path):
        root, folder = write_folder(tmp_path / "data", size=None, per_class=4, tests=2, ending="jpg"), tmp_path / "run"
        folder.mkdir()
        recipe = tiny_recipe(data=f"imagefolder:{root}", image_size=16, limit_train=None)
        open_data(recipe)
        assert not list(folder.iterdir())
        opened = open_data(recipe, folder)
        assert len(opened.train) == 8 and list(folder.glob("index-*.npz"))
