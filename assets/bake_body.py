"""Bakes the open body, `assets/body.npz`, from the Anny body model (package `anny`, code Apache-2.0, assets CC0).

    python -m assets.bake_body [--out PATH]

What comes out is a body in SMPL's format: 24 joints, T-pose as zero pose, 10 shape directions of unit variance over
random adults, no pose offsets, and Anny's own COCO-17 regressor. y is up, the body faces +z, its left is +x, metres,
and the pelvis joint is the origin of the template.

Anny is bound with lowered, bent arms. A mesh brought to the T-pose first and skinned from there bends unlike Anny's own,
by 2 to 3 mm at the elbow keypoints and up to 3 cm at the surface, so the mesh stays as it was bound and the file
says by which rotation each bone goes from there to the zero pose (`bind_rotations`, the one key SMPL does not have).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import anny
import numpy as np
import scipy.optimize
import scipy.spatial.transform
import torch
import trimesh

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
N_HELD_OUT = 200
R_BODY_ANNY = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # Anny: z up, facing -y


@dataclass(frozen=True)
class People:
    """Anny's own rest pose of many random adults, in the body's axes, the pelvis joint at the origin."""

    vertices: np.ndarray  # (N, V, 3) all of Anny's vertices
    heads: np.ndarray  # (N, bones, 3) heads of all of Anny's bones
    joints: np.ndarray  # (N, 24, 3) heads of the bones that become joints
    height: np.ndarray  # (N,) of the standing body


def sample_adults(model: anny.Anny, count: int, seed: int) -> dict[str, torch.Tensor]:
    """Phenotypes of `count` adults, half of them men.

    In Anny's scale age 2/3 is a young adult and 1 an old one, gender 0 male and 1 female, 0.5 the average of the rest.
    Height is set so that the bodies stand as tall as the world's adults (175 and 162 cm, each with a deviation of 7 cm).
    """
    rng = np.random.default_rng(seed)
    woman = np.arange(count) % 2
    jitter = rng.uniform(0.0, 0.15, count)
    ancestry = rng.dirichlet((0.7, 0.7, 0.7), count)
    phenotypes = {
        "gender": np.where(woman == 1, 1.0 - jitter, jitter),
        "age": rng.uniform(2 / 3, 0.95, count),
        "muscle": rng.beta(3.0, 3.0, count),
        "weight": np.where(woman == 1, rng.beta(1.8, 1.2, count), rng.beta(1.5, 1.5, count)),
        "height": np.clip(rng.normal(np.where(woman == 1, 0.38, 0.37), 0.055, count), 0.05, 0.95),
        "proportions": rng.beta(3.0, 3.0, count),
        "cupsize": rng.beta(3.0, 3.0, count),
        "firmness": rng.beta(3.0, 3.0, count),
        "african": ancestry[:, 0],
        "asian": ancestry[:, 1],
        "caucasian": ancestry[:, 2],
    }
    return {label: torch.as_tensor(value, dtype=model.dtype) for label, value in phenotypes.items()}


def rest_people(model: anny.Anny, phenotypes: dict[str, torch.Tensor]) -> People:
    """Anny's own rest pose of those people."""
    rest = model.get_rest_model(model.get_phenotype_blendshape_coefficients(**phenotypes))
    heads = rest["rest_bone_heads"].numpy() @ R_BODY_ANNY.T
    vertices = rest["rest_vertices"].numpy() @ R_BODY_ANNY.T
    joints = heads[:, [model.bone_labels.index(bone) for bone in JOINT_BONES]]
    pelvis = joints[:, :1].copy()
    return People(vertices - pelvis, heads - pelvis, joints - pelvis, np.ptp(vertices[..., 1], axis=1))


def merged_weights(model: anny.Anny) -> np.ndarray:
    """Skinning weights (V, 24): each of Anny's bones gives its own to the nearest ancestor that is a joint."""

    def joint_of(bone: int) -> int:
        while model.bone_labels[bone] not in JOINT_BONES:
            bone = model.bone_parents[bone]
        return JOINT_BONES.index(model.bone_labels[bone])

    for joint in range(1, 24):
        bone = model.bone_labels.index(JOINT_BONES[joint])
        if joint_of(model.bone_parents[bone]) != PARENTS[joint]:
            raise RuntimeError(f"{JOINT_BONES[joint]} hangs elsewhere in this version of Anny")
    target = np.array([joint_of(bone) for bone in range(len(model.bone_labels))])
    indices, values = model.vertex_bone_indices.numpy(), model.vertex_bone_weights.numpy()
    weights = np.zeros((len(indices), 24))
    np.add.at(weights, (np.arange(len(indices))[:, None], target[indices]), values)
    return weights


def surface(model: anny.Anny, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The skin alone: Anny's vertices that stay (V',) and triangles over them (T, 3). Eyes, teeth and tongue go."""
    triangles = np.asarray(model.faces)
    mesh = trimesh.Trimesh(template, triangles, process=False)
    skin = max(trimesh.graph.connected_components(mesh.face_adjacency), key=len)
    kept, flat = np.unique(triangles[skin], return_inverse=True)
    return kept, flat.reshape(-1, 3)


def shape_directions(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (V, 3), principal directions of unit variance (V, 3, 10) and the share of variance each explains (10,).

    Vertices count by the area around them, so that the dense hands and face do not outweigh the body.
    """
    mean = vertices.mean(axis=0)
    mesh = trimesh.Trimesh(mean, triangles, process=False)
    area = np.zeros(len(mean))
    np.add.at(area, triangles, mesh.area_faces[:, None] / 3)
    centred = (vertices - mean).reshape(len(vertices), -1)
    weighted = centred * np.repeat(np.sqrt(area), 3)
    values, vectors = np.linalg.eigh(weighted @ weighted.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    scores = vectors[:, :N_DIRECTIONS] * np.sqrt(len(vertices) - 1)  # unit variance, uncorrelated
    directions = (centred.T @ scores / (len(vertices) - 1)).reshape(-1, 3, N_DIRECTIONS)
    # The sign is free: make the body taller, or else bigger, along every direction.
    height = directions[:, 1] - directions[mean[:, 1].argmin(), 1]
    sign = np.sign(height[mean[:, 1].argmax()])
    return mean, directions * sign, values[:N_DIRECTIONS] / values.sum()


def local_regressor(vertices: np.ndarray, points: np.ndarray, candidates: int = 150) -> np.ndarray:
    """Non-negative weights (V,) that sum to one, on vertices near the point, such that weights @ vertices = point.

    vertices (N, V, 3) and points (N, 3) of N people; least squares over all of them.
    """
    distance = np.linalg.norm(vertices.mean(axis=0) - points.mean(axis=0), axis=1)
    near = np.argsort(distance)[:candidates]
    system = vertices[:, near].transpose(0, 2, 1).reshape(-1, candidates)
    target = points.reshape(-1)
    heavy = 10.0 * np.sqrt(len(target))  # the row that makes the sum one
    # Normal equations by QR keep the system small.
    q, r = np.linalg.qr(np.vstack([system, np.full((1, candidates), heavy)]))
    solution, _ = scipy.optimize.nnls(r, q.T @ np.append(target, heavy), maxiter=50 * candidates)
    weights = np.zeros(vertices.shape[1])
    weights[near] = solution / solution.sum()
    return weights


def t_pose_rotations(joints: np.ndarray, index: np.ndarray, little: np.ndarray) -> np.ndarray:
    """Rotations (24, 3, 3) in body axes that bring each bone from Anny's rest pose to the T-pose.

    Taken from one body, (24, 3) joints, and used for all, so that the baked rest pose stays linear in the shape. Arms
    straight out along x with the elbow's hinge upright (the forearm bends forward) and palms down; legs straight down,
    feet as they stand. `index` and `little` are the heads of the left hand's index and little finger; the right side
    mirrors the left.
    """
    turn = np.tile(np.eye(3), (24, 1, 1))
    shoulder, elbow, wrist, palm = (joints[JOINT_BONES.index(f"{bone}.L")] for bone in _ARM)
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


_ARM = ("upperarm01", "lowerarm01", "wrist", "metacarpal2")
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
    for keypoint in np.flatnonzero(np.abs(regressor.sum(axis=1) - 1.0) > 1e-3):
        regressor[keypoint] = local_regressor(people.vertices[:, kept], people.vertices.transpose(0, 2, 1) @ own[keypoint])
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
    people = rest_people(model, sample_adults(model, N_SAMPLES, seed=0))
    kept, triangles = surface(model, people.vertices.mean(axis=0))
    vertices = people.vertices[:, kept]
    mean, directions, explained = shape_directions(vertices, triangles)
    few = slice(0, 300)
    J_regressor = np.stack([local_regressor(vertices[few], people.joints[few, joint]) for joint in range(24)])
    mean_heads = people.heads.mean(axis=0)
    left_hand = [mean_heads[model.bone_labels.index(bone)] for bone in ("finger2-1.L", "finger5-1.L")]
    report("explained variance", explained, "total", explained.sum())
    for woman in (0, 1):
        height = people.height[woman::2]
        report("women" if woman else "men", "height", height.mean(), "+-", height.std())
    return {
        "v_template": mean.astype(np.float32),
        "shapedirs": directions.astype(np.float32),
        "f": triangles.astype(np.uint16),
        "kintree_table": np.stack([np.array(PARENTS), np.arange(24)]).astype(np.int16),
        "bind_rotations": t_pose_rotations(people.joints.mean(axis=0), *left_hand),
        **sparse("weights", merged_weights(model)[kept]),
        **sparse("J_regressor", J_regressor),
        **sparse("coco_regressor", coco_regressor(model, kept, people)),
    }


def report(*words: object) -> None:
    print(*(np.array2string(np.asarray(w), precision=4) if isinstance(w, np.ndarray | float) else w for w in words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("body.npz"))
    arguments = parser.parse_args()
    model = anny.Anny(rig="anny", topology="anny", phenotypes="all")
    write_npz(arguments.out, **bake(model))
    report("bytes", arguments.out.stat().st_size)


if __name__ == "__main__":
    main()
