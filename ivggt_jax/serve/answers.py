"""The answers to a client, as maps for `messages.pack`."""

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
    """The first answer: the client has a slot."""
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
    """An error message, with the `id` of the frame it is about, or the `reason` for closing the connection."""
    return {"type": "error", "error": text, **about}


def dropped(number: int, reason: str) -> dict[str, Any]:
    """A frame that the stream did not process."""
    return {"type": "dropped", "id": number, "reason": reason}


def result(taken: Taken, hello: Hello) -> dict[str, Any]:
    """A frame's camera, and whatever else the client asked for."""
    waiting, fit = taken.waiting, taken.waiting.frame.fit
    found = make_result(waiting.frame, taken.predictions, "points" in hello.want)
    with np.errstate(invalid="ignore"):  # a zero field of view means an infinite focal length
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
    """The rows of a matrix; None, which JSON can express, for values that are not finite."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in matrix]


def _depth(found: Result, kind: DepthFormat) -> dict[str, Any] | np.ndarray:
    """Depth as float16 [H,W], or as a 16-bit PNG in steps of `unit`; padding is 0 in both."""
    assert found.depth is not None and found.frame.mask is not None
    if kind == "float16":
        largest = np.finfo(np.float16).max
        return np.where(found.frame.mask, np.clip(np.nan_to_num(found.depth), 0, largest), 0).astype(np.float16)
    unit, file = depth_unit(found.depth), io.BytesIO()
    Image.fromarray(depth_to_16_bit(found.depth, unit, found.frame.mask)).save(file, "PNG", compress_level=1)
    return {"unit": unit, "png": file.getvalue()}


def _in_original(tracks: np.ndarray, fit: Fit) -> np.ndarray:
    """Pixels [N,2] of the original picture, from those of the model's input; pixel centres are integers in both."""
    return ((tracks + 0.5 - np.array(fit.offset)) / np.array(fit.scale) - 0.5).astype(np.float32)
