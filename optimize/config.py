"""Settings of the refinement and its presets, all counted in iterations.

The `paper` preset follows the published AvatarPose schedule and weights with its known mistakes corrected; the others
were chosen by measurement (docs/benchmarks.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Literal

from avatarpose.errors import InputError
from renderer.field import FieldConfig
from renderer.sampling import SamplingConfig

USUAL_FRAMES = 30
StageKind = Literal["silhouette", "avatar", "pose", "joint"]
OffsetKind = Literal["field", "constant", "fixed"]
PosePriorKind = Literal["anatomical", "published"]
PresetName = Literal["cpu", "gpu", "in_turn", "paper"]


@dataclass(frozen=True)
class Stage:
    """One window of the alternation: what is optimised, for how long, at which level of detail."""

    kind: StageKind
    """`silhouette`: poses, shape and the clothing offset against masks; `avatar`: fields, poses fixed; `pose`: poses,
    fields fixed; `joint`: avatars and poses at once."""
    iterations: int
    blur: float = 0.0
    """Standard deviation in pixels of the blur of the colour targets (coarse to fine)."""
    detail: float = 1.0
    """Share in use of the hash-grid levels beyond those of the geometry, coarse first."""
    surface_width: float = 0.004
    """Width beta in metres of the density's transition at the surface."""
    shape: bool = False
    """Whether the shape parameters (betas) move too."""
    offset: OffsetKind = "field"
    """What is optimised of the surface's distance from the skin, where avatars are: a smooth `field` over the body, one
    number a person (`constant`), or nothing (`fixed`)."""
    collision: bool = False
    """Whether the collision loss is on (pose stages)."""
    frame_subset: int | None = None
    """Use only this many frames, those in which the people stand farthest apart; None: all."""
    learning_rate_scale: float = 1.0
    time_spread: float = 0.0
    """Seconds: standard deviation of the weights with which a step of a frame's pose moves its neighbours too."""


@dataclass(frozen=True)
class AvatarWeights:
    """Loss weights of avatar stages (AvatarPose Eq. 5 to 9; numbers of the released configuration)."""

    rgb: float = 1.0
    alpha: float = 1.0
    lpips: float = 0.0
    hard_alpha: float = 0.1
    hard_weight: float = 0.1
    layer_entropy: float = 0.001
    outside: float = 0.1
    """Opacity of samples farther than the offset's range from the skin."""
    offset_range: float = 0.01
    """Robust hinge on a surface offset outside 0 to 30 mm."""
    offset_smooth: float = 0.01
    shading_prior: float = 0.01
    camera_prior: float = 0.1


@dataclass(frozen=True)
class PoseWeights:
    """Loss weights of pose stages (AvatarPose Eq. 10 to 13)."""

    rgb: float = 10.0
    alpha: float = 0.3
    person: float = 0.05
    """Cross-entropy of each person's layered opacity with that person's mask, where there is one."""
    keypoints: float = 0.05
    """Robust reprojection to the 2D keypoints."""
    prior: PosePriorKind = "anatomical"
    """`anatomical`: normal ranges of every joint, and elbows and knees punished only for bending backwards;
    `published`: squared angles and SMPLify's exponential."""
    pose_prior: float = 1e-4
    angle_prior: float = 1e-2
    smooth_joints: float = 0.01
    """Robust acceleration of the joints, in units of 40 m/s^2."""
    smooth_rotations: float = 0.01
    """Robust angular acceleration of each joint, in units of 150 rad/s^2."""
    shape_prior: float = 1e-3
    collision: float = 5e-2


@dataclass(frozen=True)
class LearningRates:
    avatar: float = 1e-2
    offset: float = 5e-3
    shading: float = 2e-3
    pose_mlp: float = 1e-4
    pose: float = 0.2
    """Of the free corrections, in standard deviations of what some 60 pixels of every image tell."""
    betas: float = 5e-3


@dataclass(frozen=True)
class Ablation:
    """Switches that turn one part off, to measure what it brings."""

    rgb: bool = True
    mask: bool = True
    priors: bool = True
    smoothness: bool = True
    collision: bool = True
    shading: bool = True
    camera_colour: bool = True
    offset: bool = True
    """Off: the avatars' surface stays at a constant distance from the skin."""
    joint: bool = False
    """Avatars and poses at once in every stage, from the first iteration on."""
    smpl_only: bool = False
    """No avatar: the body fitted to the 2D keypoints alone."""


def ablation(names: str) -> Ablation:
    """The switches for a list of names with commas: `joint` and `smpl_only` are turned on, all others off.

    Raises:
        InputError: an unknown name.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    known = {field.name: field.default for field in dataclasses.fields(Ablation)}
    for name in chosen:
        if name not in known:
            raise InputError("no such part to leave out", expected=", ".join(known), found=name)
    return Ablation(**{name: not known[name] for name in chosen})


@dataclass(frozen=True)
class RefineConfig:
    """Everything `refine` needs besides the sequence and the registered bodies."""

    preset: str = "cpu"
    stages: tuple[Stage, ...] = ()
    rays: int = 1024
    """Rays of one iteration, over all cameras and people."""
    frames_per_step: int = 4
    collision_every: int = 2
    """The collision loss, which has to look behind what hides, is taken every so many iterations, so many times as
    strongly."""
    pool_pixels: int = 3000
    """Pixels drawn from every image for one segment (the iterations between two checkpoints)."""
    segment: int = 400
    lengthening: float = 0.5
    """Beyond 30 frames the iterations grow as this power of the frames' number: each frame is looked at less often, but
    what its neighbours learn helps it."""
    least_gain: float = 0.0
    """Where a segment lowers the error of pixels it does not look at by a smaller share than this in every frame, its
    stage goes on with its last iterations, in which the rate falls to nothing; 0: every stage is run whole (0.005 cut
    off the recovery of a forearm: docs/decisions.md)."""
    patch: int = 1
    """Side of square patches of rays in avatar stages (32 for LPIPS); 1: single rays."""
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    avatar: AvatarWeights = dataclasses.field(default_factory=AvatarWeights)
    pose: PoseWeights = dataclasses.field(default_factory=PoseWeights)
    rates: LearningRates = dataclasses.field(default_factory=LearningRates)
    adam_betas: tuple[float, float] = (0.9, 0.99)
    decay_power: float = 1.5
    """Within a stage the learning rate falls as (1 - progress)^power."""
    huber: float = 0.1
    edge_band: int = 2
    """Pixels on either side of a mask's edge that carry no colour loss."""
    pose_param: Literal["mlp", "direct", "both"] = "direct"
    ablation: Ablation = dataclasses.field(default_factory=Ablation)
    seed: int = 42

    @property
    def iterations(self) -> int:
        return sum(stage.iterations for stage in self.stages)

    def for_frames(self, count: int) -> RefineConfig:
        """The same schedule for a capture of `count` frames."""
        return self.scaled(max(1.0, count / USUAL_FRAMES) ** self.lengthening)

    def scaled(self, effort: float) -> RefineConfig:
        """The same schedule with `effort` times the iterations (at least one a stage)."""
        stages = tuple(replace(s, iterations=max(1, round(s.iterations * effort))) for s in self.stages)
        return replace(self, stages=stages)


CPU_STAGES = (
    Stage("avatar", 200, blur=2.0, detail=0.0, surface_width=0.005),
    Stage("joint", 450, blur=2.0, detail=0.0, surface_width=0.005, shape=True, time_spread=0.1),
    Stage(
        "joint", 450, blur=1.0, detail=0.5, surface_width=0.004, shape=True, learning_rate_scale=0.8, time_spread=0.1
    ),
    Stage(
        "joint", 600, blur=0.5, surface_width=0.003, shape=True, learning_rate_scale=0.6, collision=True,
        time_spread=0.05,
    ),
)  # fmt: skip

IN_TURN_STAGES = (
    Stage("avatar", 300, blur=2.0, detail=0.0, surface_width=0.005),
    Stage("pose", 700, blur=2.0, detail=0.0, surface_width=0.005, shape=True),
    Stage("avatar", 250, blur=1.0, detail=0.5, surface_width=0.004),
    Stage("pose", 700, blur=1.0, detail=0.5, surface_width=0.004, shape=True, learning_rate_scale=0.8),
    Stage("avatar", 350, blur=0.5, surface_width=0.003),
    Stage("pose", 900, blur=0.5, surface_width=0.003, shape=True, learning_rate_scale=0.6, collision=True),
)

# Published windows in iterations: 140 frames x 8 cameras make one epoch of 1,120 iterations; the "refine" windows of
# avatar stages see 20 frames. (kind, iterations, frame subset, shape, collision)
PAPER_WINDOWS = (
    ("avatar", 11_200, None, True, False),
    ("avatar", 3_200, 20, True, False),
    ("pose", 11_200, None, False, False),
    ("avatar", 11_200, None, False, False),
    ("avatar", 3_200, 20, False, False),
    ("pose", 22_400, None, False, False),
    ("avatar", 11_200, None, False, False),
    ("avatar", 3_200, 20, False, False),
    ("pose", 22_400, None, False, False),
    ("avatar", 11_200, None, False, False),
    ("avatar", 1_600, 20, False, False),
    ("pose", 22_400, None, False, True),
)


def preset(name: PresetName) -> RefineConfig:
    """The settings behind `--preset`.

    `cpu` fits two cores and five minutes for twenty frames of eight cameras: a first look for the avatars, then avatars
    and poses at once. `gpu` gives the same schedule more rays and iterations. `in_turn` is what two cores can do of the
    published order, avatars and poses never at once. `paper` is the published schedule (some 134,000 iterations of
    8,192 rays and person).
    """
    if name == "cpu":
        return RefineConfig(preset="cpu", stages=CPU_STAGES)
    if name == "in_turn":
        return RefineConfig(preset="in_turn", stages=IN_TURN_STAGES)
    if name == "gpu":
        base = RefineConfig(preset="gpu", stages=CPU_STAGES, rays=8192, frames_per_step=8, pool_pixels=8000)
        return base.scaled(3.0)
    if name == "paper":
        return RefineConfig(
            preset="paper",
            stages=tuple(
                Stage(kind, its, shape=shape, collision=hit, frame_subset=subset)
                for kind, its, subset, shape, hit in PAPER_WINDOWS
            ),
            rays=16_384,
            frames_per_step=1,
            pool_pixels=20_000,
            patch=32,
            field=FieldConfig(levels=16, features=2, log2_table=19, base_resolution=16, finest_resolution=7006),
            sampling=SamplingConfig(step=0.0078, shell=0.05),
            avatar=AvatarWeights(alpha=0.1, lpips=0.01),
            pose=PoseWeights(
                alpha=0.05,
                collision=5e-3,
                prior="published",
                pose_prior=1e-3,
                angle_prior=1e-2,
                smooth_joints=1.0,
                smooth_rotations=1.0,
                keypoints=0.0,
            ),
            rates=LearningRates(
                avatar=1e-3,
                offset=1e-3,
                shading=1e-3,
                pose_mlp=1e-3,
                pose=0.04,
                betas=1e-5,
            ),
            pose_param="mlp",
            collision_every=1,
            lengthening=0.0,
        )
    raise ValueError(f"unknown preset {name!r}: expected cpu, gpu, in_turn or paper")
