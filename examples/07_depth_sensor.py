"""Metres from a depth sensor that sees every fifth frame up to four metres: python examples/07_depth_sensor.py"""

import numpy as np

from ivggt_jax import CacheConfig, SubmapConfig, load, stream
from ivggt_jax.evaluate.depth_sensor import measured_depth
from ivggt_jax.evaluate.walks import Walk

FRAMES, EVERY = 20, 5


def main() -> None:
    walk = Walk("loop", 1048676, 84, 112)  # a rendered room: with your own, one array [H,W] of metres a frame, or None
    truth = walk.part(0, FRAMES)
    depth = measured_depth(walk, 0, truth.depth, EVERY)
    for name, measured in (("without", None), ("with", depth)):
        found = list(
            stream(load("demo"), truth.images, CacheConfig(total_budget=2_000), submaps=SubmapConfig(), depth=measured)
        )
        known = truth.depth[-1] > 0
        error = np.mean(np.abs(found[-1].depth - truth.depth[-1])[known] / truth.depth[-1][known])
        print(f"{name} a sensor: depth of the last frame, which has none, is off by {error:.0%} of its metres")


if __name__ == "__main__":
    main()
