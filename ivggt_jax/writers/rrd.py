"""`recording.rrd`: camera, image and depth over time, for the Rerun viewer (extra `rerun`).

A Rerun file cannot be cut, so a resumed run goes on in a second file, `recording-000120.rrd` after 120 frames, of the
same recording: opened together (`rerun recording*.rrd`) they are one. Frames that both hold are equal.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ivggt_jax.writers.depth import depth_to_16_bit, depth_unit
from ivggt_jax.writers.files import ResumeError, naming
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer


class RrdWriter(Writer):
    """Logs every frame, and has it on disk before the next."""

    name = "rrd"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        # Rerun would warn about the footer, which is left out on purpose below.
        os.environ.setdefault("RUST_LOG", "re_log_encoding=error,warn")
        try:
            import rerun
        except ImportError as error:
            raise ValueError('--export rrd needs the Rerun SDK: pip install "ivggt_jax[rerun]"') from error
        self._rerun = rerun
        self._unit = float(state["unit"]) if "unit" in state else None
        self._path = out / (f"recording-{frames:06d}.rrd" if frames else "recording.rrd")
        if frames and not (out / "recording.rrd").is_file():
            raise ResumeError(out / "recording.rrd", 0, frames)
        with naming(self._path):
            out.mkdir(parents=True, exist_ok=True)
            for path in out.glob("recording-*.rrd"):
                if int(path.stem.removeprefix("recording-")) >= frames:
                    path.unlink()
            # The same for all parts of a run.
            identity = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
            self._recording = rerun.RecordingStream("ivggt_jax", recording_id=identity, send_properties=not frames)
            # A footer lists every chunk, and that list would grow in memory with the run.
            self._recording.save(self._path, write_footer=False)
        self._recording.log("world", rerun.ViewCoordinates.RDF, static=True)

    def write(self, result: Result) -> None:
        """Logs the frame and waits until it is written."""
        rerun, log, frame = self._rerun, self._recording.log, result.frame
        height, width = frame.image.shape[:2]
        self._recording.set_time("frame", sequence=frame.index)
        if frame.timestamp is not None:
            self._recording.set_time("time", duration=frame.timestamp)
        pose = result.world_from_cam
        log("world/camera", rerun.Transform3D(translation=pose[:, 3], mat3x3=pose[:, :3]))
        from_corner = result.intrinsics + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        log("world/camera/image", rerun.Pinhole(image_from_camera=from_corner, resolution=(width, height)))
        log("world/camera/image", rerun.Image(frame.image).compress(jpeg_quality=90))
        if result.depth is not None:
            if self._unit is None:
                self._unit = depth_unit(result.depth)
            steps = depth_to_16_bit(result.depth, self._unit, frame.mask)
            log("world/camera/image/depth", rerun.DepthImage(steps, meter=1 / self._unit))
        with naming(self._path):
            try:
                self._recording.flush(timeout_sec=10)  # with a limit: without one it waits for ever on a full disk
            except RuntimeError as error:
                raise OSError(str(error)) from error

    def state(self) -> dict[str, np.ndarray]:
        """The worth of a depth step, once there is one."""
        return {} if self._unit is None else {"unit": np.array(self._unit)}

    def close(self) -> None:
        """Closes the file."""
        self._recording.disconnect()
