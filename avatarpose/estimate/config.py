"""Settings of the estimator by association and triangulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class TriangulationConfig:
    """Lengths are metres at the person, not pixels: what detectors get wrong, and what tells people apart, scales with
    the person's size in the image, so one set of numbers serves cameras near and far, large and small."""

    min_score: float = 0.1
    """Detected joints below this score are ignored."""
    person_radius: float = 0.15
    """A joint's ray this far from a person's joint speaks neither for nor against the detection being that person."""
    joint_radius: float = 0.15
    """Rays farther than this from a triangulated joint are outliers and are dropped for that joint alone."""
    pair_radius: float = 0.08
    """A joint that only two views agree on is dropped if their rays are farther than this from it."""
    min_angle: float = 5.0
    """Degrees between two rays below which they cannot place a joint on their own."""
    min_support: float = 1.0
    """Least sum of scores times agreement (about the number of agreeing joints) for a detection to be a person."""
    min_joints: int = 5
    """Least number of joints seen by two or more views for a person to be there in a frame."""
    duplicate_distance: float = 0.25
    """A new person whose joints are on average nearer than this to a known one's is that one, detected twice."""
    coast_seconds: float = 0.4
    """A person not found is looked for at the predicted place for so long."""
    lost_seconds: float = 3.0
    """A person who turns up within this time of being lost, where he could have walked to, is the same one."""
    walking_speed: float = 1.5
    """How fast the place where a lost person may turn up grows, metres per second."""
    min_frames: int = 5
    """People found in fewer frames than this (or than half of a shorter sequence) are taken for false alarms."""
    min_share: float = 0.1
    """So are people found in a smaller share of the frames, unless they are there for `min_seconds`."""
    min_seconds: float = 1.0
    time_radius: float = 0.10
    """How far a joint may be from where its neighbours in time put it before that counts fully against it."""
    time_weight: float = 0.5
    """Weight of agreement with the neighbours in time against one fully confident view, when hypotheses are ranked."""
    bone_weight: float = 0.7
    """Weight of agreement with the person's own bone lengths against one fully confident view."""
    sweeps: int = 3
    """Passes over all joints in which every joint chooses its hypothesis given its neighbours' choices."""

    def least_frames(self, times: Float[np.ndarray, " frames"]) -> int:
        """Fewest of the frames at these times, seconds, in which somebody must be found not to be a false alarm."""
        count = len(times)
        interval = (times[-1] - times[0]) / max(count - 1, 1)
        lasting = self.min_seconds / interval if interval > 0 else np.inf
        return min(max(self.min_frames, round(min(self.min_share * count, lasting))), (count + 1) // 2)
