"""MultiHuman Real-Cap (Zheng et al., DeepMultiCap, ICCV 2021): four real sequences, several cameras.

What is published of it is that a sequence has "the raw images, calibrations, cropped images with the corresponding
parameters, and SMPLX models"; how the files are laid out is written down nowhere in public. So this reader asks for
what any recording has, a folder of images a camera and a calibration in a format that is known, and finds them as the
general import does; `--calibration` and `--footage` say where they are otherwise.

There is no truth: the SMPL-X models were estimated, and AvatarPose shows this data in pictures only.
"""

from __future__ import annotations

from avatarpose.datasets.base import Recording, Say
from avatarpose.errors import InputError
from avatarpose.importers.media import find_footage
from avatarpose.importers.settings import ImportSettings


def prepare(settings: ImportSettings, say: Say) -> Recording:
    """One sequence of the Real-Cap part: SRC is its folder."""
    source = settings.source
    if settings.footage is None and source.is_dir() and not find_footage(source, asked=False):
        folders = sorted(path.name for path in source.iterdir())
        raise InputError(
            "no raw images found", file=source, expected="a folder of images a camera",
            found=", ".join(folders[:12]) or "nothing", hint="Say where they are: --footage FOLDER",
        )  # fmt: skip
    say("no truth: MultiHuman's SMPL-X models were estimated from the images")
    return Recording(settings)
