"""Registration of the body model to 3D joints and 2D keypoints; the result is `results/initial.npz`."""

from avatarpose.register.config import RegisterSettings
from avatarpose.register.registration import register

__all__ = ["RegisterSettings", "register"]
