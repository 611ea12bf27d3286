"""Programs for a GPU that need not be here."""

from typing import Any

import jax
from jax.extend.mlir import ir

from ivggt_jax.kernels import abstract_gpu

COUNTING = {"stablehlo.constant", "stablehlo.compare", "stablehlo.return"}
"""What the condition of a loop is made of that counts to a constant."""


def for_cuda(function: Any, *arguments: Any) -> jax.stages.Lowered:
    """A jitted function lowered for an H200; arguments may be shapes."""
    with abstract_gpu():
        return function.trace(*arguments).lower(lowering_platforms=("cuda",))


def questions(lowered: jax.stages.Lowered) -> list[tuple[str, bool]]:
    """Operations whose outcome a GPU's host reads: conditionals, and loops that do not count to a constant.

    Each with whether it is inside a loop that does, over layers for example.
    """
    module = lowered.compiler_ir("stablehlo").operation
    functions = {ir.StringAttr(f.attributes["sym_name"]).value: f for f in module.regions[0].blocks[0].operations}
    found = []

    def visit(operation: ir.Operation, inside: bool) -> None:
        if operation.name == "func.call":
            visit(functions[ir.FlatSymbolRefAttr(operation.attributes["callee"]).value], inside)
        loop = operation.name == "stablehlo.while"
        counts = loop and {inner.operation.name for inner in operation.regions[0].blocks[0].operations} == COUNTING
        if operation.name in ("stablehlo.case", "stablehlo.if") or (loop and not counts):
            found.append((operation.name, inside))
        for region in operation.regions:
            for block in region.blocks:
                for inner in block.operations:
                    visit(inner.operation, inside or counts)

    visit(functions["main"].operation, False)
    return found
