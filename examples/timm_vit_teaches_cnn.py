"""A Vision Transformer of timm's teaches a convolutional network of timm's by several methods; timm loads the student.

pip install "fastkd[timm]"; python examples/timm_vit_teaches_cnn.py [IMAGES]

IMAGES: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg (default: the digits that fastkd has with it).
"""

import sys
from pathlib import Path
from typing import Any

import timm
import torch

from fastkd import evaluate
from fastkd.api import train

DIGITS = {"data": "digits", "image_size": 8, "epochs": 20}
PHOTOGRAPHS = {"image_size": 64, "crop": "resized", "epochs": 60}
CNN = "timm:mobilenetv3_small_050"
METHODS = ("kd", "kd+fitnet", "kd+crd", "simkd")  # SimKD reuses the classifier behind the class token: its vector form


def vision_transformer(side: int) -> str:
    """The name of a small ViT of 16 patches; timm's own arguments stand behind the question mark."""
    return f"timm:vit_tiny_patch16_224?patch_size={side // 4}&depth=4&embed_dim=96&num_heads=3"


def main(images: str = "", folder: str = "runs/timm", methods: tuple[str, ...] = METHODS, **settings: Any) -> float:
    """Trains the teacher once and a student by each method; returns the first student's share of right answers."""
    how: dict[str, Any] = PHOTOGRAPHS | {"data": f"imagefolder:{images}"} if images else DIGITS
    how = how | {"optimizer": "adamw", "lr": 1e-3, "control": False, "seeds": 1} | settings
    vit = {"teacher_net": vision_transformer(how["image_size"]), "teacher_training": "standard"}
    runs = []
    for method in methods:
        teacher = {"teacher": runs[0].folder} if runs else vit
        runs.append(train(student=CNN, method=method, run=f"{folder}/{method}", **teacher, **how))
    for method, run in zip(methods, runs, strict=True):
        print(f"{method:12} teacher {run.accuracy('teacher'):.1%}  student {run.accuracy('student'):.1%}")

    exported = Path(folder) / "student"
    evaluate.main([str(runs[0].folder), "--export", str(exported)])
    student = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    sample = torch.randn(2, 3, how["image_size"], how["image_size"])
    assert torch.equal(student(sample), runs[0].network("student")(sample).logits)
    print(f"{exported} is {student.pretrained_cfg['architecture']}; its card is README.md")
    return runs[0].accuracy("student")


if __name__ == "__main__":
    main(*sys.argv[1:2])
