"""Measures the PyTorch code of the user's clone, frame by frame on request, in a process of its own."""

import gc
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ivggt_jax.bench import device
from ivggt_jax.bench.case import Case, make_frames, make_model
from ivggt_jax.bench.own import FRAMES, WARM_UP
from ivggt_jax.bench.process import requests
from ivggt_jax.convert import to_torch
from ivggt_jax.convert.reference import Reference
from ivggt_jax.runs.memory import peak_memory


def measure(pipe: Connection, clone: Path, case: Case, gpu: bool) -> None:
    """Serve requests: `fill` until the cache is at its budget, `frame` in seconds, `finish` for memory.

    The clone's model gets the case's weights and frames; the case determines its precision.
    """
    model = make_model(case)
    config = model.config
    budget = case.cache(config).total_budget
    height, width = case.image_size(config)
    assert budget is not None  # Case has no unbounded cache
    frames_to_fill = -(-budget // (config.depth * config.tokens_per_frame(height, width)))
    reference = StreamedReference(clone, to_torch(model), gpu)
    images = make_frames(case, config, FRAMES)[:, 0, 0].astype("float32") / 255
    del model
    gc.collect()
    device.forget_peak()
    reference.serve(pipe, images, budget, min(frames_to_fill, case.seen) + WARM_UP, case.precision == "bfloat16")


class StreamedReference(Reference):
    """The PyTorch model as a server of single frames."""

    def __init__(self, clone: Path, tensors: Any, gpu: bool):
        super().__init__(clone, tensors)
        if gpu and not self._torch.cuda.is_available():
            raise ValueError("--reference on a GPU needs a PyTorch that sees it; the installed one does not")
        self._platform = "cuda" if gpu else "cpu"
        self._torch.set_num_threads(device.threads())
        self._model.to(self._platform)

    def serve(self, pipe: Connection, images: Any, budget: int, frames_to_fill: int, half: bool) -> None:
        """Run the clone's own loop over frames that are yielded on request."""
        views = [{"img": view["img"].to(self._platform)} for view in self._views(images)]

        def frames() -> Iterator[dict[str, Any]]:
            seen = 0
            for request in requests(pipe):
                began = time.perf_counter()
                for _ in range({"fill": frames_to_fill, "frame": 1, "finish": 0}[request]):
                    yield views[seen % len(views)]  # resumes when its predictions are on the host
                    seen += 1
                pipe.send(self._memory() if request == "finish" else time.perf_counter() - began)

        self._model.total_budget = budget
        # As in the clone's own script: the trunk in half precision on a GPU.
        with self._quiet(), self._torch.autocast(self._platform, self._torch.bfloat16, enabled=half):
            self._model.inference(frames(), cache_results=False)

    def _memory(self) -> dict[str, int]:
        """Peak bytes so far."""
        memory = {"host": peak_memory()["host"]}
        if self._platform == "cuda":
            memory["device"] = self._torch.cuda.max_memory_allocated()
        return memory
