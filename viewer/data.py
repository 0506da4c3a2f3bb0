"""What a viewer shows of a sequence: its images, results and truth, read once, by frame index and person."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from avatarpose.body import BodyModel, vertex_normals
from avatarpose.body.contact import Surface
from avatarpose.cameras import undistort_image
from avatarpose.edits import Edits, applied_edits
from avatarpose.evaluate import RESULT_FILES, load_truth, match_people
from avatarpose.results import Bodies, Joints3D
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, LIMB_JOINTS, SMPL24
from viewer.state import KINDS, Kind

SURFACES_KEPT = 200
"""Posed surfaces kept in memory (about 0.3 MB each)."""
BODY_KINDS: tuple[Kind, ...] = ("initial", "refined")
MADE_BY = {"estimate": "estimate", "initial": "register", "refined": "refine"}
"""The stage behind each kind of result."""
_LIMBS = COCO17.indices(LIMB_JOINTS)


class ViewerData:
    """The sequence and all that was found out about it, in the frames that the viewer shows.

    Attributes:
        sequence: the chosen cameras and frames.
        body: the body model of the results.
        frames: (F,) frame numbers shown: those of the results, or all where there are none.
        bodies: registered and refined bodies by kind, their edits not yet applied shown already.
        people: names of everybody, in the order of their colours.
        joints: by kind, (P, F, J, 3) metres, world, NaN where absent; 17 COCO joints, or the truth's 24.
    """

    def __init__(self, sequence: Sequence, body: BodyModel, edits: Edits | None = None) -> None:
        self.sequence, self.body = sequence, body
        folder = sequence.results
        found: dict[str, Joints3D | Bodies] = {}
        for kind, file in RESULT_FILES.items():
            if (folder / file).is_file():
                found[kind] = (Joints3D if kind == "estimate" else Bodies).load(folder / file)
        numbers = [result.frames for result in found.values()]
        shown = np.unique(np.concatenate(numbers)) if numbers else sequence.frames
        shown = np.intersect1d(shown, sequence.frames)
        self.frames: Int[np.ndarray, " frames"] = shown if len(shown) else sequence.frames
        self._image_index = {int(n): i for i, n in enumerate(sequence.frames)}
        self.truth = load_truth(sequence.folder) if (sequence.folder / "ground_truth.npz").is_file() else None
        self._raw = found
        self._surfaces: OrderedDict[tuple, Surface | None] = OrderedDict()
        self.apply(edits or Edits())

    def apply(self, edits: Edits) -> None:
        """Shows the results with those of the edits that no stage has taken into account yet."""
        results = self.sequence.results
        found = {
            kind: applied_edits(results, MADE_BY[kind]).pending(edits).apply_swaps(result)
            for kind, result in self._raw.items()
        }
        self.bodies: dict[str, Bodies] = {k: v for k, v in found.items() if isinstance(v, Bodies)}
        names = [name for result in found.values() for name in result.people]
        self.people = list(dict.fromkeys(names))
        self.joints: dict[str, Float[np.ndarray, "people frames joints 3"]] = {}
        for kind, result in found.items():
            self.joints[kind] = self._by_name(result)
        self._matched_truth = self._match_truth()
        self._surfaces.clear()

    @property
    def kinds(self) -> list[Kind]:
        """What there is to show."""
        return [kind for kind in KINDS if kind in self.joints]

    @cached_property
    def fps(self) -> float:
        """Frames shown a second, as they were filmed."""
        step = float(np.median(np.diff(self.frames))) if len(self.frames) > 1 else 1.0
        return self.sequence.fps / max(step, 1.0)

    def index(self, number: int) -> int | None:
        """Index of a frame number among those shown."""
        at = np.flatnonzero(self.frames == number)
        return int(at[0]) if len(at) else None

    def place(self, f: int) -> int:
        """Index in the sequence of the frame shown as f."""
        return self._image_index[int(self.frames[f])]

    def is_there(self, kind: str, person: str, f: int) -> bool:
        """Whether a person has joints of this kind in frame index f."""
        return kind in self.joints and bool(np.isfinite(self.joints[kind][self.people.index(person), f]).any())

    def skeleton(self, kind: str) -> tuple[tuple[int, int], ...]:
        """Pairs of joints to draw as bones."""
        return (SMPL24 if self.joints[kind].shape[2] == len(SMPL24) else COCO17).edges

    # ---- surfaces ----

    def surface(self, kind: str, person: str, f: int) -> Surface | None:
        """The body's surface; None where the person is not there or the kind has joints only."""
        bodies = self.bodies.get(kind)
        if bodies is None or person not in bodies.people:
            return None
        key = (kind, person, f)
        if key not in self._surfaces:
            self._surfaces[key] = self._pose(bodies, bodies.people.index(person), int(self.frames[f]))
            if len(self._surfaces) > SURFACES_KEPT:
                self._surfaces.popitem(last=False)
        self._surfaces.move_to_end(key)
        return self._surfaces[key]

    def _pose(self, bodies: Bodies, p: int, number: int) -> Surface | None:
        at = np.flatnonzero(bodies.frames == number)
        if not len(at) or not bodies.valid[p, at[0]]:
            return None
        arrays = (bodies.betas[p], bodies.poses[p, at[0]], bodies.trans[p, at[0]])
        with torch.no_grad():
            vertices = self.body.vertices(*(torch.as_tensor(a, dtype=self.body.dtype) for a in arrays))
            normals = vertex_normals(vertices, self.body.faces)
        return Surface(vertices.numpy().astype(np.float32), normals.numpy().astype(np.float32))

    # ---- images ----

    def image(self, c: int, f: int, largest: int | None = None) -> UInt8[np.ndarray, "height width 3"] | None:
        """Image of camera c in frame index f without the lens's distortion; at most `largest` pixels wide and high."""
        if not self.sequence.has_images:
            return None
        image = self.sequence.image(c, self.place(f))
        camera = self.sequence.cameras[c]
        if camera.has_distortion:
            image = undistort_image(image, camera)
        if largest is not None and max(image.shape[:2]) > largest:
            scale = largest / max(image.shape[:2])
            size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return image

    # ---- sizes ----

    @cached_property
    def middle(self) -> Float[np.ndarray, " 3"]:
        """A point amid the people over all frames, or amid the cameras' line of sight where there are none."""
        low, high = self.extent
        return (low + high) / 2

    @cached_property
    def extent(self) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
        """Corners of the box that holds the people over all frames, metres."""
        points = [joints.reshape(-1, 3) for joints in self.joints.values()]
        points = np.concatenate(points) if points else np.zeros((0, 3))
        points = points[np.isfinite(points).all(-1)]
        if len(points):
            return np.percentile(points, 0.5, axis=0) - 0.15, np.percentile(points, 99.5, axis=0) + 0.15
        cameras = self.sequence.cameras
        meeting = meeting_point(cameras.centres.numpy(), cameras.R[:, 2].numpy())
        return meeting - 1.0, meeting + 1.0

    @cached_property
    def floor(self) -> float:
        """Height of the ground along the up axis: the lowest that a foot comes, metres."""
        up = self.sequence.up_vector
        kind = next((k for k in ("refined", "initial") if k in self.bodies), None)
        if kind is None:
            corners = np.stack(self.extent)
            return float((corners @ up).min())
        heights = []
        for f in np.unique(np.linspace(0, len(self.frames) - 1, 8).astype(int)):
            surfaces = [self.surface(kind, person, int(f)) for person in self.people]
            heights += [float((s.vertices @ up).min()) for s in surfaces if s is not None]
        return float(np.median(heights)) if heights else float((np.stack(self.extent) @ up).min())

    # ---- people and truth ----

    def _by_name(self, result: Joints3D | Bodies) -> Float[np.ndarray, "people frames 17 3"]:
        out = np.full((len(self.people), len(self.frames), 17, 3), np.nan)
        _, here, there = np.intersect1d(self.frames, result.frames, return_indices=True)
        shown = np.where(result.valid[..., None, None], result.keypoints, np.nan)
        for p, name in enumerate(result.people):
            out[self.people.index(name), here] = shown[p, there]
        return out

    def _match_truth(self) -> Float[np.ndarray, "people frames 17 3"] | None:
        """The truth's COCO joints under the names of the people it was matched with; others follow as t0, t1, ..."""
        if self.truth is None:
            return None
        _, here, there = np.intersect1d(self.frames, self.truth.frames, return_indices=True)
        true = np.full((len(self.truth.keypoints), len(self.frames), 17, 3), np.nan)
        true[:, here] = self.truth.keypoints[:, there]
        best = next((kind for kind in ("refined", "initial", "estimate") if kind in self.joints), None)
        matches = np.full(len(true), -1)
        if best is not None:
            matches = match_people(self.joints[best][:, :, _LIMBS], true[:, :, _LIMBS])
        row = {}
        for t, p in enumerate(matches):
            if p < 0:
                self.people.append(f"t{t}")
                p = len(self.people) - 1
            row[t] = p
        self._truth_row = row
        count = len(self.people)
        for kind, joints in self.joints.items():
            self.joints[kind] = np.pad(joints, ((0, count - len(joints)), *((0, 0),) * 3), constant_values=np.nan)
        coco = np.full((count, len(self.frames), 17, 3), np.nan)
        shown, source = coco, true
        if self.truth.joints is not None:
            shown = np.full((count, len(self.frames), 24, 3), np.nan)
            source = np.full((len(true), len(self.frames), 24, 3), np.nan)
            source[:, here] = self.truth.joints[:, there]
        for t, p in row.items():
            coco[p], shown[p] = true[t], source[t]
        self.joints["truth"] = shown
        return coco

    @property
    def true_keypoints(self) -> Float[np.ndarray, "people frames 17 3"] | None:
        """The truth's COCO-17 joints by person as shown; None without truth."""
        return self._matched_truth

    def body_joints(self, kind: str, person: str, f: int) -> Float[np.ndarray, "24 3"] | None:
        """The body's own 24 joints."""
        bodies = self.bodies.get(kind)
        if bodies is None or person not in bodies.people:
            return None
        at = np.flatnonzero(bodies.frames == self.frames[f])
        p = bodies.people.index(person)
        return bodies.joints[p, at[0]] if len(at) and bodies.valid[p, at[0]] else None


def meeting_point(
    centres: Float[np.ndarray, "cameras 3"], directions: Float[np.ndarray, "cameras 3"]
) -> Float[np.ndarray, " 3"]:
    """The point nearest to all lines of sight (least squares); along the first one's axis where they are parallel."""
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    total = across.sum(axis=0)
    if np.linalg.cond(total) > 1e6:
        return centres[0] + 3.0 * directions[0]
    return np.linalg.solve(total, (across @ centres[..., None])[..., 0].sum(axis=0))
