"""The training loop that README shows under "Use the losses in your project" runs, and trains."""

import re
from pathlib import Path

import torch

README = Path(__file__).parent.parent / "README.md"
HEADING = "Use the losses in your project"


def training_loop() -> str:
    section = re.search(rf"^#+ {HEADING}$(.*?)(?=^#+ |\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section, f"README.md has no heading {HEADING!r}"
    block = re.search(r"^```python\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert block, f"README.md shows no Python under {HEADING!r}"
    return block[1]


def test_the_training_loop_is_ten_lines_and_trains():
    program = training_loop()
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    torch.manual_seed(0)
    namespace = {}
    exec(program, namespace)
    student, teacher, loss = namespace["student"], namespace["teacher"], namespace["loss"]
    images, labels = namespace["images"], namespace["labels"]
    terms = loss(student(images), teacher(images), labels)
    untrained = loss(type(student)(student.in_features, student.out_features)(images), teacher(images), labels)
    assert terms.kl < 0.5 * untrained.kl
    assert all(parameter.grad is None for parameter in teacher.parameters())
