"""Configurations of the model and of a stream's cache: frozen, hashable, checked when built.

Only the name of a policy is looked up when a stream begins, because programs add policies of their own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PolicyName = Literal["diversity", "segment", "local_global", "random", "frame", "residual", "attention"]
"""Names of the eviction policies in `memory.policies.POLICIES`."""


HeadName = Literal["camera", "depth", "points", "tracks", "motion"]
"""Names of the heads in `model.heads.HEADS`."""
PUBLISHED_HEADS: tuple[HeadName, ...] = ("camera", "depth", "points", "tracks")
"""Heads of the published networks."""


PresetName = Literal["exact", "fast", "small"]
"""Names of the presets in `PRESETS`."""
PRESETS: dict[PresetName, dict[str, Any]] = {
    "exact": {},
    "fast": {"evict_after_attention": True, "frames_per_step": 4},
    "small": {"evict_after_attention": True, "frames_per_step": 4, "total_budget": 500_000, "dtype": "int8"},
}
"""Fields that differ from the defaults. `exact`: none, as published; `fast`: eviction after attention, four frames per pass;
`small`: `fast` with an int8 cache and a smaller budget, chosen for the published network at 518×392."""


def check_whole(config: "DataclassInstance") -> None:
    """Raises ValueError for an integer field that holds anything else, such as True or 3.0; NumPy's integers become Python's."""
    for field in fields(config):
        value = getattr(config, field.name)
        several = field.type == tuple[int, ...]
        if several or field.type is int or (field.type == int | None and value is not None):
            numbers = value if several else (value,)
            whole = isinstance(numbers, tuple) and all(
                isinstance(x, Integral) and not isinstance(x, bool) for x in numbers
            )
            if not whole:
                raise ValueError(f"{field.name} must be whole, not {value!r}")
            object.__setattr__(config, field.name, tuple(map(int, numbers)) if several else int(value))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a VGGT network; the defaults are the published model of 1,256,537,516 parameters.

    Raises ValueError when fields contradict each other.
    """

    image_size: int = 518
    """Side in pixels of the square image that the learned position embedding covers."""
    patch_size: int = 14
    width: int = 1024
    """Channels of encoder and aggregator tokens; the heads see twice as many."""
    depth: int = 24
    """Number of pairs of a frame block and a global block."""
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
    """Heads that the network has, in the order of `HeadName`."""
    depth_input: bool = False
    """Whether the network takes measured depth as an input (`model.sensor`)."""

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
        if self.dpt_features % 8 or any(channels % 4 for channels in self.dpt_channels):
            raise ValueError(
                f"dpt_features {self.dpt_features} must be a multiple of 8, dpt_channels {self.dpt_channels} of 4, for the "
                "position embeddings"
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
        """A network of 2.3 M parameters for tests; reference outputs exist for it."""
        return cls(
            image_size=70, width=64, depth=4, heads=4, encoder_depth=2, encoder_heads=4,
            camera_depth=2, camera_heads=8, dpt_layers=(0, 1, 2, 3), dpt_features=32, dpt_channels=(16, 24, 32, 32),
            track_features=32, track_hidden=48, track_levels=3, track_radius=2,
        )  # fmt: skip

    @classmethod
    def demo(cls) -> "ModelConfig":
        """The small network whose trained weights come with the package; its native image size is 112×84."""
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
        """Rows and columns of patches in an image. Raises ValueError unless both sides are multiples of the patch size."""
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
    """What a stream remembers. It fixes the size of every buffer before the first frame."""

    total_budget: int | None = 1_200_000
    """Tokens kept, summed over all layers. None keeps every token and requires `max_frames`."""
    least_budget: int | None = None
    """Lower end of an adaptive budget, which falls from `total_budget` to this as redundancy rises. None: no adaptation."""
    temperature: float = 0.5
    """Temperature of the softmax that divides the budget among layers (0.5 as published); inf gives all layers equal shares."""
    policy: PolicyName | Callable[..., Any] = "diversity"
    """Which tokens are evicted first: a name in `memory.policies.POLICIES`, or a function with the same arguments. Define such a
    function once: each new function object is compiled anew."""
    anchor_frames: int = 1
    """Frames that are never evicted. 0: none; 1: the first, as published; more: at most so many, spread over the stream."""
    protect_special: bool = False
    """Protect the camera and register tokens of the latest frames; they take up to half of the budget that the anchors leave."""
    evict_after_attention: bool = False
    """Evict after attention, so that a frame attends to every token in the cache. The published code evicts first."""
    frames_per_step: int = 1
    """Frames that share a pass in `scan` and `stream`, for throughput. Above 1, eviction comes after attention."""
    capacity_factor: float | None = 1.5
    """Size of a layer's buffer over its mean share of the budget; larger shares are clipped to it. None: none is clipped."""
    camera_cache: Literal["reference", "per_iteration"] = "reference"
    """Which iterations of earlier frames a camera iteration sees: all (as published), or only the same one (as trained)."""
    camera_frames: int = 512
    """Frames in the ring buffer of the camera head; the first one always stays. An unbounded cache holds `max_frames` instead."""
    max_frames: int | None = None
    """Longest stream, if known. `stream` refuses more frames; `step` counts the tokens that they cost as `dropped`."""
    track_window: int = 8
    """Frames that the streaming tracker sees: the query frame and the latest ones."""
    dtype: str | None = None
    """Data type of cached keys and values; None: the compute type. int8 adds a scale for each token and head."""

    @classmethod
    def preset(cls, name: PresetName, **fields: Any) -> "CacheConfig":
        """The preset `name`, with `fields` that override it. Raises ValueError for an unknown name."""
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
