"""The networks of a finished run, measured in one pass over its data, or over others with the same classes."""

from typing import Any

from fastkd.analysis.corruptions import by_level, right_of
from fastkd.analysis.opened import Opened
from fastkd.training.likelihood import Likelihood
from fastkd.training.similarity import Similarity


def measure(tested: Opened) -> dict[str, dict[str, Any]]:
    """{stage: {"network", "parameters", "top1", "top5", "samples", "nll", "entropy"}}; for all but the teacher also
    "kl", "cka" and "agreement", and where the data have parts "corruptions", see `ByLevel`."""
    single = {name: Likelihood(tested.device) for name in tested.networks}
    beside = [name for name in tested.networks if name != "teacher" and "teacher" in tested.networks]
    alike = {name: Similarity(tested.device) for name in beside}
    for batch in tested.batches():
        outputs = {name: network(batch.images[0]) for name, network in tested.networks.items()}
        for name, output in outputs.items():
            single[name].add(output.logits, batch.labels)
        for name, measured in alike.items():
            measured.add(outputs["teacher"], outputs[name])
    found: dict[str, dict[str, Any]] = {}
    for name, network in tested.networks.items():
        stage = tested.recipe.stage(name)
        assert stage is not None
        own = {"network": stage.network, "parameters": sum(weight.numel() for weight in network.parameters())}
        found[name] = own | single[name].read() | (alike[name].read() if name in alike else {})
    if tested.split == "test" and tested.data.parts:
        for name, right in right_of(tested).items():
            found[name]["corruptions"] = by_level(right, tested.data.parts)
    return found
