"""The panel beside the scene: controls, and the pictures of the chosen frame."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import viser
from PIL import Image

from ivggt_jax.options.words import counted

PICTURE = 240
"""Longest side in pixels of the panel's pictures."""
WAITING = (
    "nothing to see yet. A run first loads its model and compiles, which takes from seconds to a few minutes; its frames appear "
    "here as they are done."
)
Colour = Literal["picture", "depth", "confidence"]
"""How points are coloured."""


class Controls:
    """The controls, and the user's choices."""

    def __init__(self, gui: viser.GuiApi, name: str, changed: Callable[[], None], enlarge: Callable[[Any], None]):
        """changed: called when the user changes something; enlarge: called when a page requests full-size pictures."""
        self._gui, self._name = gui, name
        gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        self._title = gui.add_markdown(f"**{name}**: {WAITING}")
        self._time = gui.add_slider(
            "frame", 0, 1, 1, 0, hint="shows the points up to here; at the end it follows the run"
        )
        self._play = gui.add_button("play")
        self._follow = gui.add_checkbox("follow camera", False, hint="looks from behind the frame's camera")
        self._alone = gui.add_checkbox("this frame's points only", False)
        self._colour = gui.add_dropdown(
            "colour", get_args(Colour), hint="depth: warm is near; confidence: warm is sure"
        )
        self._confidence = gui.add_slider("confidence", 0, 99, 1, 50, hint="percentile of a frame's own confidences")
        self._point_size = gui.add_slider("point size", 0.2, 5.0, 0.1, 1.0)
        self._cameras = gui.add_checkbox("cameras", True, hint="a click on a camera goes to its frame")
        blank = np.full((2, 2, 3), 255, np.uint8)
        self._image, self._depth = gui.add_image(blank, label="image"), gui.add_image(blank, label="depth")
        gui.add_button("full size").on_click(enlarge)
        with gui.add_folder("tokens kept by layer"):
            self._cache = gui.add_html("")
        self.playing = False
        """Whether frames play automatically."""
        self._changed = changed
        self._play.on_click(lambda _: self.play(not self.playing))
        chosen = (
            self._time,
            self._follow,
            self._alone,
            self._colour,
            self._confidence,
            self._point_size,
            self._cameras,
        )
        for control in chosen:
            control.on_update(lambda _: changed())

    @property
    def frame(self) -> int:
        """The chosen frame's position in the run."""
        return int(self._time.value)

    @property
    def follow(self) -> bool:
        """Whether the view follows the frame's camera."""
        return bool(self._follow.value)

    @property
    def alone(self) -> bool:
        """Whether only the chosen frame's points are shown."""
        return bool(self._alone.value)

    @property
    def colour(self) -> Colour:
        """How points are coloured."""
        return self._colour.value

    @property
    def confidence(self) -> float:
        """The confidence percentile from which points are shown."""
        return float(self._confidence.value)

    @property
    def point_size(self) -> float:
        """Factor on the size of points."""
        return float(self._point_size.value)

    @property
    def cameras(self) -> bool:
        """Whether cameras are drawn."""
        return bool(self._cameras.value)

    def play(self, on: bool) -> None:
        """Start or stop playing; at the last frame it restarts from the first."""
        self.playing, self._play.label = on, "stop" if on else "play"
        if on and self.frame >= self._time.max:
            self.go(0)
        self._changed()

    def go(self, frame: int) -> None:
        """Choose a frame."""
        self._time.value = frame  # type: ignore[misc]
        self._changed()

    def grow(self, frames: int, *, follow: bool) -> None:
        """Update the number of frames; follow: choose the last one."""
        if frames > 1 and self._time.max != frames - 1:
            self._time.max = frames - 1
        if follow and self.frame != frames - 1:
            self.go(frames - 1)

    def say(self, frames: int, drawn: int) -> None:
        """Show how many frames the run has, and how many are drawn."""
        self._title.content = f"**{self._name}**: {counted(frames)}, {drawn} of them drawn"

    def show(self, image: Image.Image, depth: np.ndarray | None) -> None:
        """Show the chosen frame's picture and its depth in colours, uint8 [H, W, 3]."""
        self._image.image = _small(image)
        if depth is not None:
            self._depth.image = _small(Image.fromarray(depth))

    def show_cache(self, lengths: tuple[int, ...]) -> None:
        """Show the live tokens of each layer."""
        most = max(*lengths, 1)
        rows = "".join(
            f'<div style="display:flex;font-size:10px;line-height:1.2"><span style="width:2em">{layer}</span>'
            f'<span style="width:{70 * length / most:.0f}%;background:#1e5adc"></span>&nbsp;{length:,}</div>'
            for layer, length in enumerate(lengths)
        )
        self._cache.content = f'<div style="margin:0 1em">{rows}</div>'


def _small(picture: Image.Image) -> np.ndarray:
    """The picture, scaled down to the size shown."""
    picture = picture.copy()
    picture.thumbnail((PICTURE, PICTURE))
    return np.asarray(picture)
