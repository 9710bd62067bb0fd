"""The networks of a finished run, measured in one pass over its data, or over others with the same classes."""

from typing import Any

from fastkd.analysis.corruptions import Right, by_level
from fastkd.analysis.opened import Opened
from fastkd.training.likelihood import Likelihood
from fastkd.training.similarity import Similarity


def measure(opened: Opened) -> dict[str, dict[str, Any]]:
    """{stage: {"network", "parameters", "top1", "top5", "samples", "nll", "entropy"}}; for all but the teacher also
    "pruned", the percent of its parameters that are saved, "kl", "cka" and "agreement"; where the data have parts
    "corruptions", see `ByLevel`."""
    single = {name: Likelihood(opened.device) for name in opened.networks}
    beside = [name for name in opened.networks if name != "teacher" and "teacher" in opened.networks]
    alike = {name: Similarity(opened.device) for name in beside}
    parts = opened.data.parts if opened.split == "test" else ()
    right = {name: Right(len(opened.data.test.labels)) for name in opened.networks if parts}
    for batch in opened.batches():
        outputs = {name: network(batch.images[0]) for name, network in opened.networks.items()}
        for name, output in outputs.items():
            single[name].add(output.logits, batch.labels)
        for name, measured in right.items():
            measured.add(outputs[name].logits, batch)
        for name, measured in alike.items():
            measured.add(outputs["teacher"], outputs[name])
    found: dict[str, dict[str, Any]] = {}
    for name, network in opened.networks.items():
        stage = opened.recipe.stage(name)
        assert stage is not None
        own = {"network": stage.network, "parameters": sum(weight.numel() for weight in network.parameters())}
        found[name] = own | single[name].read() | (alike[name].read() if name in alike else {})
    for name in beside:
        found[name]["pruned"] = 100 * (1 - found[name]["parameters"] / found["teacher"]["parameters"])
    for name, measured in right.items():
        found[name]["corruptions"] = by_level(measured.of_image, parts)
    return found
