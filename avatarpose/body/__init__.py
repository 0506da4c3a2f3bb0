"""The parametric body in SMPL's format: reading its files and skinning it."""

from avatarpose.body.model import CANONICAL_POSE, BodyModel, canonical_pose, load_body, vertex_normals

__all__ = ["CANONICAL_POSE", "BodyModel", "canonical_pose", "load_body", "vertex_normals"]
