"""The page of a run: points, cameras, every frame's image and depth, drawn from its saved frames as they come."""

import contextlib
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import viser
from PIL import Image

from ivggt_jax.depth_colours import colour_depth, inverse_depth_range
from ivggt_jax.runs.command import say
from ivggt_jax.runs.corrected import CORRECTED, MAP_FILE, read_correction
from ivggt_jax.runs.resume import read_state
from ivggt_jax.viewer.drawn import Thinned
from ivggt_jax.writers import Result, read_run_json
from ivggt_jax.writers.files import numbered
from ivggt_jax.writers.frusta import first_look, frustum_corners, frustum_depth
from ivggt_jax.writers.fusion import automatic_voxel
from ivggt_jax.writers.run_json import recorded
from ivggt_jax.writers.saved_run import Move, moved, read_result

EDGES = np.array(((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)))
"""Edges of a camera's pyramid; corner 0 is the camera."""
MOST_PYRAMIDS = 20
"""Cameras drawn along the path."""
PICTURE = 240
"""Longest side in pixels of the pictures beside the scene."""
SECONDS_BETWEEN_LOOKS = 1.0
"""At the folder."""
LISTING_SHARE = 0.02
"""Most of the time that goes into listing the folder: with 100,000 frames it takes half a second."""
SECONDS_OF_DRAWING = 0.3
"""At a time, between answers to the controls."""
PATH, NOW = (220, 60, 30), (30, 90, 220)
"""Colours of the path with its cameras, and of the chosen frame's camera."""


class View:
    """The page of one run. A context manager; one thread follows the run's folder and draws."""

    def __init__(self, run: Path, port: int, lengths: Callable[[], np.ndarray | None], host: str = "127.0.0.1"):
        """lengths: gives the live tokens of each layer, [layer], or None where they are not known."""
        self._folder, self._lengths = run / "frames", lengths
        self._thinned = Thinned()
        self._nodes: dict[int, Any] = {}
        self._drawn: dict[str, object] = {}
        self._paths: list[Path] = []
        self._next_listing = 0.0
        self._damaged: set[int] = set()
        self._correction: Move | None = None
        self._corrected_at: float | None = None
        self._base = 0.01
        self._size = 0.1
        with _quiet():
            self._server = viser.ViserServer(host=host, port=port, label=f"ivggt_jax · {run.name}", verbose=False)
        self._server.scene.set_up_direction("-y")
        self._server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        self._add_controls(run)
        self._changed, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._follow, name="view", daemon=True)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self._server.get_host()}:{self._server.get_port()}"

    def wait(self) -> None:
        """Until Ctrl-C."""
        say(f"the page stays at {self.address} until Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)

    def __enter__(self) -> Self:
        say(f"look at {self.address}")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing = True
        self._changed.set()
        self._thread.join()
        with _quiet():
            self._server.stop()

    def _add_controls(self, run: Path) -> None:
        gui = self._server.gui
        self._title = gui.add_markdown(f"**{run.name}**")
        self._time = gui.add_slider(
            "frame", 0, 1, 1, 0, hint="shows the points up to here; at the end it follows the run"
        )
        self._alone = gui.add_checkbox("this frame's points only", False)
        self._confidence = gui.add_slider("confidence", 0, 99, 1, 50, hint="percentile of a frame's own confidences")
        self._point_size = gui.add_slider("point size", 0.2, 5.0, 0.1, 1.0)
        self._cameras = gui.add_checkbox("cameras", True)
        blank = np.full((2, 2, 3), 255, np.uint8)
        self._image, self._depth = gui.add_image(blank, label="image"), gui.add_image(blank, label="depth")
        with gui.add_folder("tokens kept by layer"):
            self._cache = gui.add_html("")
        for control in (self._time, self._alone, self._confidence, self._point_size, self._cameras):
            control.on_update(lambda _: self._changed.set())

    def _follow(self) -> None:
        """The thread: everything is drawn here, so that nothing is drawn twice at once."""
        while not self._closing:
            busy = self._look()
            self._answer()
            self._changed.wait(0 if busy else SECONDS_BETWEEN_LOOKS)
            self._changed.clear()

    def _look(self) -> bool:
        """Draw what is new in the folder, for a while. Returns whether there is more."""
        if (began := time.perf_counter()) >= self._next_listing:
            self._paths = numbered(self._folder, ".npz")
            listed = time.perf_counter()
            self._next_listing = listed + (listed - began) / LISTING_SHARE
        count = len(self._paths)
        if self._map_changed() or count < self._thinned.count:
            self._begin_again()
        if count == 0:
            return False
        at_end = self._time.value >= self._thinned.count - 1
        if self._thinned.grow(count):
            self._draw_all()
        if count > 1:
            self._time.max = count - 1
            if at_end:
                self._time.value = count - 1  # type: ignore[misc]
        before = len(self._thinned.frames)
        missing = [position for position in self._thinned.missing() if position not in self._damaged]
        end = time.perf_counter() + SECONDS_OF_DRAWING
        while missing and time.perf_counter() < end:
            position = missing.pop(0)
            if result := self._read(position):
                self._thinned.add(position, result)
                if len(self._thinned.frames) == 1:
                    self._measure(result, self._thinned.frames[position].points)
                self._draw(position)
            elif self._paths[position].exists():
                self._damaged.add(position)
            else:
                self._next_listing = 0.0
                return False
        if len(self._thinned.frames) > before:
            self._draw_path()
        shown = len(self._thinned.frames)
        self._title.content = f"**{self._folder.parent.name}**: {count} frames, {shown} of them drawn"
        self._update(
            "cache", None if (lengths := self._lengths()) is None else tuple(map(int, lengths)), self._draw_cache
        )
        return bool(missing)

    def _map_changed(self) -> bool:
        """Whether the run has been corrected since the last look, or begun anew."""
        run = self._folder.parent
        try:
            at: float | None = (run / CORRECTED / MAP_FILE).stat().st_mtime
        except OSError:
            at = None
        if at == self._corrected_at:
            return False
        self._corrected_at, self._correction = at, None
        if at is not None:
            with contextlib.suppress(OSError, ValueError):  # it begins anew at this moment
                self._correction = read_correction(run)[0]
        return True

    def _begin_again(self) -> None:
        """What is drawn is an earlier run's, or not in the corrected map."""
        self._thinned = Thinned()
        self._damaged.clear()
        self._drawn.clear()
        self._draw_all()

    def _read(self, position: int) -> Result | None:
        """A saved frame; None where it is damaged, or has just been removed by a run that begins again."""
        try:
            result = read_result(self._paths[position])
            return moved(result, position, self._correction) if self._correction else result
        except (OSError, ValueError):
            return None

    def _answer(self) -> None:
        """Bring the scene to where the controls are."""
        if not self._paths:
            return
        now = min(int(self._time.value), len(self._paths) - 1)
        if self._update("confidence", self._confidence.value):
            self._draw_all()
        if self._update("size", self._point_size.value):
            for node in self._nodes.values():
                node.point_size = self._base * self._point_size.value
        if self._update("cameras", self._cameras.value):
            self._draw_path()
        if self._update("visible", (now, self._alone.value)):
            for position, node in self._nodes.items():
                node.visible = self._is_visible(position)
        if self._update("now", (now, self._size)) and (result := self._read(now)):
            self._show_frame(result)

    def _update(self, name: str, value: object, draw: Callable[[Any], None] | None = None) -> bool:
        """Whether a value is another than the one drawn last; it is drawn then."""
        if self._drawn.get(name) == value:
            return False
        self._drawn[name] = value
        if draw:
            draw(value)
        return True

    def _is_visible(self, position: int) -> bool:
        """Points up to the chosen frame, or of the drawn frame just before it alone."""
        now = int(self._time.value)
        return 0 <= now - position < (self._thinned.stride if self._alone.value else np.inf)

    def _draw_all(self) -> None:
        for position in list(self._nodes):
            if position not in self._thinned.frames:
                self._nodes.pop(position).remove()
        for position in self._thinned.frames:
            self._draw(position)

    def _draw(self, position: int) -> None:
        """One frame's points."""
        points, colours = self._thinned.frames[position].confident(self._confidence.value)
        self._nodes[position] = self._server.scene.add_point_cloud(
            f"/points/{position:06d}",
            points,
            colours,
            point_size=self._base * self._point_size.value,
            visible=self._is_visible(position),
            precision="float32",
        )

    def _draw_path(self) -> None:
        """The path through the drawn frames, and some of their cameras."""
        frames = [self._thinned.frames[position] for position in sorted(self._thinned.frames)]
        if not frames:
            return
        positions = np.stack([frame.pyramid[0] for frame in frames])
        lines = [np.stack((positions[:-1], positions[1:]), axis=1)]
        if self._cameras.value:
            lines += [self._pyramid(frame.pyramid) for frame in frames[:: -(-len(frames) // MOST_PYRAMIDS)]]
        segments = np.concatenate(lines)
        if len(segments):
            self._server.scene.add_line_segments("/path", segments, PATH, thickness=self._size / 40)

    def _show_frame(self, result: Result) -> None:
        """The chosen frame's image, depth and camera."""
        self._image.image = _small(result.frame.image)
        if result.depth is not None:
            self._depth.image = _small(colour_depth(result.depth, inverse_depth_range(result.depth, None)))
        segments = self._pyramid(frustum_corners(result, 1.0), 2.0)
        self._server.scene.add_line_segments("/now", segments, NOW, thickness=self._size / 20)

    def _pyramid(self, corners: np.ndarray, size: float = 1.0) -> np.ndarray:
        """Lines [8, 2, 3] of a camera whose image lies at the scene's usual depth times `size`."""
        return (corners[0] + self._size * size * (corners - corners[0]))[EDGES]

    def _measure(self, result: Result, points: np.ndarray) -> None:
        """Sizes of things, and where to look from, by what the first frame sees."""
        if len(points) == 0:
            return
        self._base = 2 * automatic_voxel(points)
        self._size = 2 * frustum_depth(points)
        position, middle = first_look(points, result)
        # The first is for pages to come; those that are open stay where they are unless they are moved.
        open_pages = self._server.get_clients().values()
        cameras: list[Any] = [self._server.initial_camera, *(client.camera for client in open_pages)]
        for camera in cameras:
            camera.position, camera.look_at = position, middle

    def _draw_cache(self, lengths: tuple[int, ...] | None) -> None:
        if lengths is None:
            return
        most = max(*lengths, 1)
        rows = "".join(
            f'<div style="display:flex;font-size:10px;line-height:1.2"><span style="width:2em">{layer}</span>'
            f'<span style="width:{70 * length / most:.0f}%;background:#1e5adc"></span>&nbsp;{length:,}</div>'
            for layer, length in enumerate(lengths)
        )
        self._cache.content = f'<div style="margin:0 1em">{rows}</div>'


def saved_lengths(run: Path) -> np.ndarray | None:
    """Live tokens [layer] as the run last said: in its `run.json` when it is over, else in its saved state."""
    try:
        if state := read_state(run):
            lengths = state.arrays.get("stream/cache.length")
            return None if lengths is None or lengths.ndim != 2 else lengths[:, 0]
        lengths = np.array(recorded(read_run_json(run), "tokens_kept", "by_layer"))
        return lengths if lengths.ndim == 1 and lengths.dtype == np.int64 else None
    except (OSError, ValueError, OverflowError):  # not there yet, being replaced, or not ours
        return None


def _quiet() -> "contextlib.redirect_stdout[Any]":
    """Where viser announces itself in its own words."""
    return contextlib.redirect_stdout(io.StringIO())


def _small(image: np.ndarray) -> np.ndarray:
    """The picture, no larger than is shown."""
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE, PICTURE))
    return np.asarray(picture)
