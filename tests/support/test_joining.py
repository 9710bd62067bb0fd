"""How a process joins a group, or takes one as it is, and what a user reads of what fails."""

import pytest
import torch
import torch.distributed as dist

from fastkd.support import distributed, joining
from fastkd.support.errors import UserError
from fastkd.support.joining import processes


@pytest.mark.parametrize(
    "environment, words",
    (
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x', expected a number from 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', expected a number from 1"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1', expected a number from 0"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999', expected a number from 0"),
        ({"RANK": "5"}, "RANK is 5, but WORLD_SIZE says 2 processes"),
        ({}, "RANK and WORLD_SIZE are set, MASTER_ADDR is not"),
    ),
)
def test_variables_that_say_nothing_are_one_line(environment, words, monkeypatch):
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words), processes(torch.device("cpu")):
        pass


@pytest.mark.parametrize("value", ("", "x", "0", "-1", "1.5"))
def test_a_timeout_that_is_none_is_one_line(value, monkeypatch):
    for name, given in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, given)
    monkeypatch.setenv("FASTKD_TIMEOUT", value)
    words = "FASTKD_TIMEOUT is .*, expected seconds"
    with pytest.raises(UserError, match=words), processes(torch.device("cpu")):
        pass


@pytest.fixture
def group_of_another():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_group_of_another_is_taken_as_it_is(group_of_another, monkeypatch):
    """Ray sets torchrun's variables, too; a program of one's own need not."""
    for name in (None, "RANK", "WORLD_SIZE"):
        if name is not None:
            monkeypatch.setenv(name, "1")
        with processes(torch.device("cpu")) as device:
            assert device.type == "cpu" and distributed.world_size() == 1
            assert distributed.local_processes() == 1
        assert dist.is_initialized()


@pytest.mark.parametrize(
    "words, expected",
    (
        ("[gloo/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation to complete", "it is late"),
        ("Gloo connectFullMesh failed with timeout", "it is late"),
        ("[gloo/pair.cc:547] Connection closed by peer [10.0.0.1]:4711", "another one of the run has ended"),
    ),
)
def test_a_message_that_fails_is_one_line_in_the_group_of_another(words, expected, group_of_another):
    found = joining._in_one_line(RuntimeError(words), "it is late")
    assert found is not None and expected in str(found)
    with pytest.raises(UserError, match="process 0 ends"), processes(torch.device("cpu")):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="shapes"), processes(torch.device("cpu")):
        raise RuntimeError("shapes do not match; DataLoader timed out after 5 seconds")


def test_processes_that_are_started_anew_find_no_addresses_of_those_before(monkeypatch):
    """torchrun keeps one store for all of them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    names = set()
    for restart in range(3):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restart))
        names.add(joining._attempt())
    assert len(names) == 3


def test_processes_of_agents_that_count_differently_meet(monkeypatch):
    """Of two machines only that on which a process failed counts a restart; they meet in a store of their own."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    names = set()
    for restart in range(2):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restart))
        names.add(joining._attempt())
    assert len(names) == 1
