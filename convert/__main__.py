"""The command line: `python -m convert IN OUT`, and `python -m convert verify CHECKPOINT --reference CLONE`."""

import sys

from ivggt_jax.convert import command, verify
from ivggt_jax.runs.command import run_command


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["verify"]:
        run_command(verify.Verify, verify.run, arguments[1:], "python -m convert verify")
    run_command(command.Convert, command.run, arguments, "python -m convert")


if __name__ == "__main__":
    main()
