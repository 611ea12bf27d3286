"""Streams of frames: what a stream remembers, a pass through the network, and the compiled steps."""
