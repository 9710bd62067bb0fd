"""Findings of finished nodes: taken once, by one process, and found beside the results."""

import contextlib
import importlib.util
from dataclasses import replace

import pytest
from helpers.tiny import CPU, Quiet, tiny_recipe

from fastkd import recipes
from fastkd.analysis import features
from fastkd.analysis.findings import Subject, measured
from fastkd.analysis.opened import Opened
from fastkd.data import Part
from fastkd.methods.simkd import SimKDSettings
from fastkd.plan import findings, pictures
from fastkd.plan.cells import Cell, Plan, Seeds
from fastkd.plan.claims import claimed
from fastkd.plan.filled import filled
from fastkd.plan.findings import Finder, key_of, shortened, wanted
from fastkd.plan.measures import MEASURES
from fastkd.plan.worker import Worker
from fastkd.recipes.findings import Aligned, Corrupted, Finding, Logged, Probed, ProbeSettings, Pruned, Said
from fastkd.recipes.tables import Entry
from fastkd.recipes.tables.layout import Place, Table
from fastkd.run.run import count_parameters
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.session import Session
from fastkd.training.likelihood import Likelihood

SHORT = ProbeSettings(epochs=2, batch_size=32, milestones=(), features="encoder", augment="crop")
ENTRY = Entry(paper="P", table="Table 1", recipe="digits", student="resnet8", method="simkd", figures={})


def place(stage: str, measure: str, finding: Finding) -> Place:
    return Place(f"{stage} {measure} {finding.kind}", "it", ENTRY, stage, measure, None, finding)


PLACES = (
    place("teacher", "entropy", Said(split="train")),
    place("student", "nll", Said()),
    place("student", "probe", Probed(settings=SHORT)),
    place("student", "alignment", Aligned()),
    place("student", "at epoch", Logged(share=0.5)),
    place("student", "best beside", Logged(network="own classifier")),
    place("student", "pruning ratio", Pruned()),
    place("student", "cost", Pruned()),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A plan of one cell, SimKD with the student's own classifier beside it, carried out."""
    joint = {"simkd": SimKDSettings(weight=0.5, ce_weight=0.5, kl_weight=0.5)}
    made = recipes.digits(teacher_net="resnet8", student="resnet8", method="simkd", teacher_training="standard")
    trainings = [replace(stage.training, epochs=2, batch_size=32) for stage in made.stages]
    stages = tuple(
        replace(stage, training=training, settings=joint if stage.method else {})
        for stage, training in zip(made.stages, trainings, strict=True)
    )
    recipe = replace(tiny_recipe(), stages=stages, published_classes=10)
    cell = Cell.of("it", recipe, Seeds())
    plan = Plan(tmp_path_factory.mktemp("plan"), [cell])
    Worker(plan, CPU, Session(Quiet(), Interrupt())).work()
    return plan, cell


def finder(plan: Plan) -> Finder:
    return Finder(plan, {}, CPU, Quiet(), Interrupt())


def test_each_is_taken_once_and_stands_in_the_table(trained, monkeypatch):
    plan, cell = trained
    table = Table("P", "Table 1", PLACES)
    before = {one.row: one.ours for one in filled(table, plan, [(place, cell) for place in table.places]).cells}
    assert [row for row, ours in before.items() if ours] == ["student pruning ratio pruning", "student cost pruning"]
    todo = wanted(PLACES, lambda place: cell)
    assert len(todo) == 6
    taking = finder(plan)
    taking.take(todo)
    assert not taking.failures
    found = {one.row: one.ours.mean for one in filled(table, plan, [(place, cell) for place in table.places]).cells}

    folder = plan.folder(cell.nodes[0]["student"])
    opened = Opened.of(folder, CPU, names=("teacher", "student"))
    likelihood, losses = Likelihood(), []
    for batch in opened.batches():
        student, teacher = (opened.networks[name](batch.images[0]) for name in ("student", "teacher"))
        likelihood.add(student.logits, batch.labels)
        losses += [(student.final_map - teacher.final_map).double().square().mean((1, 2, 3))]
    assert found["student nll likelihood"] == pytest.approx(likelihood.read()["nll"], rel=1e-6)
    mean = sum(one.sum().item() for one in losses) / sum(map(len, losses))
    assert found["student alignment alignment"] == pytest.approx(mean, rel=1e-5)
    parameters = [count_parameters(opened.networks[name]) for name in ("student", "teacher")]
    assert found["student pruning ratio pruning"] == pytest.approx(100 * (1 - parameters[0] / parameters[1]))
    assert 0 <= found["student at epoch log"] <= 100 and 0 <= found["student best beside log"] <= 100

    monkeypatch.setattr(findings, "measured", lambda *given: pytest.fail("it was measured again"))
    finder(plan).take(todo)


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on(trained):
    plan, cell = trained
    places = (place("student", "severity 1", Corrupted()), place("student", "nll", Said(split="train")))
    taking = finder(plan)
    taking.take(wanted(places, lambda place: cell))
    assert taking.failures == ["corruptions of the student: no --data cifar100c=PATH was given"]
    assert filled(Table("P", "T", places), plan, [(place, cell) for place in places]).cells[1].ours is not None


def test_what_another_process_is_taking_is_waited_for(trained, monkeypatch):
    plan, cell = trained
    (one,) = wanted([place("teacher", "nll", Said())], lambda place: cell)
    folder = findings.folder_of(plan, one)
    folder.mkdir(parents=True)
    waited = []
    with contextlib.ExitStack() as other:
        assert other.enter_context(claimed(folder)) is not None

        def sleep(seconds):
            waited.append(seconds)
            (folder / "found.json").write_text('{"nll": 1.5, "samples": 899}')
            other.close()

        monkeypatch.setattr(findings.time, "sleep", sleep)
        monkeypatch.setattr(findings, "measured", lambda *given: pytest.fail("it was measured twice"))
        finder(plan).take([one])
    assert len(waited) == 1 and findings.found(plan, one) == {"nll": 1.5, "samples": 899}


@pytest.mark.parametrize("content", ("", "[]", "null", '{"nll": "low"}', '{"nll": [1]}', '{"samples": 0}'))
def test_a_damaged_file_is_one_line(trained, content):
    plan, cell = trained
    one = wanted((place("student", "nll", Said()),), lambda place: cell)[0]
    folder = findings.folder_of(plan, one)
    before = (folder / "found.json").read_bytes() if (folder / "found.json").exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "found.json").write_text(content)
    with pytest.raises(UserError, match="found.json") as raised:
        findings.found(plan, one)
    assert "\n" not in str(raised.value)
    (folder / "found.json").unlink() if before is None else (folder / "found.json").write_bytes(before)


def test_curves_and_embeddings_are_drawn_of_the_nodes(trained, monkeypatch):
    plan, cell = trained
    own = (Place("SimKD", "pair", ENTRY, "student"), Place("teacher", "pair", ENTRY, "teacher"))
    table = Table("P", "Figure 1", own, pictures=("curves", "t-SNE"))
    monkeypatch.setattr(features, "tsne", lambda rows: rows[:, :2])
    monkeypatch.setattr(pictures, "require_scikit_learn", lambda: None)
    found = filled(table, plan, [(place, cell) for place in table.places])
    shown = pictures.pictures(pictures.Drawing(found, plan, lambda place: cell, {}, CPU))
    assert "test error, %" in shown and shown.count('r="1.6"') == 2 * 899
    monkeypatch.undo()
    if importlib.util.find_spec("sklearn") is None:
        with pytest.raises(UserError, match="pip install scikit-learn"):
            pictures.pictures(pictures.Drawing(found, plan, lambda place: cell, {}, CPU))


def test_severities_of_a_node(trained, monkeypatch):
    """The digits in the place of CIFAR-100-C: two corruptions of five severities, three images each."""
    plan, cell = trained
    opened = Opened.of

    def in_parts(folder, device, **how):
        found = opened(folder, device, **how)
        starts = [
            (name, level, 15 * place + 3 * level) for place, name in enumerate(("fog", "snow")) for level in range(5)
        ]
        parts = tuple(Part(name, level + 1, start, start + 3) for name, level, start in starts)
        return replace(found, data=replace(found.data, parts=parts))

    monkeypatch.setattr(Opened, "of", in_parts)
    subject = Subject(plan.folder(cell.nodes[0]["student"]), "student", {"digits": "digits"}, CPU)
    found = measured(Corrupted(data="digits"), subject)
    assert list(found["table"]) == ["fog", "snow"] and len(found["means"]) == 5
    assert found["means"][2] == pytest.approx((found["table"]["fog"][2] + found["table"]["snow"][2]) / 2)
    assert found["mean"] == pytest.approx(sum(found["means"]) / 5)


def test_a_finding_of_another_kind_has_no_such_figure():
    for name, measure in MEASURES.items():
        if measure.finding:
            assert measure.read({"finding": {}}, "student") is None, name


def test_it_stops_where_somebody_asks(trained):
    plan, cell = trained
    taking = finder(plan)
    taking.interrupt.requested = "SIGINT"
    with pytest.raises(Stopped):
        taking.take(wanted((place("control", "nll", Said()),), lambda place: cell))


def test_a_key_is_of_what_is_measured(trained):
    _, cell = trained
    node = cell.nodes[0]["student"]
    one = findings.Wanted(node, "student", Probed(settings=SHORT))
    assert key_of(one) == key_of(one._replace(finding=Probed(settings=SHORT, choice="which is open")))
    other = shortened(one.finding, 7)
    assert other.settings.epochs == 7 and key_of(one) != key_of(one._replace(finding=other))
    assert key_of(one) != key_of(one._replace(stage="teacher"))


@pytest.mark.parametrize("level", range(1, 6))
def test_severities_are_read(level):
    results = {"finding": {"means": [10.0, 20.0, 30.0, 40.0, 50.0]}}
    assert MEASURES[f"severity {level}"].read(results, "student") == 10 * level
