"""Reports hold the numbers that were measured, and their pages and plots are well formed."""

import base64
import io
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ivggt_jax.evaluate.datasets import Skipped
from ivggt_jax.evaluate.depth import error_map, evaluate_depth
from ivggt_jax.evaluate.plots import HEIGHT, WIDTH, depth_maps, line_plot, path_plot
from ivggt_jax.evaluate.reconstruction import evaluate_reconstruction
from ivggt_jax.evaluate.report import (
    SequenceReport,
    report_depth,
    report_reconstruction,
    report_trajectory,
    summary_table,
    write_report,
)
from ivggt_jax.evaluate.trajectory import evaluate_trajectory


def cameras(frames=20):
    truth = np.tile(np.eye(3, 4), (frames, 1, 1))
    angle = np.linspace(0, 4, frames)
    truth[..., 3] = np.stack((np.cos(angle), np.sin(angle), 0.3 * angle), axis=1)
    return truth


def trajectory_report(name="desk", noise=0.1):
    truth = cameras()
    prediction = truth.copy()
    prediction[..., 3] += noise * np.random.default_rng(0).normal(size=(20, 3))
    truth[7] = np.nan
    return report_trajectory(name, evaluate_trajectory(prediction, truth), truth, problems=["7.png <is> cut off"])


def points_of(svg):
    """The drawn points [N, 2] of every line of a plot."""
    lines = ElementTree.fromstring(svg).iter("polyline")
    return [np.array([pair.split(",") for pair in line.get("points").split()], float) for line in lines]


def shares(report, folder):
    """Everything the JSON of a report holds."""
    write_report(folder, "pose · tum", [report])
    return json.loads((folder / f"{report.name}.json").read_text())


def test_a_trajectory_s_report(tmp_path):
    report = trajectory_report()
    record = shares(report, tmp_path)
    assert record["measures"] == pytest.approx(report.measures)
    assert record["settings"]["alignment"] == "sim3"
    assert record["problems"] == ["7.png <is> cut off"]
    errors = record["curves"]["translation error"]
    assert errors[7] is None
    assert math.sqrt(np.mean([error**2 for error in errors if error is not None])) == pytest.approx(
        record["measures"]["ate"]
    )


def test_a_depth_report_is_weighted_by_its_pixels(tmp_path):
    random = np.random.default_rng(1)
    truth = random.uniform(1, 5, (3, 8, 9))
    reports = []
    for name, frames, factor in (("a", truth[:1], 1.1), ("b", truth, 1.3)):
        pairs = [(frame * factor, frame) for frame in frames]
        reports.append(report_depth(name, evaluate_depth(pairs, "metric")))
    assert [report.weight for report in reports] == [72, 216]
    assert "pixels" not in reports[0].measures
    table = summary_table("depth · sintel", reports)
    assert "alignment metric" in table.splitlines()[0]
    rows = {line.split("  ")[0]: line.split() for line in table.splitlines()[2:]}
    column = table.splitlines()[1].split().index("abs_rel") - len(table.splitlines()[1].split())
    assert float(rows["a"][column]) == 0.1
    assert float(rows["mean"][column]) == 0.2
    assert float(rows["mean, weighted by pixels"][column]) == 0.25


def test_a_reconstruction_s_report(tmp_path):
    points = np.random.default_rng(2).uniform(0, 1, (2, 200, 3))
    report = report_reconstruction("room", evaluate_reconstruction([(p, p) for p in points], "fixed"))
    record = shares(report, tmp_path)
    assert record["measures"]["f_score@0.05"] == 1
    assert record["settings"]["voxel"] == 0.01
    assert len(record["curves"]["distance between corresponding points"]) == 2
    plain = report_reconstruction("room", evaluate_reconstruction([(p, p) for p in points], "published"))
    assert "voxel" not in plain.settings


def test_the_table_tells_what_is_missing():
    table = summary_table("pose · tum", [trajectory_report()], [Skipped("room", "no frame is left")])
    assert table.splitlines()[0] == "pose · tum · alignment sim3"
    assert "skipped room: no frame is left" in table
    assert "left out of desk: 7.png <is> cut off" in table
    assert "mean" not in [line.split()[0] for line in table.splitlines()]
    assert not re.search(r"weighted", summary_table("pose", [trajectory_report("a"), trajectory_report("b")]))


def test_the_page_stands_alone_and_escapes_names(tmp_path):
    paths = write_report(tmp_path, "a <title>", [trajectory_report("x/y&z")], [Skipped("<b>", "why & how")])
    assert [path.name for path in paths] == ["summary.txt", "report.html", "x_y&z.json"]
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;: why &amp; how" in page
    assert "<h2>x/y&amp;z</h2>" in page
    assert page.count("<svg") == page.count("</svg>") == 3
    assert (tmp_path / "summary.txt").read_text().startswith("a <title>")


def test_reports_need_sequences_of_different_names(tmp_path):
    with pytest.raises(ValueError, match="no sequence"):
        write_report(tmp_path, "pose", [])
    with pytest.raises(ValueError, match=r"a_b\.json"):
        write_report(tmp_path, "pose", [trajectory_report("a/b"), trajectory_report("a_b")])


def test_a_report_takes_the_place_of_an_earlier_one(tmp_path):
    """Other files stay, whatever they hold."""
    write_report(tmp_path, "pose", [trajectory_report("a"), trajectory_report("b")])
    (tmp_path / "mine.json").write_text('{"name": "mine"}')
    (tmp_path / "broken.json").write_text("{")
    write_report(tmp_path, "pose", [trajectory_report("b")])
    assert {path.name for path in tmp_path.glob("*.json")} == {"b.json", "mine.json", "broken.json"}


def test_a_measure_that_is_not_there_is_not_a_number(tmp_path):
    reports = [
        SequenceReport("a", {"alignment": "x"}, {"p": 1.0}),
        SequenceReport("b", {"alignment": "y"}, {"q": math.inf}),
        SequenceReport("c", {"alignment": "y"}, {"p": 2.0, "r": math.nan}, weight=3.0),
    ]
    table = summary_table("t", reports)
    assert "alignment x, y" in table
    lines = [line.split() for line in table.splitlines()]
    assert lines[2] == ["a", "1.0000", "nan", "nan"]
    assert ["mean", "1.5000", "inf", "nan"] in lines, "of those that have it"
    assert ["mean,", "weighted", "by", "pixels", "1.7500", "inf", "nan"] in lines
    write_report(tmp_path, "t", reports)
    assert json.loads((tmp_path / "b.json").read_text())["measures"] == {"q": None}


def test_curves_are_drawn_where_they_are_known():
    values = np.array([0, 1, 2, np.nan, 4, 4.0])
    first, second = points_of(line_plot({"error": values}, "frame", "error"))
    assert (len(first), len(second)) == (3, 2)
    both = np.concatenate((first, second))
    assert (np.diff(both[:, 0]) > 0).all()
    # The plot's y goes down: 0 lies at the bottom and 4, the largest, at the top.
    np.testing.assert_allclose(np.diff(first[:, 1]), (both[-1, 1] - first[0, 1]) / 4, atol=0.1)


@pytest.mark.parametrize("values", [[], [np.nan], [0.0, 0], [5.0], [-1, 1], [1e-9, 2e-9], [1e9, 3e9]])
def test_curves_of_any_kind_can_be_drawn(values):
    for points in points_of(line_plot({"a & b": np.array(values)}, "frame", "<error>")):
        assert (points >= 0).all()
        assert (points <= (WIDTH, HEIGHT)).all()


def test_a_long_curve_is_bounded_and_keeps_its_peaks():
    values = np.random.default_rng(3).uniform(0, 1, 100_000)
    values[54_321] = 7
    (points,) = points_of(line_plot({"error": values}, "frame", "error"))
    assert len(points) == 2000
    (reference,) = points_of(line_plot({"error": np.array([0.0, 7])}, "frame", "error"))
    assert points[:, 1].min() == reference[:, 1].min()


def test_paths_keep_their_shape():
    """A circle of the x and z axes stays a circle, and the prediction lies on the truth."""
    angle = np.linspace(0, 2 * np.pi, 9)
    truth = np.stack((3 * np.cos(angle), 0.1 * angle, 3 * np.sin(angle)), axis=1)
    truth[1] = np.nan  # between two of the points that lie farthest out
    drawn, same = points_of(path_plot(truth, truth))
    np.testing.assert_array_equal(drawn, same)
    assert len(drawn) == 8
    np.testing.assert_allclose(np.ptp(drawn[:, 0]), np.ptp(drawn[:, 1]), atol=0.2)
    still, _ = points_of(path_plot(np.zeros((3, 3)), np.zeros((3, 3))))
    np.testing.assert_allclose(still, np.tile((WIDTH / 2, HEIGHT / 2), (3, 1)))


def test_depth_maps_show_three_pictures():
    truth = np.linspace(1, 5, 12 * 16).reshape(12, 16)
    truth[0, 0] = 0
    prediction = np.where(truth > 4, 1.25 * truth, truth)
    text = depth_maps(prediction, truth, error_map(prediction, truth))
    data = re.search(r"base64,([^\"]*)", text).group(1)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert picture.shape == (12, 48, 3)
    shown, predicted, error = np.split(picture, 3, axis=1)
    assert (shown[0, 0] == error[0, 0]).all()  # unknown
    np.testing.assert_array_equal(shown[5], predicted[5])
    assert (error[5] == 255).all()
    assert (error[-1] == (127, 0, 0)).all()
    wide = depth_maps(np.ones((10, 1000)), np.ones((10, 1000)), np.zeros((10, 1000)))
    assert Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)", wide).group(1)))).width == 3 * 200
