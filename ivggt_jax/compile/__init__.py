"""`python -m ivggt_jax.compile`: exports a stream as compiled programs that run without this package."""
