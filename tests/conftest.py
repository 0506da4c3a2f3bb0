"""Shared fixtures: the folder of captures, and the seeds of the random generators."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of captures (`AVATARPOSE_DATA`, default `../shared/data` beside the repository)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AVATARPOSE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"absent data: no captures at {folder}; set AVATARPOSE_DATA")
    return folder


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `cuda` run where there is a CUDA device and skip elsewhere."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="CUDA: no device on this machine"))
