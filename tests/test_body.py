"""The body model against independent oracles: smplx, a plain numpy skinning, finite differences, and solid geometry."""

from __future__ import annotations

import math
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from avatarpose.body import CANONICAL_POSE, BodyModel, load_body, vertex_normals

SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
PELVIS, L_HIP, L_KNEE, L_ANKLE, NECK, HEAD = 0, 1, 4, 7, 12, 15
L_SHOULDER, R_SHOULDER, L_ELBOW, L_WRIST = 16, 17, 18, 20


def random_body(vertices: int = 60, posedirs: bool = True, bind: bool = False, seed: int = 0) -> BodyModel:
    rng = np.random.default_rng(seed)

    def rows_of_one(rows: int, columns: int) -> torch.Tensor:
        return torch.tensor(rng.dirichlet(np.full(columns, 0.3), rows))

    return BodyModel(
        v_template=torch.tensor(rng.normal(0, 0.5, (vertices, 3))),
        shapedirs=torch.tensor(rng.normal(0, 0.03, (vertices, 3, 10))),
        posedirs=torch.tensor(rng.normal(0, 0.01, (vertices, 3, 207))) if posedirs else None,
        J_regressor=rows_of_one(24, vertices),
        weights=rows_of_one(vertices, 24),
        coco_regressor=rows_of_one(17, vertices),
        bind_rotations=torch.tensor(Rotation.random(24, random_state=seed).as_matrix()) if bind else None,
        faces=torch.tensor(rng.integers(0, vertices, (30, 3))),
        parents=SMPL_PARENTS,
        name="random",
        sha256="",
    )


def random_parameters(*batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(*batch, 10), 0.6 * normal(*batch, 72), normal(*batch, 3)


def plain_skinning(body: BodyModel, betas: np.ndarray, pose: np.ndarray, trans: np.ndarray) -> tuple:
    """Joint by joint and with nothing shared with the model: joints (24, 3) and vertices (V, 3)."""
    rest = body.v_template.numpy() + body.shapedirs.numpy() @ betas
    heads = body.J_regressor.numpy() @ rest
    local = Rotation.from_rotvec(pose.reshape(24, 3)).as_matrix()
    if body.posedirs is not None:
        rest = rest + body.posedirs.numpy() @ (local[1:] - np.eye(3)).reshape(207)
    bind = np.tile(np.eye(3), (24, 1, 1)) if body.bind_rotations is None else body.bind_rotations.numpy()
    world, place = [local[0]], [heads[0] + trans]
    for joint in range(1, 24):
        parent = body.parents[joint]
        place.append(place[parent] + world[parent] @ bind[parent] @ (heads[joint] - heads[parent]))
        world.append(world[parent] @ local[joint])
    vertices = sum(
        body.weights.numpy()[:, j, None] * ((rest - heads[j]) @ (world[j] @ bind[j]).T + place[j]) for j in range(24)
    )
    return np.stack(place), vertices


@pytest.mark.parametrize("bind", [False, True])
@pytest.mark.parametrize("posedirs", [False, True])
def test_agrees_with_plain_skinning(posedirs: bool, bind: bool) -> None:
    body = random_body(posedirs=posedirs, bind=bind)
    betas, poses, trans = random_parameters(3)
    joints, vertices = body.joints(betas, poses, trans), body.vertices(betas, poses, trans)
    for row in range(3):
        expected = plain_skinning(body, betas[row].numpy(), poses[row].numpy(), trans[row].numpy())
        np.testing.assert_allclose(joints[row], expected[0], atol=1e-12)
        np.testing.assert_allclose(vertices[row], expected[1], atol=1e-12)


def test_agrees_with_smplx() -> None:
    smplx = pytest.importorskip("smplx")
    body = random_body()
    files = types.SimpleNamespace(
        v_template=body.v_template.numpy(),
        shapedirs=body.shapedirs.numpy(),
        posedirs=body.posedirs.numpy(),
        J_regressor=body.J_regressor.numpy(),
        weights=body.weights.numpy(),
        kintree_table=np.stack([np.array(SMPL_PARENTS), np.arange(24)]),
        f=body.faces.numpy(),
    )
    ids = {"nose": 0, "reye": 1, "leye": 2, "rear": 3, "lear": 4}
    ids |= {f"{side}{toe}": 5 for side in "LR" for toe in ("BigToe", "SmallToe", "Heel")}
    ids |= {f"{side}{finger}": 6 for side in "lr" for finger in ("thumb", "index", "middle", "ring", "pinky")}
    oracle = smplx.SMPL(model_path="", data_struct=files, vertex_ids=ids, batch_size=5, dtype=torch.float64)
    betas, poses, trans = random_parameters(5)
    out = oracle(betas=betas, global_orient=poses[:, :3], body_pose=poses[:, 3:], transl=trans)
    torch.testing.assert_close(body.vertices(betas, poses, trans), out.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(body.joints(betas, poses, trans), out.joints[:, :24], atol=1e-5, rtol=0)


@pytest.mark.parametrize("bind", [False, True])
def test_keypoints_are_the_regressor_on_the_vertices(bind: bool) -> None:
    body = random_body(bind=bind)
    # Rows that do not sum to one show whether translation is treated as the vertices treat it.
    body = replace(body, coco_regressor=1.3 * body.coco_regressor)
    parameters = random_parameters(4)
    torch.testing.assert_close(body.keypoints(*parameters), body.coco_regressor @ body.vertices(*parameters))


def test_transforms_skin_the_rest_vertices_and_carry_the_joints() -> None:
    body = random_body(posedirs=False, bind=True)
    betas, poses, trans = random_parameters(2)
    T_world_rest = body.transforms(betas, poses, trans)
    rest = torch.nn.functional.pad(body.rest_vertices(betas), (0, 1), value=1.0)
    skinned = torch.einsum("vj,bjac,bvc->bva", body.weights, T_world_rest, rest)[..., :3]
    torch.testing.assert_close(skinned, body.vertices(betas, poses, trans))
    heads = torch.nn.functional.pad(body.rest_joints(betas), (0, 1), value=1.0)
    carried = (T_world_rest @ heads[..., None])[..., :3, 0]
    torch.testing.assert_close(carried, body.joints(betas, poses, trans))


def test_one_elbow_by_hand() -> None:
    """The left forearm bent by 90 degrees about -y points forwards (+z), and only what hangs on it moves."""
    body = load_body(dtype=torch.float64)
    zero = torch.zeros(72, dtype=torch.float64)
    bent = zero.clone()
    bent[3 * L_ELBOW + 1] = -math.pi / 2
    betas, trans = torch.zeros(10, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    before, after = body.joints(betas, zero, trans), body.joints(betas, bent, trans)
    forearm = before[L_WRIST] - before[L_ELBOW]
    expected = torch.stack([-forearm[2], forearm[1], forearm[0]])  # a turn that brings +x to +z
    torch.testing.assert_close(after[L_WRIST] - after[L_ELBOW], expected)
    unmoved = [joint for joint in range(24) if joint not in (20, 22)]
    torch.testing.assert_close(after[unmoved], before[unmoved])


def test_the_root_turns_about_the_pelvis() -> None:
    body = load_body(dtype=torch.float64)
    betas, poses, trans = random_parameters(1)
    turned = poses.clone()
    turned[:, :3] = torch.tensor([0.3, -1.2, 0.5])
    pelvis = body.rest_joints(betas)[:, 0] + trans
    torch.testing.assert_close(body.joints(betas, poses, trans)[:, 0], pelvis)
    torch.testing.assert_close(body.joints(betas, turned, trans)[:, 0], pelvis)


@pytest.mark.parametrize("function", ["transforms", "joints", "keypoints", "vertices"])
def test_batches_broadcast(function: str) -> None:
    body = random_body()
    betas, poses, trans = random_parameters(2, 3)
    whole = getattr(body, function)(betas[:, :1], poses, trans[:1])
    assert whole.shape[:2] == (2, 3)
    for i in range(2):
        for k in range(3):
            one = getattr(body, function)(betas[i, 0], poses[i, k], trans[0, k])
            torch.testing.assert_close(whole[i, k], one)


@pytest.mark.parametrize("function", ["transforms", "joints", "keypoints", "vertices"])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_gradients(function: str, scale: float) -> None:
    """At the zero pose too, where the axis of a rotation vector is undefined."""
    body = random_body(vertices=8, bind=True)
    parameters = [(scale * value).requires_grad_() for value in random_parameters(1)]
    assert torch.autograd.gradcheck(getattr(body, function), parameters, fast_mode=True)


def test_single_precision_is_close_to_double() -> None:
    single, double = load_body(), load_body(dtype=torch.float64)
    assert single.v_template.dtype == torch.float32 and single.to(dtype=torch.float64).dtype == torch.float64
    parameters = random_parameters(4)
    floats = [value.float() for value in parameters]
    for function in ("joints", "keypoints", "vertices"):
        difference = getattr(single, function)(*floats).double() - getattr(double, function)(*parameters)
        assert difference.abs().max() < 1e-5  # metres


def test_vertex_normals_of_a_cube() -> None:
    cube = trimesh.creation.box()
    normals = vertex_normals(torch.tensor(cube.vertices), torch.tensor(cube.faces))
    outwards = torch.tensor(cube.vertices) / np.sqrt(0.75)
    assert (torch.linalg.vector_norm(normals, dim=-1) - 1).abs().max() < 1e-12
    assert ((normals * outwards).sum(-1) > 0.8).all()


# --- the open body ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_body() -> BodyModel:
    return load_body(dtype=torch.float64)


def test_open_body_stands_in_a_t(open_body: BodyModel) -> None:
    zero = torch.zeros(72, dtype=torch.float64)
    betas, trans = torch.zeros(10, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    joints = open_body.joints(betas, zero, trans)
    assert open_body.parents == SMPL_PARENTS
    for first, second in ((L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST)):
        bone = joints[second] - joints[first]
        assert bone[0] > 0.999 * bone.norm()  # the left arm straight along +x
    for first, second in ((L_HIP, L_KNEE), (L_KNEE, L_ANKLE)):
        bone = joints[second] - joints[first]
        assert bone[1] < -0.999 * bone.norm()  # the leg straight down
    assert joints[HEAD, 1] > joints[NECK, 1] > joints[PELVIS, 1]
    nose = open_body.keypoints(betas, zero, trans)[0]
    assert nose[2] > joints[HEAD, 2] + 0.05  # facing +z
    vertices = open_body.vertices(betas, zero, trans)
    assert 1.5 < np.ptp(vertices[:, 1].numpy()) < 1.8
    mirrored = joints * torch.tensor([-1.0, 1.0, 1.0])
    assert (joints[R_SHOULDER] - mirrored[L_SHOULDER]).norm() < 1e-3


def test_canonical_pose_parts_the_thighs_by_thirty_degrees_each(open_body: BodyModel) -> None:
    betas, trans = torch.zeros(10, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    joints = open_body.joints(betas, CANONICAL_POSE.double(), trans)
    thighs = joints[[L_KNEE, L_KNEE + 1]] - joints[[L_HIP, L_HIP + 1]]
    angles = torch.rad2deg(torch.atan2(thighs[:, 0], -thighs[:, 1]))
    np.testing.assert_allclose(angles, [30.0, -30.0], atol=0.5)


def test_open_body_shapes_are_people(open_body: BodyModel) -> None:
    betas = torch.randn(200, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rest = open_body.rest_vertices(betas)
    stature = rest[..., 1].amax(1) - rest[..., 1].amin(1)
    assert 1.63 < stature.mean() < 1.73 and 0.06 < stature.std() < 0.12  # adults, both sexes together
    zero, nobody = torch.zeros(200, 72, dtype=torch.float64), torch.zeros(200, 3, dtype=torch.float64)
    joints = open_body.joints(betas, zero, nobody)
    lengths = (joints[:, 1:] - joints[:, list(SMPL_PARENTS[1:])]).norm(dim=-1)
    np.testing.assert_allclose(lengths[:, L_HIP - 1], lengths[:, L_HIP], atol=2e-3)  # left as long as right
    thigh, shin = lengths[:, L_KNEE - 1], lengths[:, L_ANKLE - 1]
    assert ((thigh / shin > 0.6) & (thigh / shin < 1.25)).all()
    assert ((0.18 * stature < thigh) & (thigh < 0.28 * stature)).all()


def test_open_body_is_one_clear_inside(open_body: BodyModel) -> None:
    """Closed, one piece, a sphere's topology, facing outwards; and no point lies in it twice."""
    faces = open_body.faces.numpy()
    for sign in (-1.5, 0.0, 1.5):
        betas = torch.full((10,), sign, dtype=torch.float64)
        pose, trans = CANONICAL_POSE.double(), torch.zeros(3, dtype=torch.float64)
        mesh = trimesh.Trimesh(open_body.vertices(betas, pose, trans).numpy(), faces, process=False)
        assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 2
        assert mesh.body_count == 1
        assert 0.03 < mesh.volume < 0.15
    body = trimesh.Trimesh(open_body.vertices(betas * 0, pose, trans).numpy(), faces, process=False)
    rng = np.random.default_rng(0)
    points = rng.uniform(body.bounds[0], body.bounds[1], (200, 3))
    near_skin = body.triangles_center[rng.integers(0, len(faces), 200)] + rng.normal(0, 0.03, (200, 3))
    winding = winding_number(body.triangles, np.concatenate([points, near_skin]))
    assert np.abs(winding - np.round(winding)).max() < 1e-6
    assert set(np.round(winding).astype(int)) == {0, 1}


def winding_number(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How often a closed surface winds round each point: its solid angles over 4 pi (Van Oosterom, Strackee 1983)."""
    total = np.zeros(len(points))
    for chunk in np.array_split(np.arange(len(points)), max(1, len(points) // 50)):
        a, b, c = (triangles[None, :, k] - points[chunk, None] for k in range(3))
        la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
        volume = np.einsum("ptc,ptc->pt", a, np.cross(b, c))
        ab, bc, ca = ((x * y).sum(-1) for x, y in ((a, b), (b, c), (c, a)))
        total[chunk] = 2 * np.arctan2(volume, la * lb * lc + ab * lc + bc * la + ca * lb).sum(axis=1)
    return total / (4 * np.pi)


def test_bones_of_the_captures_are_plausible(data_folder, open_body: BodyModel) -> None:
    """Every bone length of the captures' people, over the sum, lies within what random shapes have, and is constant."""
    betas = 1.5 * torch.randn(400, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    joints = open_body.joints(betas, torch.zeros(72, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)).numpy()

    def ratios(joints: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(joints[..., 1:, :] - joints[..., list(SMPL_PARENTS[1:]), :], axis=-1)
        return lengths / lengths.sum(axis=-1, keepdims=True)

    model = ratios(joints)
    low, high = model.min(axis=0) - 2e-3, model.max(axis=0) + 2e-3
    for name in ("duo_a", "duo_b"):
        with np.load(data_folder / name / "ground_truth.npz", allow_pickle=False) as truth:
            people = ratios(truth["joints"])
        assert people.std(axis=1).max() < 1e-5
        assert ((people[:, 0] > low) & (people[:, 0] < high)).all()
