"""Segment Anything and SAM 2 with tiny random weights: real packages, real files, everything but the training."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import torchvision_stand_in

torchvision_stand_in.install()

from avatarpose.errors import InputError  # noqa: E402
from avatarpose.io import read_json, write_json, write_npz  # noqa: E402
from avatarpose.segment import SegmentConfig, segment_sequence  # noqa: E402
from avatarpose.segment.people import People  # noqa: E402
from avatarpose.segment.propagate import Tracks, moved_logits, prompts  # noqa: E402
from avatarpose.sequence import Sequence  # noqa: E402

segment_anything = pytest.importorskip("segment_anything")


def tiny_sam(path: Path, size: int = 256, width: int = 64, depth: int = 2) -> Path:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(1)
    grid = size // 16
    sam = Sam(
        ImageEncoderViT(
            img_size=size, patch_size=16, embed_dim=width, depth=depth, num_heads=4, out_chans=256, qkv_bias=True,
            use_rel_pos=True, window_size=14, global_attn_indexes=(1,),
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        PromptEncoder(256, (grid, grid), (size, size), 16),
        MaskDecoder(
            num_multimask_outputs=3, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        ),
    )  # fmt: skip
    # Position codes start at zero; so that the reader is tested on every one of them, they do not stay so.
    for parameter in sam.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture()
def capture(data_folder: Path, tmp_path: Path) -> Path:
    """Three frames of two cameras of the rendered couple, without masks."""
    from shutil import copy

    folder = tmp_path / "couple"
    for camera in ("cam00", "cam03"):
        for frame in range(3):
            path = folder / "images" / camera / f"{frame:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            copy(data_folder / "duo_a" / "images" / camera / path.name, path)
        with np.load(data_folder / "duo_a" / "keypoints2d" / f"{camera}.npz") as rows:
            write_npz(folder / "keypoints2d" / f"{camera}.npz", keypoints=rows["keypoints"][:3])
    cameras = read_json(data_folder / "duo_a" / "cameras.json")
    write_json(folder / "cameras.json", {name: cameras[name] for name in ("cam00", "cam03")})
    write_json(folder / "sequence.json", read_json(data_folder / "duo_a" / "sequence.json") | {"frames": 3})
    return folder


def test_the_size_is_read_off_the_weights_and_the_weights_are_all_used(tmp_path: Path) -> None:
    from avatarpose.segment.sam import load_sam

    path = tiny_sam(tmp_path / "sam.pth", depth=3)
    sam = load_sam(path)
    assert sam.image_encoder.img_size == 256 and len(sam.image_encoder.blocks) == 3
    assert [block.window_size for block in sam.image_encoder.blocks] == [14, 0, 14]
    assert sam.image_encoder.blocks[0].attn.num_heads == 4
    stored = torch.load(path, weights_only=True)
    for name, value in sam.state_dict().items():
        torch.testing.assert_close(value, stored[name])


def test_masks_come_from_the_prompts_and_are_carried_on(capture: Path, tmp_path: Path) -> None:
    config = SegmentConfig(checkpoint=tiny_sam(tmp_path / "sam.pth"))
    report = segment_sequence(Sequence.open(capture), config)
    assert report.method == "sam" and [camera.made for camera in report.cameras.values()] == [3, 3]
    sequence = Sequence.open(capture)
    masks = [sequence.mask(0, f) for f in range(3)]
    assert all(set(np.unique(mask)) <= {0, 128, 255} for mask in masks)
    assert all(mask.shape == (384, 512) for mask in masks)
    before = {path: path.stat().st_mtime_ns for path in (capture / "masks").rglob("*.png")}
    segment_sequence(sequence, config)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_mask_of_the_frame_before_reaches_the_network(capture: Path, tmp_path: Path, monkeypatch) -> None:
    from segment_anything import SamPredictor

    given, answered = [], []
    predict = SamPredictor.predict

    def watched(self, **arguments):
        result = predict(self, **arguments)
        given.append(arguments["mask_input"])
        answered.append(result[2])
        assert arguments["multimask_output"] == (arguments["mask_input"] is None)
        return result

    monkeypatch.setattr(SamPredictor, "predict", watched)
    sequence = Sequence.open(capture, ["cam00"], least_cameras=1)
    segment_sequence(sequence, SegmentConfig(checkpoint=tiny_sam(tmp_path / "s.pth")))
    # Random weights know no people, but their answer depends on the prompt.
    assert np.abs(answered[0] - answered[1]).max() > 1e-4
    assert len(given) == 6 and given[0] is None and given[1] is None and given[2] is not None
    # What the first person is given in frame 1 is one of the three answers of frame 0, moved along with the joints.
    tracks = Tracks(People(sequence), 0)
    before, now = tracks.at(0), tracks.at(1)
    key = next(iter(now))
    own = answered[list(before).index(key)]
    moved = [moved_logits(answer, before[key], now[key], 512) for answer in own]
    assert min(np.abs(given[2][0] - answer).max() for answer in moved) < 1e-6


def test_each_person_is_prompted_by_own_joints_and_against_the_others(capture: Path) -> None:
    people = People(Sequence.open(capture))
    tracks = Tracks(people, 1)
    found = tracks.at(0)
    made = prompts(people, 1, 0, found)
    assert set(made) == set(found) and len(made) == 2
    (first, second), points = made.values(), list(found.values())
    for prompt, own, other in ((first, points[0], points[1]), (second, points[1], points[0])):
        for point, label in zip(prompt.points, prompt.labels, strict=True):
            nearest = [np.nanmin(np.linalg.norm(rows - 0.5 - point, axis=-1)) for rows in (own, other)]
            assert int(np.argmin(nearest)) == (0 if label == 1 else 1)
        inside = (prompt.points >= prompt.box[:2]).all(-1) & (prompt.points <= prompt.box[2:]).all(-1)
        assert inside[prompt.labels == 1].all()
    # The rows of the file are shuffled; the keys follow the people.
    again = tracks.at(1)
    assert set(again) == set(found)
    for key in found:
        both = np.isfinite(found[key]).all(-1) & np.isfinite(again[key]).all(-1)
        assert np.median(np.linalg.norm(found[key] - again[key], axis=-1)[both]) < 30


def test_broken_weights_are_named(capture: Path, tmp_path: Path) -> None:
    sequence = Sequence.open(capture)

    def message(path: Path, method: str = "sam") -> str:
        with pytest.raises(InputError) as caught:
            segment_sequence(sequence, SegmentConfig(method, checkpoint=path))
        return str(caught.value)

    assert "no such checkpoint" in message(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no weights")
    assert "text.pth" in message(tmp_path / "text.pth")
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 16, 16, 64)}, tmp_path / "other.pth")
    assert "not weights of Segment Anything" in message(tmp_path / "other.pth")
    weights = torch.load(tiny_sam(tmp_path / "sam.pth"), weights_only=True)
    del weights["mask_decoder.iou_token.weight"]
    torch.save(weights, tmp_path / "half.pth")
    assert "iou_token" in message(tmp_path / "half.pth") or "not weights" in message(tmp_path / "half.pth")
    torch.save(print, tmp_path / "code.pth")  # a pickled function
    assert "tensors" in message(tmp_path / "code.pth")
    with pytest.raises(InputError, match="--checkpoint"):
        segment_sequence(sequence, SegmentConfig("sam"))
    assert not (capture / "masks").exists()




def tiny_sam2(folder: Path) -> tuple[Path, Path]:
    """A configuration of the package made small, and random weights for it."""
    import sam2
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(sam2.__path__[0]) / "configs" / "sam2.1" / "sam2.1_hiera_t.yaml")
    model = config.model
    model.image_size = 256
    model.image_encoder.trunk.embed_dim = 16
    model.image_encoder.trunk.stages = [1, 1, 2, 1]
    model.image_encoder.trunk.global_att_blocks = [3]
    model.image_encoder.neck.backbone_channel_list = [128, 64, 32, 16]
    model.memory_attention.num_layers = 1
    for part in (model.memory_attention.layer.self_attention, model.memory_attention.layer.cross_attention):
        part.feat_sizes = [16, 16]
    path = folder / "tiny.yaml"
    path.write_text("# @package _global_\n" + OmegaConf.to_yaml(config))
    from hydra.utils import instantiate

    torch.manual_seed(2)
    copy = OmegaConf.create(OmegaConf.to_container(config))
    copy.model["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    torch.save({"model": instantiate(copy.model).state_dict()}, folder / "sam2_tiny.pt")
    return path, folder / "sam2_tiny.pt"


def test_sam2_segments_a_clip(capture: Path, tmp_path: Path) -> None:
    pytest.importorskip("sam2")
    config, weights = tiny_sam2(tmp_path)
    report = segment_sequence(Sequence.open(capture), SegmentConfig(checkpoint=weights, model=str(config)))
    assert report.method == "sam2" and [camera.made for camera in report.cameras.values()] == [3, 3]
    sequence = Sequence.open(capture)
    for c in range(2):
        for f in range(3):
            assert set(np.unique(sequence.mask(c, f))) <= {0, 128, 255}
    with pytest.raises(InputError, match="configuration"):
        (capture / "masks" / "cam00" / "000001.png").unlink()
        segment_sequence(sequence, SegmentConfig("sam2", checkpoint=weights, model="configs/none.yaml"))
    with pytest.raises(InputError, match="do not fit"):
        segment_sequence(
            sequence, SegmentConfig("sam2", checkpoint=weights, model="configs/sam2.1/sam2.1_hiera_t.yaml")
        )
