"""What single methods promise beyond the golden numbers."""

import copy
import json

import pytest
import torch
from helpers.golden import GOLDEN, Case, close
from helpers.method_cases import Stub, built, output, run
from helpers.walk import batch, build, distill
from torch import nn

from fastkd.losses.preacts import margin
from fastkd.losses.projectors import OrthogonalProjector
from fastkd.losses.relations import relations
from fastkd.losses.smallest_combination import smallest_combination
from fastkd.methods import METHODS, short_name, split_methods
from fastkd.methods.projectors import ProjectedMap
from fastkd.methods.regressors import Regressor
from fastkd.methods.reused import projection
from fastkd.ops.sparse import largest_logits, normalised, tail_of
from fastkd.support.errors import UserError
from fastkd.training.stages import with_batch_statistics


def test_dkd_warms_up_in_place():
    case = Case("dkd", "c10")
    student, teacher = (output(logits=case[f"in/{z}"], embedding=case[f"in/{z}"]) for z in ("zs", "zt"))
    method = built("dkd", student, teacher, alpha=1.0, beta=8.0, warmup_epochs=20)
    place, full = method.loss.numbers.data_ptr(), case["loss/dkd_a1.0_b8.0_T4.0"]
    for epoch, share in ((0, 0.05), (9, 0.5), (19, 1.0), (100, 1.0)):
        method.begin_epoch(epoch)
        loss = run(method, student, teacher, labels=case["in/y"])
        close(loss.total, loss.terms["ce"] + share * full)
    assert method.loss.numbers.data_ptr() == place


TAKING_KEPT_CLASSES = ("abkd", "aveg", "dkd", "jsd", "kd", "nkd", "rco", "sckd", "ttm", "wttm")


@pytest.mark.parametrize("name", TAKING_KEPT_CLASSES)
def test_a_method_that_takes_kept_classes_is_itself_from_all_of_them(name):
    """A store gives them so, at the temperature that the method says."""
    case = Case("dkd", "c10")
    student, teacher = (output(logits=case[f"in/{z}"], embedding=case[f"in/{z}"]) for z in ("zs", "zt"))
    method = built(name, student, teacher)
    assert method.takes_sparse
    indices = largest_logits(teacher.logits, case["in/y"], 10)
    tail = tail_of(teacher.logits, indices, method.sparse_temperature)
    sparse = normalised(indices, teacher.logits.gather(1, indices), tail, method.sparse_temperature)
    found, whole = (
        run(method, student, teacher._replace(logits=logits), labels=case["in/y"])
        for logits in (sparse, teacher.logits)
    )
    torch.testing.assert_close(found.total, whole.total)


def test_which_methods_take_kept_classes():
    logits = torch.randn(4, 10)
    student = output(logits=logits, embedding=logits)
    classes = {name: METHODS[name] for name in METHODS if METHODS[name].reads == ("logits",)}
    taking = {name for name in classes if built(name, student, student).takes_sparse}
    assert taking == set(TAKING_KEPT_CLASSES)
    assert not built("ttm", student, student, exponent=0.0).takes_sparse


def test_reviewkd_warms_up():
    stage = distill("reviewkd", "resnet8", "resnet8x2", warmup_epochs=4)
    method, data = stage.methods["reviewkd"], batch()
    outputs = [network(data.images[0], preacts=True) for network in (stage.network, *stage.teachers)]
    method.begin_epoch(0)
    first = method(outputs[0], (outputs[1],), data)
    torch.testing.assert_close(first.total, 5.0 / 4 * first.terms["reviewkd"])
    method.begin_epoch(7)
    later = method(outputs[0], (outputs[1],), data)
    torch.testing.assert_close(later.total, 5.0 * later.terms["reviewkd"])


def test_reviewkd_compares_full_and_pooled_maps():
    """HCL by its definition: 1, 1/2, 1/4, 1/8 of the 8x8, 4x4, 2x2, 1x1 errors, over their sum."""
    from fastkd.losses.features import hierarchical_distance

    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    errors = [(x - y).unfold(2, k, k).unfold(3, k, k).mean((4, 5)).square().mean() for k in (1, 2, 4, 8)]
    expected = sum(error / 2**i for i, error in enumerate(errors)) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    torch.testing.assert_close(hierarchical_distance(x, y), expected)
    torch.testing.assert_close(
        hierarchical_distance(x[:, :, :1, :1], y[:, :, :1, :1]), errors[0] * 0 + ((x - y)[:, :, 0, 0].square().mean())
    )


class TestRelationsOfEqualSamples:
    def test_one_point_has_no_angle_and_finite_gradients(self):
        rows = torch.randn(5, 8)
        rows[3] = rows[1]
        rows.requires_grad_()
        distances, angles = relations(rows)
        assert distances[1, 3] == 0 and (angles[1, 3] == 0).all() and (angles[1, :, 3] == 0).all()
        (distances.square().sum() + angles.square().sum()).backward()
        assert rows.grad.abs().max() < 1e3

    def test_a_collapsed_batch_is_finite(self):
        rows = torch.ones(4, 8, requires_grad=True)
        distances, angles = relations(rows)
        (distances.sum() + angles.sum()).backward()
        assert distances.isfinite().all() and rows.grad.isfinite().all()


def relations_of_differences(rows):
    """The authors' form: a tensor [B,B,D] of differences."""
    between = rows[None] - rows[:, None]
    squares = between.square().sum(2)
    distances = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
    unit = between / torch.where(squares > 0, squares, 1.0).sqrt()[:, :, None]
    return distances / distances[distances > 0].mean(), unit @ unit.transpose(1, 2)


class TestRelationsInFloat32:
    """They keep what differences keep: float64 of the same rounded numbers is the judge."""

    def rows(self, kind, closeness):
        torch.manual_seed(1)
        rows = torch.randn(12, 16)
        if kind == "near":
            rows[3] = rows[1] + closeness * torch.randn(16)
        elif kind == "all near":
            rows = rows[:1] + closeness * rows
        elif kind == "one far away":
            rows[5] /= closeness
        else:
            rows[6:] += 1 / closeness
        return rows

    @pytest.mark.parametrize("closeness", (1e-1, 1e-3, 1e-5))
    @pytest.mark.parametrize("kind", ("near", "all near", "one far away", "two groups"))
    def test_distances_angles_and_gradients(self, kind, closeness):
        rows = self.rows(kind, closeness)
        found, expected = (rows.detach().to(kind).requires_grad_() for kind in (torch.float32, torch.float64))
        outcomes = [relations(found), relations_of_differences(expected)]
        torch.manual_seed(2)
        pull = [torch.randn_like(outcome) for outcome in outcomes[1]]
        for outcome in outcomes:
            sum((part.double() * weight).sum() for part, weight in zip(outcome, pull, strict=True)).backward()
        for ours, theirs in zip(*outcomes, strict=True):
            torch.testing.assert_close(ours.double(), theirs, atol=2e-6, rtol=2e-6)
        assert outcomes[0][1].abs().max() <= 1 + 4e-6, "a cosine"
        scale = expected.grad.norm(dim=1, keepdim=True)
        assert ((found.grad - expected.grad).norm(dim=1, keepdim=True) / scale).max() < 2e-5


class TestSmallestCombination:
    @pytest.mark.parametrize("cap", (0.6, 1.0, 0.34))
    @pytest.mark.parametrize("count", (1, 2, 3, 5))
    def test_no_other_choice_is_shorter(self, count, cap):
        torch.manual_seed(count)
        cap = max(cap, 1 / count)
        vectors = torch.randn(count, 4)
        weights = smallest_combination(vectors, cap, unit_length=False)
        assert abs(weights.sum() - 1) < 1e-9 and (weights >= 0).all() and (weights <= cap).all()
        length = (weights @ vectors.double()).norm()
        others = torch.distributions.Dirichlet(torch.ones(count).double()).sample((20000,))
        others = others[(others <= cap).all(1)]
        assert ((others @ vectors.double()).norm(dim=1) >= length - 1e-9).all()

    def test_equal_gradients_share_evenly_and_none_is_nan(self):
        same = torch.randn(1, 4).expand(3, 4)
        torch.testing.assert_close(smallest_combination(same, 0.6, unit_length=False), torch.full((3,), 1 / 3).double())
        assert smallest_combination(torch.zeros(3, 4), 0.6, unit_length=True).isfinite().all()


@pytest.mark.parametrize("student", ((3, 8, 8), (3, 4, 4), (3, 2, 2), (3, 6, 6), (3, 3, 3)))
def test_the_closed_gradient_of_a_regressor_is_autograds(student):
    torch.manual_seed(0)
    regressor = Regressor(student, (5, 4, 4)).double()
    x, y = torch.randn(6, *student).double().requires_grad_(), torch.randn(6, 5, 4, 4).double()
    target = regressor.target(y)
    (expected,) = torch.autograd.grad(nn.functional.mse_loss(regressor(x), target), x)
    mean = regressor.bn.running_mean.clone()
    torch.testing.assert_close(regressor.mse_gradient(x, target), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(regressor.bn.running_mean, mean)


def test_aekd_f_weighs_hints_by_the_gradients_at_the_students_map():
    stage = distill("aekd_f", "resnet8", "resnet8x2", "wrn_16_1", "resnet14", cap=0.5)
    method, data = stage.methods["aekd_f"], batch()
    outputs = [network(data.images[0]) for network in (stage.network, *stage.teachers)]
    source = outputs[0].features[1]
    hints = [
        nn.functional.mse_loss(regressor(source), teacher.features[1].detach())
        for regressor, teacher in zip(method.regressors, outputs[1:], strict=True)
    ]
    gradients = [torch.autograd.grad(hint, source, retain_graph=True)[0].mean(0).flatten() for hint in hints]
    weights = smallest_combination(torch.stack(gradients), 0.5, unit_length=True).float()
    method.begin_epoch(1)
    loss = method(outputs[0], tuple(outputs[1:]), data)
    torch.testing.assert_close(loss.terms["hint"], (weights * torch.stack(hints)).sum().detach())
    method.begin_epoch(0)
    assert method(outputs[0], tuple(outputs[1:]), data).total == 0


class TestOverhaul:
    def test_a_margin_is_the_mean_of_the_negative_part(self):
        norm = nn.BatchNorm2d(4)
        norm.weight.data.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        norm.bias.data.copy_(torch.tensor([0.3, -0.5, 2.0, -0.7]))
        found = margin(norm)
        draws = norm.bias.detach() + norm.weight.detach() * torch.randn(400000, 4)
        for channel in (0, 1):
            negative = draws[:, channel][draws[:, channel] < 0].mean()
            torch.testing.assert_close(found[channel], negative.float(), rtol=0, atol=1e-2)
        torch.testing.assert_close(found[2:], torch.tensor([-1.5, -0.7]))

    def test_batch_statistics_touch_no_buffer_and_equal_training_mode(self):
        stage = distill("oh", "resnet8", "wrn_16_1", teacher_norm="batch")
        torch.manual_seed(0)
        teacher, images = build("wrn_16_1"), batch().images[0]
        before = copy.deepcopy(teacher.state_dict())
        twin = with_batch_statistics(teacher).eval()
        torch.testing.assert_close(twin(images).logits, copy.deepcopy(teacher).train()(images).logits)
        assert not torch.allclose(twin(images).logits, teacher.eval()(images).logits)
        assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
        assert all(norm.running_mean is None for norm in stage.teachers[0].preact_norms)

    def test_a_teacher_without_batchnorms_is_refused(self):
        with pytest.raises(UserError, match="^oh: this teacher has no BatchNorm in front of its preacts"):
            distill("oh", "resnet8", "ShuffleV2_0_2")


class TestSimKD:
    @pytest.mark.parametrize(
        "settings",
        (
            {},
            {"source": "final_map"},
            {"projector": "depthwise"},
            {"projector": "vector"},
            {"projector": "vector-full", "loss": "both"},
            {"projector": "1x1", "loss": "output"},
            {"projector": "1x1-1x1", "source": "final_map"},
            {"reused_blocks": 1},
            {"reused_blocks": 2, "factor": 4},
            {"weight": 0.5, "ce_weight": 0.5, "kl_weight": 0.5},
        ),
        ids=str,
    )
    @pytest.mark.parametrize("student", ("ShuffleV2_0_2", "resnet8"))
    def test_what_is_deployed_is_what_was_counted(self, student, settings):
        stage = distill("simkd", student, "wrn_16_1", **settings)
        method, data = stage.methods["simkd"], batch()
        loss = stage(data)
        loss.total.backward()
        learners = [parameter for parameter in stage.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None for parameter in learners)
        stage.eval()
        logits = stage.predictions(data.images[0])["student"]
        with torch.no_grad():
            projected = method.projections.each(method.source(stage.network(data.images[0])))
            torch.testing.assert_close(logits, method.logits(projected))
        assert stage(data).hits[0] == (logits.argmax(1) == data.labels).sum()

        in_use = {id(parameter) for parameter in stage.deployed.parameters()}
        joint = "ce_weight" in settings  # then the student's own classifier learns too, and is left behind
        assert joint or {id(parameter) for parameter in learners} <= in_use
        assert not {id(p) for p in stage.network.head.classifier.parameters()} & in_use

    @pytest.mark.parametrize("projector", ("full", "vector-full"))
    def test_where_the_loss_compares(self, projector):
        """Table S.7, in float64: before the teacher's classifier, behind it, or both."""
        torch.manual_seed(0)
        how = {"projector": projector}
        stages = {one: distill("simkd", "resnet8", "wrn_16_1", **how, loss=one) for one in ("input", "output", "both")}
        first, data = stages["input"], batch()
        for stage in stages.values():
            stage.double().teachers = first.teachers
            stage.load_state_dict(first.state_dict())
        data = data._replace(images=data.images.double())
        said = first.teachers[0](data.images[0])
        method = first.methods["simkd"]
        projected = method.projections(method.source(first.network(data.images[0])))
        read, goal = (projected, said.embedding) if projected.ndim == 2 else (projected.mean((2, 3)), said.final_map)
        weight = first.teachers[0].head.classifier.weight
        expected = {
            "input": (projected - goal).square().mean(),
            "output": ((read - said.embedding) @ weight.T).square().mean(),
        }
        expected["both"] = sum(expected.values())
        for name, stage in stages.items():
            stage.load_state_dict(first.state_dict())
            torch.testing.assert_close(stage(data).total, expected[name], rtol=1e-9, atol=0)

    def test_the_students_own_classifier_is_tested_where_it_learns(self):
        stage, data = distill("simkd", "resnet8", "wrn_16_1", weight=0.5, ce_weight=0.5, kl_weight=0.5).eval(), batch()
        found = stage.predictions(data.images[0])
        assert list(found) == ["student", "own classifier"]
        assert torch.equal(found["own classifier"], stage.network(data.images[0]).logits)
        assert list(distill("simkd", "resnet8", "wrn_16_1").eval().predictions(data.images[0])) == ["student"]

    @pytest.mark.parametrize("settings", ({}, {"source": "final_map"}, {"projector": "vector-full"}), ids=str)
    def test_the_encoder_is_the_student_in_front_of_the_projector(self, settings):
        stage, data = distill("simkd", "ShuffleV2_0_2", "wrn_16_1", **settings).eval(), batch()
        student = stage.network(data.images[0])
        expected = student.embedding if settings else student.features[-1].mean((2, 3))
        torch.testing.assert_close(stage.deployed.encoded(data.images[0]), expected)

    @pytest.mark.parametrize("factor", ("1", "2", "4", "8"))
    def test_projectors_have_the_parameters_of_table_5(self, factor):
        told = json.loads((GOLDEN / "datafree" / "simkd_ratio.json").read_text())
        counts = {"2": told["table5_R8x4_R32x4"]["r=2"], **told["table5_vs_r"]}[factor]
        names = {
            "1x1": "1x1",
            "1x1-1x1": "1x1-1x1 (width C_t/r)",
            "depthwise": "1x1-3x3DW-1x1",
            "full": "1x1-3x3-1x1",
            "vector": "vector: one Linear without bias",
            "vector-full": "vector: three-layer 1x1 on pooled maps, widths C_t/r (BN, no conv bias)",
        }
        for kind, name in names.items():
            shape = (2, 256) if kind.startswith("vector") else (2, 256, 8, 8)
            made = projection(kind, torch.empty(shape), torch.empty(shape), 256 // int(factor))
            assert sum(p.numel() for p in made.parameters()) == counts[name], kind

    def test_a_perfect_student_answers_as_its_teacher(self):
        """Where the projected map is the teacher's own, so are the logits, through every reused block."""
        for reused in (0, 1, 2):
            stage = distill("simkd", "resnet8", "wrn_16_1", reused_blocks=reused).eval()
            found = stage.teachers[0](batch().images[0])
            method = stage.methods["simkd"]
            torch.testing.assert_close(method.logits([method.target(found)]), found.logits)

    def test_reused_blocks_are_not_in_training_mode(self):
        stage = distill("simkd", "resnet8", "wrn_16_1", reused_blocks=1).train()
        before = copy.deepcopy(stage.methods["simkd"].tail.state_dict())
        stage(batch())
        after = stage.methods["simkd"].tail.state_dict()
        assert before and all(torch.equal(value, before[name]) for name, value in after.items())

    @pytest.mark.parametrize("projector", ("full", "vector"))
    def test_several_teachers(self, projector):
        stage = distill("simkd", "ShuffleV2_0_2", "wrn_16_1", "resnet8x2", projector=projector).eval()
        method, data = stage.methods["simkd"], batch()
        projected = method.projections.each(method.source(stage.network(data.images[0])))
        own = [
            teacher.head.classifier(x if x.ndim == 2 else x.mean((2, 3)))
            for teacher, x in zip(stage.teachers, projected, strict=True)
        ]
        torch.testing.assert_close(stage.deployed(data.images[0]).logits, torch.stack(own).mean(0))
        stage.train()(data).total.backward()
        assert all(parameter.grad is not None for parameter in stage.parameters() if parameter.requires_grad)

    def test_refusals(self):
        with pytest.raises(UserError, match="leaves no block"):
            distill("simkd", "resnet8", "wrn_16_1", reused_blocks=3)
        with pytest.raises(UserError, match="the blocks of one teacher are reused"):
            distill("simkd", "resnet8", "wrn_16_1", "resnet8x2", reused_blocks=1)


class TestSeveralViews:
    def test_other_methods_see_the_plain_view_alone(self):
        """In eval mode, where BatchNorm does not mix the views."""
        torch.manual_seed(0)
        together, alone, data = distill("kd+sskd", "resnet8", "wrn_16_1"), distill("kd", "resnet8", "wrn_16_1"), batch()
        alone.network.load_state_dict(together.network.state_dict())
        alone.teachers = together.teachers
        found, expected = together.eval()(data), alone.eval()(data)
        torch.testing.assert_close(found.terms["kd.kl"], expected.terms["kl"])
        assert torch.equal(found.hits, expected.hits)
        assert together.views.quarter_turns and alone.views.count == 1


class TestMistakes:
    def test_a_short_batch_for_semckd(self):
        student = output(torch.randn(8, 3, 4, 4))
        method = built("semckd", student, student)
        short = output(torch.randn(6, 3, 4, 4))
        with pytest.raises(UserError, match="every batch has 8 samples, got 6: it needs --drop-last on"):
            run(method, short, short)

    def test_a_batch_too_small_for_semckd(self):
        student = output(torch.randn(3, 3, 4, 4))
        with pytest.raises(UserError, match="at least 4 samples, got 3"):
            built("semckd", student, student)

    def test_a_hint_behind_a_missing_block(self):
        student = output(torch.randn(2, 3, 4, 4))
        with pytest.raises(UserError, match="fitnet: block is from 1 to 1 for these networks, got 2"):
            built("fitnet", student, student)

    def test_nothing_to_learn(self):
        with pytest.raises(UserError, match="none trains nothing"):
            split_methods("none")

    def test_a_multiplier_beside_the_papers_formula(self):
        student = output(embedding=torch.randn(2, 3))
        with pytest.raises(UserError, match="the paper's formula has no multiplier"):
            built("tfkd_reg", student, multiplier=100.0)


def test_a_stage_before_leaves_the_head_alone():
    student = Stub(nn.Linear(2, 3))
    feature = output(torch.randn(2, 3, 4, 4))
    for name in ("ab", "fsp"):
        method = built(name, feature._replace(stem=feature.features[0]), feature._replace(stem=feature.features[0]))
        prestage = method.prestage(student)
        assert not any(student.head is module for module in prestage.trained)
        loss = run(method, feature, feature)
        assert loss.total == 0 and loss.terms == {}


class TestShortNames:
    """A method is called in options, logs and names of stages by one name."""

    def test_of_the_table_and_of_an_import_path(self):
        assert all(short_name(name) == name for name in METHODS)
        assert short_name("package.module:LogitMatch") == "logitmatch"

    @pytest.mark.parametrize("names", ("kd+kd", "kd+package.module:KD", "kd+one:Match+other:Match"))
    def test_two_of_one_name_are_refused(self, names):
        with pytest.raises(UserError, match="stands twice"):
            split_methods(names)


WITH_A_TEACHER = [name for name, kind in METHODS.items() if kind.is_logit_method and kind.teachers_needed[0]]
# The others look at the teacher's own logits too: at its confidence, its Gram matrices, whether it is right.
SEE_STANDARDISED_ALONE = (
    *("abkd", "aekd", "aveg", "dist", "dkd", "dml", "jsd", "kd", "nkd", "rco", "rld", "sckd", "ttm", "wttm"),
)


class TestStandardise:
    @pytest.mark.parametrize("name", [name for name in WITH_A_TEACHER if name != "none"])
    def test_it_is_a_switch_of_every_logit_method_with_a_teacher(self, name):
        assert METHODS[name].Settings().standardise is False

    @pytest.mark.parametrize("name", SEE_STANDARDISED_ALONE)
    def test_the_teachers_scale_and_offset_are_not_seen(self, name):
        torch.manual_seed(0)
        student, teacher = torch.randn(2, 6, 10).double()
        labels = torch.randint(10, (6,))
        outputs = [output(logits=z, embedding=z) for z in (student, teacher, 3 * teacher + 5)]
        for standardise in (True, False):
            method = built(name, *outputs[:2], standardise=standardise)
            losses = (run(method, outputs[0], other, labels=labels) for other in outputs[1:])
            plain, scaled = (loss.total if loss.gated is None else loss.gated for loss in losses)
            assert torch.allclose(plain, scaled, rtol=1e-5) == standardise


class TestOrthogonalProjector:
    @pytest.mark.parametrize("width, goal", ((5, 8), (8, 5), (6, 6)))
    def test_it_is_orthogonal_whatever_its_parameter_and_stays_so_under_weight_decay(self, width, goal):
        torch.manual_seed(0)
        projector = OrthogonalProjector(width, goal).double()
        projector.original.data.normal_()
        optimizer = torch.optim.AdamW(projector.parameters(), lr=0.1, weight_decay=0.5)
        rows, target = torch.randn(9, width).double(), torch.randn(9, goal).double()
        for _ in range(3):
            (projector(rows) - target).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        matrix = projector.weight()
        assert matrix.shape == (goal, width)
        products = matrix @ matrix.T if goal < width else matrix.T @ matrix
        torch.testing.assert_close(
            products, torch.eye(min(width, goal)).double(), rtol=0, atol=2e-6
        )  # the base is float32


def test_a_normalised_projector_gives_a_map_at_the_teachers_scale():
    torch.manual_seed(0)
    projected = ProjectedMap("normalised", 3, 4)
    target = 5 + 3 * torch.randn(64, 4, 2, 2)
    for _ in range(60):
        projected.observe(target)
    found = projected(torch.randn(64, 3, 2, 2))
    torch.testing.assert_close(found.mean((0, 2, 3)), target.mean((0, 2, 3)), rtol=2e-2, atol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), target.std((0, 2, 3)), rtol=2e-2, atol=0)


def test_methods_that_need_different_views_are_refused():
    with pytest.raises(UserError, match="mlld and sskd need different views"):
        distill("mlld+sskd", "resnet8", "resnet8x2")
