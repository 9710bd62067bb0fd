"""The methods of 2022 to 2025 on logits, as `METHODS` gives them to the engine, against their authors' code."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.golden import Case, close
from helpers.method_cases import DTYPES, Stub, batch, built, check, known_gradients, output, run

from fastkd.data.base import Mixed
from fastkd.losses import SparseTeacher, TeacherProbabilities, standardised_logits, ttm_loss
from fastkd.losses.crld import is_sure
from fastkd.losses.mlld import gram_distances, median
from fastkd.losses.sdd import part_weights, parts_of
from fastkd.losses.uskd import soft_labels, soft_others
from fastkd.methods.uskd import label_values

SIZES = ("c10", "c37", "c1000", "ext60")
each_type = pytest.mark.parametrize("dtype", DTYPES)
each_size = pytest.mark.parametrize("size", SIZES)


def logits(case, dtype, student="zs", teacher="zt", labels="y"):
    leaf, target = case.input(student, dtype), case[f"in/{teacher}"].to(dtype)
    y = case[f"in/{labels}"] if f"{case.name}/in/{labels}" in case.arrays else None
    return {student: leaf}, *(output(logits=z, embedding=z) for z in (leaf, target)), y


def check_each(file, size, dtype, method, losses, **options):
    """losses: {golden name: settings}. Those that the file gives no gradient for are compared by their value."""
    case = Case(f"modern/{file}", size)
    for name, settings in losses.items():
        if f"{size}/loss/{name}" not in case.arrays:
            continue
        leaves, student, teacher, labels = logits(case, dtype)
        module = built(method, student, teacher, classes=student.logits.shape[1], **settings)
        loss = run(module, student, teacher, labels=labels).total
        check(case, name, loss, leaves if known_gradients(case, name) else {}, **options)


# Losses that are differences of almost equal numbers: in float32 the reference errs by more than 1e-4, too.
NEAR = {torch.float64: {}, torch.float32: {"loss_tolerance": 1e-3}}


@each_type
@each_size
def test_standardised_logits(size, dtype):
    plain = {"kl_weight": 1.0, "ce_weight": 0.0}
    losses = {
        "ls_kd_T2": {"standardise": True, "temperature": 2.0, **plain},
        "ls_kd_T4.0": {"standardise": True, "temperature": 4.0, **plain},
        "plain_kd_T2": {"temperature": 2.0, **plain},
        "train_ce": {"standardise": True, "temperature": 2.0, "kl_weight": 0.0, "ce_weight": 0.1},
        "train_kd": {"standardise": True, "temperature": 2.0, "kl_weight": 9.0, "ce_weight": 0.0},
        "train_total": {"standardise": True, "temperature": 2.0, "kl_weight": 9.0, "ce_weight": 0.1},
        "vit_T2_w9": {"standardise": True, "temperature": 2.0, "kl_weight": 9.0, "ce_weight": 0.0},
    }
    check_each("lskd", size, dtype, "kd", losses, **NEAR[dtype])
    common = {"standardise": True, "temperature": 2.0, "ce_weight": 0.0, "warmup_epochs": 0}
    losses = {
        "ls_tckd_T2": {"alpha": 1.0, "beta": 0.0, **common},
        "ls_nckd_T2": {"alpha": 0.0, "beta": 1.0, **common},
        "ls_dkd_a9_b72_T2": {"alpha": 9.0, "beta": 72.0, **common},
    }
    check_each("lskd", size, dtype, "dkd", losses, **NEAR[dtype])


@each_type
@each_size
def test_dist(size, dtype):
    def settings(beta, gamma, temperature):
        return {"ce_weight": 0.0, "weight": 1.0, "beta": beta, "gamma": gamma, "temperature": temperature}

    losses = {f"dist_b1_g1_tau{tau}": settings(1.0, 1.0, tau) for tau in (1.0, 4.0)}
    losses |= {f"inter_tau{tau}": settings(1.0, 0.0, tau) for tau in (1.0, 4.0)}
    losses |= {f"intra_tau{tau}": settings(0.0, 1.0, tau) for tau in (1.0, 4.0)}
    check_each("dist", size, dtype, "dist", losses | {"dist_b2_g0.5_tau1.0": settings(2.0, 0.5, 1.0)})


@each_type
def test_dist_on_the_pixels_of_a_segmentation(dtype):
    case = Case("modern/dist", "seg")
    leaf = case.input("zs", dtype)
    student, teacher = (
        output(logits=z.movedim(1, 3).flatten(0, 2), embedding=z) for z in (leaf, case["in/zt"].to(dtype))
    )
    for name, beta, gamma in (("seg_b1_g1", 1.0, 1.0), ("seg_inter", 1.0, 0.0), ("seg_intra", 0.0, 1.0)):
        given = {"ce_weight": 0.0, "weight": 1.0, "beta": beta, "gamma": gamma, "temperature": 1.0}
        method = built("dist", student, teacher, classes=7, **given)
        check(case, name, run(method, student, teacher).total, {"zs": leaf})


@each_type
@pytest.mark.parametrize("size", (*SIZES, "mixup"))
def test_nkd(size, dtype):
    case = Case("modern/nkd", size)
    losses = {
        f"nkd_g{gamma}_T{tau}": {"gamma": gamma, "temperature": tau}
        for gamma, tau in ((1.5, 1.0), (1.0, 1.0), (1.5, 2.0), (3.5, 3.0))
    }
    for name, settings in (losses | {"target": {"gamma": 0.0}}).items():
        leaves, student, teacher, labels = logits(case, dtype)
        labels = case["in/y_soft"].argmax(1) if labels is None else labels
        method = built("nkd", student, teacher, ce_weight=0.0, **settings)
        loss = run(method, student, teacher, labels=labels).total
        check(case, name, loss, leaves if known_gradients(case, name) else {})


@each_type
@each_size
def test_rld(size, dtype):
    common = {"ce_weight": 0.0, "warmup_epochs": 0}
    losses = {
        "rld_a1_b8_T4_aT1": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "target_temperature": 1.0},
        "rld_a1_b8_T4_aT4": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "target_temperature": 4.0},
        "rld_a1_b0.5_T1_aT1": {"alpha": 1.0, "beta": 0.5, "temperature": 1.0, "target_temperature": 1.0},
        "ls_rld_a9_b72_T2_aT2": {
            "alpha": 9.0,
            "beta": 72.0,
            "temperature": 2.0,
            "target_temperature": 2.0,
            "standardise": True,
        },
        "scd_T4": {"alpha": 1.0, "beta": 0.0, "target_temperature": 4.0},
        "scd_T1": {"alpha": 1.0, "beta": 0.0, "target_temperature": 1.0},
        "mcd_T4": {"alpha": 0.0, "beta": 1.0, "temperature": 4.0},
    }
    check_each("rld", size, dtype, "rld", {name: given | common for name, given in losses.items()}, **NEAR[dtype])


@each_type
@each_size
@pytest.mark.parametrize("name", ("ttm", "wttm"))
def test_ttm_and_wttm(name, size, dtype):
    losses = {
        f"{name}_l{exponent}": {"exponent": exponent, "kl_weight": 1.0, "ce_weight": 0.0}
        for exponent in (0.1, 0.2, 1.0)
    }
    check_each("ttm", size, dtype, name, losses)


@each_type
@each_size
def test_abkd(size, dtype):
    powers = ((0.8, 0.3, 4), (0.9, 0.2, 4), (0.5, 0.5, 1), (0.2, 0.7, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1), (1, 1, 2))
    powers += ((1, -1, 1), (0.5, 0, 1), (0, 0.5, 1), (2, -0.5, 1), (0, 0, 4), (1, 1, 1))
    losses = {
        f"ab_a{a}_b{b}_T{tau}": {
            "alpha": float(a),
            "beta": float(b),
            "temperature": float(tau),
            "weight": 1.0,
            "ce_weight": 0.0,
        }
        for a, b, tau in powers
    }
    assert any(f"{size}/loss/{name}" in Case("modern/abkd", size).arrays for name in losses)
    check_each("abkd", size, dtype, "abkd", losses)


class TestGeneralisedJSD:
    """The token axes are flattened; labels of -100 drop a token, and it is a mean over those that are left."""

    def loss(self, case, dtype, beta, temperature=1.0, labels=None, known=None, floor=0.0):
        """known: what is known of the teacher, in place of its logits. floor: what TRL's trainers clamp at."""
        leaf = case.input("zs", dtype)
        student, teacher = (output(logits=z.flatten(0, 1), embedding=z) for z in (leaf, case["in/zt"].to(dtype)))
        given = {"beta": beta, "temperature": temperature, "ce_weight": 0.0, "floor": floor}
        method = built("jsd", student, teacher, **given)
        teacher = teacher if known is None else teacher._replace(logits=known)
        return {"zs": leaf}, run(method, student, teacher, labels=labels).total

    def kept(self, case, dtype, k, beta, tail):
        """The teacher's greatest classes for beta 0, the student's for beta 1, the greatest of both between."""
        student, teacher = (case[f"in/{name}"].to(dtype).flatten(0, 1) for name in ("zs", "zt"))
        indices = teacher.topk(k).indices if beta == 0 else student.topk(k).indices
        if 0 < beta < 1:
            both = torch.cat([teacher.topk(k).indices, indices], -1).sort(-1).values
            again = torch.zeros_like(both, dtype=torch.bool)
            again[:, 1:] = both[:, 1:] == both[:, :-1]
            indices = torch.where(again, -1, both)
        return SparseTeacher(indices, teacher.log_softmax(-1).gather(-1, indices.clamp(min=0)), tail)

    @each_type
    @pytest.mark.parametrize("size", ("v16", "v37", "v1000", "ext60"))
    @pytest.mark.parametrize("beta", (0, 0.5, 1))
    def test_kept_classes(self, size, beta, dtype):
        """TRL gives the rest at least 1 - exp(-1e-7) on both sides, which in ext60 is more than it has."""
        case = Case("modern/gjsd", size)
        labels, floor = case["in/labels"].flatten(), 0.0 if size != "ext60" else -math.expm1(-1e-7)
        for k in (1, 4):
            for tail, word in (("lumped", "tail"), ("renormalised", "renorm")):
                name = f"top{k}_{word}_b{beta}"
                if f"{size}/loss/{name}" in case.arrays:
                    known = self.kept(case, dtype, k, beta, tail)
                    leaves, loss = self.loss(case, dtype, beta, labels=labels, known=known, floor=floor)
                    close(loss, case[f"loss/{name}"], dtype)
                    if known_gradients(case, name):  # some are 1e-45: nothing, beside 1
                        close(torch.autograd.grad(loss, leaves["zs"])[0], case[f"grad/{name}/zs"], dtype)

    @pytest.mark.parametrize("beta", (0, 0.5, 1))
    def test_a_rest_that_nobody_clamps(self, beta):
        case = Case("modern/gjsd", "ext60")
        labels, (logits, leaf) = case["in/labels"].flatten(), (case["in/zt"].flatten(0, 1), case.input("zs"))
        known = self.kept(case, torch.float64, 1, beta, "lumped")
        known = known._replace(tail=_rest(logits.log_softmax(-1), known.indices)[:, 0])
        leaves, loss = self.loss(case, torch.float64, beta, labels=labels, known=known)
        exact = _on_support(logits, leaf.flatten(0, 1), known.indices, beta)[labels != -100].mean()
        close(loss, exact)
        close(*(torch.autograd.grad(value, zs)[0] for value, zs in ((loss, leaves["zs"]), (exact, leaf))))

    @each_type
    @pytest.mark.parametrize("size", ("v16", "v37", "v1000", "ext60"))
    @pytest.mark.parametrize("floor", (1e-8, 0.0))
    def test_probabilities(self, size, floor, dtype):
        """TRL clamps them at 1e-8, which is below all of them but in ext60."""
        case = Case("modern/gjsd", size)
        if size == "ext60" and not floor:
            return
        logits, labels = case["in/zt"].to(dtype).flatten(0, 1), case["in/labels"].flatten()
        for known in (TeacherProbabilities(logits.softmax(-1)), logits):
            self.check(case, "probs_b0.5", *self.loss(case, dtype, 0.5, labels=labels, known=known, floor=floor))

    @each_type
    @pytest.mark.parametrize("size", ("v16", "v37", "v1000", "ext60"))
    def test_golden(self, size, dtype):
        case = Case("modern/gjsd", size)
        labels = case["in/labels"].flatten()
        tokens, classes = case["in/zs"].shape[1:]
        counted = (labels != -100).sum().item()
        for beta in ("0", "0.1", "0.5", "0.9", "1"):
            self.check(case, f"jsd_b{beta}_T1", *self.loss(case, dtype, float(beta)), tokens)
            self.check(case, f"masked_b{beta}", *self.loss(case, dtype, float(beta), labels=labels))
            if f"{size}/loss/jsd_b{beta}_T2" in case.arrays:
                self.check(case, f"jsd_b{beta}_T2", *self.loss(case, dtype, float(beta), 2.0), tokens)
        self.check(case, "meanred_b0.5", *self.loss(case, dtype, 0.5, labels=labels), 1 / classes)
        self.check(case, "sumred_b0.5", *self.loss(case, dtype, 0.5, labels=labels), counted)
        self.check(case, "items7_b0.5", *self.loss(case, dtype, 0.5, labels=labels), counted / 7)

    def check(self, case, name, leaves, loss, factor=1.0):
        check(case, name, loss * factor, leaves if known_gradients(case, name) else {})


def _jsd(log_p, log_q, beta):
    def kl(log_p, log_q):
        return torch.where(log_p == -torch.inf, 0, log_p.exp() * (log_p - log_q)).sum(-1)

    if beta in (0, 1):
        return kl(log_p, log_q) if beta == 0 else kl(log_q, log_p)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def _rest(log_p, indices):
    """The logarithm of what is not kept, without the rounding of 1."""
    kept = torch.zeros_like(log_p).scatter_add(-1, indices.clamp(min=0), (indices >= 0).double()) > 0
    return torch.where(kept, -torch.inf, log_p).logsumexp(-1, keepdim=True)


def _on_support(teacher, student, indices, beta):
    """[N]: the divergence over the kept classes and one for the rest."""
    both = []
    for log in (teacher.log_softmax(-1), student.log_softmax(-1)):
        own = torch.where(indices >= 0, log.gather(-1, indices.clamp(min=0)), -torch.inf)
        both.append(torch.cat([own, _rest(log, indices)], -1))
    return _jsd(*both, beta)


def two_views(case, dtype):
    """The student's leaves, and both networks' outputs for the weak view and, behind it, the strong one."""
    leaves = {f"zs_{view}": case.input(f"zs_{view}", dtype) for view in ("weak", "strong")}
    teachers = [case[f"in/zt_{view}"].to(dtype) for view in ("weak", "strong")]
    return leaves, *(output(logits=torch.cat(z), embedding=torch.cat(z)) for z in (list(leaves.values()), teachers))


@each_type
@each_size
def test_crld(size, dtype):
    cifar = {"ce_weight": 1.0, "within_weight": 2.0, "across_weight": 0.5, "temperature": 4.0}
    settings = {
        "cifar": cifar,
        "imagenet": cifar | {"ce_weight": 2.0, "temperature": 1.0},
        "all_on": {
            "ce_weight": 1.0,
            "within_weight": 1.0,
            "across_weight": 1.0,
            "temperature": 2.0,
            "weak_threshold": 0.0,
            "strong_threshold": 0.0,
        },
    }
    parts = {"ce": "ce_weight", "kd_wv": "within_weight", "kd_cv": "across_weight"}
    case = Case("modern/crld", size)
    for name, given in settings.items():
        for part in (*parts, "total"):
            off = {other: 0.0 for key, other in parts.items() if part not in (key, "total")}
            leaves, student, teacher = two_views(case, dtype)
            method = built("crld", student, teacher, classes=student.logits.shape[1], **given | off)
            loss = run(method, student, teacher, labels=case["in/y"]).total
            known = known_gradients(case, f"{name}_{part}")
            check(case, f"{name}_{part}", loss, leaves if known else {})


class TestMLLD:
    @each_type
    @each_size
    def test_golden(self, size, dtype):
        case = Case("modern/mlld", size)
        for name, given in {
            "cifar": {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0},
            "imagenet": {"ce_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0},
            "ls": {"ce_weight": 0.1, "kd_weight": 9.0, "temperature": 2.0, "standardise": True},
        }.items():
            if f"{size}/loss/{name}_total" not in case.arrays:
                continue
            leaves, student, teacher = two_views(case, dtype)
            method = built("mlld", student, teacher, classes=student.logits.shape[1], **given)
            loss = run(method, student, teacher, labels=case["in/y"])
            known = known_gradients(case, f"{name}_total")
            check(case, f"{name}_total", loss.total, leaves if known else {}, retain=True)
            close(given["ce_weight"] * loss.terms["ce"], case[f"loss/{name}_ce"], dtype)
            views = [one.logits.unflatten(0, (2, -1)) for one in (student, teacher)]
            parts = method.loss.parts(*views[0], *views[1], case["in/y"])
            for key, part in zip(("kd", "cc", "bc"), parts, strict=True):
                known = known_gradients(case, f"{name}_{key}")
                check(case, f"{name}_{key}", given["kd_weight"] * part, leaves if known else {}, retain=True)
            labels_alone = built("mlld", student, teacher, classes=views[0].shape[2], **given | {"kd_weight": 0.0})
            ce = run(labels_alone, student, teacher, labels=case["in/y"]).total
            check(case, f"{name}_ce", ce, leaves if known_gradients(case, f"{name}_ce") else {})

    @each_type
    @each_size
    def test_kl_of_one_view(self, size, dtype):
        case = Case("modern/mlld", size)
        leaves, student, teacher = two_views(case, dtype)
        method = built("mlld", student, teacher, classes=student.logits.shape[1])
        kl = method.loss.kl[0](leaves["zs_weak"], case["in/zt_weak"].to(dtype), case["in/y"]).total
        check(
            case, "kd_T4", kl, {"zs_weak": leaves["zs_weak"]} if known_gradients(case, "kd_T4") else {}, **NEAR[dtype]
        )

    @each_type
    @each_size
    def test_gram_terms(self, size, dtype):
        case = Case("modern/mlld", size)
        leaf = case.input("zs_weak", dtype)
        built("mlld", output(logits=leaf), output(logits=leaf), classes=leaf.shape[1])  # whose terms these are
        for name, loss in zip(("cc_T4", "bc_T4"), gram_distances(leaf, case["in/zt_weak"].to(dtype), 4.0), strict=True):
            check(case, name, loss, {"zs_weak": leaf} if known_gradients(case, name) else {}, retain=True)

    def test_the_paper_has_each_view_by_itself_and_no_shares(self):
        case = Case("modern/mlld", "c37")
        given = {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0}
        _, student, teacher = two_views(case, torch.float64)
        method = built("mlld", student, teacher, classes=37, arithmetic="paper", **given)
        expected = 0.0
        for view in ("weak", "strong"):
            s, t, y = (case[f"in/{name}"] for name in (f"zs_{view}", f"zt_{view}", "y"))
            expected += 0.1 * F.cross_entropy(s, y)
            for tau in (4, 3, 5, 2, 6):
                q, p = (s / tau).softmax(1), (t / tau).softmax(1)
                kl = tau**2 * F.kl_div(q.log(), p, reduction="batchmean")
                classes = (p.T @ p - q.T @ q).square().sum() / 37
                expected += 0.9 * (kl + classes + (p @ p.T - q @ q.T).square().sum() / len(y))
        torch.testing.assert_close(run(method, student, teacher, labels=case["in/y"]).total, expected)

    @each_size
    def test_who_is_at_most_the_median(self, size):
        case = Case("modern/mlld", size)
        p = case["in/zt_weak"].softmax(1)
        for values, key in ((p.amax(1), "sample_mask"), (p.sum(0), "class_mask")):
            assert torch.equal((values <= median(values)).long(), case[f"out/{key}"])


@each_type
@each_size
def test_ctkd(size, dtype):
    case = Case("modern/ctkd", size)
    for name, weights in {
        "kd": {"ce_weight": 0.0, "kl_weight": 1.0},
        "ls_kd": {"ce_weight": 0.0, "kl_weight": 1.0, "standardise": True},
        "train_kd_r0.1_a0.9": {"ce_weight": 0.1, "kl_weight": 0.9},
        "train_ls_r0.1_a9": {"ce_weight": 0.1, "kl_weight": 9.0, "standardise": True},
    }.items():
        leaves, student, teacher, labels = logits(case, dtype)
        method = built("ctkd", student, teacher, classes=student.logits.shape[1], **weights)
        method.begin_epoch(int(case["hp/epoch"]) - 1)
        assert method.loss.factor.item() == pytest.approx(case["hp/lambda_"].item(), rel=1e-6)
        method.loss.factor = case["hp/lambda_"].to(torch.float64)
        method.loss.global_T.data.copy_(case["w/global_T"])
        close(method.loss.temperature()[None], case["out/T"], dtype)
        loss = run(method, student, teacher, labels=labels).total
        known = known_gradients(case, name)
        # float32: the temperature's gradient is that of the float64 logits that float32 holds.
        check(case, name, loss, leaves | {"w/global_T": method.loss.global_T} if known else {}, **NEAR[dtype])


@each_size
def test_what_the_losses_are_made_of(size):
    """Intermediate numbers of the authors' code: standardised logits, masks, confidences, sums of powers."""
    case = Case("modern/lskd", size)
    for name in ("zs", "zt"):
        close(standardised_logits(case[f"in/{name}"]), case[f"out/{name}_std"])
    case = Case("modern/crld", size)
    for view, short in (("weak", "w"), ("strong", "s")):
        confidence = case[f"in/zt_{view}"].softmax(1).amax(1)
        close(confidence, case[f"out/conf_{short}"])
        for threshold in (*confidence.tolist(), 0.5):
            sure = is_sure(case[f"in/zt_{view}"], threshold)
            assert torch.equal(sure.bool(), case[f"out/conf_{short}"] >= threshold - 1e-15)
    case = Case("modern/rld", size)
    zt = case["in/zt"]
    assert torch.equal((zt >= zt.gather(1, case["in/y"][:, None])).long(), case["out/masked"])
    case = Case("modern/ttm", size)
    given = {"exponent": 0.1, "kl_weight": 1.0, "reduction": "none"}
    plain, weighted = (ttm_loss(case["in/zs"], case["in/zt"], weighted=one, **given).total for one in (False, True))
    close(weighted / plain, case["out/power_sum_l0.1"])


class TestUSKD:
    def made(self, case, dtype, **settings):
        leaves = {name: case.input(name, dtype) for name in ("zs", "fea_mid")}
        middle = leaves["fea_mid"][:, :, None, None]
        student = output(middle, middle, logits=leaves["zs"], embedding=leaves["zs"])
        method = built("uskd", student, classes=student.logits.shape[1], ce_weight=0.0, **settings)
        for name, parameter in (("weight", method.loss.weak.weight), ("bias", method.loss.weak.bias)):
            parameter.data.copy_(case[f"w/fc.{name}"])
            leaves[f"w/fc.{name}"] = parameter
        return leaves, student, method

    def batch(self, case):
        if case.name != "mixup":
            return batch(case["in/y"])
        values = case["in/y_soft"]
        first = values.argmax(1, keepdim=True)
        second = values.scatter(1, first, -1).argmax(1)
        return batch(first[:, 0])._replace(mixed=Mixed(second, values.gather(1, first)[:, 0]))

    @each_type
    @pytest.mark.parametrize("size", ("c10", "c37", "mixup", "ext60"))
    def test_golden(self, size, dtype):
        case = Case("modern/uskd", size)
        for name, (alpha, beta, mu) in {
            "uskd_a1_b0.1_mu0.005": (1.0, 0.1, 0.005),
            "target": (1.0, 0.0, 0.0),
            "nontarget": (0.0, 1.0, 0.0),
            "weak": (0.0, 0.0, 1.0),
            "uskd_a0.5_b1_mu0.1": (0.5, 1.0, 0.1),
        }.items():
            leaves, student, method = self.made(case, dtype, alpha=alpha, beta=beta, mu=mu)
            check(case, name, method(student, (), self.batch(case)).total, leaves)

    @pytest.mark.parametrize("size", ("c10", "c37", "mixup", "ext60"))
    def test_the_soft_labels(self, size):
        case = Case("modern/uskd", size)
        _, student, method = self.made(case, torch.float64)
        labels, values = label_values(self.batch(case), student.logits)
        log_p = student.logits.log_softmax(1).gather(1, labels)
        close(soft_labels(log_p, values), case["out/soft_target"])
        soft = soft_others(student.logits, method.loss.weak(case["in/fea_mid"]), labels, in_logs=True)
        others = torch.ones_like(soft, dtype=torch.bool).scatter(1, labels, False)
        close(soft[others].view(len(soft), -1), case["out/soft_nontarget"])

    def test_the_paper_ranks_by_probabilities(self):
        case = Case("modern/uskd", "c10")
        _, student, method = self.made(case, torch.float64, ranking="paper")
        labels = case["in/y"][:, None]
        p, weak = student.logits.softmax(1), method.loss.weak(case["in/fea_mid"]).softmax(1)
        scores = sum(x / (1 - x.gather(1, labels) + 1e-6) for x in (p, weak))
        ranks = 1 + (scores[:, None] > scores[:, :, None]).sum(2)
        zipf = (1 / ranks.double()).scatter(1, labels, 0)
        zipf /= zipf.sum(1, keepdim=True)
        soft = soft_others(student.logits, method.loss.weak(case["in/fea_mid"]), labels, in_logs=False)
        torch.testing.assert_close(soft, zipf)


class TestSDD:
    def made(self, case, dtype, **settings):
        leaf, target = case.input("map_s", dtype), case["in/map_t"].to(dtype)
        student, teacher = (output(z, logits=z.mean((2, 3)), embedding=z.mean((2, 3))) for z in (leaf, target))
        scales = (1, 2, 4) if case["hp/scales"] == 3 else (1, 2)
        given = {"ce_weight": 0.0, "warmup_epochs": 0, "scales": scales} | settings
        method = built("sdd", student, teacher, networks=(Stub(),), classes=leaf.shape[1], **given)
        return {"map_s": leaf}, student, teacher, method

    @each_type
    @pytest.mark.parametrize("size", ("c10", "c37", "ext60"))
    def test_golden(self, size, dtype):
        case = Case("modern/sdd", size)
        for name, given in {
            "sdd_kd_T4": {"base": "kd", "temperature": 4.0},
            "sdd_kd_T1": {"base": "kd", "temperature": 1.0},
            "sdd_dkd_a1_b8_T4": {"beta": 8.0, "temperature": 4.0},
            "sdd_dkd_a1_b2_T4": {"beta": 2.0, "temperature": 4.0},
            "sdd_nkd_g8_T4": {"base": "nkd", "beta": 8.0, "temperature": 4.0},
            "sdd_nkd_g1_T1": {"base": "nkd", "beta": 1.0, "temperature": 1.0},
        }.items():
            leaves, student, teacher, method = self.made(case, dtype, **given)
            loss = run(method, student, teacher, labels=case["in/y"]).total
            check(case, name, loss, leaves if known_gradients(case, name) else {}, **NEAR[dtype])

    @pytest.mark.parametrize("size", ("c10", "c37", "ext60"))
    def test_parts_and_their_weights(self, size):
        case = Case("modern/sdd", size)
        _, student, teacher, method = self.made(case, torch.float64)
        close(parts_of(student.final_map, method.settings.scales).mT, case["out/patches_s"])
        weights = part_weights(parts_of(teacher.final_map, method.settings.scales), case["in/y"])
        assert torch.equal(weights, case["out/weight"])

    def test_nkd_as_the_paper_has_it_leaves_the_label_out(self):
        case = Case("modern/sdd", "c10")
        given = {"base": "nkd", "arithmetic": "paper", "scales": (1,), "beta": 1.5, "temperature": 2.0}
        _, student, teacher, method = self.made(case, torch.float64, **given)
        nkd = built("nkd", student, teacher, ce_weight=0.0, gamma=1.5, temperature=2.0)
        found, expected = (run(one, student, teacher, labels=case["in/y"]).total for one in (method, nkd))
        torch.testing.assert_close(found, expected)


@each_type
@pytest.mark.parametrize("size", ("c10", "c37", "ext60"))
def test_catkd(size, dtype):
    case = Case("modern/catkd", size)
    for name, given in {
        "cat_norm_r2": {"resolution": 2},
        "cat_raw_r2": {"resolution": 2, "normalise": False},
        "cat_norm_r4": {"resolution": 4},
        "cat_binary_r2": {"resolution": 2, "binary": True},
    }.items():
        leaf, target = case.input("cam_s", dtype), case["in/cam_t"].to(dtype)
        student, teacher = (output(z, logits=z.mean((2, 3)), embedding=z.mean((2, 3))) for z in (leaf, target))
        method = built("catkd", student, teacher, networks=(Stub(),), classes=leaf.shape[1], weight=1.0, **given)
        check(case, name, run(method, student, teacher).total, {"cam_s": leaf} if known_gradients(case, name) else {})
