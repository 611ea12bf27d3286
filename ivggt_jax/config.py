"""Model and cache configurations: frozen, hashable, checked when built."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PolicyName = Literal["diversity", "segment", "local_global", "random", "frame", "residual", "attention"]
"""Those of `memory.policies.POLICIES`."""


HeadName = Literal["camera", "depth", "points", "tracks", "motion"]
"""Those of `model.heads.HEADS`."""
PUBLISHED_HEADS: tuple[HeadName, ...] = ("camera", "depth", "points", "tracks")
"""Those of the published networks."""


PresetName = Literal["exact", "fast", "small"]
"""Those of `PRESETS`."""
PRESETS: dict[PresetName, dict[str, Any]] = {
    "exact": {},
    "fast": {"evict_after_attention": True, "frames_per_step": 4},
    "small": {"evict_after_attention": True, "frames_per_step": 4, "total_budget": 500_000, "dtype": "int8"},
}
"""What differs from the defaults. `exact`: nothing, as published; `fast`: eviction after attention, four frames to a pass; `small`:
a smaller cache in int8 besides, its budget that of the published network at 518×392."""


def check_whole(config: "DataclassInstance") -> None:
    """Raises ValueError for a field of whole numbers that holds anything else: true is none, nor is 3.0."""
    for field in fields(config):
        value = getattr(config, field.name)
        several = field.type == tuple[int, ...]
        if several or field.type is int or (field.type == int | None and value is not None):
            numbers = value if several else (value,)
            if not (isinstance(numbers, tuple) and all(type(number) is int for number in numbers)):
                raise ValueError(f"{field.name} must be whole, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a VGGT network; the defaults are the published 1,256,537,516-parameter model.

    Raises ValueError when fields do not fit together.
    """

    image_size: int = 518
    """Side in pixels of the square image that the learned position table covers."""
    patch_size: int = 14
    width: int = 1024
    """Channels of encoder and aggregator tokens; the heads see twice as many."""
    depth: int = 24
    """Pairs of frame block and global block."""
    heads: int = 16
    encoder_depth: int = 24
    encoder_heads: int = 16
    register_tokens: int = 4
    mlp_ratio: int = 4
    rope_base: float = 100.0
    camera_depth: int = 4
    camera_heads: int = 16
    camera_iterations: int = 4
    dpt_layers: tuple[int, ...] = (4, 11, 17, 23)
    """Aggregator layers that the dense heads read; the last must be the network's last."""
    dpt_features: int = 256
    dpt_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    track_features: int = 128
    track_hidden: int = 384
    track_depth: int = 6
    track_heads: int = 8
    track_levels: int = 7
    track_radius: int = 4
    track_iterations: int = 4
    track_virtual: int = 64
    predicts: tuple[str, ...] = PUBLISHED_HEADS
    """The heads that the network has, some of `HeadName`, in its order."""
    depth_input: bool = False
    """Whether it can be told what a depth sensor measured (`model.sensor`)."""

    def __post_init__(self) -> None:
        check_whole(self)
        if self.predicts != tuple(head for head in get_args(HeadName) if head in self.predicts):
            raise ValueError(
                f"predicts must be some of {', '.join(get_args(HeadName))} in this order, not {self.predicts}"
            )
        for name, value in vars(self).items():
            if name in ("predicts", "depth_input"):
                continue
            least = 0 if name in ("register_tokens", "dpt_layers", "track_radius") else 1
            if min(value if isinstance(value, tuple) else (value,), default=least) < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        for divisor, of in (("heads", "width"), ("encoder_heads", "width"), ("track_heads", "track_hidden")):
            if getattr(self, of) % getattr(self, divisor):
                raise ValueError(f"{of} {getattr(self, of)} is not a multiple of {divisor} {getattr(self, divisor)}")
        if self.head_dim % 4:
            raise ValueError(
                f"head dimension {self.head_dim} must be a multiple of 4 for the two-axis rotary embedding"
            )
        if 2 * self.width % self.camera_heads:
            raise ValueError(f"2·width {2 * self.width} is not a multiple of camera_heads {self.camera_heads}")
        if self.track_features % 4:
            raise ValueError(
                f"track_features {self.track_features} must be a multiple of 4 for the flow and position embeddings"
            )
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if len(self.dpt_layers) != 4 or len(self.dpt_channels) != 4:
            raise ValueError("dpt_layers and dpt_channels need four entries each")
        if list(self.dpt_layers) != sorted(set(self.dpt_layers)) or self.dpt_layers[-1] != self.depth - 1:
            raise ValueError(f"dpt_layers {self.dpt_layers} must rise and end with the last layer, {self.depth - 1}")

    @classmethod
    def vggt_1b(cls) -> "ModelConfig":
        """The published full-size network (VGGT-1B, StreamVGGT, InfiniteVGGT)."""
        return cls()

    @classmethod
    def tiny(cls) -> "ModelConfig":
        """A 2.3 M-parameter network for tests; numerical references exist for it."""
        return cls(
            image_size=70, width=64, depth=4, heads=4, encoder_depth=2, encoder_heads=4,
            camera_depth=2, camera_heads=8, dpt_layers=(0, 1, 2, 3), dpt_features=32, dpt_channels=(16, 24, 32, 32),
            track_features=32, track_hidden=48, track_levels=3, track_radius=2,
        )  # fmt: skip

    @classmethod
    def demo(cls) -> "ModelConfig":
        """The small network whose trained weights come with the package; 112×84 images are its native size."""
        return cls(
            image_size=112, width=128, depth=6, heads=4, encoder_depth=4, encoder_heads=4,
            camera_depth=2, camera_heads=4, dpt_layers=(1, 2, 4, 5), dpt_features=32, dpt_channels=(32, 32, 64, 64),
            track_features=32, track_hidden=64, track_depth=2, track_heads=4, track_levels=4, track_radius=3,
            track_virtual=16,
        )  # fmt: skip

    @property
    def head_dim(self) -> int:
        """Channels of one attention head of the aggregator."""
        return self.width // self.heads

    @property
    def special_tokens(self) -> int:
        """Camera and register tokens at the front of every frame."""
        return 1 + self.register_tokens

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image; ValueError unless both sides are multiples of the patch size."""
        if height <= 0 or width <= 0 or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image size {height}×{width} (height×width) must be multiples of {self.patch_size}; "
                "ivggt_jax.fit gives any picture such a size"
            )
        return height // self.patch_size, width // self.patch_size

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Special and patch tokens of one frame (P in the documentation)."""
        rows, columns = self.patch_grid(height, width)
        return self.special_tokens + rows * columns


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What a stream remembers. Every buffer's size follows from this before the first frame.

    Raises ValueError when fields contradict each other.
    """

    total_budget: int | None = 1_200_000
    """Tokens kept over all layers; None keeps everything, and then `max_frames` is required."""
    least_budget: int | None = None
    """Fewest tokens kept: the mean redundancy moves the total between this and `total_budget`. None: it is constant."""
    temperature: float = 0.5
    """Temperature of the softmax that shares the budget among layers (0.5 as published); inf: all get the same."""
    policy: PolicyName | Callable[..., Any] = "diversity"
    """Which tokens are evicted first: a name in `memory.policies.POLICIES` or a function like those there. Each new function
    object is compiled anew, so define it once."""
    anchor_frames: int = 1
    """Whole frames that stay: 1: the first, as published; 0: none; more: at most so many, spread evenly over the stream."""
    protect_special: bool = False
    """Keep the camera and register tokens of the latest frames, in up to half of the room that the anchors leave."""
    evict_after_attention: bool = False
    """Evict after attention, so that a frame sees all that was kept. As published, eviction comes first."""
    frames_per_step: int = 1
    """Frames that share a pass in `scan` and `stream`, for throughput; eviction then comes after attention."""
    capacity_factor: float | None = 1.5
    """Slots of a layer's buffer over its mean share of the budget; its own share is clipped to them. None: never clips."""
    camera_cache: Literal["reference", "per_iteration"] = "reference"
    """Whether an iteration of the camera head sees all iterations of earlier frames (as published) or its own only (as trained)."""
    camera_frames: int = 512
    """Frames in the camera ring, the first one pinned. An unbounded stream takes `max_frames`."""
    max_frames: int | None = None
    """Longest stream that will be fed, when known: `stream` refuses more frames; `step` counts as `dropped` what they cost."""
    track_window: int = 8
    """Frames that the streaming tracker sees: the query frame and the last ones."""
    dtype: str | None = None
    """Type of cached keys and values; None is the compute dtype. int8 keeps a scale with every token and head."""

    @classmethod
    def preset(cls, name: PresetName, **fields: Any) -> "CacheConfig":
        """One of `PRESETS` with other fields, which override it. Raises ValueError for an unknown name."""
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **fields})

    def __post_init__(self) -> None:
        check_whole(self)
        if self.total_budget is None and self.max_frames is None:
            raise ValueError("an unbounded cache (total_budget=None) needs max_frames, the longest stream it must hold")
        if self.total_budget is not None and self.total_budget <= 0:
            raise ValueError(f"total_budget must be positive, not {self.total_budget}")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, not {self.max_frames}")
        if self.least_budget is not None and not 0 < self.least_budget <= (self.total_budget or 0):
            raise ValueError(
                f"least_budget must be positive and at most total_budget {self.total_budget}, not {self.least_budget}"
            )
        if self.frames_per_step < 1:
            raise ValueError(f"frames_per_step must be at least 1, not {self.frames_per_step}")
        if self.anchor_frames < 0:
            raise ValueError(f"anchor_frames must not be negative, but is {self.anchor_frames}")
        if not self.temperature >= 1e-6:
            raise ValueError(f"temperature must be at least 1e-6 (one layer gets all it can), not {self.temperature}")
        if self.capacity_factor is not None and not 1 <= self.capacity_factor < math.inf:
            raise ValueError(
                f"capacity_factor must be at least 1 (a layer's mean share) and finite, not {self.capacity_factor}"
            )
        if self.camera_cache not in ("reference", "per_iteration"):
            raise ValueError(f"camera_cache must be 'reference' or 'per_iteration', not {self.camera_cache!r}")
        if self.camera_frames < 2:
            raise ValueError(
                f"camera_frames must be at least 2 (the first frame and the current one), not {self.camera_frames}"
            )
        if self.dtype not in (None, "int8", "bfloat16", "float16", "float32"):
            raise ValueError(f"dtype of the cache must be float32, bfloat16, float16 or int8, not {self.dtype!r}")
        if self.track_window < 2:
            raise ValueError(
                f"track_window must be at least 2 (the query frame and the current one), not {self.track_window}"
            )
