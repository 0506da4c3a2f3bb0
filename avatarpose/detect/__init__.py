"""2D keypoints from images: detectors behind one interface, and the stage that runs one over a sequence."""

from avatarpose.detect.config import DetectConfig
from avatarpose.detect.driver import DetectReport, detect_sequence
from avatarpose.detect.interface import Detector
from avatarpose.detect.registry import available_detectors, create_detector

__all__ = ["DetectConfig", "DetectReport", "Detector", "available_detectors", "create_detector", "detect_sequence"]
