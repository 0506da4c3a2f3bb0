"""Settings of the volumetric estimator."""

from __future__ import annotations

from dataclasses import dataclass, field

from avatarpose.estimate.config import TriangulationConfig


@dataclass(frozen=True)
class CentreConfig:
    """Settings of people's centres (pelvis and neck) and identities. Lengths are metres at the person."""

    association: TriangulationConfig = field(default_factory=TriangulationConfig)
    """Which detection is whom, and how long a person is followed, lost and found: shared with triangulation."""
    radius: float = 0.15
    """A view whose ray passes a centre farther than this does not agree on it."""
    least_pixels: float = 4.0
    """The radius is no smaller than this many pixels at the people's usual distance."""
    min_angle: float = 5.0
    """Degrees between two rays below which they cannot place a centre on their own."""
    side_weight: float = 0.4
    """Score of a centre seen by one of its two sides, the other put there by 3D knowledge, relative to seeing both."""
    expected_weight: float = 0.3
    """Weight of agreement with the predicted centre against one fully confident view, when hypotheses are ranked."""
    torso_length: float = 0.5
    """Usual distance of neck and pelvis."""
    torso_range: tuple[float, float] = (0.3, 0.68)
    """Distances of neck and pelvis outside this are no person's."""
    size_range: tuple[float, float] = (0.5, 1.6)
    """A new person's size in the images times his distance, over that of a usual person: outside this is nobody."""
    crowd_views: int = 3
    """Views that must agree on a new person's centre where four or more live views see the place (two elsewhere)."""
    same_centres: float = 0.15
    """Somebody new whose pelvis and neck are on average nearer than this to a known person's is that one."""
    max_spread: float = 0.08
    """People whose centres are usually expected to err by more than this along an axis are left out: bystanders far
    behind, whom two cameras see from about the same side."""
    acceleration: float = 25.0
    """Usual acceleration of a centre, m/s^2, along an axis: how much the smoothing over time lets it turn."""
