"""What a client is told of its frames, as maps for `messages.pack`."""

import io
from typing import Any

import numpy as np
from PIL import Image

from ivggt_jax.runs.run import make_result
from ivggt_jax.serve.messages import VERSION, DepthFormat, Hello
from ivggt_jax.serve.service import Service
from ivggt_jax.serve.slots import Taken
from ivggt_jax.sources.frame import Fit
from ivggt_jax.writers.depth import depth_to_16_bit, depth_unit
from ivggt_jax.writers.result import Result


def welcome(service: Service) -> dict[str, Any]:
    """The first answer: a slot is this client's."""
    limits = service.limits
    return {
        "type": "welcome",
        "version": VERSION,
        "size": list(service.size),
        "tracks": service.tracks,
        "rate": limits.rate,
        "frame_pixels": limits.frame_pixels,
        "message_bytes": limits.message_bytes,
    }


def error(text: str, **about: int | str) -> dict[str, Any]:
    """What was wrong; `id` of the frame that it was about, or the `reason` why the client is sent away."""
    return {"type": "error", "error": text, **about}


def dropped(number: int, reason: str) -> dict[str, Any]:
    """A frame that the stream has not seen."""
    return {"type": "dropped", "id": number, "reason": reason}


def result(taken: Taken, hello: Hello) -> dict[str, Any]:
    """A frame's camera, and what the client asked for."""
    waiting, fit = taken.waiting, taken.waiting.frame.fit
    found = make_result(waiting.frame, taken.predictions, "points" in hello.want)
    with np.errstate(invalid="ignore"):  # a field of view of zero is an infinite focal length
        intrinsics = found.original_intrinsics
    message: dict[str, Any] = {
        "type": "result",
        "id": waiting.id,
        "timestamp": waiting.frame.timestamp,
        "number": taken.number,
        "cam_from_world": _rows(found.cam_from_world),
        "intrinsics": _rows(intrinsics),
        "scale": list(fit.scale),
        "offset": list(fit.offset),
    }
    if found.map is not None:
        message |= {"submap": int(found.map.submap), "part": int(found.map.part), "refined": bool(found.map.refined)}
    if "depth" in hello.want:
        message["depth"] = _depth(found, hello.depth)
    if "confidence" in hello.want and found.depth_confidence is not None:
        message["confidence"] = found.depth_confidence.astype(np.float16)
    if "points" in hello.want and found.points is not None:
        message["points"] = found.points
    if "tracks" in hello.want and found.tracks is not None:
        message["tracks"] = _in_original(found.tracks, fit)
        message["visibility"] = found.visibility
    return message


def _rows(matrix: np.ndarray) -> list[list[float | None]]:
    """A matrix row by row; None, for which JSON has a word, where it is not finite."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in matrix]


def _depth(found: Result, kind: DepthFormat) -> dict[str, Any] | np.ndarray:
    """Float16 [H,W], or a 16-bit PNG in steps of `unit`; padding is 0 in both."""
    assert found.depth is not None and found.frame.mask is not None
    if kind == "float16":
        largest = np.finfo(np.float16).max
        return np.where(found.frame.mask, np.clip(np.nan_to_num(found.depth), 0, largest), 0).astype(np.float16)
    unit, file = depth_unit(found.depth), io.BytesIO()
    Image.fromarray(depth_to_16_bit(found.depth, unit, found.frame.mask)).save(file, "PNG", compress_level=1)
    return {"unit": unit, "png": file.getvalue()}


def _in_original(tracks: np.ndarray, fit: Fit) -> np.ndarray:
    """Pixels [N,2] of the picture that was sent, from those of the model's input; a pixel is its integer index in both."""
    return ((tracks + 0.5 - np.array(fit.offset)) / np.array(fit.scale) - 0.5).astype(np.float32)
