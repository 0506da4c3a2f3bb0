"""Settings of the volumetric estimator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True)
class PolishConfig:
    """Lengths are metres at the person."""

    radius: float = 0.15
    """Rays farther than this from a joint do not draw it."""
    ray_spread: float = 0.025
    """Spread of a peak of full height across its ray."""
    network_spread: float = 0.035
    """Spread along an axis of a joint of the network, on its own."""
    iterations: int = 5


@dataclass(frozen=True)
class VolumetricConfig:
    """Settings of the volumetric estimator."""

    weights: Path | None = None
    """Weights (.safetensors); None: the ones that come with the package."""
    centres: CentreConfig = field(default_factory=CentreConfig)
    min_score: float = 0.1
    """Detected joints below this score are ignored."""
    sigma: float = 0.07
    """Metres at the person: width of the 2D heatmaps' peaks drawn from detections."""
    foreign: float = 0.1
    """Factor of the heights of detections that are taken for somebody else's, in the volume of each person. The paper
    has none (1), and its heatmaps no people; without, hands on another's back are easily given to that one."""
    batch: int = 8
    """Volumes the network sees at once."""
    turns: int = 1
    """Times that each volume is seen, turned about its axis by equal angles; the joints are averaged."""
    device: str = "cpu"
    polish: PolishConfig | None = field(default_factory=PolishConfig)
    """How joints are drawn from the voxels to the rays of the peaks near them; None leaves it out."""
    temporal_filter: bool = False
    """Whether 3D heatmaps are kept only around where each joint is expected from the frames before. Pays where little
    moves between frames; never used below `filter_fps`."""
    filter_fps: float = 30.0
    filter_radius: float = 0.05
    """Metres: least radius kept; three times the prediction's usual error where that is more."""
