"""The pose graph on maps whose answer is known. Noise is drawn from default_rng with the seed that each test states."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.graph import solve
from ivggt_jax.mapping.judge import Gap, GraphConfig, Loop
from ivggt_jax.trajectories.alignment import umeyama
from ivggt_jax.transforms import Similarity

AROUND = 24
"""Submaps to a round of the circle."""
STEP = Similarity(
    rotation=Rotation.from_rotvec([0, 2 * np.pi / AROUND, 0]).as_matrix(), translation=np.array([0.8, 0, 0.1])
)


def disturbance(rng: np.random.Generator, rotation: float, translation: float, scale: float) -> Similarity:
    turn = Rotation.from_rotvec(rng.normal(0, rotation, 3)).as_matrix()
    return Similarity(float(np.exp(rng.normal(0, scale))), turn, rng.normal(0, translation, 3))


def circle(count: int) -> list[Similarity]:
    """The true submaps of a walk around and around."""
    nodes = [Similarity()]
    while len(nodes) < count:
        nodes.append(nodes[-1].after(STEP))
    return nodes


def noisy(true: list[Similarity], rng: np.random.Generator) -> list[Similarity]:
    """The same as a chain of links, each a little wrong."""
    chain = [true[0]]
    for one, other in zip(true, true[1:], strict=False):
        chain.append(chain[-1].after(between(one, other)).after(disturbance(rng, 0.01, 0.02, 0.02)))
    return chain


def between(one: Similarity, other: Similarity) -> Similarity:
    return one.inverse().after(other)


def true_loop(true: list[Similarity], a: int, b: int, rng: np.random.Generator) -> Loop:
    return Loop(a, b, between(true[a], true[b]).after(disturbance(rng, 0.01, 0.02, 0.01)))


def position_error(found: list[Similarity], true: list[Similarity]) -> float:
    """Root mean square after the best similarity, in the true world's unit."""
    positions, truth = (np.array([node.translation for node in nodes]) for nodes in (found, true))
    return float(
        np.sqrt(np.mean(np.sum((umeyama(positions, truth, scale=True).points(positions) - truth) ** 2, axis=1)))
    )


def test_a_loop_with_a_witness_straightens_a_noisy_circle():
    before, after = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        true = circle(AROUND + 3)
        chain = noisy(true, rng)
        loops = [true_loop(true, 0, AROUND, rng), true_loop(true, 1, AROUND + 1, rng)]
        solution = solve(chain, [0] * len(chain), loops)
        assert solution.verdicts == ["kept", "kept"]
        assert solution.residual_after < 0.3 * solution.residual_before
        assert Gap.of(solution.nodes[0], chain[0]).within(Gap(1e-5, 1e-5, 1e-5))
        before.append(position_error(chain, true))
        after.append(position_error(solution.nodes, true))
    assert np.mean(after) < 0.5 * np.mean(before)


def test_without_loops_the_chain_stays_as_it_is():
    chain = noisy(circle(10), np.random.default_rng(2))
    solution = solve(chain, [0] * 10, [])
    assert solution.nodes == chain
    assert (solution.residual_before, solution.residual_after) == (0, 0)


def test_a_chain_that_its_loops_confirm_is_left_where_it_is():
    true = circle(AROUND + 2)
    loops = [Loop(0, AROUND, between(true[0], true[AROUND])), Loop(1, AROUND + 1, between(true[1], true[AROUND + 1]))]
    solution = solve(true, [3] * len(true), loops)
    assert max(Gap.of(x, y).translation for x, y in zip(solution.nodes, true, strict=True)) < 1e-6
    assert max(Gap.of(x, y).scale for x, y in zip(solution.nodes, true, strict=True)) < 1e-6


def test_a_lone_loop_that_moves_the_map_far_does_not_count():
    rng = np.random.default_rng(1)
    true = circle(AROUND + 3)
    chain = noisy(true, rng)
    solution = solve(chain, [0] * len(chain), [true_loop(true, 0, AROUND, rng)])
    assert solution.verdicts == ["alone"]
    assert solution.nodes == chain


def test_a_lone_loop_that_hardly_moves_the_map_counts():
    rng = np.random.default_rng(4)
    true = circle(AROUND + 3)
    solution = solve(true, [0] * len(true), [true_loop(true, 0, AROUND, rng)])
    assert solution.verdicts == ["kept"]


@pytest.mark.parametrize("seed", range(5))
def test_wrong_loops_among_true_ones_do_not_wreck_the_map(seed: int):
    """Three wrong ones, each anywhere: two of them beside each other, so that they might be taken for a pair."""
    rng = np.random.default_rng(seed)
    true = circle(4 * AROUND)
    chain = noisy(true, rng)
    loops = [true_loop(true, b - AROUND, b, rng) for b in range(AROUND, len(true), 5)]
    clean = solve(chain, [0] * len(chain), loops)
    wrong = [Loop(a, b, disturbance(rng, 1.0, 1.0, 0.3)) for a, b in ((3, 40), (4, 41), (10, 80))]
    solution = solve(chain, [0] * len(chain), loops + wrong)
    assert "kept" not in solution.verdicts[-3:]
    assert solution.verdicts[:-3] == clean.verdicts
    np.testing.assert_allclose(position_error(solution.nodes, true), position_error(clean.nodes, true), rtol=1e-6)
    assert position_error(clean.nodes, true) < 0.5 * position_error(chain, true)


def test_wrong_loops_that_agree_are_outvoted_by_true_ones():
    """Two wrong loops that confirm each other, and that the chain alone could not refuse."""
    rng = np.random.default_rng(0)
    true = circle(4 * AROUND)
    chain = noisy(true, rng)
    loops = [true_loop(true, b - AROUND, b, rng) for b in range(AROUND, len(true), 4)]
    aside = Similarity(translation=np.array([0.0, 0.0, 1.5]))
    wrong = [Loop(a, a + 40, aside.after(between(true[a], true[a + 40]))) for a in (20, 21)]
    assert solve(chain, [0] * len(chain), wrong).verdicts == ["kept", "kept"]
    solution = solve(chain, [0] * len(chain), loops + wrong)
    assert solution.verdicts[-2:] == ["outvoted", "outvoted"]
    assert position_error(solution.nodes, true) < 0.5 * position_error(chain, true)


def straight(count: int, degrees: float, factor: float = 1.0) -> list[Similarity]:
    """Submaps a step ahead of each other, each turned by so many degrees, times a factor that leaves the way as it is."""
    turn = Rotation.from_rotvec([0, np.deg2rad(factor * degrees), 0]).as_matrix()
    nodes = [Similarity()]
    while len(nodes) < count:
        nodes.append(nodes[-1].after(Similarity(rotation=turn, translation=np.array([0.0, 0.0, 1.0]))))
    return nodes


def test_loops_that_are_all_outvoted_leave_the_map_as_it_was():
    """Two that confirm each other; but what they say of the unit no link allows."""
    chain = straight(40, 5)
    wrong = Similarity(np.exp(-0.4), Rotation.from_rotvec([0, -np.deg2rad(10), 0]).as_matrix(), np.array([2.0, 0, 0]))
    loops = []
    for a, b in ((5, 15), (6, 16)):
        true = between(chain[a], chain[b])
        said = Similarity(wrong.scale, wrong.rotation @ true.rotation, true.translation + wrong.translation)
        loops.append(Loop(a, b, said, noise=0.25))
    solution = solve(chain, [0] * 40, loops)
    assert "kept" not in solution.verdicts
    assert solution.nodes == chain


def test_loops_of_one_stretch_do_not_turn_another():
    """Before the cut links turn by 0.9 of what they should, and loops say so; what comes after it is right."""
    true, second = straight(80, 9), straight(30, 9)
    first = straight(80, 9, factor=0.9)
    rng = np.random.default_rng(9)
    loops = [true_loop(true, a, a + 40, rng) for a in range(0, 40, 3)]
    solution = solve([*first, *second], [0] * 80 + [1] * 30, loops)
    assert solution.verdicts.count("kept") > 8
    assert position_error(solution.nodes[:80], true) < 0.2 * position_error(first, true)
    links = [between(one, other) for one, other in zip(solution.nodes[80:], solution.nodes[81:], strict=False)]
    for link in links:
        assert Gap.of(link, between(second[0], second[1])).within(Gap(1e-6, 1e-6, 1e-6))


@pytest.mark.parametrize("seed", range(5))
def test_parts_lie_where_most_loops_say(seed: int):
    """Two loops that agree on a wrong place, found before three that agree on the right one."""
    rng = np.random.default_rng(seed)
    true = straight(40, 10)
    elsewhere, wrong = disturbance(rng, 1.0, 5.0, 0.2), disturbance(rng, 1.0, 8.0, 0.2)
    chain = [*true[:20], *map(elsewhere.after, true[20:])]
    loops = [Loop(a, a + 20, between(true[a], wrong.after(true[a + 20]))) for a in (3, 4)]
    loops += [true_loop(true, a, a + 20, rng) for a in (5, 6, 7)]
    solution = solve(chain, [0] * 20 + [1] * 20, loops)
    assert solution.verdicts == ["outvoted"] * 2 + ["kept"] * 3
    assert position_error(solution.nodes, true) < 0.2


def test_doors_that_look_alike_are_no_loop():
    """Straight on past equal doors: loops that all agree with each other, and say that nothing moved."""
    step = Similarity(translation=np.array([0.0, 0.0, 1.0]))
    chain = [Similarity()]
    while len(chain) < 60:
        chain.append(chain[-1].after(step))
    loops = [Loop(a, a + gap, Similarity()) for gap in (4, 11, 50) for a in range(6)]
    solution = solve(chain, [0] * 60, loops)
    assert set(solution.verdicts) == {"implausible"}
    assert solution.nodes == chain


def test_equal_doors_join_no_parts_of_one_stretch():
    """Where a link failed the chain is not believed, and yet the camera has walked on; after a cut it may be anywhere."""
    step = Similarity(translation=np.array([0.0, 0.0, 1.0]))
    chain = [Similarity()]
    while len(chain) < 20:
        chain.append(chain[-1].after(step))
    parts = [0] * 8 + [1] * 12
    loops = [Loop(a, a + 9, Similarity()) for a in (0, 1, 2)]
    assert set(solve(chain, parts, loops, stretches=[0] * 20).verdicts) == {"implausible"}
    assert solve(chain, parts, loops, stretches=[0] * 20).nodes == chain
    assert set(solve(chain, parts, loops).verdicts) == {"kept"}


def test_a_wrong_factor_of_turning_is_found():
    """Links turn by 0.85 of what they should: after one round the chain is 54° off, after three 162°."""
    true = circle(3 * AROUND + 8)
    chain = [true[0]]
    for one, other in zip(true, true[1:], strict=False):
        link = between(one, other)
        turn = Rotation.from_rotvec(0.85 * Rotation.from_matrix(link.rotation).as_rotvec()).as_matrix()
        chain.append(chain[-1].after(Similarity(1.0, turn, link.translation)))
    rng = np.random.default_rng(7)
    loops = [
        true_loop(true, a, a + gap, rng)
        for gap in (AROUND, 3 * AROUND)
        for a in range(0, AROUND, 4)
        if a + gap < len(true)
    ]
    solution = solve(chain, [0] * len(chain), loops)
    assert set(solution.verdicts) == {"kept"}
    assert position_error(solution.nodes, true) < 0.05 * position_error(chain, true)


def test_parts_of_a_map_stay_independent_unless_loops_join_them():
    rng = np.random.default_rng(5)
    true = circle(AROUND + 8)
    parts = [0] * AROUND + [1] * 8
    elsewhere = disturbance(rng, 1.0, 5.0, 0.5)
    chain = noisy(true[:AROUND], rng) + [elsewhere.after(node) for node in noisy(true[AROUND:], rng)]
    lone = solve(chain, parts, [true_loop(true, 0, AROUND, rng)])
    assert lone.verdicts == ["alone"]
    assert lone.nodes == chain
    loops = [true_loop(true, i, AROUND + i, rng) for i in (0, 2, 5)]
    joined = solve(chain, parts, loops)
    assert joined.verdicts == ["kept"] * 3
    assert position_error(joined.nodes[AROUND:], true[AROUND:]) < 0.2
    assert position_error(joined.nodes[:AROUND], true[:AROUND]) < 1.2 * position_error(chain[:AROUND], true[:AROUND])
    # What no loop joins keeps its place, also beside parts that are joined.
    third = solve([*chain, elsewhere], [*parts, 2], loops)
    assert Gap.of(third.nodes[-1], elsewhere).within(Gap(1e-5, 1e-5, 1e-5))


def test_links_and_loops_may_change_the_unit():
    """A submap in another unit than the one before is the same map in other words."""
    rng = np.random.default_rng(6)
    true = circle(AROUND + 3)
    chain = noisy(true, rng)
    loops = [true_loop(true, i, AROUND + i, rng) for i in range(3)]
    plain = solve(chain, [0] * len(chain), loops)
    units = [Similarity(scale=1.1 ** (i % 3)) for i in range(len(chain))]
    other = solve(
        [node.after(unit) for node, unit in zip(chain, units, strict=True)],
        [0] * len(chain),
        [Loop(x.a, x.b, units[x.a].inverse().after(x.a_from_b).after(units[x.b])) for x in loops],
    )
    assert other.verdicts == plain.verdicts == ["kept"] * 3
    for one, two, unit in zip(plain.nodes, other.nodes, units, strict=True):
        assert Gap.of(one.after(unit), two).within(Gap(0.01, 0.02, 0.01))


def test_the_same_map_is_found_every_time():
    """Bit by bit: a resumed run must end with the same files."""
    rng = np.random.default_rng(7)
    true = circle(3 * AROUND)
    chain = noisy(true, rng)
    loops = [true_loop(true, b - AROUND, b, rng) for b in range(AROUND, len(true), 3)]
    first, second = (solve(chain, [0] * len(chain), loops).nodes for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.scale == other.scale
        np.testing.assert_array_equal(one.translation, other.translation)
        np.testing.assert_array_equal(one.rotation, other.rotation)


def test_a_loop_between_submaps_that_do_not_exist_is_refused():
    for a, b in ((0, 3), (-1, 1), (1, 1), (2, 1)):
        with pytest.raises(ValueError, match=f"{a} and {b} of 3"):
            solve(circle(3), [0] * 3, [Loop(a, b, Similarity())])


def test_the_graph_of_ten_thousand_frames_is_solved():
    """313 submaps of 32 frames with a hundred loops."""
    rng = np.random.default_rng(8)
    true = circle(313)
    chain = noisy(true, rng)
    loops = [true_loop(true, b - AROUND, b, rng) for b in range(AROUND, len(true), 3)]
    solution = solve(chain, [0] * len(chain), loops)
    assert position_error(solution.nodes, true) < 0.5 * position_error(chain, true)


def test_the_gap_between_similarities_is_measured_in_full_precision():
    tiny = Rotation.from_rotvec([0, 0, 1e-9]).as_matrix()
    gap = Gap.of(Similarity(), Similarity(np.exp(-0.5), tiny, np.array([3.0, 0, 4])))
    np.testing.assert_allclose([gap.rotation, gap.translation, gap.scale], [1e-9, 5, 0.5], rtol=1e-6)
    assert Gap.of(Similarity(), Similarity(rotation=np.diag([-1.0, -1, 1]))).rotation == pytest.approx(np.pi)
    assert not Gap(np.nan, 0, 0).within(Gap(1, 1, 1))
    assert GraphConfig().inlier < 1
