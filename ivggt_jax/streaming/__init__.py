"""Streams of frames: their state, a pass through the network, and the compiled steps."""
