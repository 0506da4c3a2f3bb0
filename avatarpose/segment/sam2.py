"""People by SAM 2's video predictor (Ravi et al. 2024), prompted by joints and boxes every few frames.

The network keeps a memory of each person, which carries them through contact and occlusion. Long clips are cut into
stretches, for the memory of the machine; each begins with fresh prompts, whose keys (names, or running numbers) go on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from avatarpose.errors import InputError
from avatarpose.io import write_image
from avatarpose.segment.base import FrameMasks, Step
from avatarpose.segment.config import SegmentConfig
from avatarpose.segment.people import People
from avatarpose.segment.propagate import Prompt, Tracks, masks_of, prompts
from avatarpose.segment.sam import DOUBT, read_weights
from avatarpose.sequence import BACKGROUND

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

STRETCH = 100
"""Frames segmented together."""
PROMPT_EVERY = 10
"""Frames between prompts."""


def load_sam2(checkpoint: Path, model: str, device: str) -> SAM2VideoPredictor:
    """The predictor of a checkpoint.

    Args:
        checkpoint: weights, such as sam2.1_hiera_small.pt.
        model: a configuration of the package, such as configs/sam2.1/sam2.1_hiera_s.yaml, or a file of one's own.
        device: cpu, cuda, ...

    Raises:
        InputError: the package or a file is missing, or the two do not fit each other.
    """
    try:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
        from sam2.build_sam import build_sam2_video_predictor
    except ImportError as error:
        raise InputError(
            "the method sam2 needs the package sam2 and torchvision", found=error, hint="pip install sam2 torchvision"
        ) from None
    if not model:
        raise InputError("the method sam2 needs a configuration", expected="--model configs/sam2.1/sam2.1_hiera_s.yaml")
    if "model" not in read_weights(checkpoint):
        raise InputError("not weights of SAM 2", file=checkpoint, expected="an entry called model")
    try:
        with _configuration(model) as name:
            # The clean-up of small holes is compiled for CUDA only.
            return build_sam2_video_predictor(
                name, str(checkpoint), device=device, apply_postprocessing=device.startswith("cuda")
            )
    except (HydraException, OmegaConfBaseException) as error:
        found = str(error).split("\n")[0]
        raise InputError("no such configuration of SAM 2", expected="configs/...yaml", found=found) from None
    except RuntimeError as error:
        found = str(error).split("\n")[0] or "names of weights that do not match"
        raise InputError("weights and configuration do not fit", file=checkpoint, expected=model, found=found) from None


@contextmanager
def _configuration(model: str) -> Iterator[str]:
    """The name by which the package finds a configuration; a file's folder is made known for the time being."""
    path = Path(model)
    if not path.is_file():
        yield model
        return
    from hydra import initialize_config_dir, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        initialize_config_dir(str(path.resolve().parent), version_base="1.2")
        yield path.name
    finally:
        GlobalHydra.instance().clear()
        initialize_config_module("sam2", version_base="1.2")


class Sam2Segmenter:
    """`Segmenter`; see the module's docstring."""

    def __init__(self, people: People, config: SegmentConfig) -> None:
        if config.checkpoint is None:
            raise InputError("the method sam2 needs weights", expected="--checkpoint sam2.1_hiera_small.pt or another")
        self.people, self.config = people, config
        self._predictor = load_sam2(config.checkpoint, config.model, config.device)

    def camera(self, c: int, frames: list[int], step: Step) -> Iterator[tuple[int, FrameMasks]]:
        tracks = Tracks(self.people, c)
        for start in range(0, len(frames), STRETCH):
            part = frames[start : start + STRETCH]
            shown = {f: tracks.at(f) for f in part}
            # Masks come frame by frame, so the folder of pictures stays until the last of them.
            with tempfile.TemporaryDirectory() as folder:
                for n, f in enumerate(part):
                    step(self.people.sequence.cameras.names[c])
                    write_image(Path(folder) / f"{n}.jpg", self.people.sequence.image(c, f), quality=98)
                yield from self._stretch(c, part, shown, folder)

    def notes(self, c: int) -> dict[str, float]:
        return {}

    def _stretch(
        self, c: int, frames: list[int], shown: dict[int, dict[str, np.ndarray]], folder: str
    ) -> Iterator[tuple[int, FrameMasks]]:
        keys = list(dict.fromkeys(key for f in frames for key in shown[f]))
        size = self.people.image_size(c).astype(int)[::-1]
        done = 0
        with torch.inference_mode():
            state = self._predictor.init_state(folder, offload_video_to_cpu=True)
            for n, prompt_of in self._prompts(c, frames, shown):
                for key, prompt in prompt_of.items():
                    self._predictor.add_new_points_or_box(
                        state, n, keys.index(key), points=prompt.points.astype(np.float32), labels=prompt.labels,
                        box=prompt.box.astype(np.float32),
                    )  # fmt: skip
            for n, ids, logits in self._predictor.propagate_in_video(state, start_frame_idx=0) if keys else ():
                found = {keys[i]: logit[0].float().cpu().numpy() for i, logit in zip(ids, logits, strict=True)}
                for skipped in range(done, n):
                    yield frames[skipped], FrameMasks(np.full(size, BACKGROUND, np.uint8))
                yield frames[n], self._masks(frames[n], shown[frames[n]], found, size)
                done = n + 1
        for skipped in range(done, len(frames)):
            yield frames[skipped], FrameMasks(np.full(size, BACKGROUND, np.uint8))

    def _prompts(
        self, c: int, frames: list[int], shown: dict[int, dict[str, np.ndarray]]
    ) -> Iterator[tuple[int, dict[str, Prompt]]]:
        """Prompts by number in the stretch: of everybody now and then, and of whoever is new."""
        known: set[str] = set()
        for n, f in enumerate(frames):
            fresh = set(shown[f]) - known
            if shown[f] and (n % PROMPT_EVERY == 0 or fresh):
                every = prompts(self.people, c, f, shown[f])
                yield n, every if n % PROMPT_EVERY == 0 else {key: every[key] for key in fresh}
            known |= set(shown[f])

    def _masks(
        self, f: int, here: dict[str, np.ndarray], logits: dict[str, np.ndarray], size: np.ndarray
    ) -> FrameMasks:
        # Who has no joint in the image is not in it, whatever the network remembers.
        logits = {key: value for key, value in logits.items() if key in here}
        if not logits:
            return FrameMasks(np.full(size, BACKGROUND, np.uint8))
        union, masks = masks_of(logits, DOUBT)
        return FrameMasks(union, masks if self.people.known_in(f) else {})
