"""The options of `serve`."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from ivggt_jax.config import PolicyName
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.sources.fit import PATCH, usual_size

LONGEST_TOKEN = 1024
"""Most characters of a token."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on what one client may use."""

    frame_pixels: int = 1 << 22
    """Maximum number of pixels in an image that a client sends, before it is scaled to the model's size."""
    message_bytes: int = 1 << 22
    """Maximum number of bytes in a message; a client that sends more is disconnected."""
    rate: float = 60.0
    """Maximum number of frames per second from one client; more are dropped."""
    age: float = 1.0
    """Seconds after which a waiting frame is dropped, or two steps if they take longer."""
    silence: float = 30.0
    """Seconds without a message after which a client is disconnected."""
    patience: float = 5.0
    """Seconds that a client has to send its first message, and to receive an answer, before it is disconnected."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Options of the command."""

    checkpoint: str = "demo"
    """A converted model's folder, a .pth or .safetensors file, a published name such as lch01/StreamVGGT, or demo."""
    host: str = "127.0.0.1"
    """Address to listen on; one that other machines can reach needs --token."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    token: str | None = None
    """Token that clients must send to connect."""
    clients: int = 4
    """Maximum number of clients. Each has a stream in the batch; a step costs the same even if some are idle."""
    width: int | None = None
    """Width of the model's input, a multiple of 14; by default that of the model's training."""
    height: int | None = None
    """Height of the model's input; by default 3/4 of its width. Frames of another shape are centred on white."""
    track_grid: int = 0
    """Points along each side of the grid that clients can have tracked; 0: none. Tracking takes time and memory."""
    budget: int | None = None
    """Tokens kept for each client, over all layers; by default 48 frames' worth, or what fits in memory."""
    policy: PolicyName = "diversity"
    """Which tokens are forgotten first (docs/memory.md)."""
    submaps: str = "auto"
    """Frames per submap; off: one stream for each client; auto: 32 for the demo model, else 48 (docs/mapping.md)."""
    refine: bool = True
    """Refine the poses of submaps by aligning the images directly. Without it, most cuts in the video go unnoticed."""
    limits: Annotated[Limits, OmitArgPrefixes] = field(default_factory=Limits)

    def check(self) -> None:
        """Raises ValueError for a value that makes no sense."""
        for name, value in {**vars(self.limits), "clients": self.clients}.items():
            if value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be more than 0, not {value}")
        if self.token == "":
            raise ValueError("--token is empty, which would let anybody in: give one, or leave the option out")
        if self.token and len(self.token) > LONGEST_TOKEN:
            raise ValueError(f"--token has {len(self.token):,} characters, and clients can send {LONGEST_TOKEN:,}")
        if self.track_grid < 0:
            raise ValueError(f"--track-grid must be 0 or more points, not {self.track_grid}")
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and (side < PATCH or side % PATCH):
                raise ValueError(f"--{name} must be a positive multiple of {PATCH}, not {side}")

        _ = self.mapping  # which checks its own options

    @property
    def mapping(self) -> SubmapOptions:
        """How streams are divided into submaps. Raises ValueError like `check`."""
        return SubmapOptions(submaps=self.submaps, refine=self.refine)

    def size(self, trained: int) -> tuple[int, int]:
        """Width and height of the input, for a model that was trained on images `trained` pixels wide."""
        width = self.width or trained
        return width, self.height or usual_size(width)[1]


def is_loopback(host: str) -> bool:
    """Whether an address or name refers to this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
