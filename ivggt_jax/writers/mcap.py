"""`recording.mcap`: camera, image and points over time in Foxglove's schemas, for Foxglove and other MCAP readers (extra `ros`).

https://docs.foxglove.dev/docs/visualization/message-schemas/introduction. A frame's points are in its own message, in the world's
frame.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.writers.pixels import point_mask
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer

TOPICS = {
    "/tf": "FrameTransform",
    "/camera/pose": "PoseInFrame",
    "/camera/calibration": "CameraCalibration",
    "/camera/image": "CompressedImage",
    "/points": "PointCloud",
}
"""Topics and the schemas of their messages."""
WORLD, CAMERA = "world", "camera"
LAST = (2**32 - 1) * 1_000_000_000
"""In nanoseconds: Foxglove's times range from 1970 to 2106; other stamps are clipped to that range."""
RATE = 30
"""Frames per second for a source without times, as in `video.mp4`."""


class McapWriter(Writer):
    """Appends each frame's messages to `recording.mcap`, and has them on disk before the next frame."""

    name = "mcap"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        messages, mcap_file = packages()
        schemas = {topic: getattr(messages, name).get_schema() for topic, name in TOPICS.items()}
        topics = [mcap_file.Topic(topic, schema.name, schema.data) for topic, schema in schemas.items()]
        self._foxglove, self._options = messages, options
        self._file = mcap_file.McapFile(out / "recording.mcap", frames, topics)

    @classmethod
    def check(cls, first: Result) -> None:
        """Raises ValueError without the packages."""
        packages()

    def write(self, result: Result) -> None:
        """Append the frame's messages."""
        frame = result.frame
        # In two parts, because a float cannot represent a Unix time in nanoseconds.
        seconds, rest = divmod(frame.index / RATE if frame.timestamp is None else frame.timestamp, 1)
        nanoseconds = min(max(int(seconds) * 1_000_000_000 + round(1e9 * rest), 0), LAST)
        stamp = self._foxglove.Timestamp(*divmod(nanoseconds, 1_000_000_000))
        messages = {**self._camera(result, stamp), **self._points(result, stamp)}
        self._file.append(nanoseconds, frame.index, {topic: message.encode() for topic, message in messages.items()})

    def close(self) -> None:
        """Add the index and close the file."""
        self._file.close()

    def _camera(self, result: Result, stamp: Any) -> dict[str, Any]:
        """Messages with the camera's pose, its calibration, and its image."""
        fox, pose = self._foxglove, result.world_from_cam
        height, width, _ = result.frame.image.shape
        x, y, z, w = Rotation.from_matrix(pose[:, :3]).as_quat(canonical=True).tolist()
        turn = fox.Quaternion(x=x, y=y, z=z, w=w)
        x, y, z = pose[:, 3].tolist()
        place = fox.Vector3(x=x, y=y, z=z)
        jpeg = io.BytesIO()
        Image.fromarray(result.frame.image).save(jpeg, "JPEG", quality=90)
        return {
            "/tf": fox.FrameTransform(
                timestamp=stamp, parent_frame_id=WORLD, child_frame_id=CAMERA, translation=place, rotation=turn
            ),
            "/camera/pose": fox.PoseInFrame(
                timestamp=stamp, frame_id=WORLD, pose=fox.Pose(position=place, orientation=turn)
            ),
            "/camera/calibration": fox.CameraCalibration(
                timestamp=stamp,
                frame_id=CAMERA,
                width=width,
                height=height,
                K=result.intrinsics.ravel().tolist(),
                R=np.eye(3).ravel().tolist(),
                P=np.pad(result.intrinsics, ((0, 0), (0, 1))).ravel().tolist(),
            ),
            "/camera/image": fox.CompressedImage(timestamp=stamp, frame_id=CAMERA, data=jpeg.getvalue(), format="jpeg"),
        }

    def _points(self, result: Result, stamp: Any) -> dict[str, Any]:
        """The frame's confident points with their colours; empty in a run without points."""
        if result.points is None:
            return {}
        fox = self._foxglove
        keep = point_mask(result, self._options)
        vertices = np.zeros(int(keep.sum()), [("xyz", "<f4", 3), ("rgb", "u1", 3), ("alpha", "u1")])
        vertices["xyz"], vertices["rgb"], vertices["alpha"] = result.points[keep], result.frame.image[keep], 255
        kind = fox.PackedElementFieldNumericType
        fields = [
            *(fox.PackedElementField(name=name, offset=4 * i, type=kind.Float32) for i, name in enumerate("xyz")),
            *(
                fox.PackedElementField(name=name, offset=12 + i, type=kind.Uint8)
                for i, name in enumerate(("red", "green", "blue", "alpha"))
            ),
        ]
        return {
            "/points": fox.PointCloud(
                timestamp=stamp,
                frame_id=WORLD,
                pose=fox.Pose(position=fox.Vector3(), orientation=fox.Quaternion(w=1.0)),
                point_stride=vertices.itemsize,
                fields=fields,
                data=vertices.tobytes(),
            )
        }


def packages() -> tuple[Any, Any]:
    """Foxglove's messages and our `mcap_file`. Raises ValueError with installation instructions if a package is missing."""
    try:
        from foxglove import messages

        from ivggt_jax.writers import mcap_file
    except ImportError as error:
        raise ValueError('--export mcap needs mcap and foxglove-sdk: pip install "ivggt_jax[ros]"') from error
    return messages, mcap_file
