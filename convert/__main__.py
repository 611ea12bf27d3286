"""The command line: `python -m convert IN OUT` and `python -m convert verify CHECKPOINT`."""

import sys

from convert.command import Convert, run
from ivggt_jax.command import run_command


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    run_command(Convert, run, sys.argv[1:], "python -m convert")


if __name__ == "__main__":
    main()
