"""The tables of benchmarks/README.md are what the records say, and the usual script computes what the engine does."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import job_of

from benchmarks import research_script, tables
from fastkd import networks, recipes
from fastkd.data import Batch
from fastkd.run import open_data
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier

ROOT = tables.README.parents[1]


def record(contender, case, median, **others):
    described = {"device": "a device", "peak_bytes": None, "cpu_s": median, "versions": {"torch": "2"}, "commit": "abc"}
    return {"contender": contender, "case": case, "median_s": median, **described, **others}


def test_the_tables_are_up_to_date():
    text = tables.README.read_text()
    assert tables.filled(text, tables.README.parent) == text, "run python -m benchmarks.tables"


def test_every_committed_record_stands_in_a_table():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        if isinstance(json.loads(path.read_text()), list):
            assert f"<!-- results/{path.name} -->" in tables.README.read_text(), path.name


def test_cases_with_the_same_contenders_share_a_table():
    records = [record(who, case, s) for case in ("one", "two") for who, s in (("reference", 2e-3), ("ours", 1e-4))]
    lines = tables.tables(records).splitlines()
    assert lines[0] == "a device; torch 2; commit abc."
    assert lines[2:] == [
        "|  | reference | ours |",
        "| --- | --- | --- |",
        "| one | 2 ms (1x), cpu 2 ms | 100 µs (20x), cpu 100 µs |",
        "| two | 2 ms (1x), cpu 2 ms | 100 µs (20x), cpu 100 µs |",
    ]


def test_many_contenders_stand_one_below_the_other():
    records = [record(f"c{number}", "case", number + 1.0, peak_bytes=1 << 21, starting_s=3.0) for number in range(7)]
    lines = tables.tables(records).splitlines()
    assert lines[2:5] == ["|  | case |", "| --- | --- |", "| c0 | 1 s, 2.0 MiB, start 3 s |"]
    assert len(lines) == 4 + 7


def test_messages_stand_behind_the_time():
    sent = ([], [1 << 20], [3 << 19, 1 << 19], [1 << 19] * 9)
    lines = tables.tables([record(f"c{len(sizes)}", "case", 1.0, messages=sizes) for sizes in sent]).splitlines()
    told = ["", ", 1 message: 1.00 MiB", ", 2 messages: 1.50 + 0.50 MiB", ", 9 messages: 4.50 MiB"]
    assert lines[4] == "| case | " + " | ".join(f"1 s, cpu 1 s{words}" for words in told) + " |"


@pytest.mark.parametrize("stage", ("sftn", "kd"))
def test_the_research_script_computes_the_loss_of_the_engine(stage, monkeypatch):
    """On the same images and weights: what is timed against each other is the same work."""
    recipe = replace(recipes.digits(), limit_train=64)
    data = open_data(recipe)
    losses = []
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: losses.append(loss.item()))
    monkeypatch.setattr(torch.optim.SGD, "step", lambda optimizer: None)
    cpu = torch.device("cpu")
    step = research_script.research_script(recipe, data, stage, 64, cpu, style="reference", loader=False)
    parts = dict(zip(step.__code__.co_freevars, (cell.cell_contents for cell in step.__closure__), strict=True))
    step()
    job = job_of(recipe, data=data)
    earlier = Earlier(job.course, networks={"teacher": parts["teacher"]})
    module = Builder(job, 0).stage(job.course[0 if stage == "sftn" else 1], earlier).train()
    if stage == "sftn":
        module.network, module.branches = parts["teacher"], parts["branches"]
    else:
        module.network.load_state_dict(parts["student"].state_dict())
    images, labels, places, _ = next(research_script.on_device(data.train, 64, cpu))
    zero = torch.tensor(0)
    ours = module(Batch(images.unsqueeze(0), labels, places, zero, zero)).total.item()
    assert losses[0] == pytest.approx(ours, rel=1e-4)


def test_the_contrast_of_the_research_script():
    """The operation itself is compared with the golden vectors elsewhere; here, the sums that the script makes."""
    torch.manual_seed(0)
    contrast = research_script.Contrast(8, 12, 100)
    student, teacher = torch.randn(4, 8), torch.randn(4, 12)
    place, chosen = torch.arange(4), torch.randint(100, (4, 33))
    bank = contrast.bank_2.clone(), contrast.bank_1.clone()
    loss = contrast(student, teacher, place, chosen)
    expected = torch.zeros(())
    for head, x, rows in zip(contrast.heads, (student, teacher), bank, strict=True):
        scores = ((rows[chosen] * F.normalize(head(x), dim=1)[:, None]).sum(2) / 0.07).exp()
        share = scores / (scores.mean() * 100)
        noise = 32 / 100
        expected = expected - (share[:, 0] / (share[:, 0] + noise)).log().sum() / 4
        expected = expected - (noise / (share[:, 1:] + noise)).log().sum() / 4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert contrast.bank_1[place].norm(dim=1) == pytest.approx(torch.ones(4))


def test_networks_of_the_cases_exist():
    from benchmarks.training_step import cases

    for case in cases(quick=False, device=torch.device("cuda")):
        assert {stage.network for stage in case.recipe().stages} <= set(networks.NETWORKS)
