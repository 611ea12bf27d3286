"""Runs the PyTorch implementation from a user's clone. The only module that imports PyTorch, and only on demand."""

import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.weights.tensor_file import CheckpointError

_FIELDS = {
    "camera_pose": "pose_encoding",
    "depth": "depth",
    "depth_conf": "depth_confidence",
    "pts3d_in_other_view": "points",
    "conf": "points_confidence",
    "track": "tracks",
    "vis": "visibility",
    "track_conf": "track_confidence",
}


class Reference:
    """The PyTorch model with a checkpoint's tensors, in float32 on the CPU."""

    def __init__(self, clone: Path, tensors: Mapping[str, np.ndarray]):
        """Build the clone's model and load the tensors.

        Raises CheckpointError when the folder is not a clone, or something that it imports is not installed.
        """
        source = clone / "src"
        if not (source / "streamvggt").is_dir():
            raise CheckpointError(
                f"{clone} is not a clone of the PyTorch repository (it has no src/streamvggt); make one with: "
                "git clone https://github.com/AutoLab-SAI-SJTU/InfiniteVGGT"
            )
        sys.path.insert(0, str(source))
        try:
            self._torch = importlib.import_module("torch")
            network = importlib.import_module("streamvggt.models.streamvggt")
        except ImportError as error:
            raise CheckpointError(
                f"the PyTorch repository cannot be imported: {error}; install what its requirements.txt lists"
            ) from error
        finally:
            sys.path.remove(str(source))
        self._model = network.StreamVGGT().eval()
        own = self._model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(self._torch.from_numpy(np.array(tensor, np.float32)))

    def clip(self, images: np.ndarray, query_points: np.ndarray, layers: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Results for a causal clip [S,H,W,3]: patch tokens, some layers' outputs, tracks after one iteration, all
        predictions."""
        found: dict[str, np.ndarray] = {}

        def keep_patches(module: Any, inputs: Any, output: Any) -> None:
            found["patch tokens"] = output["x_norm_patchtokens"].numpy()

        def keep_layers(module: Any, inputs: Any, output: Any) -> None:
            found.update({f"layer {layer}": output[0][layer][0].numpy() for layer in layers})

        def keep_first_tracks(module: Any, inputs: Any, output: Any) -> None:
            found["tracks, first iteration"] = output[0][0][0].numpy()

        hooks = [
            self._model.aggregator.patch_embed.register_forward_hook(keep_patches),
            self._model.aggregator.register_forward_hook(keep_layers),
            self._model.track_head.register_forward_hook(keep_first_tracks),
        ]
        with self._quiet():
            output = self._model(self._views(images), query_points=self._torch.from_numpy(query_points))
        for hook in hooks:
            hook.remove()
        return found | _stack(output.ress)

    def stream(self, images: np.ndarray, total_budget: int) -> dict[str, np.ndarray]:
        """Predictions for frames [S,H,W,3] fed one by one, with `total_budget` tokens kept."""
        # The implementation ignores the budget given to the call itself.
        self._model.total_budget = total_budget
        with self._quiet():
            return _stack(self._model.inference(self._views(images)).ress)

    def _views(self, images: np.ndarray) -> list[dict[str, Any]]:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return [{"img": self._torch.from_numpy(image)[None]} for image in channels_first]

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Without gradients, and without warnings about a missing GPU."""
        with self._torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def _stack(results: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Predictions under our names, with the frame axis first and without a batch axis."""
    found = {}
    for theirs, ours in _FIELDS.items():
        if theirs in results[0]:
            stacked = np.stack([result[theirs][0].numpy() for result in results])
            found[ours] = stacked[..., 0] if theirs == "depth" else stacked
    return found
