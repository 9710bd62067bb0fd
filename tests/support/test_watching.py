"""Who is named as the one that the others wait for: watches of several processes on a made-up store and clock."""

import types

import pytest

from fastkd.support import watching as module
from fastkd.support.watching import Told, Watch, awaited

LIMIT = 60.0


class Store:
    """The part of a torch Store that a watch uses."""

    def __init__(self):
        self.held, self.is_cut_off = {}, False

    def set_timeout(self, timeout):
        assert timeout.total_seconds() < LIMIT / 2, "a thread that waits for the store could not be ended"

    def set(self, key, value):
        self._answer()
        self.held[key] = value.encode()

    def multi_get(self, keys):
        self._answer()
        return [self.held[key] for key in keys]

    def _answer(self):
        if self.is_cut_off:
            raise RuntimeError("wait timeout")


class Cluster:
    """Processes that look in turn, at every tick of the clock."""

    def __init__(self, monkeypatch, size, strikes_after=1e9):
        self.now, self.store = 0.0, Store()
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "steps", 7)
        self.messages, self.said, self.ended = [0] * size, [], []
        self.looking = set(range(size))
        names = [f"pid {100 + rank} on node-{rank}" for rank in range(size)]
        self.watches = [self._watch(rank, names, strikes_after) for rank in range(size)]

    def _watch(self, rank, names, strikes_after):
        return Watch(
            self.store,
            rank,
            names,
            lambda: self.messages[rank],
            limit=LIMIT,
            say=lambda line: self.said.append((rank, line)),
            end=lambda: self.ended.append(rank),
            strikes_after=strikes_after,
        )

    def go_on(self, seconds, moving=()):
        until = self.now + seconds
        while self.now < until:
            self.now += self.watches[0].every
            for rank in moving:
                self.messages[rank] += 1
            for rank in sorted(self.looking):
                self.watches[rank].look()


@pytest.fixture
def cluster(monkeypatch):
    return Cluster(monkeypatch, 3)


def test_nobody_is_named_while_all_move(cluster):
    cluster.go_on(10 * LIMIT, moving=(0, 1, 2))
    assert not cluster.said


def test_a_stopped_process_is_named_once_by_the_first_of_the_others(cluster):
    cluster.go_on(LIMIT, moving=(0, 1, 2))
    cluster.looking.remove(0)
    cluster.go_on(0.9 * LIMIT)
    assert [rank for rank, _ in cluster.said] == [1]
    line = cluster.said[0][1]
    assert line.startswith("waiting for process 0 (pid 100 on node-0), 3") and "s since its last step (7 taken)" in line
    assert line.endswith("; the run ends after 60 s (FASTKD_TIMEOUT)")
    assert all("process 0" in cluster.watches[rank].finding for rank in (1, 2)), "what an error would say"


def test_it_is_named_before_the_timeout(cluster):
    cluster.looking.remove(2)
    while not cluster.said:
        cluster.go_on(1.0)
    assert LIMIT / 3 < cluster.now < 0.75 * LIMIT


def test_one_that_lives_and_sends_nothing_is_behind(cluster):
    """Its thread tells on, its training hangs in a file system: the others have begun one message more."""
    cluster.go_on(LIMIT, moving=(0, 1, 2))
    cluster.messages[0] += 1
    cluster.messages[2] += 1
    cluster.go_on(0.9 * LIMIT)
    assert [rank for rank, _ in cluster.said] == [0]
    assert cluster.said[0][1].startswith("waiting for process 1 (pid 101 on node-1), ")


def test_all_that_are_at_the_same_place_are_waited_for_by_nobody(cluster):
    """They compile, or read; each will send what comes next."""
    cluster.go_on(10 * LIMIT)
    assert not cluster.said and not any(watch.finding for watch in cluster.watches)


def test_one_that_goes_on_is_forgotten_and_named_anew_when_it_stops_again(cluster):
    for _ in range(2):
        cluster.looking.remove(1)
        cluster.go_on(0.9 * LIMIT)
        cluster.looking.add(1)
        cluster.go_on(LIMIT, moving=(0, 1, 2))
        assert not any(watch.finding for watch in cluster.watches)
    assert [rank for rank, _ in cluster.said] == [0, 0]


def test_a_store_that_does_not_answer_is_that_of_process_0(cluster):
    cluster.go_on(LIMIT, moving=(0, 1, 2))
    cluster.store.is_cut_off = True
    cluster.looking = {2}
    cluster.go_on(0.9 * LIMIT)
    assert [rank for rank, _ in cluster.said] == [2]
    assert "process 0 (pid 100 on node-0) or torchrun, has not answered" in cluster.said[0][1]


def test_many_are_named_in_one_line(monkeypatch):
    cluster = Cluster(monkeypatch, 9)
    cluster.looking = {0, 1}
    cluster.go_on(0.9 * LIMIT)
    assert len(cluster.said) == 1
    assert "process 4 (" in cluster.said[0][1] and " and 4 others; the run ends" in cluster.said[0][1]


def test_who_waits_in_vain_ends_and_who_is_waited_for_does_not(monkeypatch):
    cluster = Cluster(monkeypatch, 3, strikes_after=LIMIT)
    cluster.messages = [1, 0, 1]
    cluster.go_on(0.95 * LIMIT)
    assert not cluster.ended
    cluster.go_on(0.2 * LIMIT)
    assert {*cluster.ended} == {0, 2}
    assert any(line.endswith("this process ends") for _, line in cluster.said)


def test_what_is_told_is_read_as_it_was_written():
    told = Told(number=3, messages=5, steps=11, since=2.5)
    assert Told.of(told.words().encode()) == told and told.place == 16


@pytest.mark.parametrize(
    "places, silent, expected",
    (
        ((4, 4, 4), (), []),
        ((4, 3, 4), (), [1]),
        ((4, 3, 3), (), [1, 2]),
        ((9, 3, 2), (), [2]),
        ((4, 3, 4), (2,), [2]),
        ((4, 4, 4), (2, 0), [0, 2]),
    ),
)
def test_who_is_awaited(places, silent, expected):
    told = {rank: Told(number=1, messages=place, steps=0, since=0.0) for rank, place in enumerate(places)}
    assert awaited(told, silent) == expected


def test_the_thread_ends_when_it_is_told_to():
    watch = Watch(Store(), 0, ["one"], lambda: 0, limit=1.0, say=print, end=lambda: None, strikes_after=1e9)
    watch.start()
    watch.stop()
    assert not watch.is_alive()


def test_a_process_is_called_by_machine_and_number(monkeypatch):
    monkeypatch.setattr(module, "socket", types.SimpleNamespace(gethostname=lambda: "node-7"))
    monkeypatch.setattr(module.os, "getpid", lambda: 42)
    assert module.own_name() == "pid 42 on node-7"
