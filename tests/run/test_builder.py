"""From a planned stage to what is trained."""

from dataclasses import replace

import pytest
import torch
from helpers.courses import prestage_recipe, taught_recipe
from helpers.tiny import built_stages, job_of, tiny_recipe

from fastkd import networks
from fastkd.data.digits import digits
from fastkd.losses.smallest_combination import MOST
from fastkd.methods import find_method
from fastkd.methods.simkd import SimKDSettings
from fastkd.recipes.course import course
from fastkd.recipes.planned import PlannedStage
from fastkd.run import check
from fastkd.run.builder import BUILDERS, Builder
from fastkd.run.earlier import Earlier
from fastkd.run.weights import Description, open_network, save_network
from fastkd.support import distributed, files
from fastkd.support.errors import UserError
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.stages import Mutual

RESNET8 = Description("resnet8", 10, 8, classes=digits().classes, mean=digits().mean, std=digits().std, crop="pad")


@pytest.fixture(scope="module")
def job():
    return job_of(tiny_recipe(), EVERYTHING_OFF)


def built(job, name):
    """The stage of that name; the teacher it has is not trained."""
    builder, earlier = Builder(job, 0), Earlier(job.course)
    for planned in job.course:
        stage = builder.stage(planned, earlier)
        if planned.name == name:
            return stage
        earlier.add(planned, stage)
    raise AssertionError(f"no stage {name}")


def alone(job, seed=0):
    """The control, which needs no earlier stage."""
    return Builder(job, seed).stage(job.course[-1], Earlier(job.course))


def state_of(stage):
    return {name: value.clone() for name, value in stage.network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_kind_of_stage_has_a_row():
    def below(kind):
        return [kind, *(found for inner in kind.__subclasses__() for found in below(inner))]

    assert set(BUILDERS) == {kind for kind in below(PlannedStage) if hasattr(kind, "kind")}


class TestBeginnings:
    def test_a_student_and_its_control_begin_alike_and_unlike_their_teacher(self, job):
        teacher, student, control = (state_of(built(job, name)) for name in ("teacher", "student", "control"))
        assert same(student, control) and not same(student, teacher)

    def test_the_seed_decides(self, job):
        states = [state_of(alone(job, seed)) for seed in (0, 0, 1)]
        assert same(states[0], states[1]) and not same(states[0], states[2])

    def test_what_was_built_before_changes_nothing(self, job):
        """A run that is resumed at its last stage builds that one alone."""
        assert same(state_of(alone(job)), state_of(built(job, "control")))

    def test_ranks_begin_with_the_same_weights_and_go_on_with_numbers_of_their_own(self, job, monkeypatch):
        found = []
        for rank in (0, 1, 2):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            found.append((state_of(alone(job)), torch.rand(4)))
        assert all(same(state, found[0][0]) for state, _ in found)
        assert len({tuple(numbers.tolist()) for _, numbers in found}) == 3

    def test_classes_are_those_of_the_data(self, job):
        five = replace(job.data, classes=job.data.classes[:5])
        network = Builder(replace(job, data=five), 0).network("resnet8")
        assert network.head.classifier.out_features == 5


class TestBatches:
    def test_they_are_the_stages(self, job):
        planned = replace(job.course[-1], training=replace(job.course[-1].training, batch_size=48, drop_last=False))
        source = Builder(job, 0).train_source(planned)
        assert [len(raw.index) for raw in source.loader.epoch(0)] == [48, 48, 32]

    def test_bfloat16_is_left_to_the_gpu(self, job):
        """On the CPU autocast reads images as they are."""
        source = Builder(replace(job, execution=EVERYTHING_OFF._replace(bfloat16=True)), 0).train_source(job.course[-1])
        zero = torch.tensor(0)
        assert source.prepare(next(iter(source.loader.epoch(0))), zero, zero).images.dtype == torch.float32

    def test_their_order_is_the_seeds(self, job):
        orders = [
            torch.cat([raw.index for raw in Builder(job, seed).train_source(job.course[-1]).loader.epoch(0)]).tolist()
            for seed in (0, 0, 1)
        ]
        assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])

    def test_batchnorm_is_synchronised_while_a_stage_is_trained(self, job):
        """What comes behind looks for torch's own layers: to fold them, or to use a batch's statistics."""
        planned = replace(job.course[0], training=replace(job.course[0].training, sync_batchnorm=True))
        earlier = Earlier(job.course)
        stage = Builder(job, 0).stage(planned, earlier)
        norms = [module for module in stage.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert {type(norm) for norm in norms}.isdisjoint({torch.nn.BatchNorm2d})
        earlier.add(planned, stage)
        assert {type(norm) for norm in norms} == {torch.nn.BatchNorm2d}


class TestLoaded:
    @pytest.fixture
    def file(self, tmp_path):
        torch.manual_seed(5)
        network = networks.build("resnet8", num_classes=10)
        save_network(tmp_path / "teacher.safetensors", network, Description("resnet8", 10, 8))
        return tmp_path / "teacher.safetensors"

    def job(self, file):
        recipe = tiny_recipe()
        teacher = replace(recipe.stages[0], training=None, sftn=None, file=str(file), sha256=files.sha256(file))
        return job_of(replace(recipe, stages=(teacher, *recipe.stages[1:])), EVERYTHING_OFF)

    def test_it_has_the_weights_of_the_file_and_a_report(self, file):
        job = self.job(file)
        builder = Builder(job, 0)
        stage = builder.stage(job.course[0], Earlier(job.course))
        assert same(state_of(stage), open_network(file).state_dict())
        report = builder.reports["teacher"]
        assert len(report.mapped) == len(state_of(stage)) and not report.unexpected

    def test_a_changed_file_is_refused(self, file):
        job = self.job(file)
        save_network(file, networks.build("resnet8", num_classes=10), Description("resnet8", 10, 8))
        with pytest.raises(UserError, match=r"the file of the teacher, .*, is not the one the run began with"):
            check(job)

    def test_one_that_is_gone_is_named(self, file):
        job = self.job(file)
        file.unlink()
        with pytest.raises(UserError, match=r"the file of the teacher, .*teacher\.safetensors, is gone"):
            check(job)

    def test_one_of_other_classes_is_refused(self, file):
        save_network(file, networks.build("resnet8", num_classes=7), Description("resnet8", 7, 8))
        with pytest.raises(UserError, match=r"teacher\.safetensors"):
            check(self.job(file))


class TestDescriptions:
    def test_a_network_as_it_was_trained(self, job):
        builder = Builder(job, 0)
        assert {builder.description(planned) for planned in job.course} == {RESNET8}

    def test_a_method_that_changes_the_student_is_in_it_with_its_teacher(self):
        given = taught_recipe("simkd")
        builder = Builder(job_of(given), 0)
        for stage in (course(given)[-1], given.stages[-1]):
            deployment = builder.description(stage).deployment
            assert list(deployment.methods) == ["simkd"] and deployment.teachers == (RESNET8,)
            assert deployment.methods["simkd"].keys() == vars(SimKDSettings()).keys()

    def test_a_loaded_teacher_keeps_what_its_file_says(self, tmp_path):
        file = tmp_path / "teacher.safetensors"
        save_network(file, networks.build("resnet14", num_classes=10), Description("resnet14", 10, 16))
        recipe = taught_recipe("kd")
        teacher = replace(recipe.stages[0], training=None, file=str(file), network="resnet8")
        job = job_of(replace(recipe, stages=(teacher, recipe.stages[1])))
        assert Builder(job, 0).description(job.course[0]) == RESNET8._replace(network="resnet14", image_size=16)


class TestMutual:
    def test_every_network_has_its_own_learning_rate_and_view(self):
        given = taught_recipe("kdcl", 2)
        teacher = given.stages[0]
        slow = replace(teacher, training=replace(teacher.training, lr=0.01))
        given = replace(given, stages=(slow, *given.stages[1:]))
        (planned,) = course(given)
        stage = Builder(job_of(given), 0).stage(planned, Earlier(()))
        assert isinstance(stage, Mutual) and stage.views.count == 3
        groups = stage.parameter_groups()
        assert [group["lr_factor"] for group in groups] == [1.0, pytest.approx(0.2), 1.0]
        assert [len(group["params"]) for group in groups] == [len(list(net.parameters())) for net in stage.networks]
        assert stage.networks[0] is not stage.networks[1]
        seen = []
        for network in stage.networks:
            network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        builder = Builder(job_of(given), 0)
        source = builder.train_source(planned, stage.views)
        zero = torch.tensor(0)
        stage(source.prepare(next(iter(source.loader.epoch(0))), zero, zero)).total.backward()
        assert len({x.sum().item() for x in seen}) == 3
        assert all(parameter.grad is not None for parameter in stage.parameters())
        alike = {"kdcl": replace(planned.settings["kdcl"], own_augmentation=False)}
        assert builder.stage(replace(planned, settings=alike), Earlier(())).views.count == 1

    def test_what_the_teachers_own_training_would_have_been_is_told(self):
        base = tiny_recipe()
        student = replace(base.stages[1], method="dml", settings={"dml": find_method("dml").Settings()})
        given = replace(base, stages=(base.stages[0], student))
        stage = Builder(job_of(given), 0).stage(course(given)[0], Earlier(()))
        assert stage.notes == ["dml: the teacher learns together with the student: 2 epochs and no branches"]
        plain = replace(base.stages[0], sftn=None, training=replace(base.stages[0].training, epochs=7))
        given = replace(base, stages=(plain, student))
        stage = Builder(job_of(given), 0).stage(course(given)[0], Earlier(()))
        assert stage.notes == ["dml: the teacher learns together with the student: 2 epochs"]
        given = taught_recipe("dml")
        assert not Builder(job_of(given), 0).stage(course(given)[0], Earlier(())).notes

    def test_what_peers_are_weighed_by_is_trained_on_by_none(self):
        given = taught_recipe("kdcl", 2, target="general", held_out=0.25)
        (planned,) = course(given)
        job = job_of(given)
        builder = Builder(job, 0)
        stage, held, whole = builder.stage(planned, Earlier(())), builder.held_out_source(planned), job.data.train
        trained = builder.train_source(planned, stage.views)
        assert stage.notes == ["kdcl: 25.0% of the images are held out to weigh the networks by"]
        assert held.samples == round(len(whole) / 4) and held.samples + trained.samples == len(whole)
        found = torch.cat([held.loader.labels, trained.loader.labels])
        assert torch.equal(found.bincount(), whole.labels.bincount())
        weights = stage.method.peer_weights.clone()
        stage.train().begin_epoch(0)
        assert torch.equal(stage.method.peer_weights, weights)  # a stage that is tried out is given no such images
        stage.held_out = held
        before = {name: value.clone() for name, value in stage.state_dict().items() if "running" in name}
        stage.begin_epoch(0)
        assert stage.training and all(torch.equal(stage.state_dict()[name], value) for name, value in before.items())
        weighed = stage.method.peer_weights.clone()
        assert not torch.equal(weighed, weights) and weighed.sum().item() == pytest.approx(1)
        with torch.no_grad():
            stage.network.head.classifier.weight.mul_(3)
        stage.begin_epoch(0)  # resumed in its middle
        assert torch.equal(stage.method.peer_weights, weighed)
        stage.begin_epoch(1)
        assert not torch.equal(stage.method.peer_weights, weighed)
        plain = course(taught_recipe("kdcl", 2))[0]
        assert builder.held_out_source(plain) is None

    def test_peers_begin_with_weights_of_their_own_which_are_not_the_students(self):
        given = taught_recipe("kdcl", 2)
        stage = Builder(job_of(given), 0).stage(course(given)[0], Earlier(()))
        first = [network.stem[0].weight for network in stage.networks]
        assert not any(torch.equal(first[one], first[other]) for one, other in ((0, 1), (0, 2), (1, 2)))


class TestDistillation:
    @pytest.mark.parametrize(
        "method, teachers, words",
        [
            ("kd", 2, "kd has 1 teacher, got 2"),
            ("kd", 0, "kd has 1 teacher, got 0"),
            ("aveg", 0, "aveg has at least 1 teachers?, got 0"),
            ("aekd", 0, f"aekd has 1 to {MOST} teachers, got 0"),
        ],
    )
    def test_the_number_of_teachers_is_checked(self, method, teachers, words):
        with pytest.raises(UserError, match=f"^{words}$"):
            check(job_of(taught_recipe(method, teachers)))

    def test_a_method_without_a_loss_trains_nothing(self):
        given = taught_recipe("none+fsp")
        with pytest.raises(UserError, match=r"^--method none\+fsp trains nothing: join a method with a loss"):
            check(job_of(given))

    def test_whole_batches_are_asked_for(self):
        given = taught_recipe("semckd")
        training = replace(given.stages[1].training, drop_last=False, batch_size=48)
        with pytest.raises(UserError, match="semckd: every batch has the same size: it needs --drop-last on"):
            check(job_of(replace(given, stages=(given.stages[0], replace(given.stages[1], training=training)))))
        check(job_of(given))

    @pytest.mark.parametrize("norm, folded", [("running", True), ("batch", False)])
    def test_a_teacher_on_batch_statistics_is_not_folded(self, norm, folded):
        given = taught_recipe("oh", teacher_norm=norm)
        _, stages = built_stages(given, EVERYTHING_OFF._replace(fold=True))
        (teacher,) = stages["student"].teachers
        assert any(isinstance(module, torch.nn.Identity) for module in teacher.stem.modules()) == folded

    def test_waypoints_are_one_network_at_several_times(self):
        given = taught_recipe("rco", 2)
        other = replace(given.stages[1], network="resnet14")
        with pytest.raises(UserError, match="rco: the anchors are one network at several times, not several"):
            check(job_of(replace(given, stages=(given.stages[0], other, given.stages[2]))))

    def test_a_teacher_is_frozen_and_is_no_part_of_what_is_trained(self, job):
        stage = built(job, "student")
        (teacher,) = stage.teachers
        assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        assert {id(p) for p in stage.parameters()}.isdisjoint(id(p) for p in teacher.parameters())
        source, zero = Builder(job, 0).train_source(job.course[1]), torch.tensor(0)
        stage.train()(source.prepare(next(iter(source.loader.epoch(0))), zero, zero)).total.backward()
        assert same(before, teacher.state_dict()), "its statistics have moved"

    def test_it_begins_with_what_was_trained_before(self):
        job = job_of(prestage_recipe("kd+ft"), EVERYTHING_OFF)
        builder, earlier = Builder(job, 0), Earlier(job.course)
        for planned in job.course[:2]:
            earlier.add(planned, builder.stage(planned, earlier))
        for value in earlier.passed_on["student-ft"].values():
            value.add_(1)
        state = builder.stage(job.course[2], earlier).state_dict()
        assert all(torch.equal(state[name], value) for name, value in earlier.passed_on["student-ft"].items())


class TestSharesOfABatch:
    """What cannot be shared by the processes is one line, before anything is trained."""

    def stages(self, method, processes, monkeypatch, **training):
        recipe = taught_recipe(method)
        changed = [replace(stage, training=replace(stage.training, **training)) for stage in recipe.stages]
        job = job_of(replace(recipe, stages=tuple(changed)), EVERYTHING_OFF)
        monkeypatch.setattr(distributed, "world_size", lambda: processes)
        builder, earlier = Builder(job, 0), Earlier(job.course)
        for planned in job.course:
            earlier.add(planned, stage := builder.stage(planned, earlier))
        return stage

    @pytest.mark.parametrize(
        "method, processes, training, words",
        [
            ("kd", 4, {"shards": 6}, "--shards 6 does not divide by 4 processes"),
            ("sckd", 1, {"shards": 2}, "--shards: a gate compares gradients of whole batches"),
            ("kd+semckd", 3, {}, "semckd: .* but 32 images do not divide by 3 processes"),
            ("kd+semckd", 1, {"shards": 3}, "semckd: .* but 32 images do not divide by 3 shards"),
            ("kd", 1, {"shards": 3, "drop_last": False, "batch_size": 127}, "has 1 image for 3 shards"),
        ],
    )
    def test_mistakes(self, method, processes, training, words, monkeypatch):
        with pytest.raises(UserError, match=words):
            self.stages(method, processes, monkeypatch, **training)

    def test_a_fixed_size_is_that_of_a_shard(self, monkeypatch):
        assert self.stages("kd+semckd", 2, monkeypatch, shards=4).methods["semckd"].batch_size == 8
