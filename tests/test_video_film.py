"""Films: pictures of the people, layers, floor, files of every kind, resumption, and the command."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from film_people import two_people, write_sequence

from avatarpose import cli
from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.sequence import Sequence
from avatarpose.video import VideoReader
from optimize import pictures
from optimize.avatars import Avatars
from optimize.pictures import PeopleRenderer, Picture, covered_pixels, load_avatars
from optimize.poses import BodyParameters
from viewer.video import driver, layers, paths, writer
from viewer.video.driver import FilmSettings, make_film
from viewer.video.ground import Floor, background_colour

SIZE = {"width": 48, "height": 36}


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def made(body, tmp_path_factory) -> Path:
    return write_sequence(tmp_path_factory.mktemp("film") / "my_sequence", body)


@pytest.fixture(scope="module")
def sequence(made) -> Sequence:
    return Sequence.open(made)


@pytest.fixture(scope="module")
def bodies(body):
    return two_people(body)


def renderer_of(sequence, bodies, body, **also) -> PeopleRenderer:
    avatars, config = load_avatars(sequence, bodies.people, body)
    parameters = BodyParameters(*(torch.as_tensor(x) for x in (bodies.betas, bodies.poses, bodies.trans)))
    return PeopleRenderer(avatars, body, parameters, torch.as_tensor(bodies.valid), config.sampling, **also)


@pytest.fixture(scope="module")
def renderer(sequence, bodies, body) -> PeopleRenderer:
    return renderer_of(sequence, bodies, body)


@pytest.fixture(scope="module")
def camera(bodies) -> Cameras:
    """In front of both people: p0 (red) to the left of p1 (blue) as the camera sees it."""
    framing = paths.frame_joints(bodies.joints[:, 3:4], np.array([0.0, 0, 1]), 48, 36)
    return paths.orbit(framing, 1, 1, np.deg2rad(-90), 0.1)


@pytest.fixture(scope="module")
def picture(renderer, camera) -> Picture:
    return renderer.picture(3, camera, normals=True)


# ---- pictures ----


def test_people_are_where_their_joints_are(picture: Picture, bodies, camera: Cameras) -> None:
    # Joints deep in the body: pelvis, spine, head.
    for p, tint in ((0, 0), (1, 2)):
        pixels, depth = camera.project(torch.as_tensor(bodies.joints[p, 3, [0, 6, 15]]).double())
        for (x, y), z in zip(pixels[0].long().tolist(), depth[0].tolist(), strict=True):
            assert picture.alpha[y, x] > 0.99 and picture.person_alpha[y, x, p] > 0.99
            assert picture.colour[y, x].argmax() == tint
            assert 0.03 < z - picture.depth[y, x] < 0.25  # the surface lies before the joint
            assert picture.normals[y, x, 1] < -0.3  # and faces the camera, which looks along +y
    nobody = picture.alpha == 0
    assert nobody.mean() > 0.5 and not picture.colour[nobody].any() and not picture.depth[nobody].any()
    np.testing.assert_allclose(picture.person_alpha.sum(-1), picture.alpha, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(picture.normals[picture.alpha > 0.5], axis=1), 1, atol=1e-5)


def test_a_person_who_is_not_there_is_not_rendered(renderer, camera) -> None:
    first = renderer.picture(0, camera)
    assert first.person_alpha[..., 0].max() > 0.99 and not first.person_alpha[..., 1].any()


def test_tiles_make_the_same_picture(picture, sequence, bodies, body, camera) -> None:
    small = renderer_of(sequence, bodies, body, memory=100 * pictures.BYTES_PER_RAY)
    assert small.rays_at_once == 100
    again = small.picture(3, camera, normals=True)
    for name in ("colour", "alpha", "person_alpha", "depth", "normals"):
        np.testing.assert_allclose(getattr(again, name), getattr(picture, name), atol=1e-4)


def test_no_pixel_of_the_people_is_skipped(picture, renderer, camera, monkeypatch) -> None:
    every = np.stack(np.meshgrid(np.arange(48), np.arange(36)), axis=-1).reshape(-1, 2)
    chosen = covered_pixels(renderer.vertices(3), camera, renderer.thickness)
    assert len(chosen) < 0.8 * len(every)
    monkeypatch.setattr(pictures, "covered_pixels", lambda *_: every)
    np.testing.assert_allclose(renderer.picture(3, camera).alpha, picture.alpha, atol=1e-5)


@pytest.mark.parametrize("where", ["half outside", "lens", "inside", "behind"])
def test_skipped_pixels_are_empty_for_any_camera(renderer, camera, where, monkeypatch) -> None:
    if where == "half outside":
        camera = replace(camera, K=camera.K + torch.tensor([[0, 0, 22.0], [0, 0, 8.0], [0, 0, 0]]))
    elif where == "lens":
        camera = replace(camera, dist=torch.tensor([[-0.3, 0.1, 0.01, -0.01, 0.0]], dtype=torch.float64))
    elif where == "inside":
        camera = replace(camera, t=camera.t - torch.tensor([[0.0, 0.0, 2.6]]))
    else:
        camera = replace(camera, R=camera.R * torch.tensor([-1.0, 1, -1])[:, None], t=-camera.t * 0.9)
    chosen = covered_pixels(renderer.vertices(3), camera, renderer.thickness)
    seen = renderer.picture(3, camera).alpha
    every = np.stack(np.meshgrid(np.arange(48), np.arange(36)), axis=-1).reshape(-1, 2)
    monkeypatch.setattr(pictures, "covered_pixels", lambda *_: every)
    np.testing.assert_allclose(renderer.picture(3, camera).alpha, seen, atol=1e-5)
    assert (len(chosen) == 0) == (where == "behind")


def test_the_thin_shell_changes_nothing_to_be_seen(picture, sequence, bodies, body, camera, monkeypatch) -> None:
    monkeypatch.setattr(Avatars, "surfaces", lambda avatars: [None for _ in avatars.fields])
    full = renderer_of(sequence, bodies, body)
    assert full.thickness == full.sampling.shell
    moved = np.abs(full.picture(3, camera).alpha - picture.alpha)
    assert moved.max() < 1.2 / 255 and moved.mean() < 1e-4


def test_avatars_of_no_use_are_refused(made, body, tmp_path) -> None:
    folder = shutil.copytree(made, tmp_path / "mine")
    sequence, avatar = Sequence.open(folder), folder / "results" / "avatars" / "p1.safetensors"
    avatar.write_bytes(avatar.read_bytes()[:100])
    with pytest.raises(InputError, match=r"p1\.safetensors"):
        load_avatars(sequence, ["p0", "p1"], body)
    avatar.unlink()
    with pytest.raises(InputError, match="no such avatar"):
        load_avatars(sequence, ["p0", "p1"], body)
    with pytest.raises(InputError, match="another body"):
        load_avatars(sequence, ["p0"], replace(body, sha256="0" * 64))


# ---- layers and floor ----


def flat(alpha: float, people=(1.0, 0.0)) -> Picture:
    """A picture of 2 x 2 pixels: on the left somebody of half-bright red, on the right nobody."""
    there = np.array([[1.0, 0], [1, 0]], np.float32) * alpha
    normals = np.zeros((2, 2, 3), np.float32)
    normals[:, 0] = (0, -1, 0)
    return Picture(
        there[..., None] * np.array([0.5, 0, 0], np.float32), there,
        there[..., None] * np.array(people, np.float32), 2.5 * (there > 0), normals,
    )  # fmt: skip


def test_layers_hold_what_they_say(camera) -> None:
    seen = flat(0.8)
    assert layers.rgb_layer(seen, np.ones(3)).tolist()[0] == [[153, 51, 51], [255, 255, 255]]
    assert layers.transparent_layer(seen).tolist()[0] == [[128, 0, 0, 204], [0, 0, 0, 0]]
    assert layers.mask_layer(seen).tolist()[0] == [list(layers.COLOURS[0]), [0, 0, 0]]
    assert layers.mask_layer(flat(0.8, (0.3, 0.7))).tolist()[0][0] == list(layers.COLOURS[1])
    assert not layers.mask_layer(flat(0.4)).any()
    depth = layers.depth_millimetres(seen)
    assert depth.dtype == np.uint16 and depth.tolist()[0] == [2500, 0]
    near, far = (layers.depth_layer(depth, *span)[0, 0] for span in ((2.5, 4.0), (1.0, 2.5)))
    assert near[0] > near[2] and far[2] > far[0]  # red is near, blue is far
    # The camera looks along +y at a surface facing -y: towards the camera, which is blue.
    assert layers.normals_layer(seen, camera)[0, 0].tolist()[2] > 250
    assert layers.normals_layer(seen, camera)[0, 1].tolist() == [0, 0, 0]
    fitted = layers.capture_layer(np.full((10, 10, 3), 9, np.uint8), 40, 20)
    assert fitted.shape == (20, 40, 3) and fitted[:, 10:30].min() == 9 and not fitted[:, :10].any()


@pytest.mark.parametrize("text", ["", "rgb,rgb", "rgb,colour", "capture"])
def test_unknown_layers_are_refused(text) -> None:
    with pytest.raises(InputError):
        layers.parse_layers(text)


def test_backgrounds_by_name() -> None:
    assert background_colour("transparent") is None
    np.testing.assert_allclose(background_colour("#ff8000"), [1, 128 / 255, 0])
    assert background_colour("white").tolist() == [1, 1, 1] and background_colour("black").tolist() == [0, 0, 0]
    for wrong in ("#ff80", "pink-ish", "#gg0000"):
        with pytest.raises(InputError, match="no such background"):
            background_colour(wrong)


def test_floor_is_darker_where_somebody_stands_on_it(renderer, camera) -> None:
    up, behind = np.array([0.0, 0, 1]), background_colour("ground")
    floor = Floor(up, 0.0, np.zeros(3), 4.0, behind)
    vertices = renderer.vertices(3)
    empty, full = floor.picture(camera, []), floor.picture(camera, vertices)
    assert (full <= empty + 1e-6).all()

    def at(shadowed: np.ndarray, x: float, y: float) -> float:
        pixel = camera.project(torch.tensor([[x, y, 0.0]]).double())[0][0, 0].long().tolist()
        return float(shadowed[pixel[1], pixel[0]].mean())

    left = vertices[0][vertices[0][:, 0] > vertices[0][:, 0].mean()]
    feet = left[left[:, 2] < 0.02].mean(dim=0).tolist()
    assert at(full, *feet[:2]) < 0.8 * at(empty, *feet[:2])
    assert at(full, 0.1, 1.3) == pytest.approx(at(empty, 0.1, 1.3), abs=1e-3)
    # Somebody one metre up casts next to no shadow; the sky above the horizon is the background.
    high = floor.picture(camera, [v + torch.tensor([0.0, 0, 1.5]) for v in vertices])
    assert at(high, *feet[:2]) > 0.9 * at(empty, *feet[:2])
    np.testing.assert_allclose(full[0], np.broadcast_to(behind, (48, 3)))
    below = replace(camera, t=camera.t + camera.R[0, :, 2] * 3)
    np.testing.assert_allclose(floor.picture(below, vertices), np.broadcast_to(behind, (36, 48, 3)))


# ---- files ----


def squares(n: int = 7, clear: bool = False) -> list[np.ndarray]:
    frames = []
    for i in range(n):
        frame = np.full((48, 64, 4), (235, 235, 235, 0), np.uint8)
        frame[10:34, 4 + 4 * i : 28 + 4 * i] = (200, 40, 60, 255)
        frames.append(frame if clear else frame[..., :3])
    return frames


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov", ".gif"])
def test_videos_are_read_back(tmp_path, suffix) -> None:
    out = tmp_path / f"film{suffix}"
    writer.write_film(out, iter(squares()), 25.0, writer.film_format(out))
    read = VideoReader(out)
    assert len(read) == 7 and read.fps == pytest.approx(25)
    for i, frame in enumerate(squares()):
        assert np.abs(read.read(i).astype(int) - frame).mean() < 4
        assert np.abs(read.read(i)[20, 14 + 4 * i].astype(int) - (200, 40, 60)).max() < 8
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_mov_keeps_the_opacity(tmp_path) -> None:
    import av

    out = tmp_path / "film.mov"
    writer.write_film(out, iter(squares(clear=True)), 25.0, writer.film_format(out))
    with av.open(str(out)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgba")
    assert first[20, 14, 3] > 250 and first[2, 2, 3] < 5


def test_a_film_that_fails_leaves_nothing_behind(tmp_path) -> None:
    def frames():
        yield squares()[0]
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        writer.write_film(tmp_path / "film.mp4", frames(), 25.0, writer.FORMATS[".mp4"])
    assert not list(tmp_path.iterdir())


def test_parts_of_another_film_are_not_used_and_strangers_are_left_alone(tmp_path) -> None:
    out = tmp_path / "film.mp4"
    parts = writer.Parts(out, "first", ["rgb", "depth"])
    parts.write(0, {"rgb": squares()[0], "depth": np.full((4, 4), 40_000, np.uint16)})
    assert parts.has(0) and not parts.has(1)
    again = writer.Parts(out, "first", ["rgb", "depth"])
    assert again.has(0) and again.read("depth", 0).max() == 40_000
    np.testing.assert_array_equal(again.read("rgb", 0), squares()[0])
    again.path("rgb", 0).write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="damaged"):
        again.read("rgb", 0)
    again.path("depth", 0).unlink()
    assert not again.has(0)
    assert not writer.Parts(out, "second", ["rgb", "depth"]).path("rgb", 0).exists()
    other = tmp_path / "letters.parts"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="other things"):
        writer.Parts(tmp_path / "letters", "first", ["rgb"])
    assert (other / "letter.txt").read_text() == "mine"


# ---- films ----


def film(sequence, body, out: Path, **also):
    settings = FilmSettings(out=out, **{**SIZE, "fps": 20.0, **also})
    return make_film(sequence, body, settings)


def test_a_stopped_film_goes_on_without_rendering_a_frame_twice(sequence, body, tmp_path, monkeypatch) -> None:
    rendered = []
    whole = PeopleRenderer.picture

    def picture(self, frame, camera, **also):
        if len(rendered) == 2:
            rendered.append("stopped")
            raise KeyboardInterrupt
        rendered.append(camera.names[0])
        return whole(self, frame, camera, **also)

    monkeypatch.setattr(PeopleRenderer, "picture", picture)
    with pytest.raises(KeyboardInterrupt):
        film(sequence, body, tmp_path / "film.mp4", seconds=0.25)
    assert not (tmp_path / "film.mp4").exists() and (tmp_path / "film.mp4.parts").is_dir()
    told = []
    settings = FilmSettings(out=tmp_path / "film.mp4", **SIZE, fps=20.0, seconds=0.25)
    made = make_film(sequence, body, settings, progress=lambda *step: told.append(step), say=told.append)
    assert made.frames == 5 and made.rendered == 3
    assert rendered == ["000000", "000001", "stopped", "000002", "000003", "000004"]
    assert "2 of 5 frames are there, kept" in told and (3, 3, "encoding") in told
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    # An uninterrupted film is the same to the byte.
    film(sequence, body, tmp_path / "other.mp4", seconds=0.25)
    assert (tmp_path / "other.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()
    with pytest.raises(InputError, match="there already"):
        film(sequence, body, tmp_path / "film.mp4", seconds=0.25)
    # Other settings do not take the frames of this film.
    writer.Parts(tmp_path / "third.mp4", "of another film", ["rgb"]).write(0, {"rgb": squares()[0]})
    assert film(sequence, body, tmp_path / "third.mp4", seconds=0.1).rendered == 2


def test_bullet_time_poses_the_people_once(sequence, body, tmp_path, monkeypatch) -> None:
    built = []
    render_people = pictures.render_people

    def counted(avatars, motion, valid, frames, *how):
        built.append(frames)
        return render_people(avatars, motion, valid, frames, *how)

    monkeypatch.setattr(pictures, "render_people", counted)
    film(sequence, body, tmp_path / "film", path="bullet-time", seconds=0.2, at=0.15)
    assert len(built) == 1
    about = json.loads((tmp_path / "film" / "film.json").read_text())
    assert about["moments"] == [0.15] * 4
    first, last = (writer.read_png(tmp_path / "film" / f"{i:06d}.png").astype(int) for i in (0, 2))
    assert np.abs(first - last).max() > 100


def test_folders_of_images(sequence, body, tmp_path) -> None:
    shown = ["rgb", "mask", "depth", "normals", "capture"]
    film(sequence, body, tmp_path / "film", seconds=0.1, layers=shown, background="ground")
    out = tmp_path / "film"
    assert sorted(p.name for p in out.iterdir()) == sorted([*shown, "cameras.json", "film.json"])
    assert all(len(list((out / layer).iterdir())) == 2 for layer in shown)
    cameras = Cameras.load(out / "cameras.json")
    assert len(cameras) == 2 and int(cameras.width[0]) == 48
    depth, mask = writer.read_png(out / "depth" / "000000.png"), writer.read_png(out / "mask" / "000000.png")
    assert depth.dtype == np.uint16 and ((depth > 0) == mask.any(-1)).all()
    assert 1000 < np.median(depth[depth > 0]) < 8000
    clear = tmp_path / "clear"
    film(sequence, body, clear, seconds=0.05, background="transparent", layers=["rgb"])
    image = writer.read_png(clear / "000000.png")
    assert image.shape == (36, 48, 4) and image[..., 3].min() == 0 and image[..., 3].max() == 255


def test_a_capture_camera_shows_what_it_saw(sequence, body, bodies, tmp_path) -> None:
    film(sequence, body, tmp_path / "film", path="cam02", width=256, height=240, seconds=0.05, layers=["mask"])
    mask = writer.read_png(tmp_path / "film" / "000000.png").any(-1)
    pixels, _ = sequence.cameras.select(["cam02"]).project(torch.as_tensor(bodies.joints[0, 0, [0, 6, 15]]).double())
    assert all(mask[y, x] for x, y in pixels[0].long().tolist())


@pytest.mark.parametrize("path", ["spiral", "follow", "capture", "path.json"])
def test_every_path_makes_a_film(sequence, body, tmp_path, path) -> None:
    if path == "path.json":
        keys = [paths.Keyframe(t, (2.0, t, 1), (0, 0, 1), (0, 0, 1), 60.0, 0.1) for t in (0.0, 0.2)]
        paths.save_keyframes(tmp_path / path, keys)
        path = str(tmp_path / path)
    made = film(sequence, body, tmp_path / "film", path=path, seconds=None if path.endswith("json") else 0.1)
    frames = [writer.read_png(p) for p in sorted((tmp_path / "film").glob("*.png"))]
    assert len(frames) == made.frames == (4 if path.endswith("json") else 2)
    assert all(frame.min() < 200 for frame in frames)  # there is somebody


def test_video_shows_layers_side_by_side(sequence, body, tmp_path) -> None:
    said = []
    settings = FilmSettings(out=tmp_path / "film.mp4", width=47, height=35, fps=20.0, seconds=0.1,
                            layers=["rgb", "depth", "capture"], background="#204060")  # fmt: skip
    make_film(sequence, body, settings, say=said.append)
    assert said == [".mp4 needs even sides: 48 x 36 instead of 47 x 35"]
    frame = VideoReader(tmp_path / "film.mp4").read(0)
    assert frame.shape == (36, 3 * 48, 3)
    assert np.abs(frame[1, 1].astype(int) - (0x20, 0x40, 0x60)).max() < 12 and frame[1, 50].max() < 12


# ---- the command ----


def exit_code(*arguments: str) -> int:
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_help_shows_an_example_that_parses(capsys, monkeypatch) -> None:
    assert exit_code("render", "--help") == 0
    example = re.search(r"Example: avatarpose (.+?)\n *\n", capsys.readouterr().out, re.DOTALL)
    seen = []
    monkeypatch.setattr(cli.Render, "execute", lambda self: seen.append(self))
    assert exit_code(*shlex.split(example[1])) == 0 and seen[0].speed == 0.25


def test_the_command_films(made, tmp_path, capsys) -> None:
    out = tmp_path / "film.gif"
    arguments = ["render", str(made), "--out", str(out), "--size", "32x24", "--fps", "10", "--seconds", "0.2"]
    edits = ["--without", "p1", "--move", "p0=0,0,0.1", "--duplicate", "p0=0.5,0,0", "--duplicate", "p0=-0.5,0,0"]
    assert exit_code(*arguments, *edits, "--device", "cpu") == 0
    assert "film.gif: 2 frames, 2 rendered" in " ".join(capsys.readouterr().err.split())
    assert cv2.VideoCapture(str(out)).isOpened() and len(VideoReader(out)) == 2
    assert exit_code(*arguments) == 2 and "there already" in capsys.readouterr().err
    assert exit_code(*arguments, "--redo", "--frames", "1:3") == 0
    assert not (made / "results" / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "film.avi"), (".avi", ".mp4")),
        (("--out", "film.mp4", "--size", "large"), ("WIDTHxHEIGHT",)),
        (("--out", "film.mp4", "--size", "4x4"), ("16 to 8192",)),
        (("--out", "film.mp4", "--path", "zigzag"), ("orbit", "cam00", "zigzag")),
        (("--out", "film.mp4", "--path", "none.json"), ("none.json",)),
        (("--out", "film.mp4", "--path", "follow", "--person", "p9"), ("p9", "p0, p1")),
        (("--out", "film.mp4", "--path", "bullet-time", "--at", "7"), ("0 to 0.25 s",)),
        (("--out", "film.mp4", "--only", "p9"), ("p9",)),
        (("--out", "film.mp4", "--background", "plaid"), ("plaid",)),
        (("--out", "film.mp4", "--background", "transparent"), (".mp4 cannot be transparent", ".webm")),
        (("--out", "film.webm", "--background", "transparent", "--layers", "rgb,mask"), ("rgb alone",)),
        (("--out", "film.gif", "--fps", "60"), ("at most 50",)),
        (("--out", "film.mp4", "--speed", "0"), ("speed",)),
        (("--out", "film.mp4", "--fov", "0"), ("fov",)),
        (("--out", "film.mp4", "--layers", "rgb,capture", "--beside", "cam77"), ("cam77",)),
    ],
)  # fmt: skip
def test_wrong_input_ends_with_2_and_says_what(made, tmp_path, monkeypatch, capsys, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("render", str(made), *arguments) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message and not list(tmp_path.iterdir())


def test_a_sequence_without_results_says_what_to_do(made, tmp_path, capsys) -> None:
    folder = shutil.copytree(made, tmp_path / "mine")
    shutil.rmtree(folder / "results")
    assert exit_code("render", str(folder), "--out", str(tmp_path / "film.mp4")) == 2
    assert "avatarpose run" in capsys.readouterr().err
    assert driver.PATHS[0] == "orbit"
