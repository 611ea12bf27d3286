"""`python -m ivggt_jax.compile`: a stream as compiled programs that run without this package."""
