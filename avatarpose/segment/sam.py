"""People by Segment Anything (Kirillov et al. 2023), prompted by joints and boxes, carried from frame to frame.

Each person's mask of one frame, as the network's low-resolution logits, is the mask prompt of the next, so that people
keep their own pixels through contact. Needs the package `segment-anything` and its weights.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from avatarpose.errors import InputError
from avatarpose.segment.base import FrameMasks, Step
from avatarpose.segment.config import SegmentConfig
from avatarpose.segment.people import People
from avatarpose.segment.propagate import Prompt, Tracks, masks_of, moved_logits, prompts
from avatarpose.sequence import BACKGROUND

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

DOUBT = 0.5
"""Logits nearer to 0 than this are unknown."""
_WINDOW = 14  # of the encoder's local attention, in all published weights


def load_sam(path: Path) -> Sam:
    """The network of a checkpoint; its size is read off the weights, so any ViT variant will do.

    Raises:
        InputError: the package or the file is missing, or the file holds no such weights. Nothing is unpickled but
            tensors.
    """
    try:
        from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    except ImportError as error:
        raise InputError(
            "the method sam needs the packages segment-anything and torchvision", found=error,
            hint="pip install segment-anything torchvision",
        ) from None  # fmt: skip
    weights = read_weights(path)
    try:
        patch, position = weights["image_encoder.patch_embed.proj.weight"], weights["image_encoder.pos_embed"]
        width, grid, size = len(patch), position.shape[1], patch.shape[-1]
        depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("image_encoder.blocks."))
        lengths = [weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
        prompt_width = weights["image_encoder.neck.0.weight"].shape[0]
        sam = Sam(
            image_encoder=ImageEncoderViT(
                depth=depth, embed_dim=width, img_size=grid * size, mlp_ratio=4,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), num_heads=width // lengths[0][1],
                patch_size=size, qkv_bias=True, use_rel_pos=True, window_size=_WINDOW, out_chans=prompt_width,
                global_attn_indexes=[i for i, shape in enumerate(lengths) if shape[0] == 2 * grid - 1],
            ),
            prompt_encoder=PromptEncoder(prompt_width, (grid, grid), (grid * size, grid * size), mask_in_chans=16),
            mask_decoder=MaskDecoder(
                num_multimask_outputs=3, transformer_dim=prompt_width, iou_head_depth=3, iou_head_hidden_dim=256,
                transformer=TwoWayTransformer(depth=2, embedding_dim=prompt_width, mlp_dim=2048, num_heads=8),
            ),
            pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375],
        )  # fmt: skip
        sam.load_state_dict(weights)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        found = str(error).split("\n")[0]
        raise InputError("not weights of Segment Anything", file=path, expected="sam_vit_*.pth", found=found) from None
    return sam.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A dictionary of tensors from a .pth file, with nothing else unpickled.

    Raises:
        InputError: no such file, or it holds anything else.
    """
    if not path.is_file():
        raise InputError("no such checkpoint", file=path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        found = str(error).split("\n")[0]
        raise InputError("not a checkpoint of tensors", file=path, expected=".pth", found=found) from None
    if not isinstance(weights, dict):
        raise InputError("not a checkpoint of tensors", file=path, expected="named tensors", found=type(weights))
    return weights


class SamSegmenter:
    """`Segmenter`; see the module's docstring."""

    def __init__(self, people: People, config: SegmentConfig) -> None:
        if config.checkpoint is None:
            raise InputError("the method sam needs weights", expected="--checkpoint sam_vit_b_01ec64.pth or another")
        sam = load_sam(config.checkpoint).to(config.device)
        from segment_anything import SamPredictor

        self.people, self.config = people, config
        self._predictor = SamPredictor(sam)

    def camera(self, c: int, frames: list[int], step: Step) -> Iterator[tuple[int, FrameMasks]]:
        tracks, before = Tracks(self.people, c), {}
        last: dict[str, np.ndarray] = {}
        previous = None
        for f in frames:
            image, now = self.people.sequence.image(c, f), tracks.at(f)
            if previous is not None and f != previous + 1:
                last = {}  # too long ago to say where anybody is
            logits = {}
            if now:
                self._predictor.set_image(image)
                for key, prompt in prompts(self.people, c, f, now).items():
                    carried = None
                    if key in last:
                        carried = moved_logits(last[key], before[key], now[key], max(image.shape[:2]))
                    logits[key], last[key] = self._predict(prompt, carried)
            last = {key: value for key, value in last.items() if key in logits}
            before, previous = now, f
            if not logits:
                yield f, FrameMasks(np.full(image.shape[:2], BACKGROUND, np.uint8))
                continue
            union, masks = masks_of(logits, DOUBT)
            yield f, FrameMasks(union, masks if self.people.known_in(f) else {})

    def notes(self, c: int) -> dict[str, float]:
        return {}

    def _predict(self, prompt: Prompt, carried: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Logits at the image's size and, to be carried on, as the network gives them.

        With a mask to go on from, the network has one answer; without, the one of its three that fits the points best.
        """
        masks, scores, small = self._predictor.predict(
            point_coords=prompt.points, point_labels=prompt.labels, box=prompt.box,
            mask_input=None if carried is None else carried[None].astype(np.float32),
            multimask_output=carried is None, return_logits=True,
        )  # fmt: skip
        size = np.array(masks.shape[:0:-1])
        at = np.clip(prompt.points.round().astype(int), 0, size - 1)
        right = ((masks[:, at[:, 1], at[:, 0]] > 0) == (prompt.labels == 1)).mean(-1)
        best = int(np.argmax(right + scores))
        return masks[best].astype(np.float32), small[best].astype(np.float32)
