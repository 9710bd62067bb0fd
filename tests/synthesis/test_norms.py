"""How far images are from the statistics that BatchNorms hold, against golden/datafree/bnstat.npz."""

import torch
from helpers.datafree import network
from helpers.golden import Case, close
from torch import nn

from fastkd.synthesis.norms import NormInput, norm_inputs, statistics_distances

SHAPES = ((3, 6, 1), (6, 8, 2), (8, 8, 1))


def layer(mean, variance):
    norm = nn.BatchNorm2d(len(mean)).double().eval()
    norm.running_mean, norm.running_var = mean, variance
    return norm


def test_a_single_layer():
    case = Case("datafree/bnstat", "one")
    x = case.input("x")
    loss = statistics_distances([NormInput(layer(case["in/running_mean"], case["in/running_var"]), x)]).sum()
    close(loss, case["loss/bn"])
    assert abs(loss.item() - case["out/variant_unbiased"].item()) > 1e-3
    close(*torch.autograd.grad(loss, x), case["grad/bn/x"])


def convolutions(case):
    layers = []
    for number, (inputs, outputs, stride) in enumerate(SHAPES):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False).double()
        norm = layer(case[f"in/mean{number}"], case[f"in/var{number}"])
        with torch.no_grad():
            convolution.weight.copy_(case[f"in/conv{number}"])
            norm.weight.copy_(case[f"in/gamma{number}"])
            norm.bias.copy_(case[f"in/beta{number}"])
        layers += [convolution, norm, nn.ReLU()]
    return nn.Sequential(*layers)


def test_layers_in_the_order_of_their_calls_and_what_they_are_given():
    case = Case("datafree/bnstat", "net")
    x, stack = case.input("x"), convolutions(case)
    with norm_inputs(stack) as seen:
        stack(x)
    for number, (_, given) in enumerate(seen):
        variance, mean = torch.var_mean(given, (0, 2, 3), correction=0)
        close(mean, case[f"out/mean_{number}"])
        close(variance, case[f"out/var_{number}"])
    distances = statistics_distances(seen)
    close(distances, case["out/r"])
    close(distances.sum(), case["loss/bn"])
    close(*torch.autograd.grad(distances.sum(), x), case["grad/bn/x"])


def test_a_network():
    case = Case("datafree/bnstat", "wrn")
    x, teacher = case.input("x"), network(case, "teacher")
    with norm_inputs(teacher) as seen:
        teacher(x)
    distances = statistics_distances(seen)
    close(distances, case["out/r"])
    close(distances.sum(), case["loss/bn"])
    close(*torch.autograd.grad(distances.sum(), x), case["grad/bn/x"])


def test_statistics_that_agree_are_at_no_distance_and_pull_nowhere():
    x = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    variance, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
    loss = statistics_distances([NormInput(layer(mean, variance), x)]).sum()
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, x)[0].any()


def test_nothing_stays_on_a_module_whatever_happens():
    stack = convolutions(Case("datafree/bnstat", "net"))
    try:
        with norm_inputs(stack) as seen:
            stack(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
            raise KeyError
    except KeyError:
        pass
    assert len(seen) == 3
    stack(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    assert len(seen) == 3 and not any(module._forward_pre_hooks for module in stack.modules())


def test_a_network_in_training_is_compared_with_what_the_pass_made_of_its_statistics():
    stack = nn.Sequential(layer(torch.zeros(3).double(), torch.ones(3).double())).train()
    x = 5 + torch.randn(4, 3, 3, 3, dtype=torch.float64)
    with norm_inputs(stack) as seen:
        stack(x)
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    expected = (stack[0].running_mean - mean).norm() + (stack[0].running_var - variance).norm()
    close(statistics_distances(seen).sum(), expected)
    assert stack[0].running_mean.mean().item() > 0.4
