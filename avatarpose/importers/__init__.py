"""Readers of what other tools leave: calibrations, footage, keypoints, masks, body fits.

Which convention a source of calibrations follows is decided here, once. What comes out has pixel centres at i + 0.5,
metres, and `x_cam = R x_world + t` with x right, y down, z forward; `dist` is OpenCV's [k1, k2, p1, p2, k3].

| source (`--calibration-format`) | pixel centres | lengths | up | rotation |
|---|---|---|---|---|
| EasyMocap, OpenCV YAML (opencv) | integers: 0.5 is added | the board's unit: m if plausible | - | world to camera |
| Qualisys .qca.txt (qualisys) | integers: 0.5 is added | mm; pixels / 64 | z | x right, y up, z back; centre |
| Pose2Sim, aniposelib TOML (toml) | integers: 0.5 is added | the file's: m if plausible | - | Rodrigues |
| Caliscope TOML (toml) | integers: 0.5 is added | m | - | matrix or Rodrigues |
| COLMAP text, binary (colmap) | i + 0.5: taken as it is | arbitrary: m if plausible | - | quaternion w, x, y, z |
| Hi4D npz (hi4d) | integers: 0.5 is added | m | - | extrinsics [R t] |
| CMU Panoptic JSON (panoptic) | integers: 0.5 is added | cm | -y | world to camera |
| VoxelPose JSON (voxelpose) | integers: 0.5 is added | mm | z | x_cam = R (x - T): T is the centre |
| Vicon .xcp (vicon) | integers (not documented): 0.5 is added | mm | z | quaternion x, y, z, w; centre |
| cameras.json (avatarpose) | i + 0.5: taken as it is | m | - | world to camera |

Where the source defines no up axis, people's heads and the upper edges of the cameras' images tell. Lens models with
further terms, and fisheye lenses, are refused; Vicon's, which acts the other way round, is fitted and the miss said.
"""
