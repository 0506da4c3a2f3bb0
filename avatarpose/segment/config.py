"""Settings of the segmentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

METHODS = ("auto", "background", "sam", "sam2", "mediapipe")


@dataclass(frozen=True)
class BackgroundConfig:
    """Background model and graph cut; colours in grey levels (0 to 255)."""

    working_size: int = 960
    """Images whose longer side exceeds this are segmented at this size, pixels."""
    clip_frames: int = 60
    """At most so many frames of the clip, evenly spread, make the model."""
    least_seen: int = 2
    """A pixel counts as seen empty if so many of them show it with nobody near."""
    largest_noise: float = 10.0
    """Where the colours of a pixel's samples spread more (standard deviation), it does not count as seen."""
    lit_again: float = 1.06
    """Where a quarter of a pixel's samples are brighter than the others by this, those others are in shadow."""
    noise_floor: float = 2.5
    """Least standard deviation of a channel: what compression and sampling do at best."""
    edge_tolerance: float = 0.35
    """Share of the background's gradient added to the deviation: edges shift by fractions of a pixel."""
    brightness_tolerance: float = 0.03
    """Share of the background's value added to the deviation: light is never quite steady."""
    surely_behind: float = 3.0
    """Below this distance, in deviations, a pixel shows the background."""
    surely_before: float = 7.0
    """Above this distance it does not."""
    shadow: tuple[float, float] = (0.35, 0.97)
    """Brightness of a cast shadow, as a share of the background's."""
    shadow_colour: float = 3.5
    """Greatest change of colour of a shadow, in deviations."""
    lit: float = 1.9
    """Greatest brightness of background that was learned in shadow and is lit, as a share of the learned."""
    lit_colour: float = 1.5
    """Greatest change of its colour, in deviations."""
    iterations: int = 3
    """Of GrabCut."""


@dataclass(frozen=True)
class BodyMaskConfig:
    """What a body, known to some centimetres, says about a mask; metres at the person's distance."""

    core: float = 0.03
    """Pixels so far inside the silhouette are the person."""
    clothes: float = 0.03
    """Clothes and errors of the pose reach so far outside, as a rule."""
    far: float = 0.15
    """Pixels farther than this from every body are nobody (long hair, wide clothes stay)."""
    hand: float = 0.28
    """But what is joined to the person within this distance of a wrist stays: hands and fingers the body misses."""
    contact: float = 0.02
    """Along the border between two people so much on either side is unknown in the masks of each."""


@dataclass(frozen=True)
class SegmentConfig:
    """What `segment_sequence` does."""

    method: str = "auto"
    """One of METHODS; auto: sam or sam2 where a checkpoint is given, else background."""
    plates: Path | None = None
    """Folder of empty-scene pictures `<camera>.png` (or .jpg) for the background model."""
    checkpoint: Path | None = None
    """Weights of Segment Anything (sam) or SAM 2 (sam2)."""
    model: str = ""
    """sam: vit_h, vit_l, vit_b; by default guessed from the checkpoint. sam2: its configuration file."""
    refine: bool = False
    """Also check the masks against the bodies in results/."""
    redo: bool = False
    """Make anew the masks that an earlier call made; masks from elsewhere always stay."""
    device: str = "cpu"
    """Device for sam and sam2."""
    band: float = 0.004
    """Width of the unknown band on either side of an uncertain edge, as a share of the image's longer side."""
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    bodies: BodyMaskConfig = field(default_factory=BodyMaskConfig)

    def band_width(self, size: tuple[int, int]) -> int:
        """Pixels of the unknown band of an image (height, width)."""
        return max(1, round(self.band * max(size)))
