"""The map of one stream, frame by frame: poses refined and placed in the world, submaps linked. No network here.

The network predicts every pose relative to its first image, and loses the camera far from there. So a submap is one run of the
network, short enough for it to keep the camera. The last frame of a submap goes through the network twice: with the old memory
and, as the first frame (anchor) of the next submap, with a fresh one. Its two depths give the ratio of the units, its two cameras
the rest of the link.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax

from ivggt_jax import geometry
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.mapping.link import link
from ivggt_jax.mapping.metric import combine, read
from ivggt_jax.mapping.pyramid import sharpness
from ivggt_jax.mapping.refinement import LEAST_CORRELATION, Keyframe, Refined, keyframe, refine
from ivggt_jax.mapping.seam import Seam
from ivggt_jax.mapping.shots import agreement, details
from ivggt_jax.mapping.state import MapRecord, MapState
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.transforms import Similarity, multiply, rotate

CLEAR, BLANK = 0.5, 0.05
"""Shares of the usual sharpness: from the first a frame may become an anchor, below the second it shows nothing."""
FOLLOW, FADE = 0.1, 0.02
"""Rates at which the usual sharpness follows images that show something, and images that show nothing. It follows the latter,
too, because the light may have gone off, or a test card may have come first: at a tenth of the contrast, images show something
again after 80 frames. It does so slowly, so that a hand before the lens for a second is no new scene."""
DARK = (0.5 / 255) ** 2
"""An image that is no sharper shows nothing, whatever is usual: its neighbouring pixels differ by less than half a level of grey,
as in the noise of a covered sensor."""
LEAST_DETAIL = 0.1
"""Correlation of a clear image's details with the keyframes' below which it shows another scene. On the walks it was chosen on,
95 % of frames of other rooms, and of mirrored frames, were below it, and hardly any of the walk's next frames."""
FALL, RATE = 0.4, 0.2
"""A frame whose correlation is below `FALL` times the usual one does not become a keyframe, because it may be the first after a
cut. The usual correlation is a running mean with rate `RATE`, because on hard stretches all frames correlate less."""
ONE_SHOT, FOUND_AGAIN = 0.4, 0.7
"""Where neighbouring images agree (`shots`) by less than the first, there may be a cut between them, or the camera is fast: then
frames do not match until one correlates as much as the second times the usual. On the walks the first was chosen on, neighbours
agreed by 0.58 to 0.82 (least to median), also dark, noisy or blurred ones, and unrelated images by at most 0.39."""
PATIENCE = 4
"""This many frames that do not match the keyframes, with no clear match between them, are a break, such as a cut in the video: a
new part of the map begins."""


def is_due(config: SubmapConfig, position: MapState, levels: jax.Array, frames: jax.Array) -> jax.Array:
    """Bool []: the next submap begins with this image, levels [level,H,W], the last of `frames` [] frames of the current one.

    A blurred image is skipped for a while, an image that shows nothing always.
    """
    sharp = sharpness(levels)
    lost = (position.lost >= PATIENCE) & _shows(sharp, position.sharpness)
    return lost | is_full(config, position.sharpness, sharp, frames)


def is_full(config: SubmapConfig, usual: jax.Array, sharp: jax.Array, frames: jax.Array) -> jax.Array:
    """Bool []: the next submap begins with an image of sharpness `sharp` [], unless the map is lost. Depends on the images alone.

    `usual` [] is the sharpness of earlier images (`usual_sharpness`), `frames` [] as in `is_due`.
    """
    clear = (sharp >= CLEAR * usual) | (frames >= config.frames + config.delay)
    return (frames >= config.frames) & clear & _shows(sharp, usual)


def usual_sharpness(before: jax.Array, sharp: jax.Array, first: jax.Array) -> jax.Array:
    """The usual sharpness [] after an image of sharpness `sharp` []; `first` []: it is the stream's first."""
    change = sharp - before
    rate = jnp.where(_shows(sharp, before), FOLLOW, FADE)
    return jnp.where(first, sharp, before + rate * change)


def _shows(sharp: jax.Array, usual: jax.Array) -> jax.Array:
    return sharp > jnp.maximum(BLANK * usual, DARK)


def follow(
    config: SubmapConfig,
    position: MapState,
    seen: Predictions,
    again: Predictions,
    levels: jax.Array,
    due: jax.Array,
    measured: jax.Array | None = None,
) -> tuple[MapState, Predictions]:
    """Place S frames of one stream, levels [S,level,H,W] (`pyramid`), NaN outside the static scene, in its world.

    `seen` [S,…] are their predictions in the current submap. Where `due` [] is set, `again` are those in the next one, whose
    anchor is the last frame. `measured` [S,H,W] is depth in metres from a sensor, 0 or NaN where there is none; with it the world
    is in metres and depth is fused. Returns the map after these frames, and their predictions in the world, with `map`.
    """
    assert seen.features is not None
    assert again.features is not None
    lost = position.lost >= PATIENCE

    def one(
        position: MapState, inputs: tuple[Predictions, jax.Array, jax.Array | None]
    ) -> tuple[MapState, Predictions]:
        return _place(config, position, *inputs)

    position, found = lax.scan(one, position, (seen, levels, measured))
    lost |= position.lost >= PATIENCE
    still = jnp.isfinite(levels[-1, -1])
    linked = _anchor(position, seen, again, found, lost, still)
    position = jax.tree.map(lambda new, old: jnp.where(due, new, old), linked, position)
    last = jnp.arange(levels.shape[0]) == levels.shape[0] - 1
    assert found.map is not None
    record = replace(
        found.map,
        anchor=due & last,
        token=jnp.where(due, again.features[:, 0], seen.features[:, 0]).astype(jnp.float32),
    )
    return position, replace(found, map=record)


def _place(
    config: SubmapConfig, position: MapState, seen: Predictions, levels: jax.Array, measured: jax.Array | None
) -> tuple[MapState, Predictions]:
    """Place one frame where the last ones lead, or, if that lowers the residual, where aligning its image leads."""
    assert seen.pose_encoding is not None
    assert seen.depth is not None
    scale, reading, still = position.world_from_model.scale, None, jnp.isfinite(levels[-1])
    cam_from_model, intrinsics = geometry.cameras_from_pose(seen.pose_encoding, *seen.depth.shape)
    model_from_cam = geometry.invert(cam_from_model)
    if measured is not None:
        before = position.sensed.seen_from(position.world_from_model.poses(model_from_cam), intrinsics)
        reading = read(position.metric, measured, scale * seen.depth, before, still, position.frame)
        position = _grown(replace(position, metric=reading.metric), reading.grown)
        scale = scale * reading.factor
    world_from_cam = position.world_from_model.poses(model_from_cam)
    found = None
    if config.refine:
        # Without keyframes, as after a break, the lens may be another.
        belief = position.focal.after(intrinsics, ~jnp.any(position.valid))
        found = refine(position.keyframes, position.valid, levels, belief, world_from_cam)
        world_from_cam = found.world_from_cam
        position = replace(position, focal=found.focal)
        intrinsics = intrinsics.at[(0, 1), (0, 1)].set(found.focal.length)
    world_from_model = _putting(model_from_cam, world_from_cam, scale)
    depth, seam = position.seam.close(scale * seen.depth, world_from_cam, intrinsics)
    if reading is not None:
        older = position.sensed.seen_from(world_from_cam, intrinsics)
        combined, kept = combine(reading, older, depth, still)
        depth = jnp.where(position.metric.readings > 0, combined, depth)
        position = replace(position, sensed=position.sensed.after(reading.used, kept, world_from_cam))
    used = None if reading is None else reading.used
    position = _remember(config, position, levels, keyframe(levels, depth, world_from_cam), found, used)
    record = MapRecord(
        submap=position.submap, part=position.part, world_from_submap=position.world_from_submap,
        anchor=jnp.zeros((), bool), link_share=position.link_share, link_spread=position.link_spread,
        refined=found.accepted if found else jnp.zeros((), bool), agreement=found.detail if found else jnp.zeros(()),
        token=jnp.zeros(()), measured=used, grown=None if reading is None else reading.grown,
    )  # fmt: skip
    moved = replace(
        seen,
        pose_encoding=geometry.pose_from_cameras(geometry.invert(world_from_cam), intrinsics, *depth.shape),
        depth=depth,
        points=None if seen.points is None else world_from_model.points(seen.points),
        visibility=None if seen.visibility is None else _while_alive(position, seen.visibility),
        map=record,
    )
    return replace(position, world_from_model=world_from_model, seam=seam, frame=position.frame + 1), moved


def _while_alive(position: MapState, visibility: jax.Array) -> jax.Array:
    """Visibility, 0 for points that were hidden at an anchor: they were lost there, and another point is tracked since."""
    assert position.alive is not None
    return jnp.where(position.alive, visibility, 0)


def _remember(
    config: SubmapConfig,
    position: MapState,
    levels: jax.Array,
    frame: Keyframe,
    found: Refined | None,
    used: jax.Array | None,
) -> MapState:
    """Store a frame as a keyframe if it should be one, and update what is known of the stream's images."""
    sharp = sharpness(levels)
    shows, usual = _shows(sharp, position.sharpness), usual_sharpness(position.sharpness, sharp, position.frame == 0)
    clear = sharp >= CLEAR * usual
    strange = unfit = jnp.zeros((), bool)
    if found is not None:
        image = jnp.where(clear, details(levels), 0)
        jump = clear & jnp.any(position.previous != 0) & (agreement(position.previous, image) < ONE_SHOT)
        jump |= position.jumped
        fallen = found.detail < jnp.where(jump, FOUND_AGAIN, FALL) * position.detail
        jumped = jump & fallen
        strange = (found.correlation < LEAST_CORRELATION) | (clear & (found.detail < LEAST_DETAIL)) | jumped
        strange &= jnp.any(position.valid)
        unfit = strange | fallen
        usual_detail = jnp.where(strange, position.detail, position.detail + RATE * (found.detail - position.detail))
        position = replace(position, detail=usual_detail, previous=image, jumped=jumped)
    lost = jnp.where(strange & shows, position.lost + 1, jnp.where(unfit, position.lost, 0))
    slot = position.frame // config.keyframe_every % config.keyframes
    # Never a frame that does not match: the next ones would agree with it, and a cut in the video would go unnoticed.
    due = (position.frame % config.keyframe_every == 0) | ~jnp.any(position.valid)
    due = due if used is None else due | used  # a frame with measured depth replaces the keyframe just before it
    chosen = due & shows & ~unfit & (jnp.arange(config.keyframes) == slot)
    keyframes = jax.tree.map(
        lambda new, old: jnp.where(chosen.reshape(-1, *(1,) * new.ndim), new, old), frame, position.keyframes
    )
    valid = position.valid | chosen
    return replace(position, keyframes=keyframes, valid=valid, sharpness=usual, lost=lost)


def _anchor(
    position: MapState, seen: Predictions, again: Predictions, found: Predictions, lost: jax.Array, still: jax.Array
) -> MapState:
    """The map after the next submap began with the last frame, whose pixels `still` [H,W] may be used for the link."""
    assert seen.depth is not None
    assert found.depth is not None
    assert again.depth is not None
    assert again.pose_encoding is not None
    assert found.pose_encoding is not None
    size = seen.depth.shape[1:]
    assert found.map is not None
    old = position.world_from_model.scale * seen.depth[-1]
    if found.map.measured is not None:  # from the fused depth, so that the new submap's unit is measured, too
        old = jnp.where(position.metric.readings > 0, found.depth[-1], old)
    joined = link(old, again.depth[-1], still)
    camera, _ = geometry.cameras_from_pose(found.pose_encoding[-1], *size)
    anchor, _ = geometry.cameras_from_pose(again.pose_encoding[-1], *size)
    scale = jnp.where(joined.share > 0, joined.scale, position.world_from_model.scale)
    placed = _putting(geometry.invert(anchor), geometry.invert(camera), scale)
    # If the image matches the keyframes, disagreeing depths make the new unit less certain, but are no break.
    belongs = (found.map.agreement[-1] >= LEAST_DETAIL) & (position.lost == 0)
    broken = lost | ~(joined.sound | (belongs & joined.enough))
    cut = lost | (broken & ~belongs)
    seam = Seam.between(found.depth[-1], scale * again.depth[-1], geometry.invert(camera))
    seam = replace(seam, step=jnp.where(broken, 0, seam.step))
    alive = position.alive
    if alive is not None:
        assert seen.visibility is not None
        alive = alive & (seen.visibility[0] > 0.5) & ~broken
    return replace(
        position, world_from_model=placed, world_from_submap=placed, submap=position.submap + 1,
        part=position.part + broken, lost=jnp.where(broken, 0, position.lost), seam=seam, alive=alive,
        link_share=jnp.where(cut, 0, joined.share), link_spread=jnp.where(cut | (joined.share == 0), 0, joined.spread),
        metric=position.metric.anchored(broken), sensed=position.sensed.after(broken, jnp.full(still.shape, jnp.nan), camera),
        valid=jnp.where(broken, False, position.valid), detail=jnp.where(broken, 0, position.detail),
    )  # fmt: skip


def _grown(position: MapState, factor: jax.Array) -> MapState:
    """The map in a new unit; lengths are multiplied by `factor` []."""

    def longer(place: Similarity) -> Similarity:
        return replace(place, scale=factor * place.scale, translation=factor * place.translation)

    keys, seam = position.keyframes, position.seam
    cameras = keys.world_from_cam.at[..., 3].multiply(factor)
    return replace(
        position,
        world_from_model=longer(position.world_from_model),
        world_from_submap=longer(position.world_from_submap),
        keyframes=replace(keys, depth=factor * keys.depth, world_from_cam=cameras),
        seam=replace(seam, world_from_anchor=seam.world_from_anchor.at[..., 3].multiply(factor)),
    )


def _putting(a_from_cam: jax.Array, b_from_cam: jax.Array, scale: jax.Array) -> Similarity:
    """b_from_a of a given scale [] that moves the camera [3,4] from its pose in a to its pose in b."""
    rotation = multiply(b_from_cam[:, :3], a_from_cam[:, :3].T)
    return Similarity(scale, rotation, b_from_cam[:, 3] - scale * rotate(rotation, a_from_cam[:, 3]))
