"""Files are reached through few doors: whatever else looks at a path, opens or removes one, could end in a traceback,
hang on a pipe, follow a link or leave half a file."""

import ast

import pytest
from helpers.places import ROOT

DOORS = {
    "support/paths.py": "It is the door: what stands at a path.",
    "support/files.py": "It is the door: reading and writing.",
    "support/locks.py": "It locks, under the door's own opening.",
    "support/log.py": "It appends to a file that the door has opened.",
    "support/command_line.py": "It puts the null device in the place of an output that is full.",
    "support/processes.py": "It reads /proc.",
    "support/environment.py": "It reads /proc and looks for the checkout that the package lies in.",
    "support/once.py": "It makes memory that processes of a machine share: a file of its own, whose name goes at once.",
    "stored/epochs.py": "It writes rows in place and maps them: regular files of one size, reached by no link.",
    "data/index.py": "The scan of image folders, which has its own rules for pipes, links and circles.",
    "data/folder.py": "It looks for images that lie beside the class folders it looks for.",
    "data/decoding.py": "It reads image files, whose heads the scan has looked at.",
    "data/digits.py": "The digits come with the package.",
    "data/dali_source.py": "It writes pictures again in a temporary folder of its own.",
    "data/found.py": "It reads arrays out of bytes that the door has read.",
    "data/tar.py": "It reads arrays out of bytes that the door has read.",
    "data/shards.py": "It reads parts of tar shards, which the pattern of a person names.",
    "data/csv_list.py": "It asks for sizes and times of the files of a list, all below its folder.",
    "data/arrow.py": "It maps files that a saved data set names, regular ones of its own folder.",
    "data/pack.py": "It writes shards aside and renames them: they are too large for the memory.",
    "predict.py": "It writes predictions aside, as they come, and renames them.",
    "plan/claims.py": "It makes, renews and replaces files that several machines agree by.",
    "ops/compiled.py": "The compiled libraries lie in the package.",
}
"""{module: why it may}"""

METHODS = {
    *(
        "exists",
        "is_dir",
        "is_file",
        "is_symlink",
        "stat",
        "lstat",
        "iterdir",
        "glob",
        "rglob",
        "read_text",
        "read_bytes",
    ),
    *("write_text", "touch", "unlink", "rmdir", "mkdir", "rename", "chmod", "symlink_to", "expanduser", "resolve"),
}
FUNCTIONS = {
    "open",
    *("os.open", "os.stat", "os.listdir", "os.scandir", "os.walk", "os.remove", "os.unlink", "os.replace", "os.rename"),
    *("os.truncate", "os.mkdir", "os.makedirs", "os.path.exists", "os.path.isfile", "os.path.isdir"),
    *("np.load", "np.fromfile", "np.memmap", "safe_open", "load_file", "save_file", "shutil.rmtree", "shutil.copy"),
}
SOURCES = sorted(str(path.relative_to(ROOT / "fastkd")) for path in (ROOT / "fastkd").rglob("*.py"))


def calls(source: str) -> list[str]:
    """The calls of a module that reach for a file system, as they stand there."""
    found = []
    for node in ast.walk(ast.parse((ROOT / "fastkd" / source).read_text())):
        if isinstance(node, ast.Call):
            words = ast.unparse(node.func)
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if words in FUNCTIONS or (method in METHODS and not words.startswith(("re.", "files."))):
                found.append(f"line {node.lineno}: {words}")
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_files_are_reached_through_the_doors(source):
    if source not in DOORS:
        assert not calls(source), "use fastkd.support.paths and fastkd.support.files"


@pytest.mark.parametrize("source", DOORS)
def test_every_door_is_one(source):
    assert calls(source) or source == "support/log.py", f"{source} reaches for no file: take it out of DOORS"


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_imported_by_a_name_but_where_a_person_gave_it(source):
    """`importlib.import_module`, `__import__`, `exec`, `eval`, `pickle`, `torch.load` without weights_only."""
    # The program `fastkd` imports rows of its own table; DALI and extras are imported where they are wanted.
    allowed = {
        "methods/__init__.py": {"import_method"},
        "networks/outside.py": {"_imported"},
        "data/dali.py": {"<module>"},
        "data/objects.py": {"import_data"},
        "data/arrow.py": {"pyarrow"},
        "data/pack.py": {"_parquet"},
        "data/shards.py": {"_store_of"},
        "predict.py": {"_write_parquet", "_pyarrow"},
        "run/export.py": {"imported"},
        "support/loggers.py": {"_imported"},
        "__main__.py": {"run"},
    }
    # What rank 0 of the same run has just packed, received by torch's own collective, which unpickles it, too.
    unpickles = {"support/once.py": {"made_once"}}
    tree = ast.parse((ROOT / "fastkd" / source).read_text())
    for owner, node in owned_calls(tree):
        words = ast.unparse(node.func)
        if words in ("importlib.import_module", "__import__"):
            assert owner in allowed.get(source, ()), f"{source}, line {node.lineno}: imports by a name"
        if words == "pickle.loads" and owner in unpickles.get(source, ()):
            continue
        assert words not in ("exec", "eval", "pickle.load", "pickle.loads", "runpy.run_path"), f"{source}: {words}"
        if words == "torch.load":
            safe = [keyword for keyword in node.keywords if keyword.arg == "weights_only"]
            assert safe and ast.unparse(safe[0].value) == "True", f"{source}, line {node.lineno}"
        if words == "np.load":
            assert any(keyword.arg == "allow_pickle" for keyword in node.keywords), f"{source}, line {node.lineno}"


def owned_calls(tree):
    """(the function that a call stands in, the call)"""
    for node in tree.body:
        owner = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else "<module>"
        yield from ((owner, call) for call in ast.walk(node) if isinstance(call, ast.Call))
