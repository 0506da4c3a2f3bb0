"""Skeletons with angles, BVH and Acclaim's, as 15 joints at places worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exported_people import make_bodies

from avatarpose.errors import InputError
from avatarpose.io import write_npz
from avatarpose.skeletons import PANOPTIC15
from avatarpose.train.motion import _key
from avatarpose.train.motion_files import motion_files, read_clips, sources_of
from avatarpose.train.motion_fit import FitSettings
from avatarpose.train.motion_skeletons import AMC_FPS, CMU_UNIT, asf_of, read_amc, read_bvh
from viewer.export.bvh import bvh
from viewer.export.scene import Axes, make_scene

# Units of CMU's files: thigh and shin 7 each, 0.79 m of leg.
BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT LHipJoint
  {
    OFFSET 0 0 0
    CHANNELS 3 Zrotation Yrotation Xrotation
    JOINT LeftUpLeg
    {
      OFFSET 2 -1 0
      CHANNELS 3 Zrotation Yrotation Xrotation
      JOINT LeftLeg
      {
        OFFSET 0 -7 0
        CHANNELS 3 Zrotation Yrotation Xrotation
        JOINT LeftFoot
        {
          OFFSET 0 -7 0
          CHANNELS 3 Zrotation Yrotation Xrotation
          End Site
          {
            OFFSET 0 0 2
          }
        }
      }
    }
  }
  JOINT RightUpLeg
  {
    OFFSET -2 -1 0
    CHANNELS 3 Zrotation Yrotation Xrotation
    JOINT RightLeg
    {
      OFFSET 0 -7 0
      CHANNELS 3 Zrotation Yrotation Xrotation
      JOINT RightFoot
      {
        OFFSET 0 -7 0
        CHANNELS 3 Zrotation Yrotation Xrotation
      }
    }
  }
  JOINT Spine
  {
    OFFSET 0 4 0
    CHANNELS 3 Zrotation Yrotation Xrotation
    JOINT Neck
    {
      OFFSET 0 5 0
      CHANNELS 3 Zrotation Yrotation Xrotation
      JOINT Neck1
      {
        OFFSET 0 1 0
        CHANNELS 3 Zrotation Yrotation Xrotation
        JOINT Head
        {
          OFFSET 0 2 0
          CHANNELS 3 Zrotation Yrotation Xrotation
          End Site
          {
            OFFSET 0 2 0
          }
        }
      }
    }
    JOINT LeftArm
    {
      OFFSET 3 5 0
      CHANNELS 3 Zrotation Yrotation Xrotation
      JOINT LeftForeArm
      {
        OFFSET 5 0 0
        CHANNELS 3 Zrotation Yrotation Xrotation
        JOINT LeftHand
        {
          OFFSET 4 0 0
          CHANNELS 3 Zrotation Yrotation Xrotation
        }
      }
    }
    JOINT RightArm
    {
      OFFSET -3 5 0
      CHANNELS 3 Zrotation Yrotation Xrotation
      JOINT RightForeArm
      {
        OFFSET -5 0 0
        CHANNELS 3 Zrotation Yrotation Xrotation
        JOINT RightHand
        {
          OFFSET -4 0 0
          CHANNELS 3 Zrotation Yrotation Xrotation
        }
      }
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.0083333
"""
ORDER = [line.split()[1] for line in BVH.splitlines() if line.split()[0] in ("ROOT", "JOINT")]


def row(root: tuple[float, float, float] = (0, 0, 0), **turns: tuple[float, float, float]) -> str:
    """Channel values of one frame: z, y, x degrees by joint."""
    return " ".join(map(str, [*root, *(value for name in ORDER for value in turns.get(name, (0, 0, 0)))]))


def write_bvh(path: Path, change: Callable[[str], str] = lambda text: text, *rows: str) -> Path:
    path.write_text(change(BVH + "\n".join(rows or (row(), row())) + "\n"))
    return path


def units(y_up: list[float]) -> np.ndarray:
    """A place in the file's axes and units as metres, z up."""
    x, y, z = y_up
    return CMU_UNIT * np.array([x, -z, y])


def place(joints: np.ndarray, joint: str) -> np.ndarray:
    return joints[0, PANOPTIC15.index(joint)]


def test_bvh_at_rest_and_turned(tmp_path: Path) -> None:
    # Frame 1: the root at (1, 18, 3) turned by 90 degrees about y: x goes to -z, z to x. The left knee bends by 90
    # about x: what hung down (0, -7, 0) points to (0, 0, -7) before the root's turn, (-7, 0, 0) after. The left arm
    # turns first about x (inner, last channel) by 90, which leaves x, then about z by 90: x to y.
    rows = row(), row((1, 18, 3), Hips=(0, 90, 0), LeftLeg=(0, 0, 90), LeftArm=(90, 0, 90))
    fps, joints = read_bvh(write_bvh(tmp_path / "a.bvh", lambda text: text, *rows))
    assert fps == pytest.approx(120, abs=0.01) and joints.shape == (2, 1, 15, 3) and joints.dtype == np.float32
    rest = {"left_hip": [2, -1, 0], "left_ankle": [2, -15, 0], "right_knee": [-2, -8, 0], "mid_hip": [0, -1, 0],
            "neck": [0, 10, 0], "nose": [0, 14, 0], "left_shoulder": [3, 9, 0], "right_wrist": [-12, 9, 0]}  # fmt: skip
    turned = {"left_hip": [1, 17, 1], "left_knee": [1, 10, 1], "left_ankle": [-6, 10, 1], "nose": [1, 32, 3],
              "left_shoulder": [1, 27, 0], "left_elbow": [1, 32, 0], "left_wrist": [1, 36, 0],
              "right_elbow": [1, 27, 11]}  # fmt: skip
    for joint, expected in rest.items():
        np.testing.assert_allclose(place(joints[0], joint), units(expected), atol=1e-5, err_msg=joint)
    for joint, expected in turned.items():
        np.testing.assert_allclose(place(joints[1], joint), units(expected), atol=1e-5, err_msg=joint)


@pytest.mark.parametrize("factor", [CMU_UNIT, 100 * CMU_UNIT, 1000 * CMU_UNIT])
def test_bvh_in_other_units(factor: float, tmp_path: Path) -> None:
    def scaled(text: str) -> str:
        lines = text.splitlines()
        for n, line in enumerate(lines):
            if line.split()[:1] == ["OFFSET"]:
                lines[n] = "OFFSET " + " ".join(str(factor * float(word)) for word in line.split()[1:])
        return "\n".join(lines)

    _, expected = read_bvh(write_bvh(tmp_path / "a.bvh"))
    _, joints = read_bvh(write_bvh(tmp_path / "b.bvh", scaled))
    np.testing.assert_allclose(joints, expected, atol=1e-5)


def test_bvh_of_our_own_export_comes_back(tmp_path: Path) -> None:
    from avatarpose.body import load_body

    body = load_body()
    bodies = make_bodies(body)
    scene = make_scene("x", "z", bodies, body, Axes())
    path = tmp_path / "p0.bvh"
    path.write_bytes(bvh(scene, scene.people[0]))
    fps, joints = read_bvh(path)
    there = np.flatnonzero(bodies.valid[0])
    rows = [int(bodies.frames[f] - bodies.frames[0]) for f in there]
    names = {"left_knee": 4, "right_ankle": 8, "left_wrist": 20, "neck": 12, "right_shoulder": 17}
    assert fps == pytest.approx(scene.fps, rel=1e-5)
    for joint, smpl in names.items():
        found = joints[rows, 0, PANOPTIC15.index(joint)]
        np.testing.assert_allclose(found, bodies.joints[0, there, smpl], atol=2e-4, err_msg=joint)


ASF = """# made by hand
:version 1.10
:name made
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
  nothing
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
{bones}:hierarchy
  begin
    root lhipjoint rhipjoint thorax
    lhipjoint lfemur
    lfemur ltibia
    rhipjoint rfemur
    rfemur rtibia
    thorax lowerneck lclavicle rclavicle
    lowerneck upperneck
    upperneck head
    lclavicle lhumerus
    lhumerus lradius
    rclavicle rhumerus
    rhumerus rradius
  end
"""


def bone(name: str, direction: str, length: float, dof: str = "", axis: str = "0 0 0") -> str:
    lines = [f"  begin\n     id 1\n     name {name}\n     direction {direction}\n     length {length}"]
    lines += [f"     axis {axis} XYZ"]
    if dof:
        lines += [f"     dof {dof}", "     limits (-160.0 20.0)", *["            (-70.0 70.0)"] * dof.count(" ")]
    return "\n".join([*lines, "  end\n"])


def skeleton(**changed: str) -> str:
    bones = {
        "lhipjoint": bone("lhipjoint", "1 0 0", 2), "rhipjoint": bone("rhipjoint", "-1 0 0", 2),
        "lfemur": bone("lfemur", "0 -1 0", 7, "rx ry rz", "0 90 0"), "rfemur": bone("rfemur", "0 -1 0", 7, "rx ry rz"),
        "ltibia": bone("ltibia", "0 -1 0", 7, "rx"), "rtibia": bone("rtibia", "0 -1 0", 7, "rx"),
        "thorax": bone("thorax", "0 1 0", 9, "rx ry rz"), "lowerneck": bone("lowerneck", "0 1 0", 1),
        "upperneck": bone("upperneck", "0 1 0", 2), "head": bone("head", "0 1 0", 2),
        "lclavicle": bone("lclavicle", "1 0 0", 3), "rclavicle": bone("rclavicle", "-1 0 0", 3),
        "lhumerus": bone("lhumerus", "1 0 0", 5, "rx ry rz"), "rhumerus": bone("rhumerus", "-1 0 0", 5, "rx ry rz"),
        "lradius": bone("lradius", "1 0 0", 4, "rx"), "rradius": bone("rradius", "-1 0 0", 4, "rx"),
    }  # fmt: skip
    return ASF.format(bones="".join({**bones, **changed}.values()))


AMC = """#!OML:ASF F:\\made.ASF
:FULLY-SPECIFIED
:DEGREES
1
root 0 0 0 0 0 0
thorax 0 0 0
lfemur 0 0 0
ltibia 0
rfemur 0 0 0
lhumerus 0 0 0
2
root 1 18 3 0 90 0
thorax 0 0 0
lfemur 90 0 0
ltibia 0
rfemur 90 0 90
lhumerus 90 0 90
"""


def write_amc(folder: Path, asf: str = "", amc: str = AMC) -> Path:
    (folder / "07.asf").write_text(asf or skeleton())
    (folder / "07_02.amc").write_text(amc)
    return folder / "07_02.amc"


def test_amc_by_hand(tmp_path: Path) -> None:
    fps, joints = read_amc(write_amc(tmp_path))
    assert fps == AMC_FPS and joints.shape == (2, 1, 15, 3)
    rest = {"left_hip": [2, 0, 0], "left_knee": [2, -7, 0], "left_ankle": [2, -14, 0], "right_ankle": [-2, -14, 0],
            "neck": [0, 10, 0], "nose": [0, 14, 0], "left_shoulder": [3, 9, 0], "left_wrist": [12, 9, 0],
            "right_elbow": [-8, 9, 0]}  # fmt: skip
    # The root at (1, 18, 3) and turned by 90 degrees about y: x to -z, z to x; the hips at z 1 and 5.
    # Left femur: C turns by 90 about y, so C Rx(90) C^-1 turns about C x = -z: (0, -1, 0) to (-1, 0, 0), by the root's
    # turn to (0, 0, 1).
    # Right femur: Rz(90) Rx(90) (0, -1, 0) = Rz (0, 0, -1) = (0, 0, -1), by the root's turn (-1, 0, 0): level.
    # Left humerus: Rz(90) Rx(90) (1, 0, 0) = (0, 1, 0): up.
    turned = {"left_hip": [1, 18, 1], "left_ankle": [1, 18, 15], "right_hip": [1, 18, 5], "right_knee": [-6, 18, 5],
              "right_ankle": [-13, 18, 5], "left_shoulder": [1, 27, 0], "left_elbow": [1, 32, 0],
              "left_wrist": [1, 36, 0], "mid_hip": [1, 18, 3]}  # fmt: skip
    for joint, expected in rest.items():
        np.testing.assert_allclose(place(joints[0], joint), units(expected), atol=1e-5, err_msg=joint)
    for joint, expected in turned.items():
        np.testing.assert_allclose(place(joints[1], joint), units(expected), atol=1e-5, err_msg=joint)


def test_amc_in_other_orders_and_units(tmp_path: Path) -> None:
    _, expected = read_amc(write_amc(tmp_path))
    other = skeleton().replace("order TX TY TZ RX RY RZ", "order RX RY RZ TZ TY TX")
    amc = AMC.replace("root 1 18 3 0 90 0", "root 0 90 0 3 18 1")
    (tmp_path / "b").mkdir()
    _, joints = read_amc(write_amc(tmp_path / "b", other, amc))
    np.testing.assert_allclose(joints, expected, atol=1e-6)
    (tmp_path / "c").mkdir()
    _, joints = read_amc(write_amc(tmp_path / "c", skeleton().replace("length 0.45", "length 0.5")))
    np.testing.assert_allclose(joints, expected * 0.9, atol=1e-6)


def test_skeletons_are_motion_files(tmp_path: Path) -> None:
    amc = write_amc(tmp_path)
    write_bvh(tmp_path / "walk.bvh")
    write_npz(tmp_path / "amass.npz", poses=np.zeros((4, 156)), trans=np.zeros((4, 3)), mocap_framerate=np.array(60.0))
    found = motion_files([tmp_path])
    assert [name for _, name in found] == ["07_02", "amass", "walk"]
    clips = [clip for path, name in found for clip in read_clips(path, name)]
    assert [clip.name for clip in clips] == ["07_02", "amass", "walk"] and clips[0].fps == 120
    assert clips[2].joints.shape == (2, 1, 15, 3) and clips[1].poses.shape == (4, 72)
    assert sources_of(amc) == [amc, tmp_path / "07.asf"] and sources_of(tmp_path / "walk.bvh") == [
        tmp_path / "walk.bvh"]  # fmt: skip

    class Body:
        sha256 = "0"

    before = _key([(amc, "07_02")], Body, 10.0, FitSettings())
    (tmp_path / "07.asf").write_text(skeleton().replace("length 0.45", "length 0.46"))
    assert _key([(amc, "07_02")], Body, 10.0, FitSettings()) != before


def test_which_skeleton_is_whose(tmp_path: Path) -> None:
    amc = write_amc(tmp_path)
    (tmp_path / "08.asf").write_text(skeleton())
    assert asf_of(amc).name == "07.asf"
    (tmp_path / "09_01.amc").write_text(AMC)
    with pytest.raises(InputError, match=r"no skeleton for this motion.*09\.asf.*07\.asf, 08\.asf"):
        asf_of(tmp_path / "09_01.amc")
    (tmp_path / "08.asf").unlink()
    assert asf_of(tmp_path / "09_01.amc").name == "07.asf"


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", r"not a BVH file.*nothing"),
        (swap("HIERARCHY", "HIERARCHIE"), r"not a BVH file"),
        (swap("OFFSET 2 -1 0", "OFFSET 2 -1"), r"malformed at line 12.*3 numbers"),
        (swap("OFFSET 2 -1 0", "OFFSET 2 x 0"), r"malformed at line 12.*numbers"),
        (swap("OFFSET 2 -1 0", "OFFSET 2 nan 0"), r"malformed at line 12.*finite"),
        (swap("CHANNELS 3 Z", "CHANNELS 4 Z"), r"malformed at line 9.*CHANNELS"),
        (swap("JOINT LeftArm", "JOINT ArmLeft"), r"unknown joints.*LeftArm"),
        (swap("JOINT Head", "JOINT Kopf"), r"unknown joints.*Head"),
        (swap("\n}\nMOTION", "\nMOTION"), r"malformed at line \d+.*\} for every \{"),
        (swap("\nMOTION", "\nROOT Hips\nMOTION"), r"a second skeleton"),
        (swap("MOTION", ""), r"malformed at line 1\d\d"),
        (swap("Frames: 2", "Frames: 3"), r"another number of frames than announced.*3.*2"),
        (swap("Frame Time: 0.0083333", "Frame Time: 0"), r"seconds a frame"),
        (swap("Frame Time", "Time"), r"Frame Time:"),
        (swap("0.0083333\n", "0.0083333\n1 2 3\n"), r"malformed at line 1\d\d.*numbers"),
        (lambda text: text.replace("OFFSET 0 -7 0", "OFFSET 0 -0.1 0"), r"no plausible unit"),
    ],
)  # fmt: skip
def test_broken_bvh(change: Callable[[str], str], words: str, tmp_path: Path) -> None:
    path = write_bvh(tmp_path / "a.bvh", change)
    with pytest.raises(InputError, match=rf"a\.bvh: .*{words}|a\.bvh: {words}"):
        read_bvh(path)


@pytest.mark.parametrize(
    ("asf", "amc", "words"),
    [
        (swap(":bonedata", ":bones"), None, r"07\.asf: not a skeleton of Acclaim"),
        (swap("length 0.45", "length 0"), None, r"07\.asf: impossible unit"),
        (swap("direction 0 -1 0", "direction 0 -1"), None, r"07\.asf: malformed at line \d+.*3 numbers"),
        (swap("axis 0 90 0 XYZ", "axis 0 90 0 ZYX"), None, r"07\.asf: malformed at line \d+.*XYZ"),
        (swap("dof rx ry rz", "dof rx ry l"), None, r"07\.asf: malformed at line \d+.*rx, ry, rz"),
        (swap("lfemur ltibia", "lfemur"), None, r"bones without a parent.*ltibia"),
        (swap("name lowerneck", "name neck"), None, r"bones without a parent|unknown bones"),
        (swap("order TX TY TZ", "order TX TY"), None, r"unknown order"),
        (swap("length 0.45", "length 4.5"), None, r"07_02\.amc: a skeleton of impossible size"),
        (None, lambda text: "", r"07_02\.amc: no frames"),
        (None, swap(":DEGREES", ":RADIANS"), r"07_02\.amc: malformed at line 3.*:DEGREES"),
        (None, swap("\n2\n", "\n4\n"), r"malformed at line 11.*frame 2"),
        (None, swap("1\nroot", "root"), r"not a motion of Acclaim"),
        (None, swap("ltibia 0", "ltibia 0 1"), r"malformed at line 8.*1 numbers"),
        (None, swap("ltibia 0", "shin 0"), r"malformed at line 8.*a bone of the skeleton"),
        (None, swap("root 1 18 3 0 90 0\n", ""), r"frame 2: a frame with other bones"),
    ],
)  # fmt: skip
def test_broken_acclaim(asf, amc, words: str, tmp_path: Path) -> None:
    path = write_amc(tmp_path, asf and asf(skeleton()), AMC if amc is None else amc(AMC))
    with pytest.raises(InputError, match=words):
        read_amc(path)


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_bvh(tmp_path / "a.bvh")
    (tmp_path / "b.bvh").write_bytes(b"\xff\xfe\x00\x01\x80")
    with pytest.raises(InputError, match="not text"):
        read_bvh(tmp_path / "b.bvh")
    with pytest.raises(InputError, match="no skeleton for this motion"):
        read_amc(tmp_path / "01_01.amc")


def test_cmu_clips_and_ours_agree_in_their_bones(data_folder: Path, tmp_path: Path) -> None:
    """The capture's clips, made from the same library, measure as bones of a skeleton in CMU's unit do."""
    with np.load(data_folder / "motion" / "cmu_solo_15joints_30fps.npz") as data:
        names, clip = [str(name) for name in data["joint_names"]], data["amc_01_01"]
    thigh = np.linalg.norm(clip[:, names.index("l-hip")] - clip[:, names.index("l-knee")], axis=-1).mean()
    # Subject 01's femur is 7.1578 long in its .asf.
    assert thigh == pytest.approx(7.1578 * CMU_UNIT, abs=1e-3)
