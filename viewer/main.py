"""The command `view`: opens the data and hands it to a window, a page or a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatarpose.body import load_body
from avatarpose.edits import Edits
from avatarpose.errors import InputError
from avatarpose.io import write_image
from avatarpose.pipeline import torch_device
from avatarpose.sequence import open_selected
from viewer.data import BODY_KINDS, ViewerData
from viewer.options import ViewOptions
from viewer.scene import first_view
from viewer.session import Session
from viewer.state import ViewState, parse_kinds

PICTURES = (".png", ".jpg", ".jpeg")
LEAST, MOST = 64, 8192  # pixels


def view(folder: Path, options: ViewOptions) -> None:
    """Shows a sequence folder.

    Raises:
        InputError: the sequence or a result is not usable, the results are of another body, a frame, camera or kind is
            not there, or there is no display.
    """
    if options.headless and options.out.suffix.lower() not in PICTURES:
        raise InputError("not a kind of picture", file=options.out, expected=" or ".join(PICTURES))
    for name in ("width", "height"):
        if not LEAST <= getattr(options, name) <= MOST:
            found = getattr(options, name)
            raise InputError(f"impossible {name}", expected=f"{LEAST} to {MOST} pixels", found=found)
    session = open_session(folder, options)
    if options.headless:
        write_image(options.out, headless_picture(session, options.width, options.height, options.rendered))
        print(options.out)
    elif options.web:
        from viewer.web import serve

        serve(session, options.host, options.port)
    else:
        from viewer.window import show

        show(session, options.width, options.height)


def open_session(folder: Path, options: ViewOptions) -> Session:
    """The data and the first state of the viewer."""
    sequence = open_selected(folder, options.cameras, options.leave_out, options.frames, least_cameras=1)
    body = load_body(options.body)
    data = ViewerData(sequence, body)
    for kind, bodies in data.bodies.items():
        if bodies.body_sha256 != body.sha256:
            raise InputError(
                f"the {kind} bodies are of another body model", file=sequence.results / f"{kind}.npz",
                expected=f"{body.name}, {body.sha256[:12]}", found=f"{bodies.body_name}, {bodies.body_sha256[:12]}",
                hint="Choose it with --body",
            )  # fmt: skip
    data.apply(Edits.load(sequence.folder))
    return Session(data, _first_state(options, data), str(torch_device(options.device)))


def _first_state(options: ViewOptions, data: ViewerData) -> ViewState:
    kinds = parse_kinds(options.show) if options.show else set()
    for kind in sorted(kinds):
        if kind not in data.kinds:
            raise InputError(
                f"nothing {kind} to show", file=data.sequence.folder,
                expected=", ".join(data.kinds) or "results: `avatarpose run` makes them", found="no such file",
            )  # fmt: skip
    if not kinds:
        kinds = {kind for kind in ("refined", "initial", "estimate", "truth") if kind in data.kinds}
        kinds = {next((k for k in ("refined", "initial", "estimate", "truth") if k in kinds), "refined")}
    frame = len(data.frames) // 2 if options.headless else 0
    if options.frame is not None:
        frame = data.index(options.frame)
        if frame is None:
            numbers = f"{data.frames[0]} to {data.frames[-1]}"
            raise InputError("no such frame", file=data.sequence.folder, expected=numbers, found=options.frame)
    if options.camera and options.camera not in data.sequence.cameras.names:
        expected = ", ".join(data.sequence.cameras.names)
        raise InputError("no such camera", file=data.sequence.folder, camera=options.camera, expected=expected)
    if not 0 <= options.opacity <= 1:
        raise InputError("impossible opacity", expected="0 to 1", found=options.opacity)
    if options.colour == "difference" and not (data.truth or set(BODY_KINDS) <= set(data.bodies)):
        raise InputError("nothing to compare with", file=data.sequence.folder, expected="a truth, or both bodies")
    return ViewState(
        frame=frame,
        kinds=kinds,
        surface=options.colour,
        side_by_side=options.side_by_side,
        skeletons=options.skeletons,
        trails=options.trails,
        through=options.camera or None,
        opacity=options.opacity,
    )


def headless_picture(session: Session, width: int, height: int, rendered: bool = False) -> np.ndarray:
    """The first picture a window would show, (height, width, 3) RGB."""
    scene = session.scene()
    chosen = scene.view or first_view(session.data, session.state, width, height)
    chosen = chosen.fitted(width, height)
    return session.avatar_picture(chosen) if rendered else session.take_picture(chosen)
