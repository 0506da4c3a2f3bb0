"""Free-viewpoint pictures against a camera that was not used, and their speed: `python -m benchmarks.free_viewpoint`.

Quality: the people are refined without one camera (`avatarpose run SEQ --leave-out cam07`), filmed from that camera
(`--camera cam07`), and compared with what it saw, frame by frame, inside the box of the people's mask plus 10 % of its
sides. Both stand before the rendering's background, white: the truth's own background goes by its mask, so a mask that
errs counts as an error of the rendering. What the mask calls unknown is left out of the comparison.

    PSNR   10 log10(1 / mean squared error) over the box, RGB from 0 to 1; `inside`: over the mask's foreground alone
    SSIM   Wang et al., "Image quality assessment", 2004: Gaussian window of 1.5 pixels, constants 0.01 and 0.03, mean
           over the box and the three channels
    LPIPS  Zhang et al. 2018, VGG features, where the package and its weights are there

Speed (`--speed`): frames a second of an orbit, everything but the encoding of the video.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.io import read_json, write_image, write_json
from avatarpose.pipeline import torch_device
from avatarpose.sequence import BACKGROUND, FOREGROUND, Sequence
from optimize.perceptual import load_lpips
from optimize.pictures import PeopleRenderer, load_avatars
from optimize.poses import BodyParameters
from viewer.video.paths import frame_joints, orbit
from viewer.video.scene import load_bodies

MARGIN = 0.10
WHITE = np.ones(3, np.float32)


@dataclass
class Options:
    sequence: Annotated[Path, tyro.conf.Positional]
    """A sequence with refined people."""
    camera: str | None = None
    """The camera to compare with; it must not have been used."""
    speed: str | None = None
    """Measure the speed at this size, such as 512x384."""
    count: int = 10
    """Frames rendered to measure the speed."""
    device: str = "auto"
    """cpu, cuda, ... or auto."""
    memory: float = 1.0
    """GB that rendering may take."""
    out: Path | None = None
    """Folder for pictures (truth, rendering) and the figures as figures.json."""


def psnr(a: Float[np.ndarray, "*size 3"], b: Float[np.ndarray, "*size 3"]) -> float:
    """Peak signal-to-noise ratio in dB of pictures from 0 to 1."""
    return float(-10 * np.log10(max(np.mean((np.float64(a) - b) ** 2), 1e-12)))


def ssim(a: Float[np.ndarray, "h w 3"], b: Float[np.ndarray, "h w 3"]) -> float:
    """Structural similarity of pictures from 0 to 1, -1 to 1; 1 where they are the same."""

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    a, b = np.float64(a), np.float64(b)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(index.mean())


def compared(
    rendered: Float[np.ndarray, "h w 3"], truth: Float[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "box 3"], Float[np.ndarray, "box 3"]]:
    """The two pictures inside the mask's box, with the truth's background as the module's head says.

    Raises:
        InputError: the mask is empty.
    """
    rows, columns = np.nonzero(mask == FOREGROUND)
    if not len(rows):
        raise InputError("nobody in the mask", expected="foreground pixels", found="none")
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    high, wide = round(MARGIN * (bottom - top)), round(MARGIN * (right - left))
    box = (
        slice(max(top - high, 0), min(bottom + high, len(mask))),
        slice(max(left - wide, 0), min(right + wide, mask.shape[1])),
    )
    filled = np.where((mask == FOREGROUND)[..., None], truth, rendered)
    filled = np.where((mask == BACKGROUND)[..., None], WHITE, filled)
    return rendered[box], filled[box]


def quality(
    sequence: Sequence, renderer: PeopleRenderer, numbers: np.ndarray, camera: str, out: Path | None
) -> dict[str, list[float]]:
    """The figures of every frame; `out`: folder for truth and rendering beside each other."""
    if camera not in sequence.cameras.names:
        raise InputError("no such camera", camera=camera, expected=", ".join(sequence.cameras.names), found=camera)
    c, lpips = sequence.cameras.names.index(camera), _lpips()
    figures: dict[str, list[float]] = {"psnr": [], "psnr_inside": [], "ssim": [], **({"lpips": []} if lpips else {})}
    for at, number in enumerate(numbers.tolist()):
        f = int(np.flatnonzero(sequence.frames == number)[0])
        mask = sequence.mask(c, f)
        if mask is None:
            raise InputError("no mask to compare within", file=sequence.mask_path(c, f), camera=camera, frame=number)
        rendered = renderer.picture(at, sequence.cameras[c]).over(WHITE)
        truth = sequence.image(c, f).astype(np.float32) / 255
        pair = compared(rendered, truth, mask)
        figures["psnr_inside"].append(psnr(rendered[mask == FOREGROUND], truth[mask == FOREGROUND]))
        figures["psnr"].append(psnr(*pair))
        figures["ssim"].append(ssim(*pair))
        if lpips:
            figures["lpips"].append(lpips(*pair))
        if out is not None:
            both = np.round(255 * np.hstack([pair[1], pair[0]])).astype(np.uint8)
            write_image(out / f"{camera}_{number:06d}.png", both)
    return figures


def _lpips():
    """LPIPS of two pictures from 0 to 1; None, and a line that says so, where it cannot be had."""
    try:
        network = load_lpips(torch.device("cpu"))
    except InputError as error:
        print(f"no LPIPS: {error.problem}")
        return None

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        pair = (2 * torch.from_numpy(np.float32(x)).permute(2, 0, 1)[None] - 1 for x in (a, b))
        with torch.no_grad():
            return float(network(*pair))

    return distance


def speed(renderer: PeopleRenderer, joints: np.ndarray, up: np.ndarray, size: str, count: int) -> dict[str, float]:
    """Frames a second of an orbit around the people in motion, by the clock and by the processor's time."""
    width, height = (int(part) for part in size.split("x"))
    cameras = orbit(frame_joints(joints, up, width, height), count, 1.0, 0.3, 0.17)
    frames = renderer.valid.shape[1]
    renderer.picture(0, cameras[0])
    if renderer.device.type == "cuda":
        torch.cuda.synchronize()
    clock, processor = time.perf_counter(), time.process_time()
    covered = [float((renderer.picture(i % frames, cameras[i]).alpha > 0).mean()) for i in range(count)]
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return {
        "frames_per_second": count / clock, "frames_per_processor_second": count / processor,
        "covered_percent": 100 * float(np.mean(covered)), "threads": torch.get_num_threads(),
    }  # fmt: skip


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.camera is None and options.speed is None:
        raise SystemExit("nothing to do: choose --camera, --speed or both")
    sequence, body = Sequence.open(options.sequence), load_body()
    bodies = load_bodies(sequence, body)
    avatars, config = load_avatars(sequence, bodies.people, body)
    parameters = BodyParameters(*(torch.as_tensor(x) for x in (bodies.betas, bodies.poses, bodies.trans)))
    renderer = PeopleRenderer(
        avatars, body, parameters, torch.as_tensor(bodies.valid), config.sampling, torch_device(options.device),
        options.memory * 1e9,
    )  # fmt: skip
    found: dict[str, object] = {"sequence": sequence.name, "people": len(bodies.people), "device": str(renderer.device)}
    if options.camera is not None:
        refined = read_json(sequence.results / "cameras_refined.json")
        if options.camera in refined:
            print(f"{options.camera} was used in the refinement: these figures are of a picture the avatars have seen")
        figures = quality(sequence, renderer, bodies.frames, options.camera, options.out)
        for name, values in figures.items():
            found[name] = {"mean": float(np.mean(values)), "worst": float((max if name == "lpips" else min)(values))}
        found |= {"camera": options.camera, "seen": options.camera in refined, "frames": len(bodies.frames)}
    if options.speed is not None:
        found |= speed(renderer, bodies.joints, sequence.up_vector, options.speed, options.count)
    for name, value in found.items():
        shown = ", ".join(f"{k} {v:.3f}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {shown:.2f}" if isinstance(shown, float) else f"{name}: {shown}")
    if options.out is not None:
        write_json(options.out / "figures.json", found)


if __name__ == "__main__":
    main()
