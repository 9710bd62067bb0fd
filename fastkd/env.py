"""python -m fastkd.env: the versions and devices a bug report needs."""

import json
import sys

from fastkd.support import environment
from fastkd.support.command_line import command


def main(arguments: list[str]) -> int:
    if arguments:
        print("usage: python -m fastkd.env   (takes no arguments)")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    print(json.dumps(environment.collect(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
