"""Trainings one after the other, in processes that torchrun starts once. The file that is named has their options."""

import json
import sys
from pathlib import Path

from fastkd import train

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        if (code := train.main(arguments)) != 0:
            sys.exit(code)
