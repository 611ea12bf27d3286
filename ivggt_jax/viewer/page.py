"""The page of a run: points, cameras, every frame's image and depth, drawn from saved frames as they appear."""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import viser
from scipy.spatial.transform import Rotation

from ivggt_jax.depth_colours import colour, colour_depth, inverse_depth_range
from ivggt_jax.runs.address import check_address, web_address
from ivggt_jax.runs.command import say
from ivggt_jax.runs.corrected import MapAt, changes_of, state_of_map
from ivggt_jax.runs.resume import read_state
from ivggt_jax.viewer.controls import Controls
from ivggt_jax.viewer.full_size import FullSize, large, with_tracks
from ivggt_jax.writers import Result, read_run_json
from ivggt_jax.writers.drawn import DrawnFrame, Thinned
from ivggt_jax.writers.files import numbered
from ivggt_jax.writers.frusta import first_look, frustum_corners, frustum_depth
from ivggt_jax.writers.fusion import automatic_voxel
from ivggt_jax.writers.run_json import plain, recorded
from ivggt_jax.writers.saved_run import Change, read_result
from ivggt_jax.writers.trails import LENGTH

EDGES = np.array(((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)))
"""Edges of a camera's frustum; corner 0 is the camera."""
MOST_CAMERAS = 10
"""Most cameras drawn along the path; more would hide each other."""
SECONDS_BETWEEN_PLAYED = 0.1
"""Least time between played frames, because pictures and cameras are sent to every page."""
SECONDS_BETWEEN_LOOKS = 1.0
"""Time between checks of the folder."""
LISTING_SHARE = 0.02
"""Largest share of the time for listing the folder, which takes half a second with 100,000 frames, and looking at the map."""
SECONDS_OF_DRAWING = 0.3
"""Time for drawing at once, between reactions to the controls."""
PATH, NOW = (220, 60, 30), (30, 90, 220)
"""Colours of the path with its cameras, and of the chosen frame's camera."""


class View:
    """The page of one run. A context manager; one thread watches the run's folder and draws."""

    def __init__(self, run: Path, port: int, lengths: Callable[[], np.ndarray | None], host: str = "127.0.0.1"):
        """lengths: returns the live tokens of each layer, [layer], or None if unknown."""
        self._folder, self._lengths = run / "frames", lengths
        self._full_size = FullSize(run)
        self._thinned = Thinned()
        self._nodes: dict[int, Any] = {}
        self._drawn: dict[str, object] = {}
        self._paths: list[Path] = []
        self._next_listing = 0.0
        self._damaged: set[int] = set()
        self._changes: tuple[Change, ...] = ()
        self._map: MapAt = None, None
        self._base = 0.01
        self._size = 0.1
        self._measured = False
        check_address(host, port)
        name = run.resolve().name  # also of "."
        with _quiet():
            self._server = viser.ViserServer(host=host, port=port, label=f"ivggt_jax · {name}", verbose=False)
        self._server.scene.set_up_direction("-y")
        self._changed, self._closing = threading.Event(), False
        self._controls = Controls(self._server.gui, name, self._changed.set, self._enlarge)
        self._cameras: dict[int, Any] = {}
        self._range: np.ndarray | None = None
        self._thread = threading.Thread(target=self._follow, name="view", daemon=True)

    @property
    def address(self) -> str:
        """The page's address."""
        return web_address(self._server.get_host(), self._server.get_port())

    def wait(self) -> None:
        """Wait until Ctrl-C."""
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

    def _follow(self) -> None:
        """The thread. Everything is drawn here, so that nothing is drawn twice at once."""
        while not self._closing:
            busy = self._look()
            self._answer()
            if self._controls.playing:
                busy = self._play()
            self._changed.wait(0 if busy else SECONDS_BETWEEN_LOOKS)
            self._changed.clear()

    def _look(self) -> bool:
        """Draw new frames of the folder, for a while. Returns whether there are more."""
        changed = False
        if (began := time.perf_counter()) >= self._next_listing:
            self._paths, changed = numbered(self._folder, ".npz"), self._map_changed()
            listed = time.perf_counter()
            self._next_listing = listed + (listed - began) / LISTING_SHARE
        count = len(self._paths)
        if changed or count < self._thinned.count:
            self._begin_again()
        if count == 0:
            return False
        at_end = self._controls.frame >= self._thinned.count - 1 and not self._controls.playing
        if self._thinned.grow(count):
            self._draw_all()
        self._controls.grow(count, follow=at_end)
        before = len(self._thinned.frames)
        missing = [position for position in self._thinned.missing() if position not in self._damaged]
        end = time.perf_counter() + SECONDS_OF_DRAWING
        while missing and time.perf_counter() < end:
            position = missing.pop(0)
            if result := self._read(position):
                self._thinned.add(position, result)
                if not self._measured:
                    self._measure(result, self._thinned.frames[position].points)
                self._draw(position)
            elif self._paths[position].exists():
                self._damaged.add(position)
            else:
                self._next_listing = 0.0
                return False
        if len(self._thinned.frames) > before:
            self._draw_path()
        self._controls.say(count, len(self._thinned.frames))
        if (lengths := self._lengths()) is not None and self._update("cache", told := tuple(map(int, lengths))):
            self._controls.show_cache(told)
        return bool(missing)

    def _map_changed(self) -> bool:
        """Whether the run was corrected or restarted, or its unit changed, since the last check."""
        if (now := state_of_map(self._folder.parent)) == self._map:
            return False
        self._map, self._changes = now, changes_of(self._folder.parent, now)
        return True

    def _begin_again(self) -> None:
        """Clear the scene, because it shows an earlier run or the uncorrected map."""
        self._thinned, self._range, self._measured = Thinned(), None, False
        self._damaged.clear()
        self._drawn.clear()
        for node in self._cameras.values():
            node.remove()
        self._cameras.clear()
        self._draw_all()

    def _read(self, position: int) -> Result | None:
        """A saved frame; None if it is damaged, or was just removed by a restarted run."""
        try:
            result = read_result(self._paths[position])
            for change in self._changes:
                result = change(position, result)
            return result
        except (OSError, ValueError):
            return None

    def _answer(self) -> None:
        """Update the scene to match the controls."""
        if not self._paths:
            return
        chosen = self._controls
        now = min(chosen.frame, len(self._paths) - 1)
        if self._update("points", (chosen.confidence, chosen.colour)):
            self._draw_all()
        if self._update("size", chosen.point_size):
            for node in self._nodes.values():
                node.point_size = self._base * chosen.point_size
        if self._update("cameras", chosen.cameras):
            self._draw_path()
        if self._update("visible", (now, chosen.alone)):
            for position, node in self._nodes.items():
                node.visible = self._is_visible(position)
        if self._update("now", (now, self._size, chosen.follow)) and (result := self._read(now)):
            self._show_frame(now, result)

    def _play(self) -> bool:
        """Advance to the next frame after a while, or stop after the last. Returns whether there are more."""
        time.sleep(SECONDS_BETWEEN_PLAYED)
        if self._controls.frame >= len(self._paths) - 1:
            self._controls.play(False)
            return False
        self._controls.go(self._controls.frame + 1)
        return True

    def _update(self, name: str, value: object) -> bool:
        """Whether a value differs from the one drawn last; remembers it."""
        changed = self._drawn.get(name) != value
        self._drawn[name] = value
        return changed

    def _is_visible(self, position: int) -> bool:
        """Whether a frame's points are shown: up to the chosen frame, or only those of the drawn frame just before it."""
        return 0 <= self._controls.frame - position < (self._thinned.stride if self._controls.alone else np.inf)

    def _draw_all(self) -> None:
        for position in list(self._nodes):
            if position not in self._thinned.frames:
                self._nodes.pop(position).remove()
        for position in self._thinned.frames:
            self._draw(position)

    def _draw(self, position: int) -> None:
        """Draw one frame's points."""
        frame = self._thinned.frames[position]
        keep = frame.percentile >= self._controls.confidence
        self._nodes[position] = self._server.scene.add_point_cloud(
            f"/points/{position:06d}",
            frame.points[keep],
            self._colours(frame)[keep],
            point_size=self._base * self._controls.point_size,
            visible=self._is_visible(position),
            precision="float32",
        )

    def _colours(self, frame: DrawnFrame) -> np.ndarray:
        """Colours uint8 [N, 3] of a frame's points; depths of all frames share the first frame's range."""
        if self._controls.colour == "depth":
            if self._range is None:
                self._range = inverse_depth_range(frame.depth, None)
            return colour_depth(frame.depth, self._range)
        return colour(frame.percentile / 100) if self._controls.colour == "confidence" else frame.colours

    def _draw_path(self) -> None:
        """Draw the path through the drawn frames, and some of their cameras, which can be clicked."""
        places = sorted(self._thinned.frames)
        if not places:
            return
        positions = np.stack([self._thinned.frames[position].pyramid[0] for position in places])
        if len(places) > 1:
            segments = np.stack((positions[:-1], positions[1:]), axis=1)
            self._server.scene.add_line_segments("/path", segments, PATH, thickness=self._size / 40)
        wanted = places[:: -(-len(places) // MOST_CAMERAS)] if self._controls.cameras else []
        for position in self._cameras.keys() - set(wanted):
            self._cameras.pop(position).remove()
        for position in wanted:
            if position not in self._cameras:
                self._cameras[position] = self._draw_camera(position)

    def _draw_camera(self, position: int) -> Any:
        """Draw a camera of the path; a click on it chooses its frame."""
        tip, *corners = self._thinned.frames[position].pyramid
        pose, middle = _turn(corners), np.mean(corners, axis=0) - tip
        across, down = (np.linalg.norm(np.subtract(corners[other], corners[0])) for other in (1, 3))
        node = self._server.scene.add_camera_frustum(
            f"/cameras/{position:06d}",
            fov=float(2 * np.arctan(down / 2 / np.linalg.norm(middle))),
            aspect=float(across / down),
            scale=self._size / 2,
            thickness=self._size / 60,
            color=PATH,
            wxyz=Rotation.from_matrix(pose).as_quat(scalar_first=True),
            position=tip,
        )
        node.on_click(lambda _: self._controls.go(position))
        return node

    def _show_frame(self, now: int, result: Result) -> None:
        """Show the chosen frame's image with its tracks, its depth and its camera."""
        depth = None if result.depth is None else colour_depth(result.depth, inverse_depth_range(result.depth, None))
        with contextlib.suppress(OSError, ValueError):  # an earlier frame may be damaged or just removed
            self._controls.show(with_tracks(result, self._paths[max(0, now - LENGTH) : now]), depth)
        corners = frustum_corners(result, 1.0)
        segments = self._pyramid(corners)
        self._server.scene.add_line_segments("/now", segments, NOW, thickness=self._size / 40)
        if self._controls.follow:
            right, down, forward = _turn(corners[1:]).T
            for client in self._server.get_clients().values():
                with client.atomic():
                    client.camera.up_direction = -down
                    client.camera.position = corners[0] - 4 * self._size * forward
                    client.camera.look_at = corners[0] + 4 * self._size * forward

    def _enlarge(self, event: viser.GuiEvent[Any]) -> None:
        """Show the requesting page the chosen frame's picture at the source's full size."""
        now = min(self._controls.frame, len(self._paths) - 1)
        if event.client is None or now < 0 or (result := self._read(now)) is None:
            return
        gui = event.client.gui
        with gui.add_modal(plain(result.frame.name)) as window:
            gui.add_html(large(self._full_size.picture(result)))
            gui.add_button("close").on_click(lambda _: window.close())

    def _pyramid(self, corners: np.ndarray) -> np.ndarray:
        """Lines [8, 2, 3] of a camera's frustum, with its image at the scene's typical depth."""
        return (corners[0] + self._size * (corners - corners[0]))[EDGES]

    def _measure(self, result: Result, points: np.ndarray) -> None:
        """Set sizes of objects and the initial view from what the first frame with points sees."""
        if len(points) == 0:
            return
        self._measured = True
        self._base = 2 * automatic_voxel(points)
        self._size = 2 * frustum_depth(points)
        for node in self._cameras.values():  # they were drawn at another size
            node.remove()
        self._cameras.clear()
        position, middle = first_look(points, result, np.eye(3))
        # The first is for future pages; open pages keep their view unless they are moved.
        open_pages = self._server.get_clients().values()
        cameras: list[Any] = [self._server.initial_camera, *(client.camera for client in open_pages)]
        for camera in cameras:
            camera.position, camera.look_at = position, middle


def saved_lengths(run: Path) -> np.ndarray | None:
    """Live tokens [layer] as last reported by the run: in its `run.json` if it has ended, else in its saved state."""
    try:
        if state := read_state(run):
            lengths = state.arrays.get("stream/cache.length")
            return None if lengths is None or lengths.ndim != 2 else lengths[:, 0]
        lengths = np.array(recorded(read_run_json(run), "tokens_kept", "by_layer"))
        return lengths if lengths.ndim == 1 and lengths.dtype == np.int64 else None
    except (OSError, ValueError, OverflowError):  # not there yet, being replaced, or not ours
        return None


def _turn(corners: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """A camera's axes in the world as columns [3, 3]: right, down, forward; corners clockwise from the top left."""
    right, down = (np.subtract(corners[other], corners[0]) for other in (1, 3))
    right, down = right / np.linalg.norm(right), down / np.linalg.norm(down)
    return np.column_stack((right, down, np.cross(right, down)))


def _quiet() -> "contextlib.redirect_stdout[Any]":
    """Suppress viser's own announcement."""
    return contextlib.redirect_stdout(io.StringIO())
