"""The methods on feature maps, as `METHODS` gives them to the engine, against the reference implementations."""

import pytest
import torch
from helpers.golden import Case, close
from helpers.method_cases import DTYPES, Stub, built, check, load, output, run
from torch import nn

from fastkd.losses.features import flow
from fastkd.losses.preacts import boundary_loss, margin, partial_distance


def pair(case, dtype, *, student="f_s", teacher="f_t", places=("",), **names):
    """The leaves of a case by name, and both outputs made of them."""
    leaves = {f"{side}{place}": case.input(f"{side}{place}", dtype) for side in (student, teacher) for place in places}
    maps = [tuple(leaves[f"{side}{place}"] for place in places) for side in (student, teacher)]
    return leaves, output(*maps[0]), output(*maps[1])


class Plain(nn.Identity):
    """No regressor."""

    def target(self, teacher):
        return teacher


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("plain", "same", "down2", "up2"))
def test_fitnet(name, dtype):
    case = Case("fitnet", name)
    leaves, student, teacher = pair(case, dtype)
    method = built("fitnet", student, teacher, weight=1.0, block=1)
    if name == "plain":
        method.regressor = Plain()
    else:
        leaves |= load(case, "reg", method.regressor)
    check(case, "hint", run(method, student, teacher).total, leaves)
    if name != "plain":
        close(method.regressor.bn.running_mean, case["out/bn.running_mean"], dtype)
        close(method.regressor.bn.running_var, case["out/bn.running_var"], dtype)
        close(method.regressor(student.features[0]), case["out/reg_fs"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("mixed", "same"))
def test_at(name, dtype):
    case = Case("at", name)
    places = range(3 if name == "mixed" else 2)
    leaves, student, teacher = pair(case, dtype, places=places)
    method = built("at", student, teacher, weight=1.0, power=int(case["hp/p"]))
    check(case, "total", run(method, student, teacher).total, leaves)
    for place in places:
        one = output(student.features[place]), output(teacher.features[place])
        check(case, f"layer{place}", run(method, *one).total, leaves)
    if name == "same":
        method = built("at", student, teacher, weight=1.0, form="norm")
        check(case, "paper_l2", run(method, student, teacher).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("b6", "pooled"))
def test_sp(name, dtype):
    case = Case("sp", name)
    leaves, student, teacher = pair(case, dtype)
    loss = run(built("sp", student, teacher, weight=1.0), student, teacher).total
    check(case, "sp", loss, leaves)
    assert abs(loss - case["loss/variant_l1norm"]) > 1e-3 * loss


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("same", "s_larger"))
def test_vid(name, dtype):
    case = Case("vid", name)
    leaves, student, teacher = pair(case, dtype)
    method = built("vid", student, teacher)
    initial = torch.full_like(method.blocks[0].log_scale, case["hp/log_scale_init_default"])
    torch.testing.assert_close(method.blocks[0].log_scale.detach(), initial)
    leaves |= load(case, "vid", method.blocks[0])
    check(case, "vid", run(method, student, teacher).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nst(dtype):
    case = Case("nst", "two")
    leaves, student, teacher = pair(case, dtype, places=(0, 1))
    method = built("nst", student, teacher, weight=1.0)
    check(case, "total", run(method, student, teacher).total, leaves)
    for place in (0, 1):
        one = output(student.features[place]), output(teacher.features[place])
        check(case, f"layer{place}", run(method, *one).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fsp(dtype):
    case = Case("fsp", "three")
    leaves, student, teacher = pair(case, dtype, places=(0, 1, 2))
    student, teacher = (o._replace(stem=o.features[0], features=o.features[1:]) for o in (student, teacher))
    method = built("fsp", student, teacher, weight=1.0)
    check(case, "total", run(method, student, teacher).total, leaves)
    prestage = method.prestage(Stub())
    check(case, "total", prestage.loss(student, (teacher,), None).total, leaves)
    for place in (0, 1):
        one = [
            o._replace(stem=(o.stem, *o.features)[place], features=o.features[place:][:1]) for o in (student, teacher)
        ]
        check(case, f"pair{place}", run(method, *one).total, leaves)
    close(flow(student.stem, student.features[0]), case["out/G_s0"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("direct", "connector"))
def test_ab(name, dtype):
    case = Case("ab", name)
    leaves, student, teacher = pair(case, dtype, student="s", teacher="t", places=(0, 1, 2))
    student, teacher = (o._replace(preacts=o.features) for o in (student, teacher))
    method = built("ab", student, teacher, weight=1.0, margin=case["hp/margin"].item())
    if name == "connector":
        leaves |= load(case, "conn", method)
    check(case, "total", run(method, student, teacher).total, leaves)
    prestage = method.prestage(Stub())
    check(case, "total", prestage.loss(student, (teacher,), None).total, leaves)
    for place, connector in enumerate(method.connectors):
        connected = connector(student.preacts[place])
        check(case, f"raw{place}", boundary_loss(connected, teacher.preacts[place], 1.0), leaves)
        if name == "connector":
            close(connected, case[f"out/conn{place}"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ft(dtype):
    case = Case("ft", "same")
    leaves, student, teacher = pair(case, dtype)
    method = built("ft", student, teacher, weight=1.0, rate=case["hp/k"].item())
    leaves |= load(case, "para", method.paraphraser, *((rf"\.{3 * i}\.", f".{2 * i}.") for i in (1, 2)))
    leaves |= load(case, "tran", method.translator, (r"^encoder\.", ""))
    check(case, "ft", run(method, student, teacher).total, leaves)
    prestage = method.prestage(Stub())
    check(case, "rec", prestage.loss(None, (teacher,), None).total, leaves)
    close(method.translator(student.features[0]), case["out/factor_s"], dtype)
    close(method.paraphraser.encoder(teacher.features[0]), case["out/factor_t"], dtype)
    close(method.paraphraser(teacher.features[0]), case["out/rec"], dtype)
    again = built("ft", student, teacher, weight=1.0, form="factor")
    again.load_state_dict(method.state_dict())
    leaves |= load(case, "para", again.paraphraser, *((rf"\.{3 * i}\.", f".{2 * i}.") for i in (1, 2)))
    leaves |= load(case, "tran", again.translator, (r"^encoder\.", ""))
    check(case, "paper_form", run(again, student, teacher).total, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
def test_semckd(dtype):
    case = Case("semckd", "s2t2")
    leaves, student, teacher = pair(case, dtype, places=(0, 1))
    softness, factor = case["hp/soft"].item(), int(case["hp/factor"])
    method = built("semckd", student, teacher, weight=1.0, softness=softness, factor=factor)
    leaves |= load(
        case,
        "sa",
        method.loss,
        (r"^query_(\d)", r"queries.\1"),
        (r"^key_(\d)", r"keys.\1"),
        (r"linear1", "0"),
        (r"linear2", "2"),
        (r"^regressor(\d)(\d)\.regressor", r"projectors.\1.\2"),
    )
    check(case, "semckd", run(method, student, teacher).total, leaves)
    close(method.loss.attention(student.features, teacher.features), case["out/attention"], dtype)
    close(method.loss.distances(student.features, teacher.features), case["out/ind_loss"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("same", "s_larger"))
def test_simkd(name, dtype):
    case = Case("simkd", name)
    leaves, student, teacher = pair(case, dtype)
    teacher = teacher._replace(embedding=teacher.final_map.mean((2, 3)))
    network = Stub(nn.Linear(8, 10), blocks=1)
    method = built("simkd", student, teacher, networks=(network,), factor=int(case["hp/factor"]))
    projector = method.projections.projectors[0]
    projector = projector if name == "same" else projector[1]  # behind the pooling
    leaves |= load(case, "proj", projector, (r"^transfer\.", ""))
    leaves |= load(case, "cls_t", method.classifier.parts[0])
    check(case, "simkd", run(method, student, teacher).total, leaves)
    for place in (1, 4, 7):
        norm = projector[place]
        close(norm.running_mean, case[f"out/bn_after.transfer.{place}.running_mean"], dtype)
        close(norm.running_var, case[f"out/bn_after.transfer.{place}.running_var"], dtype)
    method.eval()
    close(method.projections(student.features[0]), case["out/eval_trans_s"], dtype)
    deployed = method.deploy(Stub(blocks=1)).to(dtype).eval()
    close(deployed(student.features[0]).logits, case["out/eval_pred"], dtype)
    method.train()
    close(method.projections(student.features[0]), case["out/trans_s"], dtype)
    logits = method.logits(method.projections.each(student.features[0]))
    close(logits, case["out/pred"], dtype)
    check(case, "pred_sum", logits.square().mean(), leaves)


def test_simkd_has_as_many_parameters_as_the_reference():
    rows = Case("simkd", "params")["out/s_t_factor_count"].tolist()
    for student_channels, teacher_channels, factor, count in rows:
        student, teacher = (output(torch.zeros(2, c, 4, 4)) for c in (student_channels, teacher_channels))
        teacher = teacher._replace(embedding=teacher.final_map.mean((2, 3)))
        method = built("simkd", student, teacher, networks=(Stub(blocks=1),), factor=factor)
        assert sum(p.numel() for p in method.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("dtype", DTYPES)
def test_oh(dtype):
    case = Case("ofd", "three")
    leaves, student, teacher = pair(case, dtype, student="s", teacher="t", places=(0, 1, 2))
    student, teacher = (o._replace(preacts=o.features) for o in (student, teacher))
    norms = tuple(nn.BatchNorm2d(o.shape[1]) for o in teacher.features)
    for place, norm in enumerate(norms):
        norm.weight.data.copy_(case[f"in/gamma{place}"])
        norm.bias.data.copy_(case[f"in/beta{place}"])
    method = built("oh", student, teacher, networks=(Stub(norms=norms),))
    for place, norm in enumerate(norms):
        norm.double()
        norm.weight.data.copy_(case[f"in/gamma{place}"])
        norm.bias.data.copy_(case[f"in/beta{place}"])
        reference = case[f"out/margin{place}_f32"]
        torch.testing.assert_close(margin(norm), reference, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(getattr(method, f"margin_{place}").float(), reference, rtol=1e-5, atol=1e-6)
        getattr(method, f"margin_{place}").copy_(reference)  # its last bit, for the comparison in float64
    leaves |= load(case, "D", method, (r"^Connectors", "connectors"))
    check(case, "per_batch", run(method, student, teacher).total, leaves)
    check(case, "total", 1000 * len(student.logits) * run(method, student, teacher).total, leaves)
    connected = zip(*method.connected(student, teacher), method.margins, strict=True)
    for place, raw in enumerate(partial_distance(*given) for given in connected):
        check(case, f"raw{place}", raw, leaves)
        close(method.connectors[place](student.preacts[place]), case[f"out/conn{place}"], dtype)
