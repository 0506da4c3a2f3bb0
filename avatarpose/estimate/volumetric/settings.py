"""Settings of the volumetric estimator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from avatarpose.estimate.volumetric.config import CentreConfig


@dataclass(frozen=True)
class PolishConfig:
    """Lengths are metres at the person."""

    radius: float = 0.10
    """Rays farther than this from a joint do not draw it."""
    ray_spread: float = 0.025
    """Spread of a peak of full height across its ray."""
    network_spread: float = 0.025
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
