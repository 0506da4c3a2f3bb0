"""AvatarPose recovers how people in close contact move, from a few calibrated cameras.

This package holds the core (sequence folder, cameras, skeletons, body model, metrics, files) and the stages that
find initial poses (`estimate`, `register`), with the command line on top.
"""

__version__ = "0.1.0"
