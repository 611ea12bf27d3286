"""`ivggt --completion bash`: prints a script for completing commands, options and their values in a shell."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from ivggt_jax.batch.options import BatchConfig
from ivggt_jax.bench.__main__ import BenchConfig
from ivggt_jax.compile.options import CompileConfig
from ivggt_jax.convert.command import Convert
from ivggt_jax.doctor import DoctorConfig
from ivggt_jax.evaluate.__main__ import Command as Measurement
from ivggt_jax.export import ExportConfig
from ivggt_jax.inference.options import InferConfig
from ivggt_jax.push import PushConfig
from ivggt_jax.serve.options import ServeConfig
from ivggt_jax.view import ViewConfig


@dataclass(frozen=True, kw_only=True)
class _Evaluate:
    command: Measurement


@dataclass(frozen=True, kw_only=True)
class _Train:
    objective: Positional[Literal["distill", "supervised"]]


@dataclass(frozen=True, kw_only=True)
class _Program(InferConfig):
    """The options of `infer`, or another command: the whole program as a shell sees it, not as it is parsed."""

    command: (
        Annotated[ViewConfig, subcommand("view")]
        | Annotated[ExportConfig, subcommand("export")]
        | Annotated[BatchConfig, subcommand("batch")]
        | Annotated[CompileConfig, subcommand("compile")]
        | Annotated[Convert, subcommand("convert")]
        | Annotated[PushConfig, subcommand("push")]
        | Annotated[_Train, subcommand("train")]
        | Annotated[_Evaluate, subcommand("evaluate")]
        | Annotated[BenchConfig, subcommand("bench")]
        | Annotated[ServeConfig, subcommand("serve")]
        | Annotated[DoctorConfig, subcommand("doctor")]
        | None
    ) = None


def print_completion(shell: str) -> None:
    """Print tyro's script for bash or zsh, and exit. Raises ValueError for other shells."""
    if shell not in ("bash", "zsh"):
        raise ValueError(f"--completion is for bash and zsh, not {shell!r}")
    whole: Any = Annotated[_Program, OmitSubcommandPrefixes, OmitArgPrefixes]
    tyro.cli(whole, args=["--tyro-print-completion", shell], prog="ivggt")
