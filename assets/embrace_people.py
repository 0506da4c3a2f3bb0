"""The two people of the embedded capture: bodies that the model cannot express exactly, and their clothes.

Bodies: ten random shape coefficients give a base; on top of it comes a smooth deformation of rest space that is not
one of the model's ten directions: legs, arms and trunk of other lengths, a belly, broader shoulders on one side, and a
field of random bumps. The joints follow from the deformed surface through the model's own regressors.

Clothes: the surface of the undressed body moved along its normals, region by region, with smooth borders.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags

from avatarpose.body import BodyModel, vertex_normals

Array = np.ndarray
TRUNK = (0, 3, 6, 9, 13, 14)
UPPER_ARMS, FOREARMS, HANDS, FEET = (16, 17), (18, 19), (20, 21, 22, 23), (7, 8, 10, 11)


@dataclass(frozen=True)
class Look:
    """One person's shape, wardrobe and colours (linear RGB in 0 to 1)."""

    seed: int
    betas: tuple[float, ...]
    leg_scale: float
    arm_scale: float
    trunk_scale: float
    belly: float
    shirt: Array
    shirt_second: Array
    trousers: Array
    skin: Array
    hair: Array
    shoes: Array
    sleeve: float  # 0: ends at the shoulder, 1: at the elbow, 2: at the wrist
    pattern: str = "stripes"
    thickness: dict[str, float] = field(
        default_factory=lambda: {"shirt": 0.014, "trousers": 0.013, "shoes": 0.012, "hair": 0.018}
    )


def _rgb(*values: float) -> Array:
    return np.array(values)


LOOKS = (
    Look(11, (0.6, -0.4, 0.7, 0.2, -0.5, 0.3, 0.4, -0.3, 0.2, 0.1), 1.035, 0.965, 0.985, 0.016,
         _rgb(0.78, 0.22, 0.16), _rgb(0.92, 0.86, 0.72), _rgb(0.16, 0.24, 0.42), _rgb(0.80, 0.58, 0.46),
         _rgb(0.12, 0.08, 0.05), _rgb(0.85, 0.85, 0.82), 1.7),
    Look(23, (-0.8, 0.5, -0.3, -0.4, 0.6, -0.2, 0.1, 0.5, -0.4, 0.3), 0.97, 1.04, 1.02, -0.006,
         _rgb(0.16, 0.52, 0.36), _rgb(0.86, 0.80, 0.28), _rgb(0.44, 0.34, 0.26), _rgb(0.50, 0.33, 0.24),
         _rgb(0.42, 0.25, 0.10), _rgb(0.20, 0.10, 0.12), 1.0, "checks"),
)  # fmt: skip


def smooth(x: Array, lo: float, hi: float) -> Array:
    s = np.clip((x - lo) / (hi - lo), 0, 1)
    return s * s * (3 - 2 * s)


def random_waves(points: Array, rng: np.random.Generator, wavelength: float, count: int = 14) -> Array:
    """Smooth random field of unit variance at points (N, 3) metres: a sum of plane waves around one wavelength (m)."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scale = rng.uniform(0.7, 1.4, count)
    phases = rng.uniform(0, 2 * np.pi, count)
    waves = np.sin(2 * np.pi / wavelength * points @ (directions * scale[:, None]).T + phases)
    return waves.sum(1) * np.sqrt(2 / count)


def reshape(vertices: Array, joints: Array, look: Look) -> Array:
    """Deforms a rest-pose surface (V, 3) smoothly; `joints` (24, 3) of the same surface place the regions."""
    v = vertices.copy()
    hip, neck = joints[[1, 2], 1].mean(), joints[12, 1]
    shoulder = np.abs(joints[[16, 17], 0]).mean()
    # Lengths: a piecewise linear stretch with rounded corners, so that limbs keep their girth.
    below = hip - v[:, 1]
    v[:, 1] -= (look.leg_scale - 1) * 0.03 * np.logaddexp(0, below / 0.03)
    inside = 0.03 * (np.logaddexp(0, (v[:, 1] - hip) / 0.03) - np.logaddexp(0, (v[:, 1] - neck) / 0.03))
    v[:, 1] += (look.trunk_scale - 1) * inside
    beyond = 0.02 * np.logaddexp(0, (np.abs(v[:, 0]) - shoulder) / 0.02)
    v[:, 0] += np.sign(v[:, 0]) * (look.arm_scale - 1) * beyond
    # Belly, and shoulders that are not alike.
    navel = np.array([0.0, joints[3, 1], joints[3, 2] + 0.12])
    v[:, 2] += look.belly * np.exp(-0.5 * (((vertices - navel) / [0.13, 0.13, 0.12]) ** 2).sum(1))
    v[:, 1] += 0.010 * np.exp(-0.5 * (((vertices - joints[16]) / 0.10) ** 2).sum(1))
    # Bumps of 25 cm that no shape direction has.
    rng = np.random.default_rng(look.seed)
    for axis, amplitude in enumerate((0.004, 0.002, 0.005)):
        v[:, axis] += amplitude * random_waves(vertices, rng, 0.25)
    return v


def neighbour_average(faces: Array, count: int) -> csr_matrix:
    """Row-stochastic matrix (V, V) that averages each vertex with its neighbours."""
    i, j = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    rows, cols = np.concatenate([i, j, np.arange(count)]), np.concatenate([j, i, np.arange(count)])
    matrix = csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(count, count))
    matrix.data[:] = 1
    return diags(1 / np.asarray(matrix.sum(1)).ravel()) @ matrix


def garments(
    vertices: Array, joints: Array, keypoints: Array, weights: Array, faces: Array, look: Look
) -> dict[str, Array]:
    """How much each rest vertex (V, 3) belongs to each garment, 0 to 1, smooth over the surface."""
    parts = {"upper": UPPER_ARMS, "fore": FOREARMS, "hand": HANDS, "foot": FEET, "head": (12, 15), "trunk": TRUNK}
    part = {name: weights[:, list(bones)].sum(1) for name, bones in parts.items()}
    waist = joints[0, 1] + 0.06
    along = np.abs(vertices[:, 0])
    elbow, wrist = np.abs(joints[[18, 19], 0]).mean(), np.abs(joints[[20, 21], 0]).mean()
    cuff = elbow + (look.sleeve - 1) * (wrist - elbow) - 0.01
    collar = joints[12, 1] + 0.02
    neckline = vertices[:, 1] + 0.35 * (joints[12, 2] - vertices[:, 2]).clip(None, 0) < collar
    shirt = (part["trunk"] + part["upper"] + part["fore"] > 0.5) & (vertices[:, 1] > waist) & (along < cuff) & neckline
    ankle = joints[[7, 8], 1].mean()
    trousers = (vertices[:, 1] <= waist) & (vertices[:, 1] > ankle + 0.03) & (along < elbow - 0.05)
    shoes = (part["foot"] > 0.5) & (vertices[:, 1] < ankle + 0.02)
    from_ears = vertices - keypoints[3:5].mean(0)
    hair = (part["head"] > 0.5) & (from_ears[:, 1] > 0.7 * from_ears[:, 2]) & (from_ears[:, 1] > -0.075)
    average = neighbour_average(faces, len(vertices))
    result = {}
    for name, inside in (("shirt", shirt), ("trousers", trousers), ("shoes", shoes), ("hair", hair)):
        share = inside.astype(float)
        for _ in range(3):
            share = average @ share
        result[name] = share
    return result


def dress(vertices: Array, faces: Array, shares: dict[str, Array], look: Look) -> Array:
    """The clothed rest surface (V, 3): 10 to 20 mm off the skin where there is cloth, with folds."""
    average = neighbour_average(faces, len(vertices))
    normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(faces)).numpy()
    for _ in range(6):
        normals = average @ normals
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    offset = sum(look.thickness[name] * smooth(share, 0.15, 0.85) for name, share in shares.items())
    rng = np.random.default_rng(look.seed + 1)
    cloth = smooth(shares["shirt"] + shares["trousers"], 0.2, 0.9)
    offset = offset + cloth * np.clip(0.0025 * random_waves(vertices, rng, 0.09), -0.003, 0.005)
    return vertices + normals * offset[:, None]


def paint(rest: Array, shares: dict[str, Array], keypoints: Array, look: Look) -> Array:
    """Colours (N, 3) of rest-pose points (N, 3) with garment shares (N,); keypoints (17, 3) place the face."""
    rng = np.random.default_rng(look.seed + 2)
    fine, coarse = random_waves(rest, rng, 0.035), random_waves(rest, rng, 0.12)
    colour = look.skin * (1 + 0.05 * coarse[:, None])
    nose, eyes = keypoints[0], keypoints[1:3]
    front = rest[:, 2] > eyes[:, 2].mean() - 0.02
    for eye in eyes:
        distance = np.hypot((rest[:, 0] - eye[0]) / 1.5, rest[:, 1] - eye[1])
        colour[front & (distance < 0.010)] = (0.10, 0.08, 0.07)
        brow = np.hypot((rest[:, 0] - eye[0]) / 2.2, (rest[:, 1] - eye[1] - 0.024) * 1.4)
        colour[front & (brow < 0.009)] = look.hair
    mouth = np.hypot((rest[:, 0] - nose[0]) / 2.2, rest[:, 1] - nose[1] + 0.045)
    colour[front & (mouth < 0.010)] = look.skin * (0.85, 0.5, 0.5)

    if look.pattern == "stripes":
        second = np.sin(2 * np.pi * rest[:, 1] / 0.09 + 0.4 * coarse) > 0.15
    else:
        second = np.sin(2 * np.pi * rest[:, 0] / 0.13) * np.sin(2 * np.pi * rest[:, 1] / 0.13) > 0.05
    shirt = np.where(second[:, None], look.shirt_second, look.shirt) * (1 + 0.06 * fine[:, None])
    trousers = look.trousers * (1 + 0.18 * coarse[:, None] + 0.10 * fine[:, None])
    hair = look.hair * (1 + 0.25 * fine[:, None])
    shoes = look.shoes * (1 + 0.05 * fine[:, None])
    for name, cloth in (("trousers", trousers), ("shirt", shirt), ("shoes", shoes), ("hair", hair)):
        worn = shares[name] > 0.5
        colour[worn] = cloth[worn]
    return colour.clip(0.01, 1)


@dataclass(frozen=True)
class Person:
    """A person to film: `body` undressed, its zero shape the person's own; `rest`, `clothed` (V, 3) at rest."""

    body: BodyModel
    rest: Array
    clothed: Array
    shares: dict[str, Array]
    keypoints: Array
    look: Look


def make_person(model: BodyModel, look: Look) -> Person:
    """Shapes and dresses one person; `model` in float64."""
    betas = torch.tensor(look.betas, dtype=torch.float64)
    base = model.rest_vertices(betas).numpy()
    rest = reshape(base, model.rest_joints(betas).numpy(), look)
    no_shapes = torch.zeros_like(model.shapedirs)
    body = replace(model, v_template=torch.from_numpy(rest), shapedirs=no_shapes, name="own shape")
    joints = body.rest_joints(torch.zeros(10, dtype=torch.float64)).numpy()
    faces, weights = model.faces.numpy(), model.weights.numpy()
    keypoints = model.coco_regressor.numpy() @ rest
    shares = garments(rest, joints, keypoints, weights, faces, look)
    return Person(body, rest, dress(rest, faces, shares, look), shares, keypoints, look)
