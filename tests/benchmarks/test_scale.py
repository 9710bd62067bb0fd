"""The simulated step at its limits, where everybody can say what it takes."""

import json

import pytest

from benchmarks import scale
from benchmarks.scale import Cluster, Link, Pieces, ring_s, simulated

PIECES = Pieces(compute_s=0.1, batch=32, gradient_bytes=1e8, hidden=0.0)


def cluster(machines=1, gpus=1, inside=(1e11, 0.0), between=(1e10, 0.0), **store):
    return Cluster(machines=machines, gpus=gpus, inside=Link(*inside), between=Link(*between), **store)


def test_one_gpu_computes():
    step = simulated(PIECES, cluster(inside=(0.0, 1.0), between=(0.0, 1.0)))
    assert (step.seconds, step.binds, step.images_per_s) == (0.1, "compute", pytest.approx(320))


@pytest.mark.parametrize("layout", ({"gpus": 2, "inside": (0.0, 0.0)}, {"machines": 2, "between": (0.0, 0.0)}))
def test_without_a_line_the_communication_binds(layout):
    step = simulated(PIECES, cluster(**layout))
    assert (step.seconds, step.binds, step.images_per_s) == (float("inf"), "communication", 0.0)


def test_rings_move_twice_the_bytes_but_for_a_share():
    """Thakur, Rabenseifner, Gropp: 2(n-1)/n of the bytes pass each link, in 2(n-1) messages."""
    assert ring_s(1e9, 2, Link(1e9, 0.0)) == pytest.approx(1.0)
    assert ring_s(1e9, 4, Link(1e9, 0.0)) == pytest.approx(1.5)
    assert ring_s(1e9, 10_000, Link(1e9, 0.0)) == pytest.approx(2.0, rel=1e-3)
    assert ring_s(8.0, 4, Link(1e12, 1e-3), messages=5) == pytest.approx(0.03, rel=1e-6)
    assert ring_s(1e9, 1, Link(0.0, 1.0)) == 0.0


def test_what_the_compute_hides_costs_nothing():
    told = ring_s(1e8, 2, Link(1e10, 0.0)) * 100  # 1 s over a line of 1e8 bytes a second
    for hidden, seconds in ((0.0, 0.1 + told), (0.5, 0.05 + told), (1.0, told)):
        pieces = Pieces(compute_s=0.1, batch=32, gradient_bytes=1e8, hidden=hidden)
        assert simulated(pieces, cluster(machines=2, between=(1e8, 0.0))).seconds == pytest.approx(seconds)


def test_many_machines_are_told_by_both_rings():
    step = simulated(PIECES, cluster(machines=4, gpus=8))
    assert step.seconds == pytest.approx(0.1 + ring_s(1e8, 8, Link(1e11, 0)) + ring_s(1e8, 4, Link(1e10, 0)))


@pytest.mark.parametrize(
    "pieces, store, seconds, binds",
    (
        ({"decoded_per_s": 1000.0}, {}, 0.256, "decoding"),
        ({"image_bytes": 1e5}, {"line_bytes_per_s": 1e7}, 2.56, "the store"),
        ({"image_bytes": 1e5}, {"store_bytes_per_s": 1e7}, 2 * 2.56, "the store"),
        ({"calls": 2.0, "call_s": 0.02, "readers": 4}, {}, 0.32, "the store"),
        ({"decoded_per_s": 1e4, "image_bytes": 1e3}, {"line_bytes_per_s": 1e9}, 0.1, "compute"),
    ),
)
def test_the_slowest_of_those_that_feed_decides(pieces, store, seconds, binds):
    step = simulated(Pieces(compute_s=0.1, batch=32, **pieces), cluster(machines=2, gpus=8, **store))
    assert (step.seconds, step.binds) == (pytest.approx(seconds), binds)
    assert step.images_per_s == pytest.approx(2 * 8 * 32 / seconds)


def test_a_record_gives_the_compute(tmp_path, capsys):
    file = tmp_path / "records.json"
    file.write_text(json.dumps([{"case": "a step", "contender": "ours", "median_s": 0.25}]))
    assert scale.recorded(str(file), "a step", "ours") == 0.25
    with pytest.raises(SystemExit, match=r"has no record 'another' of ours: it has 'a step' ours"):
        scale.recorded(str(file), "another", "ours")


def test_the_table_says_what_binds_and_under_which_assumptions(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scale", "--compute", ".1", "--gradients", "1e8", "--between", "1e9", "1e-5"])
    scale.main()
    out = capsys.readouterr().out
    assert all(line in out for line in scale.ASSUMED) and "communication binds" in out and "compute binds" in out


@pytest.mark.slow
def test_two_processes_are_predicted():
    """How well is a matter of the machine's mood: here only that every piece is measured and the right one binds."""
    records = scale.checked(quick=True)
    assert [record.contender for record in records] == ["measured", "simulated"] * len(scale_cases())
    assert all(0 < record.median_s < 10 for record in records)


def scale_cases():
    from benchmarks.scale_check import CASES

    return CASES
