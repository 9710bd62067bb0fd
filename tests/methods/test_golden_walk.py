"""Every golden number of a method is read by a passing test of the class that `METHODS` gives the engine, or it is said
here why not: none can be forgotten.

The tests run once more, in float64, in a process that notes what they read and which methods they build.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.golden import GOLDEN
from helpers.places import ROOT

METHODS_OF = {
    "modern/abkd": {"abkd"},
    "modern/catkd": {"catkd"},
    "modern/crld": {"crld"},
    "modern/ctkd": {"ctkd"},
    "modern/dist": {"dist"},
    "modern/gjsd": {"jsd"},
    "modern/lskd": {"kd", "dkd"},
    "modern/mlld": {"mlld"},
    "modern/nkd": {"nkd"},
    "modern/rld": {"rld"},
    "modern/sdd": {"sdd"},
    "modern/srd": {"srd"},
    "modern/ttm": {"ttm", "wttm"},
    "modern/uskd": {"uskd"},
    "modern/vkd": {"vkd"},
    "ab": {"ab"},
    "aekd": {"aekd", "aekd_f", "aveg"},
    "at": {"at"},
    "cc": {"cc"},
    "dkd": {"dkd"},
    "fitnet": {"fitnet"},
    "fsp": {"fsp"},
    "ft": {"ft"},
    "kd": {"kd"},
    "ls_ce": {"ls", "ce"},
    "nst": {"nst"},
    "ofd": {"oh"},
    "pkt": {"pkt"},
    "rkd": {"rkd"},
    "semckd": {"semckd"},
    "simkd": {"simkd"},
    "sp": {"sp"},
    "srrl": {"srrl"},
    "sskd": {"sskd", "kd"},
    "tfkd_reg": {"tfkd_reg"},
    "tfkd_self": {"tfkd_self"},
    "vid": {"vid"},
}
WITHOUT_METHOD = {
    "cka": "It is no loss of a method: tests/training/test_similarity.py reads it.",
    "crd": "The method is CRDLoss with the engine's numbers: tests/losses/test_crd.py reads it.",
    "sftn": "It is the loss of a stage, StudentAware: tests/losses/test_sftn.py reads it.",
}
UNREAD = {
    "aekd/.*(camkd|ebkd).*": "CA-MKD and EBKD are no rows of METHODS.",
    "(aekd|at|simkd|tfkd_reg)/.*/out/(gbar|kl|att_s0|target_t|q_T20)": "It is a step to what is compared.",
    "ab/.*/layer.*": "The loss is their sum, whose gradients are all of theirs.",
    "fsp/.*variant.*": "It is another code's, which neither the paper nor RepDistiller has.",
    "sp/.*variant.*": "It is another code's, which neither the paper nor RepDistiller has.",
    "srrl/.*/grad/(feat|logit)/.*": "Both are in the gradient of the sum.",
    "sskd/.*/grad/loss.*": "All are in the gradient of the sum.",
    "(kd|tfkd_self)/.*/grad/.*/zt": "No gradient reaches a teacher here.",
    "modern/abkd/.*/out/student_entropy_T1": "The authors only print it.",
}
QUICK = [name for name in METHODS_OF if name.startswith("modern/")]
SLOW = [name for name in METHODS_OF if name not in QUICK]


def read_by_tests(folder, files: list[str]) -> dict[str, set[str]]:
    """{a golden number: the methods that the passing tests which read it build}."""
    found = folder / "found.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "helpers.golden_walk", "-p", "no:cacheprovider"]
    environment = os.environ | {"GOLDEN_WALK": str(found), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [*command, "-k", "not dtype1 and not float32", *files],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return {key: set(methods) for key, methods in json.loads(found.read_text()).items()}


def forgotten(file: str, read: dict[str, set[str]]) -> list[str]:
    wanted = [f"{file}/{key}" for key in np.load(GOLDEN / f"{file}.npz") if re.search("/(loss|grad|out)/", key)]
    excused = re.compile("|".join(f"({pattern})" for pattern in UNREAD))
    return [key for key in wanted if not is_read(key, read, METHODS_OF[file]) and not excused.fullmatch(key)]


def is_read(key: str, read: dict[str, set[str]], methods: set[str]) -> bool:
    """Beside one of the methods, unless it is an intermediate number."""
    return bool(read.get(key, set()) & methods) or ("/out/" in key and key in read)


def test_every_file_has_its_method():
    files = {str(path.relative_to(GOLDEN))[: -len(".npz")] for path in GOLDEN.rglob("*.npz")}
    data_free = {file for file in files if file.startswith("datafree/")}  # of images without data, which is no method
    assert files - data_free == METHODS_OF.keys() | WITHOUT_METHOD.keys()


@pytest.mark.slow
def test_every_number_of_the_modern_methods(tmp_path):
    read = read_by_tests(tmp_path, ["tests/methods/test_golden_modern.py", "tests/methods/test_golden_projectors.py"])
    assert not [key for file in QUICK for key in forgotten(file, read)]


@pytest.mark.slow
def test_every_number_of_the_others(tmp_path):
    files = ["tests/methods/test_golden_vectors.py", "tests/methods/test_golden_maps.py"]
    read = read_by_tests(tmp_path, files)
    assert not [key for file in SLOW for key in forgotten(file, read)]
