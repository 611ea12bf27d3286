"""Losses: the reference's numbers, the corrections to it, divergences against quadrature, and gradients."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from ivggt_jax.geometry import pose_from_cameras, unproject
from ivggt_jax.model.heads import HEADS
from ivggt_jax.train.losses import LossConfig, objective
from ivggt_jax.train.losses.divergence import bernoulli_divergence, laplace_divergence
from ivggt_jax.train.losses.task import log_depth_loss

GOLDEN = Path(__file__).parent / "golden" / "distill_loss.npz"
REFERENCE_NAMES = {
    "pose_encoding": "camera_pose",
    "depth": "depth",
    "depth_confidence": "depth_conf",
    "points": "pts3d_in_other_view",
    "points_confidence": "conf",
    "tracks": "track",
    "visibility": "vis",
    "track_confidence": "track_conf",
}
BATCH, FRAMES, HEIGHT, WIDTH, TRACKS = 2, 3, 12, 16, 5
DISTILL, KL = LossConfig(), LossConfig(distillation="kl")
REFERENCE = LossConfig(reference=True)
TASK = LossConfig(distillation_weight=0.0, task_weight=1.0)


class Fields(NamedTuple):
    """What any prediction has; a pytree, so that gradients come with the same names."""

    pose_encoding: Any = None
    depth: Any = None
    depth_confidence: Any = None
    points: Any = None
    points_confidence: Any = None
    tracks: Any = None
    visibility: Any = None
    track_confidence: Any = None
    motion: Any = None


@functools.partial(jax.jit, static_argnames=("config", "train"))
def evaluate(
    config: LossConfig,
    prediction: Fields,
    batch: dict[str, jax.Array],
    teacher: Fields | None = None,
    train: bool = True,
) -> tuple[float, dict[str, jax.Array], Fields]:
    """Loss, terms and gradients."""
    value = lambda student: objective(config, student, batch, teacher, train=train)  # noqa: E731
    (total, terms), gradients = jax.value_and_grad(value, has_aux=True)(prediction)
    return total, terms, gradients


def golden(prefix: str) -> Fields:
    """Per-view arrays of the reference, stacked over views."""
    with np.load(GOLDEN) as file:
        fields = {
            ours: np.stack([file[f"{prefix}_{theirs}_{view}"] for view in range(FRAMES)], 1)
            for ours, theirs in REFERENCE_NAMES.items()
        }
    return Fields(**fields | {"depth": fields["depth"][..., 0]})


def golden_mask() -> np.ndarray:
    with np.load(GOLDEN) as file:
        return np.stack([file[f"valid_mask_{view}"] for view in range(FRAMES)], 1)


def random_prediction(seed: int) -> Fields:
    random = np.random.default_rng(seed)
    pixels = (BATCH, FRAMES, HEIGHT, WIDTH)
    pose = random.normal(size=(BATCH, FRAMES, 9))
    pose[..., 3:7] += (0, 0, 0, 4)
    arrays = Fields(
        pose,
        random.uniform(1, 3, pixels),
        1 + random.exponential(size=pixels),
        random.normal(size=(*pixels, 3)) + (0, 0, 3),
        1 + random.exponential(size=pixels),
        random.uniform(0, WIDTH, (BATCH, FRAMES, TRACKS, 2)),
        random.uniform(0.1, 0.9, (BATCH, FRAMES, TRACKS)),
        random.uniform(0.1, 0.9, (BATCH, FRAMES, TRACKS)),
        random.uniform(0.1, 0.9, pixels),
    )
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), arrays)


def random_batch(seed: int) -> dict[str, jax.Array]:
    """Consistent ground truth, with rubbish outside the mask."""
    truth, random = random_prediction(seed), np.random.default_rng(seed)
    valid = jnp.asarray(random.random((BATCH, FRAMES, HEIGHT, WIDTH)) < 0.7)
    cam_from_world = jnp.broadcast_to(jnp.eye(3, 4), (BATCH, FRAMES, 3, 4)) + 0.1 * truth.pose_encoding[..., None, :1]
    cam_from_world = cam_from_world.at[..., :3].set(jnp.eye(3))
    intrinsics = jnp.array([[20.0, 0, WIDTH / 2], [0, 18, HEIGHT / 2], [0, 0, 1]])
    intrinsics = jnp.broadcast_to(intrinsics, (BATCH, FRAMES, 3, 3))
    points = unproject(truth.depth, cam_from_world, intrinsics)
    return {
        "valid": valid,
        "depth": jnp.where(valid, truth.depth, jnp.nan),
        "points": jnp.where(valid[..., None], points, jnp.inf),
        "cam_from_world": cam_from_world,
        "intrinsics": intrinsics,
        "tracks": truth.tracks,
        "visibility": truth.visibility > 0.4,
        "moving": truth.motion > 0.4,
    }


def masked_by(valid: Any) -> dict[str, jax.Array]:
    return random_batch(2) | {"valid": jnp.asarray(valid)}


def perfect(batch: dict[str, jax.Array], scale: float = 1.0) -> Fields:
    """What a network that knows the ground truth says, in its own unit of length."""
    pose = pose_from_cameras(batch["cam_from_world"], batch["intrinsics"], HEIGHT, WIDTH)
    clean = {name: jnp.nan_to_num(batch[name], nan=1.0, posinf=1.0) for name in ("depth", "points")}
    confidence = jnp.full((BATCH, FRAMES, HEIGHT, WIDTH), 2.0)
    return Fields(
        pose.at[..., :3].multiply(scale), scale * clean["depth"], confidence, scale * clean["points"], confidence,
        batch["tracks"], batch["visibility"].astype(jnp.float32), jnp.ones((BATCH, FRAMES, TRACKS)),
    )  # fmt: skip


def twice(tree: Any, sample: int) -> Any:
    """A batch of one sample, in the shape of all others so that nothing is compiled anew."""
    return jax.tree.map(lambda array: array[jnp.array([sample, sample])], tree)


def noisy_corners() -> np.ndarray:
    """Pixels at the corners of the three strides, where the reference's gradients are rounding noise."""
    noisy = np.zeros((HEIGHT, WIDTH), bool)
    for stride in (1, 2, 4):
        grid = np.zeros((len(range(0, HEIGHT, stride)), len(range(0, WIDTH, stride))), bool)
        grid[np.ix_([0, -1], [0, -1])] = True
        noisy[::stride, ::stride] |= grid
    return noisy


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_reference_terms_and_gradients(mode: str) -> None:
    batch, teacher = masked_by(golden_mask()), golden("teacher")
    _, terms, gradients = evaluate(REFERENCE, golden("student"), batch, teacher, train=mode == "train")
    with np.load(GOLDEN) as file:
        expected = {name: float(file[f"{mode}_{name}"]) for name in ("Lcamera", "Ldepth", "Lpmap", "Ltrack", "total")}
    for head, name in (("camera", "Lcamera"), ("depth", "Ldepth"), ("tracks", "Ltrack")):
        assert terms[f"distill/{head}"] == pytest.approx(expected[name], abs=1e-5)
    assert terms["distill/points"] == pytest.approx(expected["Lpmap"], abs=0.1)
    assert terms["loss"] == pytest.approx(expected["total"], abs=0.1)
    wanted = golden(f"{mode}_grad")
    for name in REFERENCE_NAMES:
        reference = getattr(wanted, name)
        gradient = np.asarray(getattr(gradients, name))
        if name == "points":
            np.testing.assert_allclose(gradient[:, :, ~noisy_corners()], reference[:, :, ~noisy_corners()], atol=1e-3)
        else:
            np.testing.assert_allclose(gradient, reference, atol=3e-6, err_msg=name)


@pytest.mark.parametrize("config", [DISTILL, KL, TASK], ids=["distill", "kl", "task"])
def test_loss_of_a_batch_is_the_mean_over_samples(config: LossConfig) -> None:
    prediction, teacher, batch = random_prediction(0), random_prediction(1), random_batch(2)
    together = evaluate(config, prediction, batch, teacher)[0]
    alone = [evaluate(config, twice(prediction, i), twice(batch, i), twice(teacher, i))[0] for i in range(BATCH)]
    assert together == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize("config", [DISTILL, KL, TASK], ids=["distill", "kl", "task"])
def test_pixels_outside_the_mask_have_no_influence(config: LossConfig) -> None:
    prediction, teacher, batch = random_prediction(0), random_prediction(1), random_batch(2)
    *_, gradients = evaluate(config, prediction, batch, teacher)
    for field in ("depth", "depth_confidence", "points", "points_confidence"):
        gradient = np.asarray(getattr(gradients, field))
        assert np.all(gradient[~batch["valid"]] == 0)
        assert np.any(gradient[batch["valid"]] != 0)


@pytest.mark.parametrize("config", [DISTILL, KL, REFERENCE, TASK], ids=["distill", "kl", "reference", "task"])
def test_gradients_agree_with_finite_differences(config: LossConfig) -> None:
    prediction, teacher, batch = random_prediction(0), random_prediction(1), random_batch(2)
    *_, gradients = evaluate(config, prediction, batch, teacher)
    step = 3e-3
    for name, gradient in gradients._asdict().items():
        if config == TASK and name == "points_confidence":
            continue  # it also weighs the scale, deliberately without gradient
        # Along the gradient itself the slope is its norm, which stands out from the rounding of float32.
        slope = float(jnp.linalg.norm(gradient))
        ahead, behind = (
            evaluate(config, prediction._replace(**{name: getattr(prediction, name) + move}), batch, teacher)[0]
            for move in (step / slope * gradient, -step / slope * gradient)
        )
        assert float(ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.02, abs=0.01), name


@pytest.mark.parametrize("config", [DISTILL, KL, REFERENCE, TASK], ids=["distill", "kl", "reference", "task"])
@pytest.mark.parametrize("case", ["equal", "zeros", "no valid pixel"])
def test_gradients_are_finite_at_the_edges(config: LossConfig, case: str) -> None:
    prediction, batch = random_prediction(0), random_batch(2)
    teacher = prediction if case == "equal" else random_prediction(1)
    if case == "zeros":
        prediction = jax.tree.map(jnp.zeros_like, prediction)
        confidence = jnp.ones_like(prediction.depth)
        prediction = prediction._replace(depth_confidence=confidence, points_confidence=confidence)
    if case == "no valid pixel":
        batch["valid"] = jnp.zeros_like(batch["valid"])
    total, _, gradients = evaluate(config, prediction, batch, teacher)
    assert jnp.isfinite(total)
    for name, gradient in gradients._asdict().items():
        assert jnp.all(jnp.isfinite(gradient)), name


def test_one_empty_mask_costs_what_a_full_one_does() -> None:
    prediction, teacher = random_prediction(0), random_prediction(1)
    full = jnp.ones(prediction.depth.shape, bool)
    empty = full.at[1].set(False)
    for config in (DISTILL, KL):
        losses = [evaluate(config, prediction, masked_by(mask), teacher)[0] for mask in (empty, full)]
        assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)
    hazard = [evaluate(REFERENCE, prediction, masked_by(mask), teacher)[1]["distill/depth"] for mask in (empty, full)]
    assert hazard[0] > 10 * hazard[1], "the reference formula scales that sample by 1000"


def test_either_sign_of_a_quaternion_is_the_same_rotation() -> None:
    teacher = random_prediction(1)
    flipped = teacher._replace(pose_encoding=teacher.pose_encoding.at[..., 3:7].multiply(-1))
    assert evaluate(DISTILL, flipped, random_batch(2), teacher)[1]["distill/camera"] == 0
    assert evaluate(REFERENCE, flipped, random_batch(2), teacher)[1]["distill/camera"] > 1


def test_visibility_is_best_at_the_teachers() -> None:
    teacher = random_prediction(1)
    for config, best in ((DISTILL, True), (KL, True), (REFERENCE, False)):
        *_, gradients = evaluate(config, teacher, random_batch(2), teacher)
        assert bool(jnp.max(jnp.abs(gradients.visibility)) < 1e-6) == best


def test_matching_point_maps_have_no_shape_error_up_to_the_border() -> None:
    teacher = random_prediction(1)
    scaled = teacher._replace(points=2.5 * teacher.points + jnp.array([1.0, -2.0, 0.5]))
    assert evaluate(DISTILL, scaled, random_batch(2), teacher)[1]["distill/points_shape"] == pytest.approx(0, abs=1e-4)
    assert evaluate(REFERENCE, scaled, random_batch(2), teacher)[1]["distill/points_shape"] > 0.1


def test_kl_is_zero_for_equal_predictions_only() -> None:
    prediction, teacher = random_prediction(0), random_prediction(1)
    equal, other = (evaluate(KL, student, random_batch(2), teacher)[1] for student in (teacher, prediction))
    for name in ("kl/camera", "kl/depth", "kl/points", "kl/tracks_error", "kl/tracks_visibility"):
        assert equal[name] == pytest.approx(0, abs=2e-5), name
        assert other[name] > 0.1, name


def test_laplace_divergence_agrees_with_quadrature() -> None:
    for location, confidence, target, target_confidence in ((0.3, 1.5, -0.4, 4.0), (2.0, 8.0, 2.1, 1.0)):

        def integrand(x: float, p: tuple = (location, confidence), q: tuple = (target, target_confidence)) -> float:
            log_p, log_q = (np.log(c / 2) - c * abs(x - mean) for mean, c in (p, q))
            return np.exp(log_p) * (log_p - log_q)

        expected, _ = scipy.integrate.quad(integrand, -40, 40, points=(location, target), limit=200)
        arrays = jnp.array([location]), jnp.array(confidence), jnp.array([target]), jnp.array(target_confidence)
        assert laplace_divergence(*arrays) == pytest.approx(expected, rel=1e-5)


def test_bernoulli_divergence_is_its_sum_over_outcomes() -> None:
    student, teacher = 0.3, 0.8
    expected = student * np.log(student / teacher) + (1 - student) * np.log((1 - student) / (1 - teacher))
    assert bernoulli_divergence(jnp.array(student), jnp.array(teacher)) == pytest.approx(expected, rel=1e-5)
    assert jnp.isfinite(bernoulli_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))).all()


def test_task_loss_knows_no_scale_and_finds_the_truth() -> None:
    batch = random_batch(2)
    _, exact, _ = evaluate(TASK, perfect(batch), batch)
    _, scaled, _ = evaluate(TASK, perfect(batch, scale=7.0), batch)
    for name in ("task/camera", "task/depth_error", "task/points_error", "task/tracks_error"):
        assert exact[name] == pytest.approx(0, abs=1e-4), name
        assert scaled[name] == pytest.approx(0, abs=1e-4), name
    noisy = perfect(batch)._replace(points=random_prediction(3).points)
    assert evaluate(TASK, noisy, batch)[1]["task/points_error"] > 1
    wrong_scale = perfect(batch)._replace(depth=2 * perfect(batch).depth)
    assert evaluate(TASK, wrong_scale, batch)[1]["task/depth_error"] > 1, "one scale for all heads"


def test_errors_of_the_field_of_view_count_by_their_square_up_to_a_fifth_of_a_radian() -> None:
    """Half of the Huber distance, times the camera's weight of 20: e²/0.4 below 0.2 and e − 0.1 above."""
    batch = random_batch(2)
    right = perfect(batch)
    for error, expected in ((0.05, 0.05**2 / 0.4), (-0.2, 0.1), (0.5, 0.4)):
        wrong = right._replace(pose_encoding=right.pose_encoding.at[..., 7:].add(error))
        found = evaluate(TASK, wrong, batch)[1]["task/camera_field_of_view"]
        assert found == pytest.approx(20 * 0.5 * expected, rel=1e-3)


def test_a_clip_without_valid_depth_has_no_scale_for_its_translation() -> None:
    batch = random_batch(2)
    batch["valid"] = batch["valid"].at[0].set(False)
    prediction = random_prediction(0)
    moved = prediction._replace(pose_encoding=prediction.pose_encoding.at[0, :, :3].add(5.0))
    turned = prediction._replace(pose_encoding=prediction.pose_encoding.at[0, :, 3:7].multiply(2.0))
    here, there, elsewhere = (evaluate(TASK, x, batch)[1] for x in (prediction, moved, turned))
    assert there["task/camera"] == here["task/camera"]
    assert elsewhere["task/camera"] > here["task/camera"]


def test_log_depth_counts_ratios() -> None:
    """Twice too deep everywhere: ln 2, near and far. Twice too deep in one half: half of it. Invalid pixels do not count."""
    truth, valid = np.full((1, 1, 6, 8), 3.0, np.float32), np.ones((1, 1, 6, 8), bool)
    left = np.arange(8) < 4
    assert float(log_depth_loss(2 * truth, truth, valid)["error"]) == pytest.approx(np.log(2))
    assert float(log_depth_loss(200 * truth, 100 * truth, valid)["error"]) == pytest.approx(np.log(2))
    half = np.where(left, truth, 2 * truth)
    assert float(log_depth_loss(half, truth, valid)["error"]) == pytest.approx(np.log(2) / 2)
    assert float(log_depth_loss(half, np.where(left, truth, np.nan), valid & left)["error"]) == 0


def test_sum_of_objectives_and_logged_terms() -> None:
    prediction, teacher, batch = random_prediction(0), random_prediction(1), random_batch(2)
    both = LossConfig(task_weight=0.5, distillation_weight=2.0, distillation="kl")
    total, terms, _ = evaluate(both, prediction, batch, teacher)
    task, divergence = (evaluate(config, prediction, batch, teacher)[0] for config in (TASK, KL))
    assert total == pytest.approx(float(0.5 * task + 2 * divergence), rel=1e-5)
    heads = [f"{name}/{head}" for name in ("task", "kl") for head in HEADS]
    assert total == pytest.approx(sum(float(terms[head]) for head in heads), rel=1e-5)
    for head in heads:
        parts = [value for name, value in terms.items() if name.startswith(f"{head}_")]
        assert terms[head] == pytest.approx(float(sum(parts)), rel=1e-5)


def test_missing_heads_are_left_out() -> None:
    prediction, teacher = random_prediction(0), random_prediction(1)
    depth_only = Fields(depth=prediction.depth, depth_confidence=prediction.depth_confidence)
    _, terms, _ = evaluate(DISTILL, depth_only, {}, teacher)
    assert {name.split("_")[0] for name in terms} == {"distill/depth", "loss"}
    _, terms, _ = evaluate(TASK, depth_only, random_batch(2))
    assert {name.split("_")[0] for name in terms} == {"task/depth", "loss"}


def test_bfloat16_predictions_give_a_float32_loss() -> None:
    prediction = random_prediction(0)
    prediction = Fields(depth=prediction.depth, depth_confidence=prediction.depth_confidence)
    narrow = jax.tree.map(lambda array: array.astype(jnp.bfloat16), prediction)
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), narrow)
    teacher = random_prediction(1)
    total, terms, _ = evaluate(DISTILL, narrow, {}, teacher)
    assert all(value.dtype == jnp.float32 for value in terms.values())
    assert total == pytest.approx(float(evaluate(DISTILL, wide, {}, teacher)[0]), rel=1e-6)


def test_errors_name_what_is_missing() -> None:
    prediction, batch = random_prediction(0), random_batch(2)
    with pytest.raises(ValueError, match="teacher"):
        objective(DISTILL, prediction, batch)
    with pytest.raises(ValueError, match="intrinsics"):
        objective(TASK, prediction, {name: batch[name] for name in ("valid", "depth", "points", "cam_from_world")})
    with pytest.raises(ValueError, match="no head in common"):
        objective(DISTILL, Fields(depth=prediction.depth, depth_confidence=prediction.depth_confidence), {}, Fields())
    with pytest.raises(ValueError, match="scale"):
        objective(TASK, Fields(pose_encoding=prediction.pose_encoding), batch)
    with pytest.raises(ValueError, match="nothing to minimise"):
        LossConfig(distillation_weight=0.0)
    with pytest.raises(ValueError, match="reference"):
        LossConfig(distillation="kl", reference=True)
    for ignored in ({"distillation": "kl"}, {"reference": True}):
        with pytest.raises(ValueError, match="ways to distil"):
            LossConfig(task_weight=1.0, distillation_weight=0.0, **ignored)
