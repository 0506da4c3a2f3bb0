"""Every Warp kernel compiles for the GPUs of today, on a machine that has none."""

import re
from pathlib import Path

import pytest
import warp as wp

from renderer import body_shell_warp, canonical_warp, hash_grid_warp
from renderer.warp_launch import start_warp

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = {80: "A100", 90: "H100, H200", 120: "RTX 50"}
BONES = 24
ELF_MACHINE_CUDA = 190


@pytest.fixture(scope="module")
def kernels() -> dict[str, list[wp.Kernel]]:
    """All kernels by the names they have in the source; the hash grid's for either number of features in use."""
    start_warp()
    grids = [hash_grid_warp._kernels(features) for features in (2, 4)]
    return {
        "encode": [grid.forward for grid in grids],
        "encode_backward": [grid.backward for grid in grids],
        "to_canonical": [canonical_warp.to_canonical],
        "to_canonical_backward": [canonical_warp.to_canonical_backward],
        "query_kernel": [body_shell_warp.query_kernel],
        "march": [body_shell_warp.march_kernel(BONES)],
    }


def test_no_kernel_is_forgotten(kernels):
    found = set()
    for package in ("avatarpose", "optimize", "renderer", "viewer"):
        for path in (ROOT / package).rglob("*.py"):
            found |= set(re.findall(r"^\s*@wp\.kernel.*\n\s*def (\w+)", path.read_text(), re.MULTILINE))
    assert found == set(kernels)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile_for(arch, kernels, tmp_path):
    if not hasattr(wp, "compile_aot_module"):
        pytest.skip(f"Warp {wp.__version__} cannot compile ahead of time")
    if arch not in wp.get_cuda_supported_archs():
        pytest.skip(f"Warp {wp.__version__} cannot compile for sm_{arch} ({ARCHITECTURES[arch]})")
    every = [kernel for variants in kernels.values() for kernel in variants]
    for module in dict.fromkeys(kernel.module for kernel in every):
        # PTX says what it is for; machine code shows that it fits the device.
        wp.compile_aot_module(module, arch=arch, use_ptx=True, module_dir=str(tmp_path))
        wp.compile_aot_module(module, arch=arch, use_ptx=False, module_dir=str(tmp_path))
    wanted = {f"{kernel.get_mangled_name()}_cuda_kernel_forward" for kernel in every}
    assert len(wanted) == len(every) == 8
    texts = [path.read_text(errors="replace") for path in tmp_path.glob("*.ptx")]
    assert all(re.search(rf"^\.target sm_{arch}\b", text, re.MULTILINE) for text in texts)
    assert wanted <= {name for text in texts for name in re.findall(r"\.entry (\w+)\(", text)}
    codes = [path.read_bytes() for path in tmp_path.glob("*.cubin")]
    assert all(code[:4] == b"\x7fELF" and int.from_bytes(code[18:20], "little") == ELF_MACHINE_CUDA for code in codes)
    assert wanted <= {name.decode() for code in codes for name in re.findall(rb"\0\.text\.(\w+)\0", code)}
