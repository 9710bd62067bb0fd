"""Networks as files: how they are found, and those to which a method gave another head (SimKD)."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.interrupts import AfterSteps
from helpers.tiny import assert_same, outcome, tiny_recipe, train

from fastkd import evaluate
from fastkd.methods.simkd import SimKDSettings
from fastkd.run import load_network
from fastkd.run.description import Description
from fastkd.run.export import export_network
from fastkd.run.weights import WeightsFiles, describe, find_weights, open_network
from fastkd.support import files
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def recipe(teacher_net="resnet8x4", ema=0.0, **settings):
    base = tiny_recipe()
    teacher, student, *_ = base.stages
    teacher = replace(teacher, sftn=None, network=teacher_net)
    training = replace(student.training, ema=ema)
    student = replace(student, method="simkd", settings={"simkd": SimKDSettings(**settings)}, training=training)
    return replace(base, stages=(teacher, student), keep_epochs=(1,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed") / "run"
    train(recipe(ema=0.5), folder)
    return folder


def test_the_saved_student_is_the_one_that_was_tested(finished, capsys):
    results = json.loads((finished / "results.json").read_text())["stages"]["student"]
    assert evaluate.main([str(finished), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["student"]
    assert {key: measured[key] for key in ("top1", "top5", "samples")} == results["test"]["student"]
    student = load_network(finished, "student")
    assert student(IMAGES).embedding.shape[1] == 256  # the teacher's
    assert results["parameters"] == sum(parameter.numel() for parameter in student.parameters())
    for name in ("student-ema", "checkpoints/student@1"):
        other = open_network(finished / f"{name}.safetensors")
        assert other.state_dict().keys() == student.state_dict().keys()


def test_its_classifier_is_the_teachers(finished):
    student, teacher = (load_network(finished, name) for name in ("student", "teacher"))
    own = dict(student.named_parameters())
    assert torch.equal(own["head.classifier.parts.0.weight"], teacher.head.classifier.weight)


@pytest.mark.parametrize(
    "settings",
    (
        {"projector": "vector"},
        *(pytest.param(it, marks=pytest.mark.slow) for it in ({}, {"reused_blocks": 1}, {"source": "final_map"})),
    ),
)
def test_the_file_alone_says_how_it_is_rebuilt(settings, tmp_path):
    train(recipe(**settings), tmp_path)
    file = tmp_path / "student.safetensors"
    description = describe(file)
    assert description.deployment.methods["simkd"].items() >= settings.items()
    assert [teacher.network for teacher in description.deployment.teachers] == ["resnet8x4"]
    assert torch.equal(open_network(file)(IMAGES).logits, load_network(tmp_path, "student")(IMAGES).logits)


def test_stopped_and_resumed_is_the_same_bit_for_bit(finished, tmp_path):
    for count in (11, 16):
        folder = tmp_path / f"{count}"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="stopped by SIGINT"):
            train(recipe(ema=0.5), folder, AfterSteps(patch, count))
        train(recipe(ema=0.5), folder)
        assert_same(outcome(folder), outcome(finished))


def test_it_teaches_in_its_turn(finished, tmp_path):
    """Loaded as a teacher, and again as the teacher of a SimKD student."""
    base, file = recipe(), finished / "student.safetensors"
    teacher = replace(base.stages[0], training=None, file=str(file), sha256=files.sha256(file))
    results = train(replace(base, stages=(replace(teacher, network="resnet8"), base.stages[1])), tmp_path)
    own = json.loads((finished / "results.json").read_text())["stages"]["student"]["test"]["student"]
    assert results[0]["stages"]["teacher"]["test"]["teacher"] == own
    student = load_network(tmp_path, "student")
    assert describe(tmp_path / "student.safetensors").deployment.teachers[0].deployment is not None
    assert student(IMAGES).logits.shape == (3, 10)


def test_exported(finished, tmp_path, capsys):
    file = tmp_path / "student.pt2"
    assert evaluate.main([str(finished), "--export", str(file)]) == 0
    program = torch.export.load(file).module()
    student = load_network(finished, "student")
    for count in (1, 3, 5):
        images = torch.randn(count, 3, 8, 8)
        torch.testing.assert_close(program(images), student(images).logits)


LONG_TO_EXPORT = ("ShuffleV1", "ShuffleV2_0_2", "MobileNetV2", "ResNet18")


@pytest.mark.parametrize(
    "name", ("wrn_16_1", "vgg8", *(pytest.param(name, marks=pytest.mark.slow) for name in LONG_TO_EXPORT))
)
def test_any_family_is_exported(name, tmp_path):
    from fastkd import networks

    network = networks.build(name, num_classes=4).eval()
    export_network(tmp_path / "it.pt2", network, Description(name, 4, 32))
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(torch.export.load(tmp_path / "it.pt2").module()(images), network(images).logits)


class TestFinding:
    """The file that RUN, RUN@EPOCH or FILE means."""

    @pytest.fixture
    def run(self, tmp_path):
        """The files of a run without their content."""
        for name in ("teacher", "student", "checkpoints/teacher@9", "checkpoints/teacher@8"):
            (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "run" / f"{name}.safetensors").touch()
        return tmp_path / "run"

    def test_a_file_is_itself_even_if_its_name_looks_like_an_epoch(self, run):
        for name in ("teacher", "checkpoints/teacher@9"):
            file = run / f"{name}.safetensors"
            assert find_weights(str(file)) == file
        (run.parent / "odd@3").touch()
        assert find_weights(str(run.parent / "odd@3")) == run.parent / "odd@3"

    def test_a_run_is_its_teacher_or_the_stage_that_is_wanted(self, run):
        assert find_weights(str(run)) == run / "teacher.safetensors"
        assert find_weights(str(run), "student") == run / "student.safetensors"

    def test_an_epoch_is_one_that_was_kept(self, run):
        assert find_weights(f"{run}@8") == run / "checkpoints" / "teacher@8.safetensors"
        with pytest.raises(UserError, match="has no teacher of epoch 2; kept are 8, 9"):
            find_weights(f"{run}@2")
        with pytest.raises(UserError, match="has no student of epoch 9; none was kept: train with --keep-epochs"):
            find_weights(f"{run}@9", "student")

    def test_several_seeds_are_offered_by_name(self, tmp_path):
        for seed in (3, 4):
            (tmp_path / f"seed-{seed}").mkdir()
            (tmp_path / f"seed-{seed}" / "teacher.safetensors").touch()
        with pytest.raises(UserError, match=r"holds several seeds; name one: .*/seed-3$"):
            find_weights(str(tmp_path))
        with pytest.raises(UserError, match=r"holds several seeds; name one: .*/seed-3@7$"):
            find_weights(f"{tmp_path}@7")

    def test_what_is_not_there_is_named(self, tmp_path):
        with pytest.raises(UserError, match="no run folder and no file .*nothing$"):
            find_weights(str(tmp_path / "nothing"))
        with pytest.raises(UserError, match="no run folder and no file .*nothing@5$"):
            find_weights(str(tmp_path / "nothing@5"))
        with pytest.raises(UserError, match=r"has no teacher\.safetensors: is it a run folder"):
            find_weights(str(tmp_path))

    def test_a_file_is_read_once_and_stays_what_it_was(self, finished, tmp_path):
        file = tmp_path / "teacher.safetensors"
        file.write_bytes((finished / "teacher.safetensors").read_bytes())
        read = WeightsFiles()
        first = read.read(file)
        assert first.sha256 == files.sha256(file) and first.description == describe(file)
        file.unlink()
        assert read.read(file) is first and read.describe(file) == first.description
        with pytest.raises(UserError, match=r"cannot read the weights .*teacher\.safetensors: No such file"):
            WeightsFiles().read(file)
        assert WeightsFiles().describe(file) is None
