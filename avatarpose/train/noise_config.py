"""How much, and how often, imitated detections are wrong.

Numbers marked (S) were measured on real OpenPose detections of 100 frames of the Shelf data set, against joints
triangulated with known identities; (D) on the two rendered captures, whose detections are imitated too, against the
exact joints; `python -m benchmarks.detector_noise` prints both beside what this module makes. The others are guesses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

ABSENT, OWN, HIDDEN, TAKEN, WILD, EXCHANGED, MERGED, FALSE = range(8)
"""What a detected joint is: nothing; the person's own, seen or hidden; the place of the hiding person's joint; a place
near the body; the person's joint of the other side; the joint of the person whose row was mixed in; nobody's."""


def _joints(face: float, shoulder: float, elbow: float, wrist: float, hip: float, knee: float, ankle: float) -> tuple:
    """One number for each of the COCO-17 joints."""
    return (*(face,) * 5, *np.repeat((shoulder, elbow, wrist, hip, knee, ankle), 2).tolist())


@dataclass(frozen=True)
class NoiseConfig:
    """Lengths are metres at the person, because what detectors get wrong scales with the person's size in the image:
    a person is about 1.7 m. Probabilities are of the event in one view unless said otherwise."""

    strength: float = 1.0
    """Factor of all standard deviations and probabilities below. 0: every joint inside the image at its exact place
    with score 1, peaks round and equally wide: ground-truth heatmaps."""

    deviation: tuple[float, float] = (0.006, 0.045)
    """Standard deviation of a joint along x and y, drawn per scene, uniform in the logarithm. (S) 0.017 without the
    tails, (D) 0.025."""
    profile: tuple[float, ...] = _joints(0.45, 1.0, 0.7, 0.8, 1.45, 1.1, 0.8)
    """Relative deviation of each joint (S); raised to a power U(0, 1) per scene, since in (D) all joints are alike."""
    tail: tuple[float, float] = (0.1, 2.5)
    """Share of joints with a larger deviation, and how many times larger. Ratio of the 90 % to the 50 % quantile of the
    distance: (S) 2.5, (D) 2.0, normal 1.8."""
    common: float = 0.5
    """Offset that all joints of a person in a view have in common, relative to the median deviation.
    (S) 0.35 of all deviations, tails included, (D) 0 to 0.1."""
    lasting: tuple[float, float] = (0.2, 0.9)
    """Bounds of the share of the variance that is the same in all frames of a take, per scene. Correlation after 5
    frames: (S) 0.8, (D) 0.3. Single frames are the same with any."""

    missed: tuple[float, ...] = _joints(0.045, 0.015, 0.055, 0.055, 0.02, 0.02, 0.03)
    """Of a joint in sight (S; D: 0.02 to 0.07), times a factor per scene, `missed_factor`."""
    missed_factor: tuple[float, float] = (0.3, 4.0)
    """Bounds of the factor, uniform in the logarithm."""
    missed_behind_self: tuple[float, ...] = _joints(0.9, 0.0, 1.0, 0.8, 0.0, 0.0, 0.0)
    """Of a joint behind the own torso, or on the far side of the own head, times U(0.1, 1) per scene. Face and arms:
    (S) 0.83 and 0.75, (D) 0.07 and 0.18."""
    behind_self: float = 1.7
    """Factor of the deviation of such a joint that is not missed. (S) 1.5 to 3, (D) 1 to 1.5."""
    hidden_missed: float = 0.4
    """Of a joint behind another person. (D) 0.33 and 0.4; (S) 0.56, of 122 joints."""
    hidden_taken: float = 0.3
    """Of a joint behind another person: the detector takes that person's joint. (D) 0.19 and 0.23, not
    counting those that are less than 0.15 m away; (S) 0."""
    hidden_wild: float = 0.04
    """Of a joint behind another person: somewhere within half a metre. (D) 0.03 and 0.07, not all of
    them wild."""
    hidden_factor: float = 2.5
    """Factor of the deviation of a hidden joint that is found all the same. (D) 2 to 3."""
    wild: float = 0.004
    """Of any joint. (S) 0.001."""
    border: float = 0.5
    """Of a joint up to 0.15 m outside the image: found at the border. (S) ankles: always."""

    exchanged_legs: float = 0.007
    """Left and right of the legs, or knees and ankles alone, of a person; three times that seen from behind. (S) less
    than 0.001 of the joints, all of them knees; a guess for crouching people and poses seen less often. Likewise:"""
    exchanged_arms: float = 0.004
    exchanged_all: float = 0.004

    merged: float = 0.08
    """Of two people whose trunks are within half a metre in the image: one row holds joints of both."""
    lost: float = 0.03
    """Of a person: no row. (S) 0.011 of people in sight."""
    lost_hidden: float = 0.15
    """The same where more than half of the joints are hidden or outside the image."""
    duplicate: float = 0.03
    """Of a person: a second row, with some of the joints."""
    false_person: float = 0.1
    """A row that is nobody's, anywhere in the image. (S) at most 0.5 rows a view, people without truth included."""
    view_lost: float = 0.1
    """A view without rows; two views are always kept."""
    half_lost: float = 0.05
    """Of a scene: half of the views without rows."""
    miscalibrated: float = 0.05
    """Of a scene: one camera is turned by up to `miscalibration` degrees against its calibration."""
    miscalibration: float = 2.0

    constant_scores: float = 0.1
    """Of a scene: all scores are 1, as of detectors that give none."""
    score: tuple[float, float] = (0.72, 0.92)
    """Bounds of the usual score of a joint in sight, per scene. Median (S) 0.82, (D) 0.82; hips 0.71 (S)."""
    score_slope: tuple[float, float] = (0.0, 0.12)
    """Bounds of the slope, per scene: the score less a deviation of the joint. (S) 0.1, (D) 0.03."""
    score_noise: float = 0.06

    sigma: float = 0.07
    """Standard deviation of the peaks. Inference makes them this wide too."""
    width: tuple[float, float] = (0.7, 1.4)
    """Bounds of the factor on it; half of the spread is the scene's, half the joint's."""
    anisotropy: float = 0.15
    """Standard deviation of the logarithm of one axis over the other; the axes are turned at random."""

    shuffle: bool = True
    """Whether rows come in random order."""
    min_joints: int = 2
    """A person with fewer joints found has no row (if strength is above 0)."""

    @classmethod
    def none(cls) -> NoiseConfig:
        """Exact heatmaps of everything inside the images: training without augmentation of the 2D evidence."""
        return cls(strength=0.0)

    def positions_only(self) -> NoiseConfig:
        """The same with misplaced joints and scores alone: nothing is missed, taken, exchanged, merged or false."""
        zero = (0.0,) * 17
        return replace(
            self, missed=zero, missed_behind_self=zero, hidden_missed=0.0, hidden_taken=0.0, hidden_wild=0.0, wild=0.0,
            exchanged_legs=0.0, exchanged_arms=0.0, exchanged_all=0.0, merged=0.0, lost=0.0, lost_hidden=0.0,
            duplicate=0.0, false_person=0.0, view_lost=0.0, half_lost=0.0, miscalibrated=0.0,
        )  # fmt: skip
