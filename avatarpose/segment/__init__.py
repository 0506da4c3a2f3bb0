"""Masks: who is foreground in every image, by background model, Segment Anything, SAM 2 or MediaPipe."""

from avatarpose.segment.config import METHODS, BackgroundConfig, BodyMaskConfig, SegmentConfig
from avatarpose.segment.driver import CameraMasks, SegmentReport, available_segmenters, segment_sequence

__all__ = [
    "METHODS",
    "BackgroundConfig",
    "BodyMaskConfig",
    "CameraMasks",
    "SegmentConfig",
    "SegmentReport",
    "available_segmenters",
    "segment_sequence",
]
