"""Several networks that learn from each other: the losses."""

import pytest
import torch
import torch.nn.functional as F
from helpers.golden import Case, close
from helpers.method_cases import batch, built, output

from fastkd.losses.smallest_combination import least_quadratic
from fastkd.methods import split_methods
from fastkd.methods.error_correlation import RIDGE, error_correlation, least_error_weights
from fastkd.methods.kdcl import best_weights, linear_target
from fastkd.support.errors import UserError

LABELS = torch.tensor([3, 0, 5, 5, 1])


def networks(count):
    torch.manual_seed(0)
    logits = [(3 * torch.randn(5, 6)).double().requires_grad_() for _ in range(count)]
    return logits, [output(logits=z, embedding=z) for z in logits]


def divergence(target, own, temperature):
    target, own = (target.detach() / temperature).softmax(1), (own / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(own, target, reduction="batchmean")


def each(name, outputs, **settings):
    """The loss of every network, the others being its teachers."""
    for place, own in enumerate(outputs):
        others = (*outputs[:place], *outputs[place + 1 :])
        yield place, built(name, own, *others, classes=6, **settings)(own, others, batch(LABELS))


@pytest.mark.parametrize("count", (2, 3))
def test_dml_learns_from_the_mean_of_the_others(count):
    logits, outputs = networks(count)
    for place, loss in each("dml", outputs, kl_weight=0.5):
        others = [divergence(z, logits[place], 1.0) for z in logits if z is not logits[place]]
        expected = F.cross_entropy(logits[place], LABELS) + 0.5 * torch.stack(others).mean()
        torch.testing.assert_close(loss.total, expected)
        gradients = torch.autograd.grad(loss.total, logits, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [z is logits[place] for z in logits]


@pytest.mark.parametrize("kind", ("naive", "min_logit", "linear"))
def test_kdcl_learns_from_one_target(kind):
    logits, outputs = networks(3)
    rows = []
    for row, label in enumerate(LABELS.tolist()):
        own = [z.detach()[row] for z in logits]
        if kind == "naive":
            rows.append(min(own, key=lambda z, label=label: F.cross_entropy(z, torch.tensor(label))))
        else:
            rows.append(torch.stack([z - z[label] for z in own]).min(0).values)
    target = torch.stack(rows) if kind != "linear" else linear_target(torch.stack(logits).detach(), LABELS)
    for place, loss in each("kdcl", outputs, target=kind):
        expected = F.cross_entropy(logits[place], LABELS) + divergence(target, logits[place], 2.0)
        torch.testing.assert_close(loss.total, expected)


@pytest.mark.parametrize("scale", (0.1, 1.0, 10.0))
@pytest.mark.parametrize("count, seed", [(2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (4, 0)])
def test_the_linear_target_has_the_least_cross_entropy(count, seed, scale):
    """No weighted mean on a fine grid is better; one that an interior-point method would find is as good."""
    torch.manual_seed(seed)
    logits = scale * torch.randn(count, 64, 10, dtype=torch.float64)
    labels = torch.randint(10, (64,))
    logits[0] += scale * F.one_hot(labels, 10)

    def error(weights):
        return F.cross_entropy(torch.einsum("m,mbk->bk", weights, logits), labels).item()

    found = best_weights(logits, labels)
    assert (found >= 0).all() and found.sum().item() == pytest.approx(1, abs=1e-12)
    generator = torch.Generator().manual_seed(1)
    tried = torch.rand(300, count, dtype=torch.float64, generator=generator).log().neg()  # even on the simplex
    tried = tried / tried.sum(1, keepdim=True)
    near = 0.99 * found + 0.01 * tried
    least = min(error(weights) for weights in (*tried, *near, *torch.eye(count, dtype=torch.float64)))
    assert error(found) <= least + 1e-10


def test_the_least_of_a_quadratic_on_the_simplex():
    torch.manual_seed(0)
    for count in (2, 3, 4):
        root = torch.randn(count, count, dtype=torch.float64)
        matrix, vector = root @ root.T, 3 * torch.randn(count, dtype=torch.float64)
        found = least_quadratic(matrix, vector)
        gradient = matrix @ found + vector
        free = found > 1e-6
        torch.testing.assert_close(gradient[free], gradient[free].mean().expand(int(free.sum())), rtol=1e-5, atol=1e-5)
        assert (gradient[~free] >= gradient[free].mean() - 1e-5).all()


class TestGeneral:
    """KDCL-General: the weights that err least on images held out, once an epoch."""

    @pytest.mark.parametrize("name", ("m3", "neg"))
    def test_every_network_learns_from_the_golden_target(self, name):
        case = Case("datafree/kdcl_general", name)
        logits, labels, shown = case["in/z"], case["in/y"], len(case["out/ens_logits"])
        outputs = [output(logits=z, embedding=z) for z in logits[:, :shown]]
        method = built("kdcl", outputs[0], *outputs[1:], target="general")
        assert not method.is_weighed(0)
        method.weigh(0, logits, labels)
        assert method.is_weighed(0) and not method.is_weighed(1)
        close(error_correlation(logits, labels), case["out/C"])
        close(method.peer_weights, case["out/w"])
        close(method.peer_weights @ case["out/C"] @ method.peer_weights, case["out/min_value"])
        close(torch.einsum("m,mbk->bk", method.peer_weights, logits[:, :shown].softmax(2)), case["out/ens_probs"])
        for place, own in enumerate(outputs):
            others = (*outputs[:place], *outputs[place + 1 :])
            loss = method.seen_from(place)(own, others, batch(labels[:shown]))
            close(loss.terms["kl"], divergence(case["out/ens_logits"], own.logits, 2.0))
            close(loss.terms["ce"], F.cross_entropy(own.logits, labels[:shown]))

    @pytest.mark.parametrize("name", ("m3", "neg"))
    def test_the_ridge_is_that_of_the_golden_weights(self, name):
        case = Case("datafree/kdcl_general", name)
        ridge = RIDGE * torch.eye(len(case["out/C"]), dtype=torch.float64)
        close(least_error_weights(case["out/C"] + ridge), case["out/w_ridge"])

    def test_networks_that_say_the_same_count_the_same(self):
        case = Case("datafree/kdcl_general", "m3")
        first, second, _ = case["in/z"]
        weights = least_error_weights(error_correlation(torch.stack([first, second, first]), case["in/y"]))
        assert weights.sum().item() == pytest.approx(1, abs=1e-12)
        assert weights[0].item() == pytest.approx(weights[2].item(), abs=1e-9)
        alike = least_error_weights(error_correlation(torch.stack([first, first]), case["in/y"]))
        torch.testing.assert_close(alike, torch.full((2,), 0.5, dtype=torch.float64))

    def test_before_the_first_epoch_all_count_the_same(self):
        _, outputs = networks(3)
        method = built("kdcl", *outputs, classes=6, target="general")
        assert method.peer_weights.tolist() == [1 / 3] * 3


@pytest.mark.parametrize("names", ("dml+at", "kdcl+kd", "crd+dml"))
def test_nothing_joins_them(names):
    with pytest.raises(UserError, match="^--method "):
        split_methods(names)
