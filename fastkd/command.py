"""How every command ends: 0; 2 and one line for a user's mistake; 130 for Ctrl-C."""

import sys
from collections.abc import Callable

import torch

from fastkd.errors import UserError


def command(main: Callable[[list[str]], int]) -> int:
    try:
        return main(sys.argv[1:])
    except UserError as error:
        print(f"fastkd: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print("fastkd: out of memory on the device; does another program hold it?", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastkd: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
