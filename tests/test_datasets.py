"""Public data sets in their published layouts, made up with known numbers, as sequence folders."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
from rig_files import TrueCamera, project, rig, write_hi4d, write_panoptic, write_voxelpose
from scipy.io import savemat
from scipy.spatial.transform import Rotation
from test_import import LENS, bring, small, write_images
from test_import_cameras import people
from video_files import write_video

from avatarpose.body import load_body
from avatarpose.cli import main
from avatarpose.datasets import DATASETS, SPLITS, find_split
from avatarpose.datasets.base import by_first_x
from avatarpose.datasets.chi3d import opencv_lens, smplx_truth
from avatarpose.datasets.hi4d import read_truth
from avatarpose.datasets.panoptic import JOINTS19
from avatarpose.datasets.shelf import read_actors
from avatarpose.errors import InputError
from avatarpose.evaluate import load_truth
from avatarpose.io import read_npz, write_image, write_json
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, H36M17, LIMB_JOINTS, PANOPTIC15, SHELF14, SMPL24, SMPL_PARENTS, convert

FRAMES = 4
LIMBS = COCO17.indices(LIMB_JOINTS)


def walkers(skeleton, frames: int = FRAMES) -> np.ndarray:
    """(2, F, J, 3) the rig's two people, p1 the nearer to x = -1, with made-up places for joints COCO lacks."""
    coco = people(frames)
    result = np.tile(coco.mean(axis=2, keepdims=True), (1, 1, len(skeleton), 1))
    for joint in set(skeleton.joints) & set(COCO17.joints):
        result[:, :, skeleton.index(joint)] = coco[:, :, COCO17.index(joint)]
    return result


def footage(folder: Path, names: list[str], first: int, pattern: str = "frame_{:04d}.png") -> None:
    for name in names:
        for n in range(FRAMES):
            write_image(folder / name / pattern.format(first + n), np.full((48, 64, 3), 10 * n + 20, np.uint8))


def cameras_named(names: list[str], cameras: list[TrueCamera] | None = None) -> list[TrueCamera]:
    chosen = cameras or small(rig(len(names)))
    return [replace(camera, name=name) for camera, name in zip(chosen, names, strict=True)]


# ---- Hi4D ----


def hi4d(folder: Path) -> Path:
    """pair00/hug00: cameras 4, 16, 28, frames 11 to 14; subject 0 stands at x = 0.5, subject 1 at -0.5."""
    source = folder / "pair00" / "hug00"
    (source / "cameras").mkdir(parents=True)
    write_hi4d(source / "cameras", cameras_named(["4", "16", "28"]))
    footage(source / "images", ["4", "16", "28"], 11, "{:06d}.png")
    joints = walkers(SMPL24)
    (source / "smpl").mkdir()
    for n in range(FRAMES):
        for person, column in (("0", 10), ("1", 40)):
            mask = np.zeros((48, 64), np.uint8)
            mask[:, column : column + 5 + n] = 255
            for camera in ("4", "16", "28"):
                write_image(source / "seg/img_seg_mask" / camera / person / f"{11 + n:06d}.png", mask)
        verts = np.zeros((2, 6890, 3))
        verts[:] = joints[:, n, :1]
        np.savez(source / "smpl" / f"{11 + n:06d}.npz", joints_3d=joints[:, n].astype(np.float32),
                 verts=verts.astype(np.float32), betas=np.zeros((2, 10)))  # fmt: skip
    return source


def test_hi4d(tmp_path: Path) -> None:
    sequence, said = bring(hi4d(tmp_path), tmp_path / "seq", format="hi4d")
    assert sequence.fps == 30 and sequence.up == "y" and sequence.people_hint == 2
    assert sequence.cameras.names == ("4", "16", "28") and len(sequence.frames) == FRAMES
    assert (tmp_path / "seq/images/16/000002.png").resolve() == tmp_path / "pair00/hug00/images/16/000013.png"
    truth, arrays = load_truth(tmp_path / "seq"), read_npz(tmp_path / "seq" / "ground_truth.npz")
    # Subject 1, further along -x, is p0.
    assert arrays["subjects"].tolist() == [1, 0] and arrays["source_frames"].tolist() == [11, 12, 13, 14]
    np.testing.assert_allclose(truth.joints, walkers(SMPL24)[::-1], atol=1e-6)
    np.testing.assert_allclose(truth.keypoints[:, :, LIMBS], people(FRAMES)[::-1][:, :, LIMBS], atol=1e-6)
    assert np.isnan(truth.keypoints[:, :, :5]).all()
    # ... and so are his masks: subject 1's are at column 40.
    assert sequence.person_masks(1, 2)["p0"][0].argmax() == 40 and sequence.person_masks(1, 2)["p1"][0].argmax() == 10
    assert (sequence.mask(2, 3) > 0).sum() == 48 * 16 and "8 person-frames" in said


def test_hi4d_keypoints_by_the_given_body(tmp_path: Path) -> None:
    source = hi4d(tmp_path)
    open_body = load_body()
    regressor = torch.zeros(17, 6890)
    regressor[:, 5] = 1
    body = replace(open_body, v_template=torch.zeros(6890, 3), coco_regressor=regressor)
    found = read_truth(source / "smpl", [12, 99], body)
    # All vertices stand where the pelvis is, and so does every keypoint.
    np.testing.assert_allclose(found["keypoints"][0, 0], np.tile(walkers(SMPL24)[1, 1, 0], (17, 1)), atol=1e-6)
    assert np.isnan(found["joints"][:, 1]).all()
    with pytest.raises(InputError, match="6890 vertices"):
        from importlib.resources import files

        bring(source, tmp_path / "seq", format="hi4d", body=Path(str(files("assets") / "body.npz")))


def test_hi4d_split(tmp_path: Path) -> None:
    source = hi4d(tmp_path)
    with pytest.raises(InputError, match="unknown camera"):
        bring(source, tmp_path / "seq", format="hi4d", split="avatarpose-hi4d")
    sequence, said = bring(source, tmp_path / "seq", format="hi4d", split="avatarpose-hi4d", cameras="4,28")
    assert sequence.cameras.names == ("4", "28") and "not published" in said
    with pytest.raises(InputError, match="split of another data set"):
        bring(source, tmp_path / "other", format="hi4d", split="voxelpose-shelf")


# ---- CHI3D ----


@cache
def film() -> bytes:
    """A video of CHI3D's size; one will do for all cameras."""
    with TemporaryDirectory() as folder:
        write_video(Path(folder) / "film.mp4", FRAMES, 900, 900)
        return (Path(folder) / "film.mp4").read_bytes()


def chi3d(folder: Path) -> Path:
    """train/s03 with the actions Grab 1 and Hug 2, two cameras; the truth is one frame shorter than the videos."""
    subject = folder / "train" / "s03"
    for camera in rig(2, dist=LENS):
        square = replace(camera, K=np.array([[1100.0, 0, 450], [0, 1101, 449], [0, 0, 1]]))
        for action in ("Grab 1", "Hug 2"):
            path = subject / "camera_parameters" / camera.name / f"{action}.json"
            k1, k2, _, _, k3 = square.dist
            lens = {"f": [[1100.0, 1101.0]], "c": [[450.0, 449.0]], "k": [[k1, k2, k3]], "p": [[0.0, 0.0]]}
            write_json(path, {"extrinsics": {"R": square.R, "T": square.centre[None]},
                              "intrinsics_w_distortion": lens})  # fmt: skip
            video = subject / "videos" / camera.name / f"{action}.mp4"
            video.parent.mkdir(parents=True, exist_ok=True)
            video.write_bytes(film())
    joints = np.zeros((2, FRAMES - 1, 25, 3))
    joints[:, :, :17] = walkers(H36M17)[:, : FRAMES - 1]
    write_json(subject / "joints3d_25" / "Grab 1.json", {"joints3d_25": joints})
    return subject


def test_chi3d(tmp_path: Path) -> None:
    sequence, _ = bring(chi3d(tmp_path) / "Grab 1", tmp_path / "seq", format="chi3d")
    assert sequence.fps == 50 and sequence.up == "z" and len(sequence.frames) == FRAMES
    assert sequence.cameras.names == ("01", "02") and sequence.cameras.width.tolist() == [900, 900]
    # The camera projects as OpenCV does, half a pixel on.
    camera = replace(rig(2, dist=LENS)[1], K=np.array([[1100.0, 0, 450], [0, 1101, 449], [0, 0, 1]]))
    points = people(1)[0, 0]
    np.testing.assert_allclose(
        sequence.cameras.project(torch.tensor(points))[0][1], project(camera, points) + 0.5, atol=1e-6
    )
    truth = load_truth(tmp_path / "seq")
    np.testing.assert_allclose(truth.keypoints[:, :3, LIMBS], people(FRAMES)[::-1][:, :3][:, :, LIMBS], atol=1e-6)
    assert np.isnan(truth.keypoints[:, 3]).all() and np.isnan(truth.keypoints[:, :, 0]).all()


def test_chi3d_lens_is_the_published_one() -> None:
    f, c = np.array([1140.0, 1142.0]), np.array([440.0, 455.0])
    k = np.array([-0.2, 0.2, -0.01])
    terms, off = opencv_lens(f, c, k, np.zeros(2))
    assert terms.tolist() == [-0.2, 0.2, 0, 0, -0.01] and off == 0
    p = np.array([-0.002, 0.001])
    terms, off = opencv_lens(f, c, k, p)
    assert 0.001 < off < 0.3  # pixels at 900 x 900
    for x, y in ((0.2, -0.1), (-0.3, 0.25)):
        r2 = x * x + y * y
        radial = 1 + k[0] * r2 + k[1] * r2**2 + k[2] * r2**3
        published = np.array([x, y]) * (radial + p[1] * x + p[0] * y) + r2 * p[::-1]
        ours = cv2.projectPoints(np.array([[x, y, 1.0]]), np.zeros(3), np.zeros(3), np.eye(3), terms)[0].ravel()
        assert np.abs((ours - published) * f).max() < off * 1.01


def test_chi3d_joints_of_smplx(tmp_path: Path) -> None:
    """A chain whose rest joints are known: the root turned by 90 degrees about z, the left knee by 90 about x."""
    rest = np.random.default_rng(0).normal(size=(55, 3))
    parents = np.array([*SMPL_PARENTS[:22], *[20] * 33])
    regressor = np.zeros((55, 60))
    regressor[np.arange(55), np.arange(55)] = 1
    template = np.zeros((60, 3))
    template[:55] = rest
    shapes = np.zeros((60, 3, 12))
    shapes[:, 0, 0] = 0.1  # the first coefficient shifts everybody along x
    body = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(body, v_template=template, shapedirs=shapes, J_regressor=regressor,
             kintree_table=np.stack([parents, np.arange(55)]))  # fmt: skip
    turn_z, turn_x = (Rotation.from_euler(axis, 90, degrees=True).as_matrix() for axis in "zx")
    pose = np.tile(np.eye(3), (2, 1, 21, 1, 1))
    pose[0, 0, 3] = turn_x  # joint 4, the left knee
    fits = tmp_path / "a.json"
    write_json(fits, {"transl": np.array([[[1.0, 2, 3]], [[4, 5, 6]]]), "betas": np.eye(2, 10)[:, None][[0, 1]],
                      "global_orient": np.stack([turn_z, np.eye(3)])[:, None, None], "body_pose": pose})  # fmt: skip
    joints = smplx_truth(fits, body, [0])["joints"][:, 0]
    root = rest[0] + [1.1, 2, 3]
    np.testing.assert_allclose(joints[0, 0], root, atol=1e-6)
    knee = root + turn_z @ (rest[4] - rest[0])
    np.testing.assert_allclose(joints[0, 4], knee, atol=1e-6)
    np.testing.assert_allclose(joints[0, 7], knee + turn_z @ turn_x @ (rest[7] - rest[4]), atol=1e-6)
    np.testing.assert_allclose(joints[1, :22], rest[:22] + np.array([4, 5, 6]), atol=1e-6)
    assert np.isnan(joints[:, 22:]).all()


# ---- Panoptic ----


def panoptic(folder: Path) -> Path:
    """Three HD cameras, frames 123 to 126; in frame 125 only person 7, whose nose is unknown there."""
    source = folder / "160422_take"
    source.mkdir(parents=True)
    names = ["00_03", "00_06", "00_12"]
    write_panoptic(source, [replace(c, name=n) for c, n in zip(rig(3), names, strict=True)])
    content = json.loads((source / "calibration_take.json").read_text())
    for entry, camera in zip(content["cameras"], small(rig(3)), strict=True):
        entry.update(resolution=[64, 48], K=camera.K.tolist(), distCoef=[0] * 5)
    (source / "calibration_take.json").write_text(json.dumps(content))
    footage(source / "hdImgs", names, 123, "00_03_{:08d}.png")
    world = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    points = joints19() @ world * 100
    poses = source / "hdPose3d_stage1_coco19"
    poses.mkdir()
    for n in range(FRAMES):
        bodies = []
        for person in (0, 1):
            rows = np.column_stack([points[person, n], np.full(19, 0.8)])
            if n == 2:
                rows[1] = (0, 0, 0, -1)
                rows[4, 3] = 0.05
            if n != 2 or person == 1:
                bodies.append({"id": 6 + person, "joints19": rows.ravel().tolist()})
        name = f"body3DScene_{123 + n:08d}.json"
        (poses / name).write_text(json.dumps({"version": 0.7, "univTime": 1.0, "bodies": bodies}))
    return source


def joints19() -> np.ndarray:
    """(2, F, 19, 3) metres, z up."""
    coco = people(FRAMES)
    fifteen = convert(coco, "coco17", "panoptic15")
    return np.concatenate([fifteen, coco[:, :, COCO17.indices(JOINTS19[15:])]], axis=2)


def test_panoptic(tmp_path: Path) -> None:
    sequence, _ = bring(panoptic(tmp_path), tmp_path / "seq", format="panoptic")
    assert sequence.fps == pytest.approx(29.97) and sequence.up == "-y" and len(sequence.frames) == FRAMES
    truth, arrays = load_truth(tmp_path / "seq"), read_npz(tmp_path / "seq" / "ground_truth.npz")
    world = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    # Id 7 stands further along -x and is p0. Metres, in the data set's own axes.
    assert arrays["subjects"].tolist() == [7, 6] and arrays["source_frames"].tolist() == [123, 124, 125, 126]
    np.testing.assert_allclose(truth.keypoints[:, 0], people(FRAMES)[::-1, 0] @ world, atol=1e-5)
    assert np.isnan(truth.keypoints[1, 2]).all() and np.isnan(truth.keypoints[0, 2, 0]).all()
    assert arrays["scores"][0, 2, 0] == 0 and arrays["scores"][0, 0, 0] == pytest.approx(0.8)
    np.testing.assert_allclose(arrays["panoptic15"][0, 1], joints19()[1, 1, :15] @ world, atol=1e-5)
    # The world of the cameras is the truth's: the projection is that of the rig.
    pixels = sequence.cameras.project(torch.tensor(truth.keypoints[0, 0]))[0][2]
    np.testing.assert_allclose(pixels, project(small(rig(3))[2], people(FRAMES)[1, 0]) + 0.5, atol=1e-2)


def test_panoptic_by_frames(tmp_path: Path) -> None:
    sequence, _ = bring(panoptic(tmp_path), tmp_path / "seq", format="panoptic", frames="1::2", cameras="00_03,00_12")
    assert sequence.cameras.names == ("00_03", "00_12") and sequence.fps == pytest.approx(29.97 / 2)
    assert read_npz(tmp_path / "seq" / "ground_truth.npz")["source_frames"].tolist() == [124, 126]


# ---- Shelf and Campus ----


def shelf(folder: Path, calibration: str = "calibration_shelf.json", first: int = 299) -> Path:
    """Frames 299 to 302, three cameras; actor 0 annotated in all, actor 1 nowhere, actor 2 in frame 301."""
    source = folder / "Shelf"
    source.mkdir(parents=True)
    write_voxelpose(source, cameras_named(["0", "1", "2"])).rename(source / calibration)
    footage(source, ["Camera0", "Camera1", "Camera2"], first, "img_{:06d}.png")
    poses = walkers(SHELF14)
    nobody = np.zeros((1, 0))
    actors = np.empty((1, 3), object)
    for a in range(3):
        cell = np.empty((first + FRAMES, 1), object)
        for n in range(len(cell)):
            shown = n >= first and (a == 0 or (a == 2 and n == 301))
            cell[n, 0] = poses[a // 2, n - first] if shown else nobody
        actors[0, a] = cell
    savemat(source / "actorsGT.mat", {"actor3D": actors, "actor2D": np.zeros(1)})
    return source


def test_shelf(tmp_path: Path) -> None:
    sequence, said = bring(shelf(tmp_path), tmp_path / "seq", format="shelf")
    assert sequence.fps == 25 and sequence.up == "z" and "sorted order" not in said
    truth, arrays = load_truth(tmp_path / "seq"), read_npz(tmp_path / "seq" / "ground_truth.npz")
    assert not truth.complete and arrays["ids"].tolist() == [0, 2]
    expected = walkers(SHELF14)
    np.testing.assert_allclose(truth.shelf15[0, :, :14], expected[0], atol=1e-6)
    np.testing.assert_allclose(truth.shelf15[0, :, 14], expected[0][:, [2, 3]].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(truth.shelf15[1, 2, :14], expected[1, 2], atol=1e-6)
    assert np.isnan(truth.shelf15[1, [0, 1, 3]]).all()


def test_shelf_split_takes_the_published_frames(tmp_path: Path) -> None:
    sequence, _ = bring(shelf(tmp_path), tmp_path / "seq", format="shelf", split="voxelpose-shelf", cameras="0,2")
    assert read_npz(tmp_path / "seq" / "ground_truth.npz")["source_frames"].tolist() == [300, 301, 302]
    assert len(sequence.frames) == 3 and sequence.cameras.names == ("0", "2")


def test_campus(tmp_path: Path) -> None:
    source = shelf(tmp_path, "calibration_campus.json", first=350)
    sequence, said = bring(source, tmp_path / "seq", format="campus")
    assert len(sequence.frames) == FRAMES and "4 person-frames" in said


def test_actors_in_one_more_cell(tmp_path: Path) -> None:
    source = shelf(tmp_path)
    plain = read_actors(source / "actorsGT.mat")
    outer = np.empty((1, 1), object)
    actors = np.empty((1, 3), object)
    for a in range(3):
        actors[0, a] = np.empty((len(plain[a]), 1), object)
        for n, pose in enumerate(plain[a]):
            actors[0, a][n, 0] = np.zeros((1, 1)) if pose is None else pose
    outer[0, 0] = actors
    savemat(tmp_path / "wrapped.mat", {"actor3D": outer})
    wrapped = read_actors(tmp_path / "wrapped.mat")
    assert [sum(pose is not None for pose in actor) for actor in wrapped] == [4, 0, 1]


# ---- MultiHuman ----


def test_multihuman_takes_any_layout(tmp_path: Path) -> None:
    source = tmp_path / "real" / "two"
    source.mkdir(parents=True)
    write_voxelpose(source, small(rig(3)))
    for camera in rig(3):
        write_images(source / "raw" / camera.name, FRAMES)
    options = {"format": "multihuman", "fps": 25.0, "footage": source / "raw"}
    sequence, said = bring(source, tmp_path / "seq", **options)
    assert len(sequence.frames) == FRAMES and "no truth" in said
    assert not (tmp_path / "seq" / "ground_truth.npz").exists()
    with pytest.raises(InputError, match=r"no raw images found.*y-zheng18/MultiHuman-Dataset"):
        bring(source, tmp_path / "other", format="multihuman", fps=25.0)


# ---- what is refused ----


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        for name in names:
            path = source / name
            path.rename(source / f"no_{path.name}") if path.is_dir() else path.unlink()

    return spoil


def spoil_npz(source: Path) -> None:
    np.savez(source / "smpl" / "000012.npz", joints_3d=np.zeros((2, 23, 3), np.float32))


def spoil_nan(source: Path) -> None:
    np.savez(source / "smpl" / "000012.npz", joints_3d=np.full((2, 24, 3), np.nan, np.float32))


def text(name: str, content: str) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        (source / name).write_text(content)

    return spoil


def actors(value: object) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        savemat(source / "actorsGT.mat", {"actor3D": value} if value is not None else {"other": np.zeros(1)})

    return spoil


def one_pose(shape: tuple[int, ...]) -> np.ndarray:
    inner, outer = np.empty((400, 1), object), np.empty((1, 2), object)
    inner[:, 0] = [np.ones(shape)] * 400
    outer[0, :] = [inner, inner]
    return outer


SCENE = "hdPose3d_stage1_coco19/body3DScene_00000124.json"


@pytest.mark.parametrize(
    ("make", "spoil", "words"),
    [
        (hi4d, remove("cameras"), r"no calibration of Hi4D.*yifeiyin04.*research"),
        (hi4d, remove("images"), r"no images of Hi4D.*pairXX/actionXX"),
        (hi4d, spoil_npz, r"000012\.npz: joints_3d has the wrong shape"),
        (hi4d, spoil_nan, r"000012\.npz: joints_3d is not finite"),
        (hi4d, text("smpl/000013.npz", "no archive"), r"000013\.npz: damaged"),
        (hi4d, text("cameras/rgb_cameras.npz", "no archive"), r"rgb_cameras\.npz: damaged"),
        (panoptic, remove("calibration_take.json"), r"no calibration of Panoptic.*domedb"),
        (panoptic, remove("hdImgs"), r"no HD footage of Panoptic.*domedb"),
        (panoptic, text(SCENE, "{"), r"00000124\.json: malformed JSON at line 1"),
        (panoptic, text(SCENE, "[]"), r"not a pose file of Panoptic"),
        (panoptic, text(SCENE, '{"bodies": [{"id": 1}]}'), r"a body without id or joints19"),
        (panoptic, text(SCENE, '{"bodies": [{"id": 1, "joints19": [1, 2]}]}'), r"joints19 of another size"),
        (panoptic, text(SCENE, '{"bodies": [{"id": 1, "joints19": ["a"]}]}'), r"joints19 are no numbers"),
        (shelf, remove("calibration_shelf.json"), r"no calibration.*voxelpose-pytorch.*campar"),
        (shelf, remove("actorsGT.mat"), r"no truth.*campar.*MultiHumanPose"),
        (shelf, remove("Camera0", "Camera1", "Camera2"), r"no images.*Camera0"),
        (shelf, text("actorsGT.mat", "no MATLAB at all, but long enough to have a header of some kind" * 3),
         r"actorsGT\.mat: damaged, or not a MATLAB file"),
        (shelf, actors(None), r"lacks actor3D"),
        (shelf, actors(np.zeros((3, 3))), r"actor3D is no cell array"),
        (shelf, actors(one_pose((13, 3))), r"frame 0: a pose of actor 0 of another shape"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(make, spoil, words: str, tmp_path: Path) -> None:
    source = make(tmp_path / "data")
    spoil(source)
    with pytest.raises(InputError, match=words):
        bring(source, tmp_path / "seq", format=make.__name__)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_is_refused_of_chi3d(tmp_path: Path) -> None:
    subject = chi3d(tmp_path / "data")

    def fails(source: Path, words: str, **options) -> None:
        with pytest.raises(InputError, match=words):
            bring(source, tmp_path / "seq", format="chi3d", **options)

    fails(subject, r"many actions.*s03/ACTION.*Grab 1, Hug 2")
    fails(subject / "Kick 9", r"no such action of CHI3D.*vision\.imar\.ro")
    fails(subject / "Grab 1", r"camera 07: --cameras of an unknown camera", cameras="01,07")
    fails(subject / "Grab 1", r"no SMPL-X fits of CHI3D", body=tmp_path / "SMPLX.npz")
    joints = subject / "joints3d_25" / "Grab 1.json"
    joints.write_text('{"joints3d_25": [[[1, 2]]]}')
    fails(subject / "Grab 1", r"joints3d_25 has the wrong shape")
    joints.write_text('{"joints3d_25": [[["a"]]]}')
    fails(subject / "Grab 1", r"joints3d_25 is not an array of numbers")
    camera = subject / "camera_parameters" / "01" / "Grab 1.json"
    good = json.loads(camera.read_text())
    for path, value, words in (
        (("extrinsics", "R"), [[2, 0, 0], [0, 1, 0], [0, 0, 1]], r"camera 01: not a rotation"),
        (("extrinsics", "T"), [1, 2], r"camera 01: T has the wrong shape"),
        (("intrinsics_w_distortion", "f"), None, r"camera 01: f "),
        (("intrinsics_w_distortion", "k"), ["a", 0, 0], r"camera 01: k is not made of numbers"),
    ):
        bad = json.loads(json.dumps(good))
        bad[path[0]][path[1]] = value
        camera.write_text(json.dumps(bad))
        fails(subject / "Grab 1", words)
    del good["extrinsics"]["T"]
    camera.write_text(json.dumps(good))
    fails(subject / "Grab 1", r"camera 01: lacks T")
    # Without truth, as in the test split, the rest comes.
    camera.write_text((subject / "camera_parameters" / "01" / "Hug 2.json").read_text())
    joints.unlink()
    sequence, said = bring(subject / "Grab 1", tmp_path / "seq", format="chi3d")
    assert "no truth" in said and not (sequence.folder / "ground_truth.npz").exists()


def test_the_command_says_where_the_data_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, dataset in DATASETS.items():
        source = tmp_path / "empty"
        source.mkdir(exist_ok=True)
        with pytest.raises(SystemExit) as stop:
            main(["import", str(source), str(tmp_path / "seq"), "--format", name, "--fps", "25"])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and dataset.home in said and dataset.terms in said, name
    main(["import", str(hi4d(tmp_path)), str(tmp_path / "seq"), "--format", "hi4d"])
    assert Sequence.open(tmp_path / "seq").people_hint == 2
    with pytest.raises(InputError, match="--add with --format"):
        bring(tmp_path / "pair00/hug00", tmp_path / "seq", format="hi4d", add=True)
    with pytest.raises(InputError, match="--split is of a data set"):
        bring(tmp_path / "pair00/hug00", tmp_path / "seq2", split="avatarpose-hi4d")


# ---- small things ----


def test_splits_say_what_is_not_published() -> None:
    for split in SPLITS.values():
        assert split.dataset in DATASETS and split.note
    assert len(find_split("closemocap-hi4d").sequences) == 10
    assert sum(map(len, find_split("voxelpose-campus").frames)) == 121 + 101
    assert find_split("avatarpose-chi3d").sequences is None
    assert find_split("avatarpose-hi4d").frames == (range(9, 149),)
    with pytest.raises(InputError, match="no such split"):
        find_split("avatarpose-shelf")


def test_people_are_named_by_first_frame_and_x() -> None:
    roots = np.full((3, 3, 3), np.nan)
    roots[0, 1:], roots[1, :], roots[2, :2] = -5, 2, 1
    assert by_first_x(roots) == [2, 1, 0]


def test_orders_are_the_published_ones() -> None:
    assert JOINTS19[:3] == ("neck", "nose", "mid_hip") and JOINTS19[3] == "left_shoulder" and JOINTS19[9] == (
        "right_shoulder") and JOINTS19[:15] == PANOPTIC15.joints  # fmt: skip
    assert SHELF14.joints[0] == "right_ankle" and SHELF14.joints[12:] == ("neck", "head_top")
    assert H36M17.joints[1] == "right_hip" and H36M17.joints[11] == "left_shoulder"
