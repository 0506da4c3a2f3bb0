"""The viewer without windows: viewpoints, the painter, the scene, errors, the session, `view --headless`."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from seen_capture import CAPTURE, SHIFT, make_capture
from test_cli import exit_code

from avatarpose import cli
from avatarpose.body import load_body
from avatarpose.edits import Edits
from avatarpose.errors import InputError
from avatarpose.io import read_image, write_json
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from viewer.data import ViewerData, meeting_point
from viewer.display import require_window
from viewer.measure import difference_at_vertices, errors
from viewer.paint import paint, rasterise
from viewer.plots import frame_plot, joint_plot
from viewer.scene import Lines, Mesh, Picture, Scene, build_scene, difference_colours, first_view
from viewer.session import Session
from viewer.state import Timeline, ViewState, parse_kinds
from viewer.video.paths import load_keyframes
from viewer.view import View, fit_image


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_capture(tmp_path_factory.mktemp("viewer") / "embrace")


def data_of(folder: Path) -> ViewerData:
    return ViewerData(Sequence.open(folder), load_body())


@pytest.fixture()
def folder(capture: Path, tmp_path: Path) -> Path:
    return shutil.copytree(capture, tmp_path / "embrace")


@pytest.fixture(scope="module")
def data(capture: Path) -> ViewerData:
    return data_of(capture)


def session_of(folder: Path, **shown) -> Session:
    return Session(data_of(folder), ViewState(**shown))


# ---- viewpoints ----


def test_look_at_puts_the_target_in_the_middle_and_up_upwards() -> None:
    view = View.look_at(np.array([3.0, 1, 2]), np.array([0.5, 0, 1]), np.array([0, 0, 1]), 40, 640, 480)
    np.testing.assert_allclose(view.R @ view.R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view.R) > 0
    points = view.to_camera(np.array([[0.5, 0, 1], [0.5, 0, 1.5]]))
    middle, above = view.to_pixels(points)
    np.testing.assert_allclose(middle, (320, 240), atol=1e-9)
    assert above[1] < 239 and abs(above[0] - 320) < 1e-9
    np.testing.assert_allclose(view.position, (3, 1, 2), atol=1e-12)
    assert view.fov_deg == pytest.approx(40)
    # An edge of the picture is half the angle away: tan(20 deg) at depth 1.
    edge = view.to_pixels(np.array([0, np.tan(np.radians(20)), 1.0]))
    assert edge[1] == pytest.approx(480)
    straight_down = View.look_at(np.array([0, 0, 3.0]), np.zeros(3), np.array([0, 0, 1]), 40, 64, 64)
    assert np.isfinite(straight_down.R).all()


def test_looking_through_a_camera_is_projecting_with_it(data: ViewerData) -> None:
    cameras = data.sequence.cameras
    points = torch.as_tensor(data.joints["refined"][0, 0], dtype=torch.float64)
    for c in range(len(cameras)):
        ideal = replace(cameras[c], dist=torch.zeros(1, 5, dtype=torch.float64))
        pixels, _ = ideal.project(points)
        view = View.through(cameras, c)
        np.testing.assert_allclose(view.to_pixels(view.to_camera(points.numpy())), pixels[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(view.cameras().project(points)[0], pixels, atol=1e-6)


@pytest.mark.parametrize("size", [(400, 300), (90, 120), (33, 20)])
def test_a_fitted_view_and_a_fitted_image_agree(size: tuple[int, int]) -> None:
    """A bright spot at a point's pixel is found again at the point's pixel in the fitted view."""
    view = View.look_at(np.array([0, -3.0, 0]), np.zeros(3), np.array([0, 0, 1]), 40, 160, 120)
    point = np.array([0.31, 0, -0.22])
    x, y = view.to_pixels(view.to_camera(point))
    rows, columns = np.mgrid[:120, :160] + 0.5
    spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    image = fit_image(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8), *size, np.zeros(3))
    assert image.shape == (size[1], size[0], 3)
    weight = image[..., 0].astype(float)
    rows, columns = np.mgrid[: size[1], : size[0]] + 0.5
    found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    fitted = view.fitted(*size)
    np.testing.assert_allclose(found, fitted.to_pixels(fitted.to_camera(point)), atol=0.15)


def test_meeting_point_of_lines_of_sight() -> None:
    target = np.array([0.3, -0.2, 1.1])
    centres = np.array([[3.0, 0, 1], [0, 3, 1.5], [-3, 0, 2]])
    sights = (target - centres) / np.linalg.norm(target - centres, axis=1, keepdims=True)
    np.testing.assert_allclose(meeting_point(centres, sights), target, atol=1e-9)
    parallel = meeting_point(np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 1], [0, 0, 1]]))
    np.testing.assert_allclose(parallel, (0, 0, 3))


# ---- the painter ----


def test_rasterise_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(3)
    pixels, inverse = rng.uniform(-10, 50, (60, 2)), rng.uniform(0.1, 1, 60)
    faces = rng.integers(0, 60, (40, 3))
    at, found, weights, depth = rasterise(pixels, inverse, faces, 40, 30)
    best = {}
    for face in faces:
        a, b, c = pixels[face]
        area = (b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]
        if area >= -1e-9:
            continue
        for y in range(30):
            for x in range(40):
                share = np.linalg.solve(np.array([[*a, 1], [*b, 1], [*c, 1]]).T, (x + 0.5, y + 0.5, 1))
                if (share >= 0).all():
                    near = float(share @ inverse[face])
                    if near > best.get(y * 40 + x, (0,))[0]:
                        best[y * 40 + x] = (near, share * inverse[face] / near)
    assert set(at.tolist()) == set(best)
    for k, pixel in enumerate(at.tolist()):
        assert depth[k] == pytest.approx(1 / best[pixel][0])
        np.testing.assert_allclose(weights[k], best[pixel][1], atol=1e-9)
    assert found.shape == (len(at), 3)


def test_painted_bodies_are_where_rays_meet_them(data: ViewerData) -> None:
    """Against ray casting by Embree through the same camera."""
    view = View.through(data.sequence.cameras, 1).fitted(320, 320)
    scene = build_scene(data, ViewState(labels=False, through="cam01", backdrop=0))
    picture = paint(replace(scene, backdrop=np.zeros((320, 320, 3), np.uint8)), view)
    meshes = [trimesh.Trimesh(m.vertices, m.faces, process=False) for m in scene.drawables if isinstance(m, Mesh)]
    assert len(meshes) == 2
    columns, rows = np.meshgrid(np.arange(320) + 0.5, np.arange(320) + 0.5)
    origins, directions = view.cameras().rays(torch.as_tensor(np.stack([columns, rows], -1).reshape(1, -1, 2)))
    hit = trimesh.util.concatenate(meshes).ray.intersects_any(origins[0].numpy(), directions[0].numpy())
    painted = (picture.max(axis=2) > 50).reshape(-1)
    assert 0.05 < hit.mean() < 0.6
    assert (painted & hit).sum() / (painted | hit).sum() > 0.97


def square(name: str, y: float, colour: tuple, opacity: float = 1.0) -> Mesh:
    """Two by two metres across the line of sight of `FRONT` at distance 3 + y."""
    vertices = np.array([(-1, y, -1), (1, y, -1), (1, y, 1), (-1, y, 1.0)])
    normals = np.tile((0.0, -1, 0), (4, 1))
    return Mesh(name, 0, vertices, normals, np.array([(0, 1, 2), (0, 2, 3)]), np.tile(colour, (4, 1)), opacity)


FRONT = View.look_at(np.array([0, -3.0, 0]), np.zeros(3), np.array([0, 0, 1]), 50, 60, 60)
RED, GREEN = (1.0, 0, 0), (0, 1.0, 0)


def middle_of(*drawables) -> np.ndarray:
    backdrop = np.full((60, 60, 3), 40, np.uint8)
    return paint(Scene(list(drawables), FRONT, backdrop), FRONT)[30, 30].astype(int)


def test_the_nearer_surface_is_seen() -> None:
    assert middle_of(square("far", 1, RED), square("near", 0, GREEN))[1] > 150
    assert middle_of(square("near", 0, GREEN), square("far", 1, RED))[1] > 150
    assert middle_of(square("behind me", -4, GREEN)).tolist() == [40, 40, 40]


def test_translucent_surfaces_mix_with_what_is_behind() -> None:
    solid = middle_of(square("a", 0, GREEN))
    half = middle_of(square("a", 0, GREEN, 0.5))
    np.testing.assert_allclose(half, (solid + 40) / 2, atol=1.5)
    both = middle_of(square("near", 0, GREEN, 0.5), square("far", 1, RED))
    assert both[0] > 60 and both[1] > 60


def test_lines_hide_behind_surfaces_unless_on_top() -> None:
    points = np.array([(-2, 1, 0), (2, 1, 0.0)])

    def line(on_top: bool) -> Lines:
        return Lines("line", 0, points, np.array([(0, 1)]), np.array([(1.0, 1, 1)]), 3, on_top)

    wall = square("wall", 0, RED)
    assert middle_of(line(False)).min() > 200
    assert middle_of(wall, line(False))[2] < 60
    assert middle_of(wall, line(True)).min() > 200


def test_flat_images_stand_upright() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:10, :10] = 255  # the upper left quarter
    corners = np.array([(-1, 0, 1), (1, 0, 1), (1, 0, -1), (-1, 0, -1.0)])
    painted = paint(Scene([Picture("image", 0, corners, image)], FRONT, np.full((60, 60, 3), 40, np.uint8)), FRONT)
    assert painted[20, 20].min() > 240 and painted[20, 40].max() < 10 and painted[40, 20].max() < 10
    assert painted[5, 5].tolist() == [40, 40, 40]


# ---- the scene ----


def test_what_is_shown(data: ViewerData) -> None:
    assert data.people == ["p0", "p1"] and data.kinds == ["estimate", "initial", "refined", "truth"]
    assert data.frames.tolist() == [0, 1, 2, 3]
    everything = build_scene(data, ViewState(kinds=set(data.kinds), skeletons=True, trails=True, frame=3))
    assert {"body refined p0", "body initial p1", "skeleton truth p0", "skeleton estimate p1", "ground",
            "camera cam02", "image cam04", "trail refined p1", "label estimate p0"} <= everything.names  # fmt: skip
    assert "body truth p0" not in everything.names  # the truth has joints only: always a skeleton
    one = build_scene(data, ViewState(people={"p1"}, frustums=False, ground=False, labels=False))
    assert one.names == {"body refined p1"}
    assert build_scene(data, ViewState(beside="cam01")).names.isdisjoint({"image cam01"})
    nobody = build_scene(data, ViewState(kinds=set(), frustums=False, ground=False))
    assert not nobody.drawables


def test_looking_through_a_camera_shows_its_image(data: ViewerData) -> None:
    scene = build_scene(data, ViewState(through="cam02", frame=1))
    np.testing.assert_array_equal(scene.backdrop, data.image(2, 1))
    assert not any(name.startswith(("camera", "ground")) for name in scene.names)
    faint = build_scene(data, ViewState(through="cam02", frame=1, backdrop=0.0))
    assert np.ptp(faint.backdrop) < 10
    np.testing.assert_allclose(scene.view.K, data.sequence.cameras.K[2])


def test_side_by_side_keeps_kinds_apart(data: ViewerData) -> None:
    state = ViewState(kinds={"initial", "refined", "truth"}, side_by_side=True)
    scene = {drawable.name: drawable for drawable in build_scene(data, state).drawables}
    x = [scene["body initial p0"].vertices[:, 0].mean(), scene["body refined p0"].vertices[:, 0].mean(),
         scene["skeleton truth p0"].points[:, 0].mean()]  # fmt: skip
    assert x[1] - x[0] > 0.8 and x[2] - x[1] > 0.8
    assert "camera cam00" not in scene
    view = first_view(data, state, 400, 300)
    pixels = view.to_pixels(view.to_camera(np.stack([scene["body initial p0"].vertices.mean(0),
                                                     scene["body refined p0"].vertices.mean(0)])))  # fmt: skip
    assert pixels[0, 0] < pixels[1, 0]  # the initial one to the left


def test_the_first_view_holds_everybody(data: ViewerData) -> None:
    for size in ((640, 300), (300, 640)):
        view = first_view(data, ViewState(), *size)
        for f in range(4):
            for person in data.people:
                pixels = view.to_pixels(view.to_camera(data.surface("refined", person, f).vertices))
                assert (pixels > 0).all() and (pixels < size).all()
        spread = np.ptp(view.to_pixels(view.to_camera(np.stack(data.extent))), axis=0)
        assert spread.max() > 100


def test_only_what_changes_has_a_new_version(data: ViewerData) -> None:
    state = ViewState()
    first = {drawable.name: drawable.version for drawable in build_scene(data, state).drawables}
    again = {drawable.name: drawable.version for drawable in build_scene(data, state).drawables}
    later = {d.name: d.version for d in build_scene(data, replace(state, frame=1)).drawables}
    assert first == again
    assert first["ground"] == later["ground"] and first["camera cam00"] == later["camera cam00"]
    assert first["body refined p0"] != later["body refined p0"] and first["image cam00"] != later["image cam00"]


def test_difference_without_truth_is_that_of_the_surfaces(folder: Path) -> None:
    (folder / "ground_truth.npz").unlink()
    data = data_of(folder)
    for kind in ("initial", "refined"):
        np.testing.assert_allclose(difference_at_vertices(data, kind, "p0", 1), 1000 * SHIFT, atol=0.05)
    scene = build_scene(data, ViewState(surface="difference"))
    colours = next(d for d in scene.drawables if d.name == "body refined p0").colours
    np.testing.assert_allclose(colours, difference_colours(np.full(len(colours), 1000 * SHIFT)), atol=0.01)
    assert scene.legend is not None


def test_difference_from_the_truth_is_blended_from_the_joints(data: ViewerData) -> None:
    found = difference_at_vertices(data, "refined", "p1", 2)
    away = 1000 * np.linalg.norm(data.body_joints("refined", "p1", 2) - data.joints["truth"][1, 2], axis=-1)
    assert away.min() - 1e-6 <= found.min() and found.max() <= away.max() + 1e-6
    v = int(np.argmax(data.body.weights[:, 20].numpy()))  # a vertex of the left wrist
    expected = data.body.weights[v].numpy() @ away
    assert found[v] == pytest.approx(expected, rel=1e-5)


# ---- errors ----


def test_errors_from_the_truth(data: ViewerData, capture: Path) -> None:
    from avatarpose.evaluate import evaluate

    found = errors(data, "initial")
    assert found.unit == "mm" and found.values.shape == (2, 4, 12)
    expected = evaluate(Sequence.open(capture, frames=slice(0, 4)))["initial"]["mpjpe_mm"]
    assert float(found.values.mean()) == pytest.approx(expected, rel=1e-4)
    worst = found.worst(100)
    assert len(worst) == 8 and [w[3] for w in worst] == sorted((w[3] for w in worst), reverse=True)
    f, person, joint, value = worst[0]
    row = found.values[found.people.index(person), f]
    assert value == pytest.approx(row.mean()) and joint == found.joints[int(row.argmax())].replace("_", " ")
    assert errors(data, "truth") is None


def test_errors_without_truth_are_reprojections(folder: Path) -> None:
    (folder / "ground_truth.npz").unlink()
    data = data_of(folder)
    found = errors(data, "initial")
    assert found.unit == "px" and np.isfinite(found.values).mean() > 0.9
    assert 0 < np.nanmedian(found.values) < 6
    # The displaced bodies are further from the detections.
    assert np.nanmean(errors(data, "refined").values) > np.nanmean(found.values)
    shutil.rmtree(folder / "keypoints2d")
    assert errors(data_of(folder), "initial") is None


def test_plots_show_values_in_place(data: ViewerData) -> None:
    found = errors(data, "initial")
    plot = frame_plot(found, 2, 300, 140)
    assert plot.shape == (140, 300, 3)
    column = plot[30:110, 40 + round(250 * 2 / 3)]
    assert (column == 255).all(-1).any()  # the cursor stands at the present frame
    bars = joint_plot(found, 300)
    heights = [(bars[: 170 - 30, :] == colour).all(-1).sum() for colour in ((255, 176, 0), (0, 200, 255))]
    expected = np.nansum(found.by_joint, axis=1)
    assert heights[0] / heights[1] == pytest.approx(expected[0] / expected[1], rel=0.25)


# ---- the timeline and the session ----


def test_timeline() -> None:
    timeline = Timeline(10, 20.0)
    assert not timeline.advance(1.0) and timeline.frame == 0
    timeline.playing = True
    assert not timeline.advance(0.04) and timeline.advance(0.02) and timeline.frame == 1
    timeline.speed = 0.5
    assert timeline.advance(0.3) and timeline.frame == 4
    timeline.speed = 1.0
    timeline.advance(0.5)
    assert timeline.frame == 4  # once around
    timeline.step(-5)
    assert timeline.frame == 9 and not timeline.playing
    timeline.step(1)
    assert timeline.frame == 0
    timeline.go(99)
    assert timeline.frame == 9


def test_kinds_are_parsed() -> None:
    assert parse_kinds("refined, truth") == {"refined", "truth"}
    for text in ("", "refined,best"):
        with pytest.raises(InputError, match="estimate, initial, refined, truth"):
            parse_kinds(text)


def test_fix_ups_are_shown_at_once_and_saved(folder: Path) -> None:
    session = session_of(folder)
    before = session.data.joints["refined"].copy()
    session.timeline.go(2)
    session.swap_people()
    after = session.data.joints["refined"]
    np.testing.assert_array_equal(after[0, :2], before[0, :2])
    np.testing.assert_array_equal(after[0, 2:], before[1, 2:])
    assert session.unsaved and session.errors.by_frame[0, 3] > 200  # the swap was wrong: the error says so
    session.distrusted = "p1"
    session.distrust_frame()
    assert [text for _, text in session.edit_lines()] == ["p0 <-> p1 from frame 2 on", "frame 2 not trusted: p1"]
    session.save_edits()
    assert not session.unsaved and Edits.load(folder) == session.edits
    assert json.loads((folder / "edits.json").read_text())["untrusted"] == [{"frame": 2, "people": ["p1"]}]

    # Opened again they are there; once a stage has made the results with them, they are not applied twice.
    np.testing.assert_array_equal(session_of(folder).data.joints["refined"], after)
    log = json.loads((folder / "results" / "run.json").read_text())
    log["stages"]["refine"] = {"seconds": 1, "edits": session.edits.as_json()}
    write_json(folder / "results" / "run.json", log)
    np.testing.assert_array_equal(session_of(folder).data.joints["refined"], before)

    session.swap_people()  # again: taken back
    assert not session.edits.swaps
    session.undo_edits()
    assert session.edits == Edits.load(folder)


def test_recorded_paths_are_what_render_takes(folder: Path) -> None:
    session = session_of(folder)
    assert session.save_path() is None
    first = first_view(session.data, session.state, 640, 480)
    session.add_keyframe(first)
    session.timeline.go(2)
    second = View.look_at(first.position + 0.5, session.data.middle, first.up, 30, 640, 480)
    session.add_keyframe(second)
    path = session.save_path()
    keyframes = load_keyframes(path)
    assert [key.time for key in keyframes] == [0.0, 1.0] and keyframes[1].moment == pytest.approx(0.1)
    np.testing.assert_allclose(keyframes[1].position, second.position)
    assert keyframes[1].fov_deg == pytest.approx(30)
    rebuilt = View.look_at(*(np.array(v) for v in (keyframes[0].position, keyframes[0].target, keyframes[0].up)),
                           keyframes[0].fov_deg, 640, 480)  # fmt: skip
    np.testing.assert_allclose(rebuilt.R, first.R, atol=1e-9)
    assert session.save_path() != path  # never over what is there


def test_avatars_are_rendered_where_the_bodies_are(folder: Path) -> None:
    session = session_of(folder, through="cam01", backdrop=0.0, labels=False)
    assert session.avatars.available and session.avatars.colours("p0").shape == (len(session.data.body.v_template), 3)
    view = session.scene().view.fitted(96, 96)
    painted = session.take_picture(view)
    coarse, fine = session.avatar_picture(view, 4), session.avatar_picture(view, 1)
    background = painted[0, 0].astype(int)
    there, body = (np.abs(image.astype(int) - background).max(axis=2) > 25 for image in (fine, painted))
    assert (there & body).sum() / (there | body).sum() > 0.7
    assert np.abs(coarse.astype(int) - fine).mean() < 12 and (coarse != fine).any()
    shutil.rmtree(folder / "results" / "avatars")
    without = session_of(folder)
    assert not without.avatars.available and without.avatars.colours("p0") is None


# ---- the command ----


def test_headless_pictures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "view.png"
    common = ("view", str(folder), "--headless", "--out", str(out), "--width", "320", "--height", "240")
    assert exit_code(*common) == 0
    assert capsys.readouterr().out.strip() == str(out)
    free = read_image(out)
    assert free.shape == (240, 320, 3)
    orange = (free[..., 0] > 150) & (free[..., 2] < 60)
    blue = (free[..., 2] > 150) & (free[..., 0] < 60)
    assert orange.sum() > 300 and blue.sum() > 300
    assert exit_code(*common, "--camera", "cam01", "--opacity", "0", "--frame", "1") == 0
    through = read_image(out)
    image = read_image(folder / "images" / "cam01" / "000001.jpg")
    small = fit_image(image, 320, 240, np.zeros(3))[60:180, 120:200]
    assert np.abs(through[60:180, 120:200].astype(int) - small).mean() < 6
    assert exit_code(*common, "--colour", "avatar", "--show", "initial,refined,truth", "--side-by-side") == 0
    assert exit_code(*common, "--rendered", "--frame", "3") == 0
    assert not np.array_equal(read_image(out), free)


def test_a_capture_without_results_shows_its_cameras(tmp_path: Path) -> None:
    folder = shutil.copytree(CAPTURE, tmp_path / "bare")
    (folder / "ground_truth.npz").unlink()
    data = data_of(folder)
    assert data.kinds == [] and len(data.frames) == 12
    assert {"camera cam00", "image cam03"} <= build_scene(data, ViewState()).names
    out = tmp_path / "bare.jpg"
    assert exit_code("view", str(folder), "--headless", "--out", str(out), "--width", "200", "--height", "150") == 0
    assert np.ptp(read_image(out)) > 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--headless", "--out", "a.gif"), ("a.gif", ".png")),
        (("--headless", "--frame", "99"), ("0 to 3", "99")),
        (("--headless", "--camera", "cam9"), ("cam9", "cam04")),
        (("--headless", "--show", "best"), ("best", "refined")),
        (("--headless", "--opacity", "2"), ("0 to 1", "2")),
        (("--headless", "--width", "3"), ("64", "3")),
        ((), ("no display", "--web", "--headless")),
    ],
)
def test_wrong_input_ends_with_2(arguments, words, capture: Path, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.chdir(tmp_path)
    assert exit_code("view", str(capture), *arguments) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert len(message.strip().splitlines()) == 1


def test_results_of_another_body_are_refused(folder: Path, capsys) -> None:
    path = folder / "results" / "refined.npz"
    replace(Bodies.load(path), body_sha256="0" * 64).save(path)
    assert exit_code("view", str(folder), "--headless") == 2
    assert "refined.npz" in capsys.readouterr().err


def test_damaged_results_are_refused(folder: Path, capsys) -> None:
    path = folder / "results" / "refined.npz"
    path.write_bytes(path.read_bytes()[:500])
    assert exit_code("view", str(folder), "--headless") == 2
    assert "refined.npz" in capsys.readouterr().err


def test_without_open3d_the_message_names_the_install_line(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install open3d"):
        require_window()


def test_help_shows_an_example_that_parses(capsys, monkeypatch) -> None:
    assert exit_code("view", "--help") == 0
    example = re.search(r"Example: avatarpose (.+?)\n *\n", capsys.readouterr().out, re.DOTALL)[1]
    seen = []
    monkeypatch.setattr(cli.View, "execute", lambda self: seen.append(self))
    assert exit_code(*example.split()) == 0
    assert seen[0].headless and str(seen[0].sequence) == "my_sequence"
