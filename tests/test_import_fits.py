"""SMPL fits of other tools: their geometry in numbers on small files of the real layouts, and what breaks them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from avatarpose.body import BodyModel, load_body
from avatarpose.errors import InputError
from avatarpose.importers.fits import read_fits
from avatarpose.io import write_npz
from avatarpose.register import RegisterSettings
from avatarpose.results import Bodies
from avatarpose.skeletons import BODY25, COCO17

PARENTS = np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])
FRAMES = 5
QUICK = RegisterSettings(joints_iterations=15)


@pytest.fixture(scope="module")
def open_body() -> BodyModel:
    return load_body()


@pytest.fixture(scope="module")
def smpl(open_body: BodyModel, tmp_path_factory) -> BodyModel:
    """A body of SMPL's mesh size with joints like a person's, standing in for the licensed file."""
    rng = np.random.default_rng(0)
    joints = open_body.joints(torch.zeros(10), torch.zeros(72), torch.zeros(3)).numpy() - [0.002, 0.223, -0.028]
    vertices = np.repeat(joints, 288, axis=0)[:6890] + rng.normal(0, 0.03, (6890, 3))
    owner = np.repeat(np.arange(24), 288)[:6890]
    regressor = np.zeros((24, 6890))
    for joint in range(24):
        regressor[joint, owner == joint] = 1 / (owner == joint).sum()
    path = tmp_path_factory.mktemp("body") / "smpl.npz"
    write_npz(
        path, v_template=vertices, shapedirs=rng.normal(0, 0.03, (6890, 3, 10)), J_regressor=regressor,
        weights=np.eye(24)[owner], kintree_table=np.stack([PARENTS, np.arange(24)]), f=np.array([[0, 1, 2]]),
    )  # fmt: skip
    return load_body(path, dtype=torch.float64)


def parameters(seed: int = 0, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """betas (10,), poses (F, 72) that change little from frame to frame, trans (F, 3)."""
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.25, 72) + rng.normal(0, 0.03, (frames, 72)).cumsum(0)
    poses[:, 3 * 22 :] = 0  # hands
    trans = rng.normal(0, 1, 3) + rng.normal(0, 0.02, (frames, 3)).cumsum(0)
    return rng.normal(0, 1, 10), poses, trans


def joints_of(body: BodyModel, betas: np.ndarray, poses: np.ndarray, trans: np.ndarray) -> np.ndarray:
    return body.joints(*(torch.as_tensor(x, dtype=body.dtype) for x in (betas, poses, trans))).numpy()


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def read(path: Path, body: BodyModel, fps: float = 20.0, **more) -> Bodies:
    return read_fits(path, more.pop("format", "auto"), body, fps, **more)


def saved(bodies: Bodies, folder: Path) -> Bodies:
    bodies.save(folder / "initial.npz")
    return Bodies.load(folder / "initial.npz")


# ---- EasyMocap ----


def easymocap_person(
    name: int, Rh: np.ndarray, Th: np.ndarray, poses: np.ndarray, shapes: np.ndarray
) -> dict[str, object]:
    # Rows of one, as EasyMocap writes them.
    rows = {"Rh": Rh, "Th": Th, "poses": poses, "shapes": shapes}
    return {"id": name} | {key: [np.asarray(value).tolist()] for key, value in rows.items()}


@pytest.mark.parametrize("root_pose", [False, True])
@pytest.mark.parametrize("annots", [False, True])
def test_easymocap_turns_about_the_origin(root_pose: bool, annots: bool, smpl: BodyModel, tmp_path: Path) -> None:
    """Its definition, x = R(Rh) X(poses, shapes) + Th, against SMPL's own parameters as imported."""
    betas, poses, Th = parameters()
    Rh = np.random.default_rng(1).normal(0, 1.5, (FRAMES, 3))
    if not root_pose:
        poses[:, :3] = 0
    for f in range(FRAMES):
        people = [easymocap_person(7, Rh[f], Th[f], poses[f], betas)]
        write(tmp_path / "smpl" / f"{f:06d}.json", {"annots": people} if annots else people)
    found = saved(read(tmp_path, smpl), tmp_path)
    inside = joints_of(smpl, betas, poses, np.zeros(3))
    expected = np.einsum("fij,fkj->fki", Rotation.from_rotvec(Rh).as_matrix(), inside) + Th[:, None]
    np.testing.assert_allclose(found.joints[0], expected, atol=2e-6)
    again = joints_of(smpl, found.betas[0], found.poses[0], found.trans[0])
    np.testing.assert_allclose(again, expected, atol=2e-6)
    np.testing.assert_allclose(found.betas[0], betas, atol=1e-6)
    # Not what taking Rh and Th for SMPL's own would give:
    wrong = joints_of(smpl, betas, np.concatenate([Rh, poses[:, 3:]], 1), Th)
    assert np.linalg.norm(wrong - expected, axis=-1).mean() > 0.02


def test_easymocap_people_come_and_go(smpl: BodyModel, tmp_path: Path) -> None:
    betas, poses, Th = parameters()
    zero = np.zeros(3)
    here = {3: range(1, 5), 5: (0, 1, 3)}  # id 5 comes first, and is away in frame 2
    for f in range(FRAMES):
        people = [easymocap_person(name, zero, Th[f] + name, poses[f, 3:], betas) for name in here if f in here[name]]
        write(tmp_path / f"{f:06d}.json", people)  # poses of 69: newer versions leave the root out
    said: list[str] = []
    found = saved(read(tmp_path, smpl, say=said.append), tmp_path)
    assert found.people == ["p0", "p1"] and found.frames.tolist() == [0, 1, 2, 3, 4] and found.fps == 20
    assert found.valid.tolist() == [[True, True, False, True, False], [False, True, True, True, True]]
    np.testing.assert_allclose(found.trans[0, [0, 1, 3]], Th[[0, 1, 3]] + 5, atol=1e-5)
    assert np.isfinite(found.joints).all()  # the nearest frame's where there is none
    assert any("5 is p0: 3 of 5 frames" in line for line in said)


def test_easymocap_frames_follow_the_images(smpl: BodyModel, tmp_path: Path) -> None:
    betas, poses, Th = parameters()
    for f, number in enumerate((12, 13, 15, 16, 17)):
        write(tmp_path / f"{number:06d}.json", [easymocap_person(0, np.zeros(3), Th[f], poses[f], betas)])
    found = read(tmp_path, smpl, frames_of=list(range(11, 19)))
    assert found.valid[0].tolist() == [False, True, True, False, True, True, True, False]
    np.testing.assert_allclose(found.trans[0, 4], Th[2], atol=1e-5)
    assert len(read(tmp_path, smpl).frames) == 6  # 12 to 17
    cut = read(tmp_path, smpl, frames_of=[15, 16])  # of a capture that was cut afterwards
    assert cut.valid.tolist() == [[True, True]]
    np.testing.assert_allclose(cut.trans[0], Th[2:4], atol=1e-5)
    with pytest.raises(InputError, match="different frame counts"):
        read(tmp_path, smpl, frames_of=[0, 1])


@pytest.mark.parametrize(("size", "model"), [(78, "SMPLH"), (87, "SMPLX")])
def test_easymocap_of_models_with_fingers(size: int, model: str, smpl: BodyModel, tmp_path: Path) -> None:
    betas, poses, Th = parameters()
    poses[:, :3] = 0
    raw = np.full((FRAMES, size), 9.0)  # fingers and faces must not get into the hands
    raw[:, :66] = poses[:, :66]
    for f in range(FRAMES):
        write(tmp_path / f"{f}.json", [easymocap_person(0, np.zeros(3), Th[f], raw[f], betas)])
    said: list[str] = []
    found = read(tmp_path, smpl, say=said.append)
    np.testing.assert_allclose(found.poses[0], poses, atol=1e-6)
    kept = size == 78
    assert np.allclose(found.betas[0], betas if kept else 0, atol=1e-6)
    assert any(model in line for line in said) != kept


# ---- AMASS ----


def amass(path: Path, fps: float = 20.0, size: int = 72, rate: str = "mocap_framerate", seed: int = 0, frames: int = 9):
    betas, poses, trans = parameters(seed, frames)
    raw = np.full((frames, size), 9.0)
    raw[:, : min(size, 66)] = poses[:, : min(size, 66)]
    if size == 72:
        raw[:, 66:] = 0
    more = {"gender": np.array("female"), "dmpls": np.zeros((frames, 8)), rate: np.array(fps)}
    write_npz(path, poses=raw, trans=trans, betas=np.concatenate([betas, np.ones(6)]), **more)
    return betas, poses, trans


@pytest.mark.parametrize("size", [72, 156])
@pytest.mark.parametrize("rate", ["mocap_framerate", "mocap_frame_rate"])
def test_amass_is_smpl(size: int, rate: str, smpl: BodyModel, tmp_path: Path) -> None:
    betas, poses, trans = amass(tmp_path / "walk_poses.npz", size=size, rate=rate)
    found = saved(read(tmp_path / "walk_poses.npz", smpl), tmp_path)
    np.testing.assert_allclose(found.joints[0], joints_of(smpl, betas, poses, trans), atol=2e-6)
    assert found.valid.all() and found.frames.tolist() == list(range(9))


def test_amass_is_brought_to_the_rate(smpl: BodyModel, tmp_path: Path) -> None:
    betas, poses, trans = amass(tmp_path / "a.npz", fps=120.0, frames=25)
    found = read(tmp_path / "a.npz", smpl, fps=30.0)
    assert len(found.frames) == 7
    np.testing.assert_allclose(found.joints[0], joints_of(smpl, betas, poses, trans)[::4], atol=2e-6)
    between = read(tmp_path / "a.npz", smpl, fps=80.0)  # frame 1 lies half way between 1 and 2
    half = Rotation.from_rotvec(poses[1, :3]) * Rotation.from_rotvec(
        (Rotation.from_rotvec(poses[1, :3]).inv() * Rotation.from_rotvec(poses[2, :3])).as_rotvec() / 2
    )
    np.testing.assert_allclose(between.poses[0, 1, :3], half.as_rotvec(), atol=1e-5)
    np.testing.assert_allclose(between.trans[0, 1], (trans[1] + trans[2]) / 2, atol=1e-5)
    said: list[str] = []
    longer = read(tmp_path / "a.npz", smpl, fps=30.0, frames_of=range(10), say=said.append)
    assert longer.valid[0].tolist() == [True] * 7 + [False] * 3
    assert read(tmp_path / "a.npz", smpl, fps=30.0, frames_of=range(3), say=said.append).valid.all()
    assert any("goes on for 0.1 s" in line for line in said)


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
def test_amass_is_turned_up(up: str, smpl: BodyModel, tmp_path: Path) -> None:
    betas, poses, trans = amass(tmp_path / "a.npz")
    found = read(tmp_path / "a.npz", smpl, up=up)
    original = joints_of(smpl, betas, poses, trans)
    # Heights above AMASS's ground are heights along the new axis, and the body stays the same.
    axis = "xyz".index(up[-1])
    sign = -1 if up.startswith("-") else 1
    np.testing.assert_allclose(sign * found.joints[0, ..., axis], original[..., 2], atol=5e-6)
    again = joints_of(smpl, found.betas[0], found.poses[0], found.trans[0])
    np.testing.assert_allclose(again, found.joints[0], atol=2e-6)
    lengths = [np.linalg.norm(np.diff(j[:, [0, 1, 4, 7]], axis=1), axis=-1) for j in (found.joints[0], original)]
    np.testing.assert_allclose(*lengths, atol=5e-6)


def test_amass_folder_is_several_people(smpl: BodyModel, tmp_path: Path) -> None:
    first, second = amass(tmp_path / "a.npz", seed=1), amass(tmp_path / "b.npz", seed=2, frames=6)
    found = read(tmp_path, smpl)
    by_x = sorted((first, second), key=lambda one: joints_of(smpl, *one)[0, 0, 0])
    assert found.people == ["p0", "p1"] and found.valid.sum(axis=1).tolist() == [len(one[1]) for one in by_x]
    np.testing.assert_allclose(found.betas, [one[0] for one in by_x], atol=1e-6)


def test_open_body_stands_where_the_fit_stood(open_body: BodyModel, tmp_path: Path) -> None:
    """Without joints only pose and place are kept: hips near SMPL's, directions of limbs exact, shape the average."""
    _, poses, trans = amass(tmp_path / "a.npz")
    said: list[str] = []
    found = saved(read(tmp_path / "a.npz", open_body, say=said.append), tmp_path)
    assert not found.betas.any() and any("average shape" in line and "SMPL file" in line for line in said)
    np.testing.assert_allclose(found.poses[0], poses, atol=1e-6)
    root = Rotation.from_rotvec(poses[:, :3])
    hips = trans + np.array([0, -0.223, 0.028]) + root.apply([0, -0.091, -0.005])
    np.testing.assert_allclose(found.joints[0][:, [1, 2]].mean(axis=1), hips, atol=1e-3)
    assert found.body_name == open_body.name and found.body_sha256 == open_body.sha256


# ---- Hi4D ----


def hi4d(folder: Path, body: BodyModel, with_joints: bool = True, frames: int = FRAMES, start: int = 11) -> list[tuple]:
    people = [parameters(3, frames), parameters(4, frames)]
    people[1][2][:] += people[0][2].mean(axis=0) - people[1][2].mean(axis=0) + np.array([2, 0, 0])
    for f in range(frames):
        arrays = {
            "betas": np.stack([betas for betas, _, _ in people]),
            "global_orient": np.stack([poses[f, :3] for _, poses, _ in people]),
            "body_pose": np.stack([poses[f, 3:] for _, poses, _ in people]),
            "transl": np.stack([trans[f] for _, _, trans in people]),
            "verts": np.zeros((2, 9, 3)),
        }
        if with_joints:
            arrays["joints_3d"] = np.stack([joints_of(body, b, p[f], t[f]) for b, p, t in people])
        write_npz(folder / f"{start + f:06d}.npz", **arrays)
    return people


def test_hi4d_is_smpl(smpl: BodyModel, tmp_path: Path) -> None:
    people = hi4d(tmp_path / "smpl", smpl)
    found = saved(read(tmp_path, smpl, frames_of=range(11, 16)), tmp_path)
    assert found.valid.all() and found.joints.shape == (2, FRAMES, 24, 3)
    by_x = sorted(people, key=lambda one: joints_of(smpl, *one)[0, 0, 0])
    for p, one in enumerate(by_x):
        np.testing.assert_allclose(found.joints[p], joints_of(smpl, *one), atol=2e-6)


def test_open_body_is_fitted_to_the_joints(open_body: BodyModel, tmp_path: Path) -> None:
    """The source's joints are those of people of other shapes; its root and parameters are in other terms."""
    people = hi4d(tmp_path, open_body)
    for file in tmp_path.glob("*.npz"):
        arrays = dict(np.load(file))
        arrays["transl"] += 0.3  # the model's own origin, which joints make up for
        arrays["betas"] *= 0
        write_npz(file, **arrays)
    said: list[str] = []
    found = saved(read(tmp_path, open_body, say=said.append, settings=QUICK), tmp_path)
    by_x = sorted(people, key=lambda one: joints_of(open_body, *one)[0, 0, 0])
    limbs = [1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21]
    for p, one in enumerate(by_x):
        away = np.linalg.norm(found.joints[p][:, limbs] - joints_of(open_body, *one)[:, limbs], axis=-1)
        assert away.mean() < 0.03 and away.max() < 0.08
        # The joints have no face: the head looks where the source's poses turn it.
        keypoints = open_body.keypoints(*(torch.as_tensor(x, dtype=torch.float32) for x in one)).numpy()
        assert np.linalg.norm(found.keypoints[p][:, :5] - keypoints[:, :5], axis=-1).max() < 0.08
        np.testing.assert_allclose(found.poses[p][:, 3 * 20 :], one[1][:, 3 * 20 :], atol=1e-6)
    assert sum("fitted to the joints" in line for line in said) == 2


def test_easymocap_joints_are_used(open_body: BodyModel, tmp_path: Path) -> None:
    """keypoints3d (BODY_25) beside smpl/, one of them unknown; the person is away in frame 2."""
    betas, poses, trans = parameters(5)
    tensors = (torch.as_tensor(x, dtype=torch.float32) for x in (betas, poses, trans))
    keypoints = open_body.keypoints(*tensors).numpy()
    for f in (0, 1, 3, 4):
        rows = np.zeros((25, 4))
        for k, joint in enumerate(COCO17.joints):
            rows[BODY25.index(joint)] = [*keypoints[f, k], 0.9]
        rows[BODY25.index("left_wrist")] = 0
        write(tmp_path / "keypoints3d" / f"{f:06d}.json", [{"id": 0, "keypoints3d": rows.tolist()}])
        person = easymocap_person(0, poses[f, :3], trans[f], np.r_[np.zeros(3), poses[f, 3:]], np.zeros(10))
        write(tmp_path / "smpl" / f"{f:06d}.json", [person])
    found = saved(read(tmp_path / "smpl", open_body, frames_of=range(FRAMES), settings=QUICK), tmp_path)
    assert found.valid[0].tolist() == [True, True, False, True, True]
    away = np.linalg.norm(found.keypoints[0] - keypoints, axis=-1)[found.valid[0]]
    known = [k for k in range(17) if k != COCO17.index("left_wrist")]
    assert away[:, known].mean() < 0.02
    np.testing.assert_array_equal(found.poses[0, 2], found.poses[0, 1])  # the nearest frame's


# ---- what is wrong ----


def test_formats_are_told_apart_or_named(smpl: BodyModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder of body fits"):
        read(tmp_path / "none", smpl)
    with pytest.raises(InputError, match="no body fits of a known format"):
        read(tmp_path, smpl)
    write_npz(tmp_path / "x.npz", poses=np.zeros((2, 72)))
    with pytest.raises(InputError, match="no body fits of a known format"):
        read(tmp_path, smpl)
    with pytest.raises(InputError, match="no such format of body fits"):
        read(tmp_path, smpl, format="bedlam")
    with pytest.raises(InputError, match="no such axis"):
        read(tmp_path, smpl, format="amass", up="w")
    with pytest.raises(InputError, match=r"x\.npz: lacks trans, betas"):
        read(tmp_path / "x.npz", smpl, format="amass")


def broken_easymocap(kind: str, tmp_path: Path) -> Path:
    betas, poses, Th = parameters()
    person = easymocap_person(0, np.zeros(3), Th[0], poses[0], betas)
    content: object = [person]
    if kind == "truncated":
        path = write(tmp_path / "0.json", content)
        path.write_text(path.read_text()[:50])
        return tmp_path
    if kind == "lacking":
        del person["Th"]
    if kind == "size":
        person["poses"] = [[0.0] * 71]
    if kind == "nan":
        person["Rh"] = [[0.0, float("nan"), 0.0]]
    if kind == "text":
        person["shapes"] = ["tall"]
    if kind == "twice":
        content = [person, person]
    if kind == "nobody":
        content = []
    if kind == "no list":
        content = {"people": []}
    write(tmp_path / "0.json", content)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "malformed JSON"),
        ("lacking", "a person without Th"),
        ("size", "poses of another size"),
        ("nan", "Rh are not finite"),
        ("text", "shapes are no numbers"),
        ("twice", "a person twice in a frame"),
        ("nobody", "no person in the fits"),
        ("no list", "malformed EasyMocap JSON"),
    ],
)
def test_broken_easymocap(kind: str, message: str, smpl: BodyModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(broken_easymocap(kind, tmp_path), smpl)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses": np.zeros((9, 63))}, "poses of another size"),
        ({"poses": np.zeros((0, 72))}, "poses of another size"),
        ({"trans": np.zeros((8, 3))}, "trans of the wrong shape"),
        ({"trans": np.full((9, 3), np.nan)}, "trans are not finite"),
        ({"betas": np.zeros(4)}, "betas are not 10 numbers"),
        ({"mocap_framerate": np.array(0.0)}, "impossible mocap_framerate"),
    ],
)
def test_broken_amass(change: dict[str, np.ndarray], message: str, smpl: BodyModel, tmp_path: Path) -> None:
    amass(tmp_path / "a.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    write_npz(tmp_path / "a.npz", **{**arrays, **change})
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.npz", smpl)
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"a\.npz: damaged"):
        read(tmp_path / "a.npz", smpl, format="amass")


def test_broken_hi4d(smpl: BodyModel, tmp_path: Path) -> None:
    hi4d(tmp_path, smpl)
    file = tmp_path / "000012.npz"
    arrays = dict(np.load(file))
    for change, message in (
        ({"body_pose": np.zeros((2, 63))}, r"000012\.npz: body_pose of the wrong shape"),
        ({"transl": np.full((2, 3), np.inf)}, "transl are not finite"),
        ({key: value[:1] for key, value in arrays.items()}, "of the wrong shape"),  # one person less than in frame 11
    ):
        write_npz(file, **{**arrays, **change})
        with pytest.raises(InputError, match=message):
            read(tmp_path, smpl)
    write_npz(file, **{key: value for key, value in arrays.items() if key != "betas"})
    with pytest.raises(InputError, match=r"000012\.npz: lacks betas"):
        read(tmp_path, smpl)


def test_pickled_fits_are_refused(smpl: BodyModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", poses=np.array([{}], object), trans=np.zeros(3), betas=0, mocap_framerate=1)
    with pytest.raises(InputError, match=r"damaged, or not an \.npz of plain arrays"):
        read(tmp_path / "a.npz", smpl)
