"""Masks for a sequence: which are missing, who makes them, and what is said about it afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from avatarpose.errors import InputError
from avatarpose.io import sha256
from avatarpose.progress import Update
from avatarpose.segment.background import BackgroundSegmenter
from avatarpose.segment.base import FrameMasks, Segmenter
from avatarpose.segment.config import METHODS, SegmentConfig
from avatarpose.segment.people import People
from avatarpose.segment.record import MaskRecord
from avatarpose.segment.refine_masks import View, label_people, refine_union
from avatarpose.sequence import BACKGROUND, FOREGROUND, UNKNOWN, Sequence

_GUESSED = 2.5  # the border between people is so much wider where their surfaces are only guessed from joints


@dataclass
class CameraMasks:
    """What was done for one camera.

    Attributes:
        made: masks of all people written now.
        people: masks of single people written now.
        refined: of those made or made earlier, so many were checked against bodies now.
        kept: masks that an earlier call made, left as they are.
        given: masks from elsewhere, left as they are.
        empty: masks written now that hold nobody.
        unknown: unknown pixels as a share of the people's, over the masks written now.
        notes: what the method says (for background: pixels never seen empty, in full-size pixels, and the share of the
            people's surroundings that GrabCut had to decide alone).
        source: file that said where people are when the masks were made.
        seconds: time taken.
    """

    made: int = 0
    people: int = 0
    refined: int = 0
    kept: int = 0
    given: int = 0
    empty: int = 0
    unknown: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)
    source: str = ""
    seconds: float = 0.0


@dataclass
class SegmentReport:
    """What `segment_sequence` did.

    Attributes:
        method: the one used, never "auto".
        source: file that said where people are.
        people: names of the people who got masks of their own; empty while nobody has a name.
        cameras: by name.
        messages: sentences worth reading.
    """

    method: str
    source: str
    people: list[str]
    cameras: dict[str, CameraMasks]
    messages: list[str] = field(default_factory=list)


def available_segmenters() -> dict[str, str]:
    """Every method by name, and what it needs or why it cannot run here."""

    def package(name: str, line: str, ready: str) -> str:
        return ready if find_spec(name) else f"missing: pip install {line}"

    return {
        "background": "ready: needs static cameras and 2D keypoints, no weights",
        "sam": package("segment_anything", "segment-anything torchvision", "ready: needs --checkpoint"),
        "sam2": package("sam2", "sam2", "ready: needs --checkpoint and --model (its configuration file)"),
        "mediapipe": package("mediapipe", "mediapipe==0.10.21", "ready: carries its own weights"),
    }


def choose_method(config: SegmentConfig) -> str:
    """The method that "auto" stands for.

    Raises:
        InputError: no such method.
    """
    if config.method not in METHODS:
        raise InputError("no such method of segmentation", expected=", ".join(METHODS), found=config.method)
    if config.method != "auto":
        return config.method
    if config.checkpoint is None:
        return "background"
    return "sam2" if config.model.endswith((".yaml", ".yml")) or "sam2" in config.checkpoint.name else "sam"


def _segmenter(method: str) -> type[Segmenter]:
    if method == "sam":
        from avatarpose.segment.sam import SamSegmenter

        return SamSegmenter
    if method == "sam2":
        from avatarpose.segment.sam2 import Sam2Segmenter

        return Sam2Segmenter
    if method == "mediapipe":
        from avatarpose.segment.mediapipe import MediaPipeSegmenter

        return MediaPipeSegmenter
    return BackgroundSegmenter


def segment_sequence(
    sequence: Sequence, config: SegmentConfig | None = None, update: Update | None = None, body: Path | None = None
) -> SegmentReport:
    """Writes the masks that are missing: masks/<camera>/<frame>.png, and <frame>_<person>.png once people have names.

    A mask that is there is never overwritten, except with `config.redo` one that an earlier call wrote and nobody has
    changed since (results/segment.json knows). Stopped at any moment, the next call goes on.

    Args:
        sequence: with images, and 2D keypoints or results.
        config: None for the defaults.
        update: called with masks done, their number, and what is being done.
        body: body model of the results; None for the open one.

    Raises:
        InputError: no images, nothing that says where people are, or what the method needs is missing.
    """
    config = config or SegmentConfig()
    method = choose_method(config)
    if not sequence.has_images:
        raise InputError("no images to segment", file=sequence.folder, expected="a folder images/ or videos/")
    people = People(sequence, config.bodies, body)
    if not people.known:
        raise InputError(
            "nothing says where people are", file=sequence.folder, expected="keypoints2d/ or results of `estimate`",
            hint="`avatarpose detect` writes keypoints2d",
        )  # fmt: skip
    if config.refine and not people.has_bodies:
        raise InputError(
            "no bodies to refine masks with", file=sequence.results, expected="initial.npz or refined.npz",
            hint="`avatarpose register` writes initial.npz",
        )  # fmt: skip
    return _Job(sequence, people, config, method, update or (lambda *_, **__: None)).run()


class _Job:
    def __init__(
        self, sequence: Sequence, people: People, config: SegmentConfig, method: str, update: Callable[..., None]
    ) -> None:
        self.sequence, self.people, self.config, self.method, self.update = sequence, people, config, method, update
        self.record = MaskRecord(sequence.folder, sequence.results)
        self.bodies = sha256(people.path) if people.has_bodies and config.refine else None
        self.cameras: dict[str, CameraMasks] = {}
        self.done, self.total = 0, len(sequence.cameras) * len(sequence.frames)

    @cached_property
    def segmenter(self) -> Segmenter:
        """Made when the first mask is missing: what it needs may be large."""
        return _segmenter(self.method)(self.people, self.config)

    def run(self) -> SegmentReport:
        for c, name in enumerate(self.sequence.cameras.names):
            earlier = self.record.data.get("cameras", {}).get(name, {}).get("source", "")
            start, self.cameras[name] = time.monotonic(), CameraMasks(source=earlier)
            self._camera(c, self.cameras[name])
            camera = self.cameras[name]
            camera.seconds = round(time.monotonic() - start, 2)
            if camera.made or camera.refined:
                said = dict(self.record.data.get("cameras", {})) | {name: asdict(camera) | {"method": self.method}}
                self.record.flush(cameras=said)
            elif camera.people:
                self.record.flush()
        report = SegmentReport(self.method, self.people.source, list(self.people.names), self.cameras)
        report.messages = _messages(report)
        return report

    def _camera(self, c: int, counts: CameraMasks) -> None:
        frames = self._distinct(c)
        wanted = [f for f in frames if self.record.may_write(self.sequence.mask_path(c, f), self.config.redo)]
        self.done += len(self.sequence.frames) - len(frames)
        for f in frames:
            if f not in wanted:
                self._keep(c, f, counts)
        if not wanted:
            return
        pixels, counts.source = np.zeros(2), self.people.source
        for f, masks in self.segmenter.camera(c, wanted, self._say):
            bodies = self.bodies if self.people.known_in(f) else None
            masks, whole = self._share_out(c, f, masks)
            self.record.write(self.sequence.mask_path(c, f), whole, bodies)
            counts.made += 1
            counts.refined += bodies is not None
            counts.empty += not (whole == FOREGROUND).any()
            pixels += (whole == UNKNOWN).sum(), (whole == FOREGROUND).sum()
            self._write_people(c, f, masks, counts)
            self._advance(c)
        counts.unknown = round(float(pixels[0] / max(pixels[1], 1)), 4)
        counts.notes = {key: round(value, 4) for key, value in self.segmenter.notes(c).items()}

    def _keep(self, c: int, f: int, counts: CameraMasks) -> None:
        """A frame whose mask is there: people's own masks are added to it, and an own mask may be refined."""
        path, there = self.sequence.mask_path(c, f), self.sequence.mask(c, f)
        own = self.record.is_own(path)
        counts.kept, counts.given = counts.kept + own, counts.given + (not own)
        known = self.people.known_in(f)
        refine = self.bodies is not None and known and own and self.record.refined_with(path) != self.bodies
        missing = known and any(
            self.record.may_write(self.sequence.mask_path(c, f, name), self.config.redo) for name in self.people.names
        )
        if there is not None and (refine or missing):
            masks, whole = self._share_out(c, f, FrameMasks(there))
            if refine:
                self.record.write(path, whole, self.bodies)
                counts.refined += 1
                counts.source = self.people.source
            self._write_people(c, f, masks, counts, again=refine)
        self._advance(c)

    def _share_out(self, c: int, f: int, masks: FrameMasks) -> tuple[FrameMasks, np.ndarray]:
        """The masks with those of single people, and the union to be written (refined if that is asked for)."""
        if not self.people.known_in(f):
            return masks, masks.union
        view = View.of(self.people, c, f)
        union = masks.union
        if self.bodies is not None:
            union = refine_union(union, view, self.config.band_width(union.shape), self.config.bodies)
        shared = masks.people
        if not shared:
            shared = label_people(union, view, self.config.bodies, 1.0 if self.people.has_bodies else _GUESSED)
        else:
            shared = {name: np.where(union == BACKGROUND, BACKGROUND, mask) for name, mask in shared.items()}
        return FrameMasks(union, shared), union

    def _write_people(self, c: int, f: int, masks: FrameMasks, counts: CameraMasks, again: bool = False) -> None:
        for name, mask in masks.people.items():
            path = self.sequence.mask_path(c, f, name)
            if self.record.may_write(path, self.config.redo or again):
                self.record.write(path, mask)
                counts.people += 1
        if self.config.redo and masks.people:
            self._drop_strangers(self.sequence.mask_path(c, f), masks.people)

    def _drop_strangers(self, together: Path, names: Iterable[str]) -> None:
        """Removes own masks of people who no longer are among the results."""
        for path in together.parent.glob(f"{together.stem}_*.png"):
            if path.stem[len(together.stem) + 1 :] not in names:
                self.record.remove(path)

    def _distinct(self, c: int) -> list[int]:
        """Frame indices, one for each image of the camera: a slow camera shows several frames by one image."""
        first: dict[Path, int] = {}
        for f in range(len(self.sequence.frames)):
            first.setdefault(self.sequence.mask_path(c, f), f)
        return list(first.values())

    def _say(self, text: str) -> None:
        self.update(self.done, self.total, text)

    def _advance(self, c: int) -> None:
        self.done += 1
        self.update(self.done, self.total, self.sequence.cameras.names[c])


def _messages(report: SegmentReport) -> list[str]:
    said = []
    cameras = report.cameras
    made = sum(camera.made for camera in cameras.values())
    people = sum(camera.people for camera in cameras.values())
    given, kept = (sum(getattr(camera, key) for camera in cameras.values()) for key in ("given", "kept"))
    refined = sum(camera.refined for camera in cameras.values())
    said.append(f"{made} masks and {people} of single people written by {report.method}, people from {report.source}")
    if refined:
        said.append(f"{refined} masks checked against the bodies of {report.source}")
    if kept or given:
        said.append(f"{kept} masks of an earlier call kept, {given} from elsewhere left as they are")
    if not report.people:
        said.append("nobody has a name yet: masks of single people come with another call after `estimate`")
    strangers = [name for name, camera in cameras.items() if camera.kept and camera.source == "keypoints2d"]
    if report.people and strangers and not refined:
        told = ", ".join(strangers)
        said.append(f"{told}: made when nobody had a name, with all who were detected; --redo keeps the people alone")
    blind = {
        name: camera.notes for name, camera in cameras.items() if camera.notes.get("fallback_share", 0) > 0.02
    }
    if blind:
        told = ", ".join(
            f"{name} {notes['never_seen_pixels']:.0f} pixels, {100 * notes['fallback_share']:.0f} % of the people"
            for name, notes in blind.items()
        )
        said.append(f"never seen empty, decided by GrabCut from where people are: {told}")
    for name, camera in cameras.items():
        if camera.made and camera.empty > camera.made / 2:
            said.append(f"{name}: nobody in {camera.empty} of {camera.made} masks; look at its keypoints")
    return said
