"""A program's camera, live: ivggt serve, and beside it python examples/live_client.py [ws://127.0.0.1:8000/stream]"""

import sys
import time
from pathlib import Path

import numpy as np

from ivggt_jax.client import Client

FRAMES = Path(__file__).parent / "room" / "frames"


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8000/stream"
    client = Client(address, want=["depth"])
    for path in sorted(FRAMES.iterdir())[:8]:
        began = time.perf_counter()
        answer = client.send(path.read_bytes(), timestamp=time.time())
        if answer["type"] == "dropped":
            continue
        pose = np.array(answer["cam_from_world"])
        position = -pose[:, :3].T @ pose[:, 3]
        depth, took = np.median(answer["depth"]), time.perf_counter() - began
        print(f"frame {answer['number']}: camera at {position.round(2)}, median depth {depth:.2f}, after {took:.3f} s")
    client.close()


if __name__ == "__main__":
    main()
