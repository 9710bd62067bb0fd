"""The methods with a projector of their own (SRD, VkD), as `METHODS` gives them, against their authors' code."""

import pytest
import torch
from helpers.golden import Case, close
from helpers.method_cases import DTYPES, built, check, output, run

each_type = pytest.mark.parametrize("dtype", DTYPES)
PARAMETERS = {"w/embed.weight": "embed.weight", "w/embed.bias": "embed.bias"}


def fill(case, method, names):
    """Gives the projector the golden weights; returns its parameters by their golden names."""
    for golden, own in names.items():
        method.loss.projector.get_parameter(own).data.copy_(case[golden])
    return {golden: method.loss.projector.get_parameter(own) for golden, own in names.items()}


@each_type
@pytest.mark.parametrize("size", ("im", "im37", "im_wide"))
def test_srd_on_differences(size, dtype):
    case = Case("modern/srd", size)
    leaf = case.input("map_s", dtype)
    student, teacher = (output(embedding=maps.mean((2, 3))) for maps in (leaf, case["in/map_t"].to(dtype)))
    method = built("srd", student, teacher, weight=1.0)
    parameters = fill(case, method, PARAMETERS)
    check(case, "rep", run(method, student, teacher).total, {"map_s": leaf} | parameters)
    for one, key in ((student, "z_s"), (teacher, "z_t")):
        close(one.embedding, case[f"out/{key}"], dtype)


@each_type
@pytest.mark.parametrize("size", ("im", "im37"))
def test_srd_beside_kd(size, dtype):
    case = Case("modern/srd", size)
    leaves = {name: case.input(name, dtype) for name in ("map_s", "ys")}
    student = output(embedding=leaves["map_s"].mean((2, 3)), logits=leaves["ys"])
    teacher = output(embedding=case["in/map_t"].to(dtype).mean((2, 3)), logits=case["in/yt"].to(dtype))
    method = built("srd", student, teacher)
    leaves |= fill(case, method, PARAMETERS)
    kd = built("kd", student, teacher, temperature=1.0, kl_weight=1.0, ce_weight=0.0)
    total = run(method, student, teacher).total + run(kd, student, teacher).total
    check(case, "train_total", total, leaves)


@each_type
@pytest.mark.parametrize("size", ("deit", "deit_odd"))
def test_srd_on_correlations(size, dtype):
    case = Case("modern/srd", size)
    leaf = case.input("z_s", dtype)
    student, teacher = output(embedding=leaf), output(embedding=case["in/z_t"].to(dtype))
    method = built("srd", student, teacher, weight=1.0, form="correlations")
    parameters = fill(case, method, PARAMETERS)
    check(case, "corr", run(method, student, teacher).total, {"z_s": leaf} | parameters)


class TestVkD:
    def made(self, case, dtype, **settings):
        leaf = case.input("tokens_s", dtype)
        student, teacher = (output(embedding=x) for x in (leaf.mean(1), case["in/map_t"].to(dtype).mean((2, 3))))
        method = built("vkd", student, teacher, weight=float(case["hp/alpha"]), **settings)
        return {"tokens_s": leaf}, student, teacher, method

    def turned(self, case):
        """`original` with as many rows as columns or more: the transpose, where the teacher is the narrower one."""
        original = case["w/projector.original"]
        return original if original.shape[0] >= original.shape[1] else original.T

    @each_type
    @pytest.mark.parametrize("size", ("c10", "c37", "square", "narrow", "init"))
    def test_golden(self, size, dtype):
        case = Case("modern/vkd", size)
        leaves, student, teacher, method = self.made(case, dtype)
        method.loss.projector.original.data.copy_(self.turned(case))
        method.loss.projector.base.copy_(case["w/projector.base"])
        close(method.loss.projector.weight(), case["out/W"], dtype)
        close(method.loss.projector(student.embedding), case["out/proj"], dtype)
        close(method.loss.projector.target(teacher.embedding), case["out/z_t_norm"], dtype)
        loss = run(method, student, teacher).total
        check(case, "repr", loss, leaves, retain=True)
        (gradient,) = torch.autograd.grad(loss, [method.loss.projector.original])
        expected = case["grad/repr/w/projector.original"]
        close(gradient, expected if expected.shape == gradient.shape else expected.T, dtype)

    @each_type
    @pytest.mark.parametrize("size", ("c10", "c37", "square", "narrow", "init"))
    def test_a_matrix_that_is_given(self, size, dtype):
        """Whatever makes the matrix, the loss and its gradients by it are the same."""
        case = Case("modern/vkd", size)
        leaves, student, teacher, method = self.made(case, dtype)
        matrix = case["out/W"].to(dtype).requires_grad_()
        method.loss.projector.weight = lambda: matrix
        loss = run(method, student, teacher).total
        check(case, "repr", loss, leaves, retain=True)
        (gradient,) = torch.autograd.grad(loss, [matrix])
        close(gradient, case["out/dL_dW"], dtype)

    @each_type
    @pytest.mark.parametrize("size", ("c10", "c37", "square", "narrow", "init"))
    def test_beside_kd(self, size, dtype, monkeypatch):
        # Two backward passes through one loss, which the kernels do not offer.
        monkeypatch.setenv("FASTKD_OPS", "distill_loss=reference")
        case = Case("modern/vkd", size)
        leaves, student, teacher, method = self.made(case, dtype)
        method.loss.projector.original.data.copy_(self.turned(case))
        method.loss.projector.base.copy_(case["w/projector.base"])
        close(student.embedding, case["out/z_pool"], dtype)
        leaves |= {name: case.input(name, dtype) for name in ("y_cls", "y_dist")}
        target = output(logits=case["in/y_t"].to(dtype))
        kd = built("kd", output(logits=leaves["y_dist"]), target, temperature=1.0, kl_weight=1.0, ce_weight=0.0)
        ce = built("ce", output(logits=leaves["y_cls"]))
        kl = float(case["hp/gamma"]) * run(kd, output(logits=leaves["y_dist"]), target).total
        check(case, "kl", kl, {"y_dist": leaves["y_dist"]}, retain=True)
        own = run(ce, output(logits=leaves["y_cls"]), labels=case["in/y"]).total
        check(case, "ce", own, {"y_cls": leaves["y_cls"]}, retain=True)
        total = run(method, student, teacher).total + kl + own
        check(case, "train_total", total, leaves, retain=True)
        (gradient,) = torch.autograd.grad(total, [method.loss.projector.original])
        expected = case["grad/train_total/w/projector.original"]
        close(gradient, expected if expected.shape == gradient.shape else expected.T, dtype)

    @each_type
    def test_places_of_a_detector(self, dtype):
        case = Case("modern/vkd", "vidt")
        leaf, teacher = case.input("x_s", dtype), case["in/map_t"].to(dtype)
        samples, _, height, width = teacher.shape
        student = output(leaf.unflatten(0, (samples, height, width)).movedim(3, 1), embedding=leaf)
        method = built("vkd", student, output(teacher, embedding=leaf), form="places")
        method.loss.projector.original.data.copy_(case["w/projector.original"])
        method.loss.projector.base.copy_(case["w/projector.base"])
        parameters = {"w/scale": method.loss.scale, "w/bias": method.loss.bias}
        for name, parameter in parameters.items():
            parameter.data.copy_(case[name])
        leaves = {"x_s": leaf, "w/projector.original": method.loss.projector.original} | parameters
        loss = run(method, student, output(teacher, embedding=leaf)).total
        check(case, "vidt_patch", loss, leaves)
        close(method.loss.scale * method.loss.projector(leaf) + method.loss.bias, case["out/proj"], dtype)
