"""Settings of the registration. Every weight is a physical spread, so that the cost is a negative log posterior."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RegisterSettings:
    """What the fit believes about bodies, motion and measurements.

    Spreads of accelerations are those of lively motion, not of the average one: in 20 minutes of everyday, sport and
    fighting motion (CMU, 30 fps) limbs exceed 14 m/s^2 a tenth and 35 m/s^2 a hundredth of the time, and dancers far
    more often. Too small a spread cuts the corners of fast moves; too large a one only leaves some noise.
    """

    limb_spread: float = 0.015
    """Metres: spread of a robust mean limb length about the body's own."""
    joint_spread: float = 0.025
    """Metres: spread of an initial 3D joint."""
    detection_noise: float = 0.012
    """Metres at the person's distance: spread of a detected keypoint from frame to frame."""
    detection_bias: float = 0.020
    """Metres at the person's distance: spread of the part of a detector's error that lasts; 0 leaves it out."""
    bias_seconds: float = 0.4
    """Time in which that lasting error changes by as much as its spread."""
    outlier: float = 5.0
    """Residual, in units of the spread, at which a measurement begins to lose its say (Geman-McClure's scale)."""
    acceleration: float = 25.0
    """m/s^2: spread of the joints' acceleration."""
    angular_acceleration: float = 150.0
    """rad/s^2: spread of the angular acceleration of each joint against its parent, and of the root."""
    pose_prior: float = 0.3
    """Weight of the pose prior (negative log of a Gaussian over joint angles)."""
    hinge_prior: float = 1.0
    """Weight of the prior against elbows and knees bent backwards."""
    shape_prior: float = 1.0
    """Weight of the shape prior (betas have unit variance)."""
    joints_iterations: int = 90
    """Iterations of the fit to the 3D joints."""
    detections_iterations: int = 150
    """Iterations of the fit to the 2D keypoints; 0 leaves it out. Both fits end sooner when they have arrived."""
