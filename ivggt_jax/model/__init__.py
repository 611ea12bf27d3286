"""The network: layers, encoder, aggregator and heads, without jit or files."""
