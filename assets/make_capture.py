"""Makes the embedded capture `assets/embrace/`: two clothed people who embrace, filmed by five cameras.

    python -m assets.make_capture [--out FOLDER]

Everything that the application is tested on is made by other means than its own: images come from a mesh ray caster
(trimesh with embree) and hand-written shading, shapes lie outside the model's ten directions, clothes stand off the
skin, cameras differ in colour, and masks and detections are spoilt the way real ones are:

- detections drift (3 px of bias that wanders over some ten frames, and 2 px of noise, where a person is about 200 px
  tall), joints hidden by the other person are missed, found badly, or taken from that person; rows carry no identity;
- masks wobble by about a pixel at their border, have round holes, and sometimes a blob that is nobody.

The truth (`ground_truth.npz`) is of the undressed bodies, through their own regressors.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import trimesh

from assets.embrace_motion import embrace, fill_with_spheres
from assets.embrace_people import LOOKS, Person, make_person, paint, random_waves
from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.io import write_image, write_json, write_npz

Array = np.ndarray
WIDTH, HEIGHT, FRAMES, FPS = 256, 240, 12, 20.0
LIGHT = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
NOISE_SCALE = 1.0  # for pixels of about 119 to the metre at the person, as many as here


def make_cameras() -> Cameras:
    """Five cameras on an uneven ring, 3 to 3.5 m away, with slightly different lenses."""
    angles = np.deg2rad([10.0, 78.0, 150.0, 226.0, 300.0])
    radii, heights = [3.3, 3.1, 3.4, 3.2, 3.3], [1.3, 1.9, 1.1, 1.6, 2.2]
    K, R, t = [], [], []
    for angle, radius, height, focal in zip(angles, radii, heights, [385.0, 370.0, 390.0, 375.0, 385.0], strict=True):
        centre = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        forward = np.array([0.0, 0.0, 0.88]) - centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        R_cam_world = np.stack([right, np.cross(forward, right), forward])
        K.append([[focal, 0, WIDTH / 2 + 3], [0, focal, HEIGHT / 2 - 2], [0, 0, 1]])
        R.append(R_cam_world)
        t.append(-R_cam_world @ centre)
    dist = np.zeros((5, 5))
    dist[:, 0], dist[:, 1], dist[3, 2] = [-0.06, -0.05, 0.0, -0.08, 0.03], [0.02, 0.01, 0.0, 0.03, 0.0], 0.001
    return Cameras(
        names=tuple(f"cam{i:02d}" for i in range(5)),
        K=torch.tensor(np.array(K)), R=torch.tensor(np.array(R)), t=torch.tensor(np.array(t)), dist=torch.tensor(dist),
        width=torch.full((5,), WIDTH), height=torch.full((5,), HEIGHT),
    )  # fmt: skip


@dataclass
class Scene:
    """One frame's clothed surfaces: one mesh, whose first `split` triangles are the first person's."""

    mesh: trimesh.Trimesh
    split: int
    people: list[Person]
    vertex_split: int

    @classmethod
    def pose(cls, people: list[Person], transforms: list[Array]) -> "Scene":
        """`transforms` (24, 4, 4) per person, rest space to world."""
        meshes = []
        for person, T_world_rest in zip(people, transforms, strict=True):
            blended = np.einsum("vj,jab->vab", person.body.weights.numpy(), T_world_rest)
            vertices = np.einsum("vab,vb->va", blended[:, :3, :3], person.clothed) + blended[:, :3, 3]
            meshes.append(trimesh.Trimesh(vertices, person.body.faces.numpy(), process=False))
        both = trimesh.util.concatenate(meshes)
        return cls(both, len(meshes[0].faces), people, len(meshes[0].vertices))

    def cast(self, origins: Array, directions: Array) -> tuple[Array, Array]:
        """First hits of rays (N, 3): triangle (N,), -1 where there is none, and distance (N,) metres."""
        triangle = self.mesh.ray.intersects_first(origins, directions)
        hit = triangle >= 0
        distance = np.full(len(origins), np.inf)
        corner, normal = self.mesh.triangles[triangle[hit], 0], self.mesh.face_normals[triangle[hit]]
        facing = np.einsum("na,na->n", normal, directions[hit])
        facing = np.where(np.abs(facing) < 1e-9, 1e-9, facing)
        distance[hit] = np.einsum("na,na->n", normal, corner - origins[hit]) / facing
        return triangle, distance


def shade(scene: Scene, origins: Array, directions: Array) -> tuple[Array, Array]:
    """Linear colours (N, 3) along rays, and which person is seen (N,), -1 for none."""
    triangle, distance = scene.cast(origins, directions)
    who = np.where(triangle < 0, -1, (triangle >= scene.split).astype(int))
    colour, floor_points, on_floor = room(origins, directions)
    shadow_from = np.where(on_floor[:, None], floor_points, 0.0)
    normals = np.tile([0.0, 0.0, 1.0], (len(origins), 1))
    hit = triangle >= 0
    points = origins[hit] + directions[hit] * distance[hit, None]
    corners = scene.mesh.faces[triangle[hit]]
    share = trimesh.triangles.points_to_barycentric(scene.mesh.triangles[triangle[hit]], points)[..., None].clip(0, 1)
    smooth_normals = (scene.mesh.vertex_normals[corners] * share).sum(1)
    normals[hit] = smooth_normals / np.linalg.norm(smooth_normals, axis=1, keepdims=True)
    shadow_from[hit] = points + scene.mesh.face_normals[triangle[hit]] * 0.004
    albedo = np.zeros((hit.sum(), 3))
    for p, person in enumerate(scene.people):
        mine = who[hit] == p
        local = corners[mine] - p * scene.vertex_split
        rest = (person.rest[local] * share[mine]).sum(1)
        shares = {name: (value[local] * share[mine, :, 0]).sum(1) for name, value in person.shares.items()}
        albedo[mine] = paint(rest, shares, person.keypoints, person.look)
    colour[hit] = albedo
    lit = hit | on_floor
    shadowed = np.zeros(len(origins), bool)
    shadowed[lit] = scene.mesh.ray.intersects_any(shadow_from[lit], np.tile(LIGHT, (lit.sum(), 1)))
    direct = np.where(shadowed, 0.35, 1.0) * (normals @ LIGHT).clip(0, None)
    fill = 0.5 + 0.5 * normals[:, 2]
    colour[lit] *= (0.42 + 0.10 * fill + 0.55 * direct)[lit, None]
    return colour, who


def room(origins: Array, directions: Array) -> tuple[Array, Array, Array]:
    """Behind the people: albedo (N, 3) of a wooden floor and a plain wall; floor points (N, 3); if on the floor."""
    with np.errstate(divide="ignore", invalid="ignore"):
        along = np.where(directions[:, 2] < -1e-6, -origins[:, 2] / directions[:, 2], np.inf)
        points = origins + directions * np.where(np.isfinite(along), along, 0)[:, None]
    on_floor = np.isfinite(along) & (np.hypot(points[:, 0], points[:, 1]) < 4.5)
    angle = np.arctan2(directions[:, 1], directions[:, 0])
    wall = 0.50 + 0.05 * np.sin(6 * angle) - 0.10 * directions[:, 2]
    colour = wall[:, None] * np.array([0.95, 0.98, 1.05])
    plank = np.floor(points[:, 0] / 0.22)
    tone = 0.46 + 0.05 * np.sin(plank * 2.4) + 0.03 * np.sin(40 * points[:, 0] + 3 * np.sin(2 * points[:, 1] + plank))
    seam = np.abs(points[:, 0] / 0.22 - plank - 0.5) > 0.47
    colour[on_floor] = (np.where(seam, 0.3, tone)[:, None] * np.array([1.15, 0.95, 0.75]))[on_floor]
    return colour, points, on_floor


def film(scene: Scene, cameras: Cameras, c: int, rng: np.random.Generator, samples: int = 3) -> tuple[Array, Array]:
    """One image (H, W, 3) uint8 and each person's share of every pixel (2, H, W), by `samples`^2 rays a pixel."""
    n = samples
    u, v = np.meshgrid((np.arange(WIDTH * n) + 0.5) / n, (np.arange(HEIGHT * n) + 0.5) / n)
    pixels = torch.tensor(np.stack([u, v], -1).reshape(1, -1, 2))
    origins, directions = (x[0].numpy().reshape(-1, 3) for x in cameras[[c]].rays(pixels))
    colour, who = shade(scene, np.broadcast_to(origins, directions.shape).copy(), directions)
    colour = colour.reshape(HEIGHT, n, WIDTH, n, 3).mean((1, 3))
    shares = np.stack([(who == p).reshape(HEIGHT, n, WIDTH, n).mean((1, 3)) for p in range(2)])
    gains = np.random.default_rng(100 + c)
    colour = colour * gains.uniform(0.95, 1.05) * gains.uniform(0.97, 1.03, 3)
    coded = 255 * colour.clip(0, 1) ** (1 / 1.6) + rng.normal(0, 2.0, colour.shape)
    return coded.clip(0, 255).round().astype(np.uint8), shares


def spoil_mask(coverage: Array, rng: np.random.Generator) -> Array:
    """An imperfect segmentation (H, W) uint8 of a coverage (H, W) in 0 to 1."""
    inside = (coverage > 0.5).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    where = np.stack([cols.ravel(), rows.ravel(), 0 * rows.ravel()], -1).astype(float)
    wobble = random_waves(where, rng, 18.0).reshape(HEIGHT, WIDTH)
    mask = ((distance + 0.8 * wobble + rng.normal(0, 0.3)) > 0).astype(np.uint8) * 255
    ys, xs = np.nonzero(inside)
    for _ in range(rng.poisson(0.5)):
        k = rng.integers(len(ys))
        cv2.circle(mask, (int(xs[k]), int(ys[k])), int(rng.integers(2, 6)), 0, -1)
    if rng.random() < 0.3:
        k = rng.integers(len(ys))
        at = np.array([xs[k], ys[k]]) + rng.normal(0, 22, 2)
        cv2.circle(mask, tuple(int(x) for x in at), int(rng.integers(2, 5)), 255, -1)
    return mask


def drifting_bias(rng: np.random.Generator, frames: int, size: tuple[int, ...]) -> Array:
    """Gaussian process (frames, *size) of unit variance whose value wanders over some ten frames."""
    at = np.arange(frames)
    covariance = np.exp(-0.5 * ((at[:, None] - at) / 8.0) ** 2) + 1e-9 * np.eye(frames)
    return np.einsum("ab,b...->a...", np.linalg.cholesky(covariance), rng.normal(size=(frames, *size)))


def detect(scenes: list[Scene], keypoints: Array, cameras: Cameras, c: int, rng: np.random.Generator) -> Array:
    """What a 2D detector would say in one view: (F, 2, 17, 3) x, y, score; `keypoints` (2, F, 17, 3) metres."""
    pixels, _ = cameras[[c]].project(torch.tensor(keypoints))
    pixels = pixels[0].numpy()  # (2, F, 17, 2)
    centre = cameras.centres[c].numpy()
    bias = drifting_bias(rng, len(scenes), (2, 17, 2)) * 3.0 * NOISE_SCALE
    result = np.full((len(scenes), 2, 17, 3), np.nan, np.float32)
    for f, scene in enumerate(scenes):
        rays = keypoints[:, f].reshape(-1, 3) - centre
        depth = np.linalg.norm(rays, axis=1)
        triangle, distance = scene.cast(np.broadcast_to(centre, rays.shape).copy(), rays / depth[:, None])
        blocker = np.where(triangle < 0, -1, triangle >= scene.split).reshape(2, 17)
        before = (distance < depth - 0.05).reshape(2, 17)  # a joint lies a few centimetres under its own skin
        for p in range(2):
            by_other, by_self = before[p] & (blocker[p] == 1 - p), before[p] & (blocker[p] == p)
            for k in range(17):
                sigma, score, source = 2.0, rng.uniform(0.75, 0.98), p
                if by_other[k]:
                    chance = rng.random()
                    if chance < 0.45:
                        continue
                    if chance < 0.70:
                        source, score = 1 - p, rng.uniform(0.35, 0.75)
                    else:
                        sigma, score = 6.0, rng.uniform(0.15, 0.5)
                elif by_self[k]:
                    sigma, score = 3.5, rng.uniform(0.4, 0.85)
                if rng.random() < 0.03:
                    continue
                at = pixels[source, f, k] + bias[f, p, k] + rng.normal(0, sigma * NOISE_SCALE, 2)
                if 0 <= at[0] < WIDTH and 0 <= at[1] < HEIGHT:
                    result[f, p, k] = (*at, score)
        result[f] = result[f, rng.permutation(2)]
    return result


def make_capture(out: Path) -> None:
    """Writes the whole sequence folder to `out`."""
    model = load_body(dtype=torch.float64)
    people = [make_person(model, look) for look in LOOKS]
    spheres = [fill_with_spheres(p.rest, model.faces.numpy(), model.weights.numpy()) for p in people]
    poses, trans = embrace([p.body for p in people], spheres, FRAMES, FPS)
    zero = torch.zeros(FRAMES, 10, dtype=torch.float64)
    posed = [p.body.transforms(zero, poses[i], trans[i]).numpy() for i, p in enumerate(people)]
    joints = np.stack([p.body.joints(zero, poses[i], trans[i]).numpy() for i, p in enumerate(people)])
    keypoints = np.stack([p.body.keypoints(zero, poses[i], trans[i]).numpy() for i, p in enumerate(people)])
    scenes = [Scene.pose(people, [t[f] for t in posed]) for f in range(FRAMES)]
    cameras = make_cameras()
    out.mkdir(parents=True, exist_ok=True)
    for c, name in enumerate(cameras.names):
        rng = np.random.default_rng(1000 + c)
        for f, scene in enumerate(scenes):
            image, shares = film(scene, cameras, c, rng)
            write_image(out / "images" / name / f"{f:06d}.jpg", image, quality=90)
            write_image(out / "masks" / name / f"{f:06d}.png", spoil_mask(shares.sum(0), rng))
        write_npz(out / "keypoints2d" / f"{name}.npz", keypoints=detect(scenes, keypoints, cameras, c, rng))
    cameras.save(out / "cameras.json")
    write_json(out / "sequence.json", {"fps": FPS, "frames": FRAMES, "unit": "m", "up": "z", "people": 2})
    write_npz(out / "ground_truth.npz", joints=joints.astype(np.float32), keypoints=keypoints.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    torch.set_num_threads(1)  # the tensors are small: threads only wait for each other
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "embrace", help="folder to write")
    make_capture(parser.parse_args().out)


if __name__ == "__main__":
    main()
