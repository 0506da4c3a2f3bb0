"""Silhouettes of body meshes in a camera's image, drawn by filling triangles: no graphics card, no window.

Vertices are projected with the lens's distortion; between them edges are straight, which at a triangle's size in the
image is exact to far below a pixel. Triangles are filled from far to near (the painter's algorithm, Newell et al.
1972), each with the depth of its middle, so that one pass gives both the silhouette and who is in front.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int

from avatarpose.cameras import LEAST_DEPTH, Cameras

_SHIFT = 4  # OpenCV fills at 1/16 pixel with this
_FAR_OUTSIDE = 4.0  # image sizes beyond the border at which a triangle is left out


def depth_map(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "triangles 3"], camera: Cameras
) -> Float[np.ndarray, "height width"]:
    """Depth of a mesh along the optical axis in every pixel, metres; infinite where the mesh is not.

    Pixels that a triangle only touches are filled too, so the silhouette is up to half a pixel wide of the exact one.

    Args:
        vertices: metres, world.
        faces: corners counter-clockwise seen from outside; triangles that face away are left out.
        camera: one camera (`cameras[c]`); its width and height are the picture's.
    """
    if len(camera) != 1:
        raise ValueError(f"expected one camera, found {len(camera)}")
    width, height = int(camera.width[0]), int(camera.height[0])
    drawn = np.full((height, width), np.inf, np.float32)
    points = torch.as_tensor(np.asarray(vertices), dtype=camera.K.dtype, device=camera.K.device)
    with torch.no_grad():
        pixels, depth = (found[0].cpu().numpy() for found in camera.project(points))
        radius = ((camera.R[0] @ points.T).T + camera.t[0])[:, :2].norm(dim=-1).cpu().numpy() / np.maximum(depth, 1e-9)
    good = (depth > LEAST_DEPTH) & (radius < float(camera.turning_radius[0]))
    reach = _FAR_OUTSIDE * np.array([width, height])
    good &= (pixels > -reach).all(-1) & (pixels < reach + np.array([width, height])).all(-1)
    corners = pixels[faces]  # (T, 3, 2)
    (ax, ay), (bx, by) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    # Image y points down, so a triangle that is counter-clockwise from outside turns the other way in pixels.
    shown = good[faces].all(-1) & (ax * by - ay * bx < 0)
    low, high = corners.min(1), corners.max(1)
    shown &= (high > 0).all(-1) & (low < (width, height)).all(-1)
    middle = depth[faces].mean(-1)
    order = np.flatnonzero(shown)
    order = order[np.argsort(-middle[order], kind="stable")]
    fixed = np.round((corners[order] - 0.5) * 2**_SHIFT).astype(np.int32)
    for triangle, z in zip(fixed, middle[order].tolist(), strict=True):
        cv2.fillConvexPoly(drawn, triangle, z, cv2.LINE_8, _SHIFT)
    return drawn


def depth_maps(
    meshes: Iterable[Float[np.ndarray, "vertices 3"]], faces: Int[np.ndarray, "triangles 3"], camera: Cameras
) -> Float[np.ndarray, "people height width"]:
    """`depth_map` of several meshes with the same faces; an empty array (0, height, width) of none."""
    drawn = [depth_map(vertices, faces, camera) for vertices in meshes]
    size = (int(camera.height[0]), int(camera.width[0]))
    return np.stack(drawn) if drawn else np.zeros((0, *size), np.float32)


def nearest_person(depths: Float[np.ndarray, "people height width"]) -> Int[np.ndarray, "height width"]:
    """Index of the person in front in every pixel, -1 where there is none."""
    if not len(depths):
        return np.full(depths.shape[1:], -1)
    return np.where(np.isfinite(depths).any(0), depths.argmin(0), -1)
