"""From frames on disk to arrays of one size: crop, rescale, colour jitter, and the corresponding changes of geometry.

Intrinsics have pixel centres at integers. Rescaling maps corners to corners, so it acts on coordinates shifted by half a pixel.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from ivggt_jax.train.data.scene import LabelledFrame

Arrays = dict[str, np.ndarray]


def fit_frame(frame: LabelledFrame, width: int, height: int, enlarge: int = 0) -> LabelledFrame:
    """Crop around the principal point, rescale until it covers the target plus `enlarge` pixels, then crop the centre.

    width, height: of the result, in pixels. The aspect ratio is kept. An image without intrinsics counts as centred. Raises
    ValueError for a depth map of another size, or a principal point within a fifth of the image's size of a border.
    """
    size = np.array(frame.image.size)
    if frame.depth is not None and frame.depth.shape != frame.image.size[::-1]:
        raise ValueError(f"depth {frame.depth.shape} and image {frame.image.size[::-1]} differ (height, width)")
    centre = size / 2 if frame.intrinsics is None else frame.intrinsics[:2, 2]
    if np.any(np.minimum(centre, size - centre) < size / 5):
        raise ValueError(f"principal point {centre} is too near the border of an image of {size} (width, height)")
    centre = np.round(centre).astype(int)
    margin = np.minimum(centre, size - centre)
    frame = _crop(frame, centre - margin, 2 * margin)
    target = np.array([width, height])
    scale = np.max((target + enlarge) / (2 * margin)) + 1e-8
    resized = np.floor(2 * margin * scale).astype(int)
    return _crop(_resize(frame, resized), (resized - target) // 2, target)


def color_jitter(generator: np.random.Generator) -> Callable[[Image.Image], Image.Image]:
    """One random change of brightness, contrast, saturation (factors 0.5–1.5) and hue (±0.1 turn), in random order.

    The returned function applies the same change to every image.
    """
    brightness, contrast, saturation = generator.uniform(0.5, 1.5, 3)
    hue = round(255 * generator.uniform(-0.1, 0.1))
    steps: list[Callable[[Image.Image], Image.Image]] = [
        lambda image: ImageEnhance.Brightness(image).enhance(brightness),
        lambda image: ImageEnhance.Contrast(image).enhance(contrast),
        lambda image: ImageEnhance.Color(image).enhance(saturation),
        lambda image: _turn_hue(image, hue),
    ]
    order = generator.permutation(len(steps))

    def jitter(image: Image.Image) -> Image.Image:
        for step in order:
            image = steps[step](image)
        return image

    return jitter


def stack_clip(frames: Sequence[LabelledFrame], labelled: bool) -> Arrays:
    """Arrays of one clip from frames of one size, with geometry in the first camera's frame.

    images uint8 [S,H,W,3]; with labels also depth [S,H,W], valid bool [S,H,W], cam_from_world [S,3,4], intrinsics [S,3,3] and
    points [S,H,W,3], float32. Depth and points are 0 where not valid. Raises ValueError when a label is missing or a camera is
    not finite.
    """
    clip = {"images": np.stack([np.asarray(frame.image) for frame in frames])}
    if not labelled:
        return clip
    depth, world_from_cam, intrinsics = (
        np.stack([_label(frame, name) for frame in frames]) for name in ("depth", "world_from_cam", "intrinsics")
    )
    if not (np.isfinite(world_from_cam).all() and np.isfinite(intrinsics).all()):
        raise ValueError("a camera pose or its intrinsics are not finite")
    valid = np.isfinite(depth) & (depth > 0)
    depth = np.where(valid, depth, 0)
    first_from_cam = np.linalg.inv(world_from_cam[0]) @ world_from_cam
    return clip | {
        "depth": depth.astype(np.float32),
        "valid": valid,
        "cam_from_world": np.linalg.inv(first_from_cam)[:, :3].astype(np.float32),
        "intrinsics": intrinsics.astype(np.float32),
        "points": np.where(valid[..., None], _unproject(depth, first_from_cam, intrinsics), 0).astype(np.float32),
    }


def draw_query_points(generator: np.random.Generator, clip: Arrays, count: int) -> np.ndarray:
    """Random pixels (x, y) of the first frame, float32 [count,2]; only valid ones if the clip has any."""
    height, width = clip["images"].shape[1:3]
    valid = np.flatnonzero(clip["valid"][0]) if "valid" in clip else np.empty(0, int)
    pixels = generator.choice(valid if len(valid) else height * width, count)
    return np.stack([pixels % width, pixels // width], -1).astype(np.float32)


def _crop(frame: LabelledFrame, corner: np.ndarray, size: np.ndarray) -> LabelledFrame:
    (left, top), (right, bottom) = corner.tolist(), (corner + size).tolist()
    shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    return replace(
        frame,
        image=frame.image.crop((left, top, right, bottom)),
        depth=None if frame.depth is None else frame.depth[top:bottom, left:right],
        intrinsics=None if frame.intrinsics is None else shift @ frame.intrinsics,
    )


def _resize(frame: LabelledFrame, size: np.ndarray) -> LabelledFrame:
    """Resize with Pillow, which maps corners to corners; depth by nearest pixel, as means across edges lie on no surface."""
    width, height = size.tolist()
    scale_x, scale_y = size / frame.image.size
    matrix = np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]])
    filtering = Image.Resampling.LANCZOS if scale_x < 1 else Image.Resampling.BICUBIC
    depth = frame.depth
    if depth is not None:
        depth = np.asarray(Image.fromarray(depth.astype(np.float32)).resize((width, height), Image.Resampling.NEAREST))
    return replace(
        frame,
        image=frame.image.resize((width, height), filtering),
        depth=depth,
        intrinsics=None if frame.intrinsics is None else matrix @ frame.intrinsics,
    )


def _turn_hue(image: Image.Image, turn: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _label(frame: LabelledFrame, name: str) -> np.ndarray:
    value = getattr(frame, name)
    if value is None:
        raise ValueError(f"a frame has no {name}; this footage can only be used without labels")
    return value


def _unproject(depth: np.ndarray, world_from_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """World points [S,H,W,3]: `geometry.unproject` on the host, in float64 because a scene may lie far from the origin."""
    height, width = depth.shape[-2:]
    pixels = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], -1)
    world_from_pixels = world_from_cam[:, :3, :3] @ np.linalg.inv(intrinsics)
    rays = np.einsum("sij,hwj->shwi", world_from_pixels, pixels)
    return depth[..., None] * rays + world_from_cam[:, None, None, :3, 3]
