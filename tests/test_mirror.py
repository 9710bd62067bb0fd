"""The tests of fastkd/a/b.py stand in tests/a/test_b.py, or TESTED_ELSEWHERE says where they stand and why."""

from pathlib import Path

import pytest
from helpers.places import ROOT, TESTS

TESTED_ELSEWHERE = {
    "analysis/findings.py": ("tests/plan/test_findings.py", "Every kind is taken there, of nodes that were trained."),
    "data/assembled.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/classes.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/csv_list.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/listing.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/objects.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/shards.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/tar.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/arrow.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/dali_source.py": ("tests/data/test_dali.py", "DALI is fed there."),
    "data/pack.py": ("tests/data/test_origins.py", "Images in every keeping give the same batches there."),
    "data/found.py": ("tests/data/test_index.py", "What a scan of folders finds is kept and damaged there."),
    "data/records.py": ("tests/data/test_origins.py", "Every kind of them gives the same batches there."),
    "losses/ab_divergence.py": (
        "tests/losses/test_pairs.py",
        "All losses of a student and one teacher are tested there.",
    ),
    "losses/nkd.py": ("tests/losses/test_pairs.py", "All losses of a student and one teacher are tested there."),
    "losses/rld.py": ("tests/losses/test_pairs.py", "All losses of a student and one teacher are tested there."),
    "losses/ttm.py": ("tests/losses/test_pairs.py", "All losses of a student and one teacher are tested there."),
    "losses/pair.py": ("tests/losses/test_pairs.py", "All losses of a student and one teacher are tested there."),
    "losses/correlation.py": (
        "tests/losses/test_features.py",
        "The losses on plain tensors are tested there together.",
    ),
    "losses/relations.py": ("tests/losses/test_features.py", "The losses on plain tensors are tested there together."),
    "losses/likelihood.py": ("tests/losses/test_features.py", "The losses on plain tensors are tested there together."),
    "losses/preacts.py": ("tests/losses/test_features.py", "The losses on plain tensors are tested there together."),
    "losses/projected.py": ("tests/losses/test_features.py", "The losses on plain tensors are tested there together."),
    "losses/projectors.py": ("tests/methods/test_golden_projectors.py", "The authors' numbers are compared there."),
    "losses/maps.py": ("tests/losses/test_features.py", "The losses on plain tensors are tested there together."),
    "losses/precision.py": ("tests/losses/test_features.py", "The losses on plain tensors are tested there together."),
    "losses/aekd.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/crld.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/ctkd.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/mlld.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/reviewkd.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/sdd.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/semckd.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/srrl.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/sskd.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/uskd.py": ("tests/losses/test_of_papers.py", "The losses that are a paper's whole are tested there."),
    "losses/frozen.py": ("tests/losses/test_of_papers.py", "SRRL's classifier is one."),
    "losses/smallest_combination.py": ("tests/methods/test_methods.py", "AEKD's weights are tested there."),
    "methods/": ("tests/methods/test_walk.py", "Every row of METHODS is walked there."),
    "networks/": ("tests/networks/test_table.py", "Every row of NETWORKS is walked there."),
    "ops/augment/": ("tests/ops/augment/test_interpreted.py", "The kernel is held against the reference there."),
    "ops/crd/": ("tests/ops/crd/test_interpreted.py", "The kernels are held against the reference there."),
    "ops/distill_loss/": (
        "tests/ops/distill_loss/test_interpreted_kernels.py",
        "The kernels are held against the reference there.",
    ),
    "ops/row_loss/": (
        "tests/ops/row_loss/test_interpreted_kernels.py",
        "The kernels are held against the reference there, and that against the formulas in test_reference.py.",
    ),
    "plan/measures.py": ("tests/plan/test_filled.py", "Every row of MEASURES is read there."),
    "plan/output.py": ("tests/plan/test_filled.py", "The made-up table is written there in every form."),
    "plan/outlook.py": ("tests/plan/test_worker.py", "The hours are those of what is carried out there."),
    "plan/versions.py": ("tests/plan/test_nodes.py", "They are a part of a node's digest."),
    "plan/views.py": ("tests/plan/test_worker.py", "A cell is held against a run of its own there."),
    "training/records.py": ("tests/training/test_trainer.py", "What a training tells of itself is read there."),
    "training/student_aware.py": ("tests/training/test_stages.py", "It stands there beside the other stages."),
    "recipes/help.py": ("tests/test_options.py", "The help is read there."),
    "run/prediction.py": ("tests/test_predict.py", "Images of every kind and state are asked about there."),
    "analysis/measured.py": ("tests/test_evaluate.py", "Runs are tested there."),
    "support/callbacks.py": ("tests/test_api.py", "Programs are told there."),
    "run/quantised.py": ("tests/run/test_export.py", "An exported program is quantised there."),
    "run/memory.py": ("tests/run/test_faults.py", "A training runs out of memory there."),
    "recipes/tables/": ("tests/recipes/tables/test_tables.py", "The tables are held against a second reading there."),
    "synthesis/kinds.py": ("tests/synthesis/test_base.py", "Every kind is made and tried there."),
    "synthesis/settings.py": ("tests/recipes/test_datafree.py", "Their defaults are held against DataFree's there."),
    "support/session.py": (
        "tests/run/test_run.py",
        "It holds three values and does nothing; runs are carried out there.",
    ),
}
"""{a module, or a folder with those of its modules that have no test in their place: (test file, why there)}."""

MODULES = sorted(
    str(path.relative_to(ROOT / "fastkd")) for path in (ROOT / "fastkd").rglob("*.py") if path.name != "__init__.py"
)


def place_of_tests(module: str) -> str:
    """`data/__main__.py` has its tests in `tests/data/test_main.py`."""
    folder, slash, name = module.rpartition("/")
    return f"tests/{folder}{slash}test_{name.removesuffix('.py').strip('_')}.py"


def has_tests_in_its_place(module: str) -> bool:
    return (ROOT / place_of_tests(module)).is_file()


def is_covered_by(entry: str, module: str) -> bool:
    return module.startswith(entry) if entry.endswith("/") else module == entry


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_its_tests_in_its_place(module):
    elsewhere = any(is_covered_by(entry, module) for entry in TESTED_ELSEWHERE)
    assert has_tests_in_its_place(module) or elsewhere, f"fastkd/{module} has no {place_of_tests(module)}"


@pytest.mark.parametrize("entry", TESTED_ELSEWHERE)
def test_what_is_tested_elsewhere_is_tested_there_and_has_no_place_of_its_own(entry):
    file, reason = TESTED_ELSEWHERE[entry]
    assert (ROOT / file).is_file() and reason.endswith(".")
    assert any(is_covered_by(entry, module) and not has_tests_in_its_place(module) for module in MODULES), (
        f"whatever fastkd/{entry} means has its tests in its place: take the entry out of TESTED_ELSEWHERE"
    )


def test_no_module_stands_in_two_entries():
    several = {
        module: found
        for module in MODULES
        if len(found := [entry for entry in TESTED_ELSEWHERE if is_covered_by(entry, module)]) > 1
    }
    assert not several


def test_test_files_are_named_so_that_pytest_finds_them():
    """A helper stands in tests/helpers/, the executor of PTX in tests/ptx/; what is left is a test or a conftest."""
    others = [path.relative_to(TESTS) for path in TESTS.rglob("*.py")]
    others = [path for path in others if path.parts[0] != "helpers" and not belongs_to_the_executor(path)]
    assert not [path for path in others if not path.name.startswith("test_") and path.name != "conftest.py"]


def belongs_to_the_executor(path: Path) -> bool:
    """Whether it is part of the package itself, whose own tests stand in tests/ptx/tests/."""
    return path.parts[0] == "ptx" and path.parts[1] != "tests"
