"""What this machine has, what will be used and why, and the line that gets what is missing: `avatarpose doctor`.

The short look reads what is installed and asks the driver for devices, without importing anything large, and takes
about a second. The thorough look imports and runs what the short one takes on trust.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avatarpose.errors import InputError
from avatarpose.io import read_npz, sha256
from avatarpose.runlog import PACKAGES, package_versions

_CUDA_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cu126"
_WINDOW_LIBRARIES = (
    "sudo apt-get install libusb-1.0-0 libgl1 libegl1 libx11-6 libudev1 libidn2-0 libvulkan1 mesa-vulkan-drivers"
)


@dataclass(frozen=True)
class Optional:
    """A package that is used when it is there.

    Attributes:
        module: what is imported.
        distribution: what is installed.
        use: what for, and what happens without it.
        get: the line that gets it; empty for what nothing uses.
        cuda: whether it is of use on CUDA only.
    """

    module: str
    distribution: str
    use: str
    get: str
    cuda: bool = False


OPTIONAL = (
    Optional(
        "warp", "warp-lang", "hash grid, nearest vertices on CUDA; else plain torch, 1.5 times slower",
        "pip install warp-lang",
    ),
    Optional(
        "mediapipe", "mediapipe", "detect and segment without weights of your own",
        "pip install --no-deps mediapipe==0.10.21 && "
        "pip install 'protobuf>=4.25.3,<6' absl-py attrs flatbuffers matplotlib",
    ),
    Optional("onnxruntime", "onnxruntime", "detect with RTMPose or RTMO, models by path", "pip install onnxruntime"),
    Optional("rtmlib", "rtmlib", "nothing: onnxruntime reads its models", ""),
    Optional(
        "segment_anything", "segment-anything", "segment with Segment Anything, checkpoint by path",
        "pip install segment-anything torchvision",
    ),
    Optional("sam2", "sam2", "segment with SAM 2; of use with CUDA", "pip install sam2 torchvision", cuda=True),
    Optional("open3d", "open3d", "the window of `view`; else --web or --headless", "pip install open3d"),
    Optional("viser", "viser", "`view --web`", "pip install viser"),
    Optional("pygltflib", "pygltflib", "tests read exported glb with it", "pip install pygltflib"),
    Optional("ezc3d", "ezc3d", "export of C3D", "pip install ezc3d"),
    Optional("pxr", "usd-core", "export of binary USD", "pip install usd-core"),
    Optional("lpips", "lpips", "the perceptual loss of the preset paper", "pip install lpips"),
    Optional("smplx", "smplx", "tests compare the body with it; free for research only", "pip install smplx"),
    Optional("embreex", "embreex", "tests and captures that are drawn", "pip install embreex"),
    Optional("anny", "anny", "baking the open body anew", "pip install anny"),
    Optional(
        "tinycudann", "tinycudann", "hash grid on CUDA where it is faster than Warp; nvcc compiles it",
        "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch", cuda=True,
    ),
    Optional("nerfacc", "nerfacc", "tests compare the compositing with it", "pip install nerfacc"),
    Optional(
        "pytorch3d", "pytorch3d", "tests compare nearest vertices with it",
        "pip install git+https://github.com/facebookresearch/pytorch3d.git", cuda=True,
    ),
)  # fmt: skip


def there(module: str) -> bool:
    """Whether a module could be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


@dataclass(frozen=True)
class Gpu:
    """A device of the CUDA driver."""

    name: str
    gigabytes: float


def cuda_devices() -> tuple[list[Gpu], str]:
    """Devices by the driver's own word, and why there are none; asks the driver's library, not torch."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return [], "no NVIDIA driver is installed"
    count = ctypes.c_int()
    code = driver.cuInit(0)
    if code or driver.cuDeviceGetCount(ctypes.byref(count)):
        return [], f"the NVIDIA driver finds no device (error {code})"
    found = []
    for index in range(count.value):
        name, size = ctypes.create_string_buffer(128), ctypes.c_size_t()
        driver.cuDeviceGetName(name, 128, index)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), index)
        found.append(Gpu(name.value.decode(errors="replace"), size.value / 2**30))
    return found, "" if found else "the NVIDIA driver has no device"


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for; None for a CPU build or no torch."""
    spec = find_spec("torch")
    if spec is None or not spec.origin:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def report(console: Console | None = None, thorough: bool = False, paths: tuple[Path, ...] = ()) -> None:
    """Prints versions, devices, what will be used and why, optional packages, the body, and the given files.

    Args:
        thorough: also import and run what is otherwise taken on trust; takes up to a minute.
        paths: body models and checkpoints to look at.

    Raises:
        InputError: one of `paths` is not usable.
    """
    console = console or Console()
    console = console if console.is_terminal else Console(file=console.file, width=130)

    def say(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    versions = package_versions()
    say("versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    for name in PACKAGES:
        if name not in versions and not there({"opencv-python-headless": "cv2", "warp-lang": "warp"}.get(name, name)):
            say(f"missing: {name}, which is needed: pip install {name}")
    clash = [name for name in ("opencv-python", "opencv-contrib-python") if _version(name)]
    if clash and _version("opencv-python-headless"):
        say(f"two OpenCVs overwrite each other: pip uninstall {' '.join(clash)} && "
            "pip install --force-reinstall --no-deps opencv-python-headless")  # fmt: skip
    devices = _say_devices(say)
    waiting = os.environ.get("OMP_WAIT_POLICY", "unset")
    say(f"OMP_WAIT_POLICY: {waiting}" + ("" if waiting.upper() == "PASSIVE" else " (PASSIVE is faster)"))
    _say_display(say)
    if thorough:
        _say_trials(say)
    else:
        use = "Warp, on CPU and CUDA, if its kernels pass a test at first use" if there("warp") else "plain torch"
        if devices and there("tinycudann"):
            use += "; on CUDA tiny-cuda-nn, if it passes too and is faster"
        say(f"hash grid: {use} (`doctor --thorough` tries it now)")
    console.print(_table())
    for package in OPTIONAL:
        if package.get and not _found(package) and (devices or not package.cuda):
            say(f"to get {package.distribution}: {package.get}")
    _say_body(say)
    for path in paths:
        say(f"{path}: {look_at(path)}")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _say_devices(say) -> list[Gpu]:
    devices, why = cuda_devices()
    built = torch_cuda()
    say(f"CPU: {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for index, device in enumerate(devices):
        say(f"CUDA device {index}: {device.name}, {device.gigabytes:.0f} GB")
    if devices and built:
        say("runs will use CUDA (--device cpu to choose the CPU) and the preset gpu")
    elif devices:
        say(f"runs will use the CPU and the preset cpu: this torch is built without CUDA. Get one with: {_CUDA_TORCH}")
    else:
        say(f"runs will use the CPU and the preset cpu: {why}")
    return devices


def _say_display(say) -> None:
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not display:
        say("display: none, so `view` needs --web or --headless (or: xvfb-run avatarpose view ...)")
    else:
        say(f"display: {display or 'of the system'}; if a window does not open: {_WINDOW_LIBRARIES}")


def _say_body(say) -> None:
    path = Path(str(files("assets"))) / "body.npz"
    try:
        vertices = len(read_npz(path, ("v_template",))["v_template"])
        say(f"body: the open one, {vertices} vertices, sha256 {sha256(path)[:12]}; SMPL files by --body PATH")
    except InputError as error:
        say(f"body: {error}")


def _found(package: Optional) -> str | None:
    """Its version, or `yes` where it was put there by other means; None where it is not."""
    return (_version(package.distribution) or "yes") if there(package.module) else None


def _table() -> Table:
    table = Table("package", "here", "used for")
    for package in OPTIONAL:
        table.add_row(package.distribution, _found(package) or "no", package.use)
    return table


def _say_trials(say) -> None:
    """Imports and runs: torch with CUDA, the hash grid's kernels, detectors, segmenters, a window."""
    import torch

    if torch_cuda() and not torch.cuda.is_available():
        say("torch is built for CUDA but finds no device: is the driver too old? `nvidia-smi` shows its CUDA version")
    # What stands above this package is imported where it is tried.
    from renderer.hash_grid import available_backends

    chosen, *others = available_backends("cuda" if torch.cuda.is_available() else "cpu").items()
    say(f"hash grid: {chosen[0]} will be used, {chosen[1]}")
    for name, reason in others:
        say(f"hash grid: {name}, {reason}")
    from avatarpose.detect import available_detectors
    from avatarpose.segment import available_segmenters

    for name, state in available_detectors().items():
        say(f"detect --detector {name}: {state}")
    for name, state in available_segmenters().items():
        say(f"segment --method {name}: {state}")
    from viewer.display import require_window

    try:
        require_window()
        say("window: one opened and closed")
    except InputError as error:
        say(f"window: {error}")


def look_at(path: Path) -> str:
    """What a body model or a checkpoint is, in words.

    Segment Anything's own checkpoints bear the start of their SHA-256 in the name, which is compared.

    Raises:
        InputError: it is absent, or is no body in SMPL's format, or not the file that its name promises.
    """
    if not path.is_file():
        raise InputError("no such file", file=path)
    kind = path.suffix.lower()
    if kind in (".npz", ".pkl"):
        from avatarpose.body import load_body

        body = load_body(path)
        return f"a body in SMPL's format, {len(body.v_template)} vertices, {body.shapedirs.shape[-1]} shape directions"
    size = path.stat().st_size / 2**20
    if kind in (".pth", ".pt", ".onnx", ".safetensors"):
        with open(path, "rb") as file:
            start = file.read(8)
        right = {".onnx": start[:1] == b"\x08", ".safetensors": len(start) == 8 and start[7] == 0}
        if not right.get(kind, start.startswith((b"PK\x03\x04", b"\x80"))) or size < 0.001:
            raise InputError("not what its suffix says, or cut off", file=path, found=f"{size:.1f} MB")
        digest = re.search(r"_([0-9a-f]{6,8})\.pth$", path.name)
        if digest and not sha256(path).startswith(digest[1]):
            raise InputError(
                "not the file that its name promises, or cut off", file=path,
                expected=f"a SHA-256 that starts {digest[1]}", found=f"{sha256(path)[:8]}, {size:.0f} MB",
                hint="Download it again",
            )  # fmt: skip
        return f"weights, {size:.0f} MB" + (", complete" if digest else "")
    expected = ".npz, .pkl, .pth, .pt, .onnx, .safetensors"
    raise InputError("neither a body model nor weights", file=path, expected=expected)
