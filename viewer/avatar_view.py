"""The avatars in the viewer: their colours on the bodies, and pictures by our own renderer, coarse first."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatarpose.errors import InputError
from viewer.data import ViewerData
from viewer.view import View

STEPS = (8, 4, 2, 1)
"""The pictures' resolutions: one ray for this many pixels across."""
KIND = "refined"


class AvatarView:
    """The avatars of a results folder; loaded when first asked for.

    Args:
        device: where to render.
    """

    def __init__(self, data: ViewerData, device: str = "cpu") -> None:
        self.data, self.device = data, device
        self._renderer = None
        self._colours: dict[str, np.ndarray] | None = None
        self._lock = threading.Lock()

    @property
    def available(self) -> bool:
        """Whether everybody in the refined result has an avatar."""
        bodies = self.data.bodies.get(KIND)
        folder = self.data.sequence.results / "avatars"
        return bodies is not None and all((folder / f"{name}.safetensors").is_file() for name in bodies.people)

    def colours(self, person: str) -> Float[np.ndarray, "vertices 3"] | None:
        """A person's avatar as colours of the body's vertices; None where there is no avatar."""
        if not self.available:
            return None
        if self._colours is None:
            from viewer.export.surfaces import surfaces

            bodies = self.data.bodies[KIND]
            found = surfaces(
                self.data.sequence, self.data.body, list(bodies.people), bodies.betas, "body", lambda *_: None
            )
            self._colours = {name: one.colours for name, one in zip(bodies.people, found, strict=True)}
        return self._colours.get(person)

    def picture(
        self, view: View, f: int, behind: UInt8[np.ndarray, "height width 3"], step: int = 1
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The avatars before a picture of the same view.

        Args:
            view: the viewpoint.
            f: frame index.
            behind: what is behind them, of the view's size.
            step: one ray for this many pixels across.

        Raises:
            InputError: there are no avatars, or one is damaged.
        """
        small = view.fitted(max(view.width // step, 1), max(view.height // step, 1))
        with self._lock:
            renderer, frames = self._ready()
            at = np.flatnonzero(frames == self.data.frames[f])
            if not len(at):
                return behind
            seen = renderer.picture(int(at[0]), small.cameras())
        size = (view.width, view.height)
        layers = np.concatenate([seen.colour, seen.alpha[..., None]], axis=-1).astype(np.float32)
        layers = cv2.resize(layers, size, interpolation=cv2.INTER_LINEAR) if step > 1 else layers
        mixed = 255 * layers[..., :3] + (1 - layers[..., 3:]) * behind
        return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)

    def _ready(self):
        """The renderer and the frame numbers it has."""
        bodies = self.data.bodies.get(KIND)
        if bodies is None:
            raise InputError(
                "no refined bodies", file=self.data.sequence.results, hint="`avatarpose refine` makes them"
            )
        if self._renderer is None or self._renderer[1] is not bodies:
            from optimize.pictures import PeopleRenderer, load_avatars
            from optimize.poses import BodyParameters

            avatars, config = load_avatars(self.data.sequence, list(bodies.people), self.data.body)
            parameters = BodyParameters(
                *(torch.as_tensor(x, dtype=torch.float32) for x in (bodies.betas, bodies.poses, bodies.trans))
            )
            valid = torch.as_tensor(bodies.valid)
            renderer = PeopleRenderer(avatars, self.data.body, parameters, valid, config.sampling, self.device)
            self._renderer = (renderer, bodies)
        return self._renderer[0], bodies.frames


class ProgressivePictures:
    """Renders in a thread of its own, coarse first; what is asked for later replaces what is not finished.

    Args:
        render: makes a picture of a request at a resolution step.
        deliver: called from the thread with the request and each picture.
    """

    def __init__(self, render: Callable, deliver: Callable) -> None:
        self._render, self._deliver = render, deliver
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._latest: object = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, request: object) -> None:
        """Asks for a picture; forgets what was asked for before."""
        self._latest = request
        self._requests.put(request)

    def cancel(self) -> None:
        """Nothing is wanted any more."""
        self._latest = None

    def close(self) -> None:
        """Ends the thread after the picture at work."""
        self.cancel()
        self._requests.put(None)

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            for step in STEPS:
                if request is not self._latest:
                    break
                try:
                    made = self._render(request, step)
                except InputError as error:
                    self._deliver(request, error)
                    break
                if request is self._latest:
                    self._deliver(request, made)
