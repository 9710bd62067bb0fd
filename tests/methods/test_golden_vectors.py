"""The methods on embeddings and logits, as `METHODS` gives them to the engine, against the references."""

import pytest
import torch
from helpers.golden import Case, close
from helpers.method_cases import DTYPES, Stub, batch, built, check, load, output, run
from torch import nn

from fastkd.losses.relations import relations
from fastkd.losses.sskd import best_ranked, ranks, turned_to_plain


def embeddings(case, dtype):
    leaves = {name: case.input(name, dtype) for name in ("x_s", "x_t")}
    return leaves, output(embedding=leaves["x_s"]), output(embedding=leaves["x_t"])


def logits(case, dtype, student="zs", teacher="zt"):
    """The student's are a leaf; no gradient is known or wanted for the teachers'."""
    leaf = case.input(student, dtype)
    teachers = case[f"in/{teacher}"].to(dtype) if teacher else leaf.new_zeros(0, 0)
    teachers = teachers[None] if teachers.ndim == 2 else teachers
    return {student: leaf}, output(logits=leaf, embedding=leaf), tuple(output(logits=z, embedding=z) for z in teachers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("b6", "relu"))
def test_pkt(name, dtype):
    case = Case("pkt", name)
    leaves, student, teacher = embeddings(case, dtype)
    check(case, "pkt", run(built("pkt", student, teacher, weight=1.0), student, teacher).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("b6", "b4_relu"))
def test_rkd(name, dtype):
    case = Case("rkd", name)
    leaves, student, teacher = embeddings(case, dtype)
    for loss, distance, angle in (("rkd", case["hp/w_d"], case["hp/w_a"]), ("distance", 1, 0), ("angle", 0, 1)):
        method = built("rkd", student, teacher, distance_weight=float(distance), angle_weight=float(angle))
        check(case, loss, run(method, student, teacher).total, leaves)
    distances = relations(student.embedding)[0]
    unscaled = distances / distances.sum() * case["out/pdist_s"].sum()
    close(unscaled, case["out/pdist_s"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cc(dtype):
    case = Case("cc", "b6")
    leaves, student, teacher = embeddings(case, dtype)
    method = built("cc", student, teacher, weight=1.0, embed_dim=8)
    leaves |= load(case, "embed_s", method.embed_student, (r"^linear\.", ""))
    leaves |= load(case, "embed_t", method.embed_teacher, (r"^linear\.", ""))
    check(case, "cc", run(method, student, teacher).total, leaves)
    close(method.embed_student(student.embedding), case["out/e_s"], dtype)
    close(method.embed_teacher(teacher.embedding), case["out/e_t"], dtype)


def test_cc_as_the_paper_has_it_is_a_gaussian_kernel_by_its_series():
    x, y = torch.randn(5, 7).double(), torch.randn(5, 3).double()
    method = built("cc", output(embedding=x), output(embedding=y), weight=1.0, form="kernel", order=20)
    loss = run(method, output(embedding=x), output(embedding=y)).total
    x, y = nn.functional.normalize(x), nn.functional.normalize(y)
    kernels = [(-0.4 * torch.cdist(z, z).square()).exp() for z in (x, y)]
    torch.testing.assert_close(loss, (kernels[0] - kernels[1]).square().sum() / 25)


@pytest.mark.parametrize("dtype", DTYPES)
def test_srrl(dtype):
    case = Case("srrl", "b6")
    leaves, student, teacher = embeddings(case, dtype)
    leaves["zt"] = case.input("zt", dtype)
    teacher = teacher._replace(logits=leaves["zt"])
    method = built("srrl", student, teacher, networks=(Stub(nn.Linear(12, 10)),))
    leaves |= load(case, "srrl", method.loss.connector, (r"^transfer\.", ""))
    leaves |= load(case, "cls_t", method.loss.classifier.parts[0])
    loss = run(method, student, teacher)
    check(case, "srrl", loss.total, leaves)
    close(loss.terms["srrl_feature"], case["loss/feat"], dtype)
    close(loss.terms["srrl_logit"], case["loss/logit"], dtype)
    connected = method.loss.connector(student.embedding)
    close(connected, case["out/h"], dtype)
    close(method.loss.classifier(connected), case["out/pred"], dtype)


class TestSSKD:
    @staticmethod
    def ours(rows):
        """From the reference's order, image by image, to ours, view by view."""
        return rows.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)

    def methods(self, case, dtype):
        leaves = {name: case.input(name, dtype) for name in ("zs", "zt", "rs", "rt")}
        student, teacher = (
            output(logits=self.ours(leaves[z]), embedding=self.ours(leaves[r])) for z, r in (("zs", "rs"), ("zt", "rt"))
        )
        names = ("tf_weight", "ss_weight", "ratio_tf", "ratio_ss", "tf_T", "ss_T", "ce_weight", "kd_weight", "kd_T")
        values = {name: case[f"hp/{name}"].item() for name in names}
        sskd = built(
            "sskd",
            student,
            teacher,
            tf_weight=values["tf_weight"],
            ss_weight=values["ss_weight"],
            tf_ratio=values["ratio_tf"],
            ss_ratio=values["ratio_ss"],
            tf_temperature=values["tf_T"],
            ss_temperature=values["ss_T"],
        )
        sskd.loss.student_head, sskd.loss.teacher_head = (
            nn.Identity(),
            nn.Identity(),
        )  # the golden embeddings are behind them
        weights = {"ce_weight": values["ce_weight"], "kl_weight": values["kd_weight"], "temperature": values["kd_T"]}
        return leaves, student, teacher, sskd, built("kd", student, teacher, **weights)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", ("n6", "ratio"))
    def test_golden(self, name, dtype):
        case = Case("sskd", name)
        leaves, student, teacher, sskd, kd = self.methods(case, dtype)
        labels = case["in/y"]
        count = len(labels)
        plain = [o._replace(logits=o.logits[:count]) for o in (student, teacher)]
        selfsupervised = sskd(student, (teacher,), batch(labels))
        ordinary = kd(plain[0], (plain[1],), batch(labels))
        del leaves["zt"], leaves["rt"]
        check(case, "total", selfsupervised.total + ordinary.total, leaves, retain=True)
        close(ordinary.terms["ce"], case["loss/loss1"], dtype)
        close(ordinary.terms["kl"], case["loss/loss2"], dtype)
        close(selfsupervised.terms["tf"], case["loss/loss3"], dtype)
        close(selfsupervised.terms["ss"], case["loss/loss4"], dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", ("n6", "ratio"))
    def test_the_teachers_head(self, name, dtype):
        case = Case("sskd", name)
        leaves, _, teacher, sskd, _ = self.methods(case, dtype)
        prestage = sskd.prestage(Stub())
        loss = prestage.loss(None, (teacher,), batch(case["in/y"])).total
        check(case, "ssp_teacher", loss, {"rt": leaves["rt"]})

    @pytest.mark.parametrize("name", ("n6", "ratio"))
    def test_kept_rows_and_similarities(self, name):
        case = Case("sskd", name)
        _, student, teacher, sskd, _ = self.methods(case, torch.float64)
        labels = case["in/y"]
        count = len(labels)
        theirs = torch.arange(3 * count).view(3, count).T.flatten()  # our row of each of the reference's
        cosines = turned_to_plain(teacher.embedding, count)
        for kept, key in (
            (best_ranked(ranks(teacher.logits[count:], labels.repeat(3)), sskd.settings.tf_ratio), "keep_tf"),
            (best_ranked(ranks(cosines, torch.arange(count).repeat(3)), sskd.settings.ss_ratio), "keep_ss"),
        ):
            assert kept[theirs].nonzero()[:, 0].tolist() == sorted(case[f"out/{key}"].tolist())
        close(cosines[theirs], case["out/t_simi"])
        close(turned_to_plain(student.embedding, count)[theirs], case["out/s_simi"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("c10", "c100"))
def test_kd(name, dtype):
    case = Case("kd", name)
    leaves, student, teachers = logits(case, dtype)
    for temperature in (1, 4, 20):
        method = built("kd", student, *teachers, temperature=float(temperature), kl_weight=1.0, ce_weight=0.0)
        check(case, f"kl_T{temperature}", run(method, student, *teachers).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kd_of_equal_networks_is_nothing(dtype):
    case = Case("kd", "equal")
    for temperature in (1, 4, 20):
        leaves, student, teachers = logits(case, dtype)
        method = built("kd", student, *teachers, temperature=float(temperature), kl_weight=1.0, ce_weight=0.0)
        loss = run(method, student, *teachers).total
        gradient = torch.autograd.grad(loss, leaves["zs"])[0]
        nothing = 1e-12 if dtype == torch.float64 else 1e-6  # beside logits of about 1
        for found, key in ((loss, "loss/kl_T{}"), (gradient, "grad/kl_T{}/zs")):
            expected = case[key.format(temperature)]
            torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=nothing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("c10", "c100"))
def test_ce(name, dtype):
    case = Case("ls_ce", name)
    leaves, student, _ = logits(case, dtype, student="z", teacher=None)
    check(case, "ce", run(built("ce", student), student, labels=case["in/y"]).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "loss, settings",
    {
        "dkd_a1.0_b8.0_T4.0": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        "dkd_a1.0_b2.0_T1.0": {"alpha": 1.0, "beta": 2.0, "temperature": 1.0},
        "dkd_a0.5_b4.0_T2.0": {"alpha": 0.5, "beta": 4.0, "temperature": 2.0},
        "tckd_T4.0": {"alpha": 1.0, "beta": 0.0, "temperature": 4.0},
        "nckd_T4.0": {"alpha": 0.0, "beta": 1.0, "temperature": 4.0},
    }.items(),
)
def test_dkd(loss, settings, dtype):
    case = Case("dkd", "c10")
    leaves, student, teachers = logits(case, dtype)
    method = built("dkd", student, *teachers, ce_weight=0.0, warmup_epochs=0, **settings)
    method.begin_epoch(0)
    check(case, loss, run(method, student, *teachers, labels=case["in/y"]).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name, loss, alpha, temperature, multiplier",
    (
        ("c10", "self_a0.95_T20_m1.0", 0.95, 20.0, 1.0),
        ("c10", "self_a0.95_T6_m50.0", 0.95, 6.0, 50.0),
        ("c10", "self_a0.1_T20_m1.0", 0.1, 20.0, 1.0),
        ("c10", "kd_a0.95_T20", 0.95, 20.0, 1.0),
        ("c100", "self_a0.95_T6_m50.0", 0.95, 6.0, 50.0),
        ("c100", "kd_a0.95_T6", 0.95, 6.0, 1.0),
    ),
)
def test_tfkd_self(name, loss, alpha, temperature, multiplier, dtype):
    case = Case("tfkd_self", name)
    leaves, student, teachers = logits(case, dtype)
    settings = {"alpha": alpha, "temperature": temperature, "multiplier": multiplier, "arithmetic": "code"}
    method = built("tfkd_self", student, *teachers, classes=student.logits.shape[1], **settings)
    check(case, loss, run(method, student, *teachers, labels=case["in/y"]).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "loss, alpha, multiplier",
    (
        ("reg_a0.1_T20_m100.0", 0.1, 100.0),
        ("reg_a0.1_T20_m1.0", 0.1, 1.0),
        ("reg_a0.95_T20_m1.0", 0.95, 1.0),
        ("reg_a0.95_T20_m100.0", 0.95, 100.0),
        ("soft_T20", 1.0, 1.0),
        ("ce", 0.0, 1.0),
    ),
)
@pytest.mark.parametrize("name", ("c10", "c100"))
def test_tfkd_reg(name, loss, alpha, multiplier, dtype):
    case = Case("tfkd_reg", name)
    leaves, student, _ = logits(case, dtype, teacher=None)
    settings = {"alpha": alpha, "multiplier": multiplier, "arithmetic": "code", "temperature": 20.0}
    method = built("tfkd_reg", student, classes=student.logits.shape[1], **settings)
    check(case, loss, run(method, student, labels=case["in/y"]).total, leaves)


def test_tfkd_reg_as_the_paper_has_it():
    student, labels = torch.randn(3, 100).double(), torch.tensor([5, 0, 99])
    method = built("tfkd_reg", output(logits=student, embedding=student), classes=100, alpha=0.25, temperature=20.0)
    loss = run(method, output(logits=student, embedding=student), labels=labels).total
    virtual = torch.full((3, 100), 0.01 / 99).double().scatter(1, labels[:, None], 0.99)
    softened = virtual ** (1 / 20)
    softened /= softened.sum(1, keepdim=True)
    torch.testing.assert_close(softened[0, [5, 0]], torch.tensor([0.01574, 0.00994]).double(), rtol=1e-3, atol=0)
    kl = nn.functional.kl_div((student / 20).log_softmax(1), softened, reduction="batchmean")
    torch.testing.assert_close(loss, 0.75 * nn.functional.cross_entropy(student, labels) + 0.25 * kl)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "loss, smoothing, spread", (("tfkd_0.1", 0.1, "others"), ("torch_0.1", 0.1, "all"), ("torch_0.3", 0.3, "all"))
)
@pytest.mark.parametrize("name", ("c10", "c100"))
def test_ls(name, loss, smoothing, spread, dtype):
    case = Case("ls_ce", name)
    leaves, student, _ = logits(case, dtype, student="z", teacher=None)
    method = built("ls", student, smoothing=smoothing, spread=spread)
    check(case, loss, run(method, student, labels=case["in/y"]).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("m3", "m3_norm"))
class TestSeveralTeachers:
    def test_aveg(self, name, dtype):
        case = Case("aekd", name)
        leaves, student, teachers = logits(case, dtype)
        method = built("aveg", student, *teachers, ce_weight=0.0)
        check(case, "aver", run(method, student, *teachers, labels=case["in/y"]).total, leaves)

    def test_aekd(self, name, dtype):
        case = Case("aekd", name)
        leaves, student, teachers = logits(case, dtype)
        cap, unit_length = case["hp/C_tol"].item(), bool(case["hp/svm_norm"])
        method = built("aekd", student, *teachers, ce_weight=0.0, cap=cap, unit_length=unit_length)
        weights = method.loss.teacher_weights(student.logits, [teacher.logits for teacher in teachers])
        close(weights, case["out/alpha_exact"], dtype)
        # The reference's solver stops at a tolerance of 1e-6, ours does not; given its weights, all else is equal.
        method.loss.teacher_weights = lambda *_: case["out/alpha_ref"]
        check(case, "aekd", run(method, student, *teachers, labels=case["in/y"]).total, leaves)
