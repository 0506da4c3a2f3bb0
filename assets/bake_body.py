"""Bakes the open body, `assets/body.npz`, from the Anny body model (package `anny`, code Apache-2.0, assets CC0).

    python -m assets.bake_body [--out PATH]

What comes out is a body in SMPL's format: 24 joints, T-pose as zero pose, 10 shape directions of unit variance over
random adults, no pose offsets, and Anny's own COCO-17 regressor. y is up, the body faces +z, its left is +x, metres,
and the pelvis joint is the origin of the template.

Anny is bound with lowered, bent arms. A mesh brought to the T-pose first and skinned from there bends unlike Anny's
own, by 2 to 3 mm at the elbow keypoints and up to 3 cm at the surface, so the mesh stays as it was bound and the file
says by which rotation each bone goes from there to the zero pose (`bind_rotations`, the one key SMPL does not have).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace
from pathlib import Path

import anny
import numpy as np
import scipy.spatial.transform
import torch
import trimesh
from anny.face_segmentation import get_face_segmentation_mask
from trimesh.ray.ray_pyembree import RayMeshIntersector

from avatarpose.body import BodyModel, load_body
from avatarpose.io import write_npz

JOINT_BONES = (
    "root", "upperleg01.L", "upperleg01.R", "spine05", "lowerleg01.L", "lowerleg01.R", "spine03", "foot.L", "foot.R",
    "spine01", "toe1-1.L", "toe1-1.R", "neck01", "clavicle.L", "clavicle.R", "head", "upperarm01.L", "upperarm01.R",
    "lowerarm01.L", "lowerarm01.R", "wrist.L", "wrist.R", "metacarpal2.L", "metacarpal2.R",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
COCO_LABELS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
N_DIRECTIONS = 10
N_SAMPLES = 1500
N_FITTED = 300  # of those, used for the regressors
N_HELD_OUT = 200
JOINTS_SHARE = 3.0
RIDGE = 1e-2  # keeps the weights small, so that detail outside the shape directions moves no joint far
R_BODY_ANNY = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # Anny: z up, facing -y


@dataclass(frozen=True)
class People:
    """Anny's own rest pose of many random adults, in the body's axes, the pelvis joint at the origin."""

    vertices: np.ndarray  # (N, V, 3) all of Anny's vertices
    heads: np.ndarray  # (N, bones, 3) heads of all of Anny's bones
    joints: np.ndarray  # (N, 24, 3) heads of the bones that become joints
    stature: np.ndarray  # (N,) standing height


def sample_adults(model: anny.Anny, count: int, seed: int) -> dict[str, torch.Tensor]:
    """Phenotypes of `count` people, every other one a woman, with the stature of adults.

    In Anny's scale gender is 0 for a man and 1 for a woman; age is 0.5 by default, 2/3 when grown up, 1 very old; 0.5
    is the average of the rest. Ages start at the default: with the stature of an adult, a young age gives youthful
    proportions. Stature is normal, 175 +- 7 cm (men) and 162 +- 6.5 cm (women), and sets `height`, in which it is
    linear.
    """
    rng = np.random.default_rng(seed)
    woman = np.arange(count) % 2 == 1
    jitter = rng.uniform(0.0, 0.15, count)
    ancestry = rng.dirichlet((0.7, 0.7, 0.7), count)
    values = {
        "gender": np.where(woman, 1.0 - jitter, jitter),
        "age": rng.uniform(0.5, 0.95, count),
        "muscle": rng.beta(3.0, 3.0, count),
        "weight": np.where(woman, rng.beta(1.8, 1.2, count), rng.beta(1.5, 1.5, count)),
        "proportions": rng.beta(3.0, 3.0, count),
        "cupsize": rng.beta(3.0, 3.0, count),
        "firmness": rng.beta(3.0, 3.0, count),
        "african": ancestry[:, 0],
        "asian": ancestry[:, 1],
        "caucasian": ancestry[:, 2],
    }
    stature = np.where(woman, rng.normal(1.62, 0.065, count), rng.normal(1.75, 0.07, count))
    phenotypes = {label: torch.as_tensor(value, dtype=model.dtype) for label, value in values.items()}
    shortest, tallest = (
        rest_people(model, {**phenotypes, "height": torch.full((count,), height, dtype=model.dtype)}).stature
        for height in (0.0, 1.0)
    )
    height = np.clip((stature - shortest) / (tallest - shortest), 0.05, 0.95)
    return {**phenotypes, "height": torch.as_tensor(height, dtype=model.dtype)}


def rest_people(model: anny.Anny, phenotypes: dict[str, torch.Tensor]) -> People:
    """Anny's own rest pose of those people."""
    rest = model.get_rest_model(model.get_phenotype_blendshape_coefficients(**phenotypes))
    heads = rest["rest_bone_heads"].numpy() @ R_BODY_ANNY.T
    vertices = rest["rest_vertices"].numpy() @ R_BODY_ANNY.T
    joints = heads[:, [model.bone_labels.index(bone) for bone in JOINT_BONES]]
    pelvis = joints[:, :1].copy()
    return People(vertices - pelvis, heads - pelvis, joints - pelvis, np.ptp(vertices[..., 1], axis=1))


def joint_of(model: anny.Anny, bone: int) -> int:
    """The joint a bone of Anny's moves with: itself, or its nearest ancestor that is one."""
    while model.bone_labels[bone] not in JOINT_BONES:
        bone = model.bone_parents[bone]
    return JOINT_BONES.index(model.bone_labels[bone])


def merged_weights(model: anny.Anny) -> np.ndarray:
    """Skinning weights (V, 24): each of Anny's bones gives its own to the nearest ancestor that is a joint."""
    for joint in range(1, 24):
        bone = model.bone_labels.index(JOINT_BONES[joint])
        if joint_of(model, model.bone_parents[bone]) != PARENTS[joint]:
            raise RuntimeError(f"{JOINT_BONES[joint]} hangs elsewhere in this version of Anny")
    target = np.array([joint_of(model, bone) for bone in range(len(model.bone_labels))])
    indices, values = model.vertex_bone_indices.numpy(), model.vertex_bone_weights.numpy()
    weights = np.zeros((len(indices), 24))
    np.add.at(weights, (np.arange(len(indices))[:, None], target[indices]), values)
    return weights


def surface(model: anny.Anny, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The skin alone: Anny's vertices that stay (V',) and triangles over them (T, 3).

    Eyes, teeth and tongue go; so do the cavities of mouth and eyes, pockets of the outside that reach into the head,
    and their openings are sewn up.
    """
    triangles = np.asarray(model.faces)
    mesh = trimesh.Trimesh(template, triangles, process=False)
    skin = np.zeros(len(triangles), dtype=bool)
    skin[max(trimesh.graph.connected_components(mesh.face_adjacency), key=len)] = True
    seams = []
    for cavity in ("mouth_cavity", "eye_cavity.L", "eye_cavity.R"):
        inside = get_face_segmentation_mask(model, [cavity]).numpy() & skin
        skin &= ~inside
        seams.append(sewn_up(triangles[inside], template))
    kept, flat = np.unique(np.concatenate([triangles[skin], *seams]), return_inverse=True)
    return kept, flat.reshape(-1, 3)


def sewn_up(pocket: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Triangles that close the opening of a pocket (T, 3), between its upper and its lower rim, facing the same way."""
    edges = pocket[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    reverse = {(b, a) for a, b in edges.tolist()}
    following = dict(edge for edge in edges.tolist() if tuple(edge) not in reverse)
    loop = [min(following, key=lambda vertex: template[vertex, 0])]
    while following[loop[-1]] != loop[0]:
        loop.append(following[loop[-1]])
    if len(loop) != len(following):
        raise RuntimeError("the opening is not one loop")
    far = max(range(len(loop)), key=lambda place: template[loop[place], 0])
    there, back = loop[: far + 1], [loop[0], *loop[:far - 1 if far else None : -1]]
    seam, i, k = [], 0, 0
    while i + 1 < len(there) or k + 1 < len(back):
        # Step along the rim that lags behind, measured along x.
        ahead = i + 1 < len(there) and (
            k + 1 == len(back) or template[there[i + 1], 0] <= template[back[k + 1], 0]
        )
        corner = there[i + 1] if ahead else back[k + 1]
        seam.append((there[i], corner, back[k]))
        i, k = (i + 1, k) if ahead else (i, k + 1)
    return np.array([triangle for triangle in seam if len(set(triangle)) == 3])


def shape_directions(
    vertices: np.ndarray, triangles: np.ndarray, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean (V + 24, 3), principal directions of unit variance (V + 24, 3, 10) and the share of the surface's variance
    each explains (10,); the last 24 rows are the joints.

    Vertices count by the area around them, so that the dense hands and face do not outweigh the body. The joints
    together count three times as much as the surface: shapes of equal surface may differ in their bones, and bones
    matter here.
    """
    mesh = trimesh.Trimesh(vertices.mean(axis=0), triangles, process=False)
    area = np.zeros(vertices.shape[1])
    np.add.at(area, triangles, mesh.area_faces[:, None] / 3)
    share = np.append(area / area.sum(), np.full(24, JOINTS_SHARE / 24))

    points = np.concatenate([vertices, joints], axis=1)
    mean = points.mean(axis=0)
    centred = (points - mean).reshape(len(points), -1)
    weighted = centred * np.repeat(np.sqrt(share), 3)
    _, vectors = np.linalg.eigh(weighted @ weighted.T)
    scores = vectors[:, ::-1][:, :N_DIRECTIONS] * np.sqrt(len(points) - 1)  # unit variance, uncorrelated
    directions = (centred.T @ scores / (len(points) - 1)).reshape(-1, 3, N_DIRECTIONS)
    # The sign is free: let every direction make the person taller.
    growth = directions[mean[:, 1].argmax(), 1] - directions[mean[:, 1].argmin(), 1]
    directions = directions * np.where(growth < 0, -1.0, 1.0)

    surface_share = share[: len(area), None]
    total = (surface_share * vertices.var(axis=0, ddof=1)).sum()
    explained = (surface_share[..., None] * directions[: len(area)] ** 2).sum(axis=(0, 1)) / total
    return mean, directions, explained


def nearest(vertices: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The 400 of the vertices (V, 3) that are nearest to the point (3,)."""
    return np.argsort(np.linalg.norm(vertices - point, axis=1))[:400]


def neighbours(vertices: np.ndarray, triangles: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The vertices nearest to a point in the body and those it sees in 2,562 directions: they surround it."""
    sphere = trimesh.creation.icosphere(subdivisions=4).vertices
    seen = RayMeshIntersector(trimesh.Trimesh(vertices, triangles, process=False)).intersects_first(
        np.broadcast_to(point, sphere.shape), sphere
    )
    return np.union1d(nearest(vertices, point), triangles[seen[seen >= 0]].ravel())


def local_regressor(
    vertices: np.ndarray,
    points: np.ndarray,
    candidates: np.ndarray,
    exact: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Weights (V,) on the candidates that sum to one, such that weights @ vertices = point.

    vertices (N, V, 3) and points (N, 3) of N people; least squares with a ridge towards small weights. (Weights of one
    sign would miss the joints by 2 to 40 mm: bones and the skin around them vary in ways of their own.) `exact`, a
    template and displacement fields (K, V, 3) with the point's own (K, 3), is held with a weight that leaves no error.
    """
    count = len(candidates)

    def rows(fields: np.ndarray) -> np.ndarray:
        return fields[:, candidates].transpose(0, 2, 1).reshape(-1, count)

    people = np.sqrt(3 * len(vertices))
    blocks = [
        (rows(vertices) / people, points.ravel() / people),
        (RIDGE * np.eye(count), np.zeros(count)),
        (np.full((1, count), 100.0), np.array([100.0])),
    ]
    if exact is not None:
        blocks.append((30.0 * rows(exact[0]), 30.0 * exact[1].ravel()))
    solution = np.linalg.lstsq(*(np.concatenate(part) for part in zip(*blocks, strict=True)), rcond=None)[0]
    weights = np.zeros(vertices.shape[1])
    weights[candidates] = solution / solution.sum()
    return weights


def t_pose_rotations(joints: np.ndarray, index: np.ndarray, little: np.ndarray) -> np.ndarray:
    """Rotations (24, 3, 3) in body axes that bring each bone from Anny's rest pose to the T-pose.

    Taken from one body, (24, 3) joints, and used for all, so that the baked rest pose stays linear in the shape. Arms
    straight out along x with the elbow's hinge upright (the forearm bends forward) and palms down; legs straight down,
    feet as they stand. `index` and `little` are the heads of the left hand's index and little finger; the right side
    mirrors the left.
    """
    turn = np.tile(np.eye(3), (24, 1, 1))
    shoulder, elbow, wrist = (joints[JOINT_BONES.index(f"{bone}.L")] for bone in _ARM)
    hip, knee, ankle = (joints[JOINT_BONES.index(f"{bone}.L")] for bone in _LEG)
    hinge = np.cross(wrist - elbow, elbow - shoulder)
    side = np.array([1.0, 0.0, 0.0])
    up = np.array([0.0, 1.0, 0.0])
    left = {
        "upperarm01": _frame(side, up) @ _frame(elbow - shoulder, hinge).T,
        "lowerarm01": _frame(side, up) @ _frame(wrist - elbow, hinge).T,
        "wrist": _frame(side, up) @ _frame((index + little) / 2 - wrist, np.cross(index - wrist, little - wrist)).T,
        "upperleg01": _shortest_turn(knee - hip, -up),
        "lowerleg01": _shortest_turn(ankle - knee, -up),
    }
    left["metacarpal2"] = left["wrist"]
    mirror = np.diag([-1.0, 1.0, 1.0])
    for bone, rotation in left.items():
        turn[JOINT_BONES.index(f"{bone}.L")] = rotation
        turn[JOINT_BONES.index(f"{bone}.R")] = mirror @ rotation @ mirror
    return turn


_ARM = ("upperarm01", "lowerarm01", "wrist")
_LEG = ("upperleg01", "lowerleg01", "foot")


def _frame(along: np.ndarray, upwards: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal columns: `along`, the part of `upwards` at right angles to it, and their product."""
    first = along / np.linalg.norm(along)
    second = upwards - first * (upwards @ first)
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _shortest_turn(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    axis = np.cross(source, target)
    angle = np.arctan2(np.linalg.norm(axis), source @ target)
    return scipy.spatial.transform.Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()


def coco_regressor(model: anny.Anny, kept: np.ndarray, people: People) -> np.ndarray:
    """Anny's COCO-17 regressor on the skin (17, V'). The eye keypoints sit on the eyeballs, which go: they are fitted
    anew to vertices around them."""
    own = anny.KeypointsRegressor.coco(model, labels=list(COCO_LABELS)).regression_weights.numpy()
    regressor = own[:, kept]
    skin = people.vertices[:, kept]
    for keypoint in np.flatnonzero(np.abs(regressor.sum(axis=1) - 1.0) > 1e-3):
        points = people.vertices.transpose(0, 2, 1) @ own[keypoint]
        regressor[keypoint] = local_regressor(skin, points, nearest(skin.mean(axis=0), points.mean(axis=0)))
    return regressor / regressor.sum(axis=1, keepdims=True)


def sparse(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """The non-zero entries, as `read_body_file` expects them."""
    index = np.stack(np.nonzero(array))
    return {
        f"{name}_shape": np.array(array.shape),
        f"{name}_index": index.astype(np.uint16),
        f"{name}_value": array[tuple(index)].astype(np.float32),
    }


def bake(model: anny.Anny) -> dict[str, np.ndarray]:
    """The arrays of the body file."""
    people = rest_people(model, sample_adults(model, N_SAMPLES, seed=0))
    kept, triangles = surface(model, people.vertices.mean(axis=0))
    mean, directions, explained = shape_directions(people.vertices[:, kept], triangles, people.joints)
    report("vertices", len(kept), "triangles", len(triangles))
    report("explained variance of the surface", explained, "total", explained.sum())
    for woman in (0, 1):
        stature = people.stature[woman::2]
        report("women" if woman else "men", "stature", stature.mean(), "+-", stature.std())

    few = People(*(getattr(people, field.name)[:N_FITTED] for field in fields(People)))
    basis = np.concatenate([mean[None], directions.transpose(2, 0, 1)])
    J_regressor = np.stack(
        [
            local_regressor(
                few.vertices[:, kept],
                few.joints[:, joint],
                neighbours(people.vertices[:, kept].mean(axis=0), triangles, people.joints[:, joint].mean(axis=0)),
                exact=(basis[:, :-24], basis[:, joint - 24]),
            )
            for joint in range(24)
        ]
    )
    mean_heads = people.heads.mean(axis=0)
    left_hand = [mean_heads[model.bone_labels.index(bone)] for bone in ("finger2-1.L", "finger5-1.L")]
    return {
        "v_template": mean[:-24].astype(np.float32),
        "shapedirs": directions[:-24].astype(np.float32),
        "f": triangles.astype(np.uint16),
        "kintree_table": np.stack([np.array(PARENTS), np.arange(24)]).astype(np.int16),
        "bind_rotations": t_pose_rotations(people.joints.mean(axis=0), *left_hand),
        **sparse("weights", merged_weights(model)[kept]),
        **sparse("J_regressor", J_regressor),
        **sparse("coco_regressor", coco_regressor(model, kept, few)),
    }


def check(model: anny.Anny, body: BodyModel) -> None:
    """Compares the baked body (float64) with Anny itself, on people and poses that were not used to bake it."""
    phenotypes = sample_adults(model, N_HELD_OUT, seed=1)
    people = rest_people(model, phenotypes)
    kept, _ = surface(model, people.vertices.mean(axis=0))
    vertices = torch.as_tensor(people.vertices[:, kept])
    own = anny.KeypointsRegressor.coco(model, labels=list(COCO_LABELS)).regression_weights
    joints, everything = torch.as_tensor(people.joints), torch.as_tensor(people.vertices)
    report("regressor: sum of absolute weights, largest joint", body.J_regressor.abs().sum(dim=1).max().item())
    millimetres("joints regressed from Anny's vertices", body.J_regressor @ vertices - joints)
    millimetres("keypoints regressed from Anny's vertices", body.coco_regressor @ vertices - own @ everything)

    # The nearest shape in the 10 directions, and how far Anny's own surface and joints are from it.
    basis = body.shapedirs.reshape(-1, N_DIRECTIONS)
    betas = torch.linalg.lstsq(basis, (vertices - body.v_template).reshape(len(vertices), -1).T).solution.T
    report("betas of held-out people: mean", betas.mean().item(), "deviation", betas.std(dim=0).numpy())
    millimetres("10 directions, surface", body.rest_vertices(betas) - vertices)
    millimetres("10 directions, joints", body.rest_joints(betas) - joints)

    # Anny posed by Anny against the same shape in this model, whose v_template is set to that person: skinning alone.
    generator = torch.Generator().manual_seed(2)
    zero, nobody = torch.zeros(1, 10, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    surfaces, keypoints, heads = [], [], []
    for person in range(20):
        poses = 0.5 * torch.randn(1, 72, generator=generator, dtype=torch.float64)
        one = {label: value[person : person + 1] for label, value in phenotypes.items()}
        # The twin's joints are set to Anny's own as well: what the regressor misses is counted above.
        twin = replace(body, v_template=vertices[person], J_regressor=_pick(vertices[person], joints[person]))
        theirs, their_heads = posed_by_anny(model, one, twin.transforms(zero, poses, nobody)[0, :, :3, :3].numpy())
        shift = twin.joints(zero, poses, nobody)[0, 0].numpy() - their_heads[0]
        surfaces.append(twin.vertices(zero, poses, nobody)[0].numpy() - theirs[kept] - shift)
        heads.append(twin.joints(zero, poses, nobody)[0].numpy() - their_heads - shift)
        keypoints.append(twin.keypoints(zero, poses, nobody)[0].numpy() - own.numpy() @ theirs - shift)
    millimetres("posed surface", np.stack(surfaces))
    millimetres("posed joints", np.stack(heads))
    millimetres("posed keypoints", np.stack(keypoints))


def _pick(vertices: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
    """A regressor (24, V) of least norm that gives exactly these joints for exactly these vertices."""
    system = torch.cat([vertices.T, torch.ones(1, len(vertices), dtype=vertices.dtype)])
    target = torch.cat([joints.T, torch.ones(1, 24, dtype=joints.dtype)])
    return torch.linalg.pinv(system).matmul(target).T


def posed_by_anny(
    model: anny.Anny, phenotypes: dict[str, torch.Tensor], rotations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Anny's own vertices (V, 3) and joint heads (24, 3), in body axes, after each joint's bone has turned from Anny's
    rest pose by `rotations` (24, 3, 3), in body axes, and every other bone with its nearest ancestor of those."""
    rest = model.get_rest_model(model.get_phenotype_blendshape_coefficients(**phenotypes))
    orientation = rest["rest_bone_poses"][0, :, :3, :3]
    pose = torch.eye(4, dtype=model.dtype).repeat(1, len(model.bone_labels), 1, 1)
    turned = R_BODY_ANNY.T @ rotations @ R_BODY_ANNY
    for bone in range(len(model.bone_labels)):
        pose[0, bone, :3, :3] = torch.as_tensor(turned[joint_of(model, bone)]) @ orientation[bone]
    out = model(pose, phenotype_kwargs=phenotypes, pose_parameterization="world-orient")
    heads = out["bone_poses"][0, :, :3, 3].numpy() @ R_BODY_ANNY.T
    return (
        out["vertices"][0].numpy() @ R_BODY_ANNY.T,
        heads[[model.bone_labels.index(bone) for bone in JOINT_BONES]],
    )


def millimetres(name: str, difference: np.ndarray | torch.Tensor) -> None:
    distance = 1e3 * np.linalg.norm(np.asarray(difference), axis=-1)
    mean, most, largest = distance.mean(), np.quantile(distance, 0.99), distance.max()
    report(f"{name}: mean", float(mean), "99 of 100 below", float(most), "largest", float(largest), "mm")


def report(*words: object) -> None:
    print(*(np.array2string(np.asarray(w), precision=4) if isinstance(w, np.ndarray | float) else w for w in words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("body.npz"))
    arguments = parser.parse_args()
    model = anny.Anny(rig="anny", topology="anny", phenotypes="all")
    write_npz(arguments.out, **bake(model))
    report("bytes", arguments.out.stat().st_size)
    check(model, load_body(arguments.out, dtype=torch.float64))


if __name__ == "__main__":
    main()
