"""The command line: `python -m convert IN OUT`, and `python -m convert verify CHECKPOINT --reference CLONE`."""

import sys
from collections.abc import Sequence

from ivggt_jax.convert import command, verify
from ivggt_jax.runs.command import run_command


def main(arguments: Sequence[str] | None = None, program: str = "python -m convert") -> None:
    """Run the command that the arguments name, and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["verify"]:
        run_command(verify.Verify, verify.run, arguments[1:], f"{program} verify")
    run_command(command.Convert, command.run, arguments, program)


if __name__ == "__main__":
    main()
