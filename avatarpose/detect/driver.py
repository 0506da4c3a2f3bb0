"""The stage: a detector over a sequence, camera by camera, to `keypoints2d/<camera>.npz`.

Beside `keypoints` (F, D, 17, 3) a file holds `boxes` (F, D, 4) about each person's joints, `searched` (F,): the images
that were searched (others may follow, by the same command with other frames), `detector` and `settings` (JSON). What is
done of a camera is kept in `results/detect/<camera>.npz` every few seconds, and goes when the camera is done.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatarpose.detect.config import DetectConfig, describe
from avatarpose.detect.guide import Guide
from avatarpose.detect.interface import Boxes, Detector, Image, People
from avatarpose.detect.people import box_of, clean_people
from avatarpose.detect.registry import create_detector
from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_bytes, write_npz
from avatarpose.progress import Update
from avatarpose.sequence import Sequence

SECONDS_BETWEEN_SAVES = 10.0
PEOPLE, BYSTANDERS = 6, 2
"""Most people in an image where the sequence does not say how many there are, and how many more where it does."""
TRACK_MARGIN = 0.15
"""Boxes about the people of the last images are grown by this part of their longer side."""


@dataclass(frozen=True)
class DetectReport:
    """What was done.

    Attributes:
        detector: its name; None where nothing was left to do.
        kept: cameras whose file was there.
        images: number of images searched now, by camera.
        people: mean number of people in an image, by camera searched.
    """

    detector: str | None
    kept: tuple[str, ...]
    images: dict[str, int]
    people: dict[str, float]


@dataclass
class _Progress:
    """What is known of one camera."""

    people: list[People]
    searched: np.ndarray
    detector: str
    settings: str

    @classmethod
    def load(cls, path: Path, count: int) -> _Progress | None:
        """None where the file is not by this stage."""
        arrays = read_npz(path)
        if not {"keypoints", "searched", "detector", "settings"} <= set(arrays):
            return None
        keypoints, searched = arrays["keypoints"], arrays["searched"]
        if keypoints.shape[:1] != (count,) or keypoints.shape[2:] != (17, 3) or searched.shape != (count,):
            raise InputError(
                "detections of another number of frames", file=path, expected=f"{count} frames",
                found=f"{keypoints.shape}", hint="Detect again with --redo",
            )  # fmt: skip
        people = [rows[np.isfinite(rows).all(-1).any(-1)] for rows in keypoints]
        return cls(people, searched.astype(bool), str(arrays["detector"]), str(arrays["settings"]))

    def save(self, path: Path) -> None:
        most = max(1, max(map(len, self.people)))
        keypoints = np.full((len(self.people), most, 17, 3), np.nan, np.float32)
        boxes = np.full((len(self.people), most, 4), np.nan, np.float32)
        for number, people in enumerate(self.people):
            keypoints[number, : len(people)] = people
            boxes[number, : len(people)] = np.array([box_of(p) for p in people]).reshape(-1, 4)
        write_npz(
            path, keypoints=keypoints, boxes=boxes, searched=self.searched, detector=self.detector,
            settings=self.settings,
        )  # fmt: skip


class _Camera:
    """One camera's part of the work: the images to be looked at, and what is known of them."""

    def __init__(self, sequence: Sequence, c: int) -> None:
        self.sequence, self.c = sequence, c
        self.name = sequence.cameras.names[c]
        self.path = sequence.keypoints_path(c)
        self.checkpoint = sequence.results / "detect" / f"{self.name}.npz"
        self.count = sequence.own_count(c)
        self.needed = sequence.own_neighbours(c)
        self._place = {number: place for place, number in enumerate(self.needed)}

    def is_done(self) -> bool:
        """Whether the file there was brought, or holds all that is needed."""
        if not self.path.is_file():
            return False
        there = _Progress.load(self.path, self.count)
        return there is None or bool(there.searched[self.needed].all())

    def prepare(self, detector: Detector, settings: str, redo: bool) -> None:
        """Takes up what is there and still holds."""
        fresh = _Progress([np.zeros((0, 17, 3))] * self.count, np.zeros(self.count, bool), detector.name, settings)
        there = _Progress.load(self.path, self.count) if self.path.is_file() else None
        same = there is not None and (there.detector, there.settings) == (detector.name, settings)
        if redo:
            self.checkpoint.unlink(missing_ok=True)
            if same:  # the images outside of the choice keep what they have
                there.searched[self.needed] = False
        elif there is not None and not same:
            raise InputError(
                "some images were searched with other settings", file=self.path, camera=self.name,
                expected=f"{detector.name} {settings}", found=f"{there.detector} {there.settings}",
                hint="Use the same settings, or detect again with --redo",
            )  # fmt: skip
        self.progress = there if same else fresh
        if self.checkpoint.is_file():
            with contextlib.suppress(InputError):  # of another time, or not of this stage: begun anew
                found = _Progress.load(self.checkpoint, self.count)
                if found is not None and (found.detector, found.settings) == (detector.name, settings):
                    self.progress = found
        self.todo = [n for n in self.needed if not self.progress.searched[n]]

    def run(self, detector: Detector, config: DetectConfig, tell: Callable[[int], None]) -> None:
        """Searches the images and writes the file. `tell` gets the number of images done."""

        def read(numbers: list[int]) -> list[Image]:
            return [self.sequence.own_image(self.c, n) for n in numbers]

        # Of all that is needed, not of what is left: the same background whether or not the run was interrupted.
        guide = Guide(self.sequence, self.c, self.needed, config, detector.guided, lambda n: read([n])[0])
        size = max(1, config.batch or detector.batch_size)
        # Batches begin at the same images whether or not the run was interrupted: the same run, the same result.
        todo = set(self.todo)
        starts = range(0, len(self.needed), size)
        batches = [batch for i in starts if (batch := [n for n in self.needed[i : i + size] if n in todo])]
        saved, done = time.monotonic(), 0
        with ThreadPoolExecutor(1) as ahead:
            future = ahead.submit(read, batches[0]) if batches else None
            for i, batch in enumerate(batches):
                images = future.result()
                future = ahead.submit(read, batches[i + 1]) if i + 1 < len(batches) else None
                self._search(batch, images, guide, detector, config)
                done += len(batch)
                tell(done)
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES and future is not None:
                    self.progress.save(self.checkpoint)
                    saved = time.monotonic()
        self._finish()

    def _search(
        self, batch: list[int], images: list[Image], guide: Guide, detector: Detector, config: DetectConfig
    ) -> None:
        boxes = [self._regions(n, batch[0], image, guide, config) for n, image in zip(batch, images, strict=True)]
        answer = detector.detect(images, boxes if detector.guided else None)
        if len(answer) != len(images) or any(np.shape(people)[1:] != (17, 3) for people in answer):
            shapes = [np.shape(people) for people in answer]
            raise ValueError(f"{detector.name}: expected (people, 17, 3) for each of {len(images)}, found {shapes}")
        hint = self.sequence.people_hint
        most = config.people or (hint + BYSTANDERS if hint else PEOPLE)
        for number, image, people in zip(batch, images, answer, strict=True):
            height, width = image.shape[:2]
            kept = (config.person_score, config.joint_score, config.duplicate)
            clean = clean_people(people, width, height, most, *kept)
            self.progress.people[number] = clean[guide.supports(number, image, clean)].astype(np.float32)
            self.progress.searched[number] = True

    def _regions(self, number: int, first: int, image: Image, guide: Guide, config: DetectConfig) -> Boxes:
        """Where to look: the guide's regions, the people of the last batch, and now and then the whole image."""
        if not guide.wanted:
            return np.zeros((0, 4))
        place = self._place[first]
        before = self.progress.people[self.needed[place - 1]] if place else ()
        tracked = np.array([box_of(person, TRACK_MARGIN) for person in before]).reshape(-1, 4)
        regions = np.vstack((guide.regions(number, image), tracked))
        if len(regions) == 0 or self._place[number] % config.search_every == 0:
            regions = np.vstack((regions, [[0, 0, image.shape[1], image.shape[0]]]))
        return regions

    def _finish(self) -> None:
        """Puts the file in place; one that was brought is kept beside the results."""
        if self.path.is_file() and _Progress.load(self.path, self.count) is None:
            folder, brought = self.checkpoint.parent / "given", self.path.read_bytes()
            kept = [*folder.glob(f"{self.name}.npz"), *folder.glob(f"{self.name}_[0-9]*.npz")]
            if all(path.read_bytes() != brought for path in kept):
                write_bytes(folder / (f"{self.name}_{len(kept)}.npz" if kept else f"{self.name}.npz"), brought)
        self.progress.save(self.path)
        self.checkpoint.unlink(missing_ok=True)


def detect_sequence(
    sequence: Sequence, config: DetectConfig, update: Update | None = None, detector: Detector | None = None
) -> DetectReport:
    """Writes the 2D keypoints of every chosen camera and frame that are not there yet.

    Files that were brought are kept, and so are images that were searched before; with `config.redo` everything is
    detected again, and files that were brought are first copied to `results/detect/given/`.

    Args:
        sequence: the sequence, with images.
        config: settings.
        update: progress, in images.
        detector: used instead of the one that the settings name.

    Raises:
        InputError: there are no images, the detector cannot be used, or a file is unfinished and of other settings.
    """
    if not sequence.has_images:
        raise InputError("no images to detect people in", file=sequence.folder, expected="images/ or videos/")
    cameras = [_Camera(sequence, c) for c in range(len(sequence.cameras))]
    jobs = [camera for camera in cameras if config.redo or not camera.is_done()]
    kept = tuple(camera.name for camera in cameras if camera not in jobs)
    if not jobs:
        return DetectReport(None, kept, {}, {})
    detector = detector or create_detector(config)
    settings = describe(config.settings())
    for job in jobs:
        job.prepare(detector, settings, config.redo)
    total, before = sum(len(job.todo) for job in jobs), 0
    for job in jobs:

        def tell(done: int, name: str = job.name, before: int = before) -> None:
            if update is not None:
                update(before + done, total, name)

        job.run(detector, config, tell)
        before += len(job.todo)
    images = {job.name: len(job.todo) for job in jobs}
    people = {job.name: float(np.mean([len(job.progress.people[n]) for n in job.needed])) for job in jobs}
    return DetectReport(detector.name, kept, images, people)
