"""Time one step of the renderer in refinement: forward and backward, to the poses and to the fields, and its parts.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.render_step --rays 1024 --people 2 --threads 2

Bodies stand side by side, rays aim around their surface, fields are at their start. Medians over the repeats; the share
is that of the step to the poses. Parts are timed on their own and overlap: they need not sum to the whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table

from avatarpose.body import CANONICAL_POSE, BodyModel, load_body, vertex_normals
from optimize.avatars import posed_vertices
from renderer.body_shell import BodyShell
from renderer.field import AvatarField, FieldConfig
from renderer.render import PersonRender, render, render_samples
from renderer.sampling import RayBatch, SamplingConfig, sample_people
from renderer.shading import SphericalHarmonicShading
from renderer.skinning import PosedPerson, SkinnedGeometry, inverse_skin, signed_body_distance, to_root
from renderer.surface_table import SurfaceTable


@dataclass
class Settings:
    rays: int = 1024
    """Rays of a step."""
    people: int = 2
    """People in the scene, 0.5 m apart."""
    frames: int = 4
    """Frames the rays are spread over."""
    threads: int = 2
    """Threads of torch and of the nearest-vertex search."""
    repeats: int = 30
    """Timed repeats."""
    device: str = "cpu"
    """Where to compute: cpu or cuda."""
    beta: float = 0.01
    """Metres, width of the surface."""


class Scene:
    """People, rays and shells; poses are leaves that take a gradient."""

    def __init__(self, settings: Settings) -> None:
        device = settings.device
        self.body: BodyModel = load_body(device=device)
        count, frames = settings.people, settings.frames
        self.betas = torch.zeros(count, 10, device=device)
        canonical = CANONICAL_POSE.to(device).expand(count, 72)
        none = torch.zeros(count, 3, device=device)
        self.T_canonical_inverse = torch.linalg.inv(self.body.transforms(self.betas, canonical, none))
        vertices = self.body.vertices(self.betas[:1], canonical[:1], none[:1])[0]
        weights, indices = torch.topk(self.body.weights, 4, dim=1)
        self.geometry = SkinnedGeometry(
            vertices, vertex_normals(vertices, self.body.faces), indices, weights / weights.sum(dim=1, keepdim=True)
        )
        generator = torch.Generator().manual_seed(0)
        self.poses = (0.15 * torch.randn(count, frames, 72, generator=generator)).to(device)
        self.trans = torch.zeros(count, frames, 3, device=device)
        self.trans[..., 0] = 0.5 * torch.arange(count, device=device)[:, None]
        self.poses.requires_grad_()
        self.trans.requires_grad_()
        low, high = vertices.amin(dim=0), vertices.amax(dim=0)
        self.fields = [
            AvatarField(FieldConfig(), (low + high) / 2, 0.6 * float((high - low).max())).to(device)
            for _ in range(count)
        ]
        for field in self.fields:
            field.beta.fill_(settings.beta)
        self.shading = [SphericalHarmonicShading().to(device) for _ in range(count)]
        with torch.no_grad():
            posed = self.body.vertices(self.betas[:, None].expand(-1, frames, -1), self.poses, self.trans)
        self.posed = posed
        self.shells = self.make_shells()
        self.rays = self._rays(settings, generator)

    def _rays(self, settings: Settings, generator: torch.Generator) -> RayBatch:
        """From 3 m away in all directions to points around random vertices of the bodies."""
        device, R = settings.device, settings.rays
        frame = torch.arange(R) * settings.frames // R
        person = torch.randint(settings.people, (R,), generator=generator)
        vertex = torch.randint(self.posed.shape[2], (R,), generator=generator)
        aim = self.posed.cpu()[person, frame, vertex] + 0.08 * torch.randn(R, 3, generator=generator)
        angle = 2 * torch.pi * torch.rand(R, generator=generator)
        origins = 3.0 * torch.stack([angle.cos(), torch.zeros(R), angle.sin()], dim=1)
        directions = torch.nn.functional.normalize(aim - origins, dim=1)
        return RayBatch(origins.to(device), directions.to(device), frame.to(device))

    def people(self) -> list[PersonRender]:
        """The people as posed now, through the kinematic tree."""
        betas = self.betas[:, None].expand(-1, self.poses.shape[1], -1)
        T_world_rest = self.body.transforms(betas, self.poses, self.trans)
        T_world_canonical = T_world_rest @ self.T_canonical_inverse[:, None]
        return [
            PersonRender(
                PosedPerson(self.geometry, T_world_canonical[p], T_world_rest[p, :, 0]), self.fields[p], self.shading[p]
            )
            for p in range(len(self.fields))
        ]

    @torch.no_grad()
    def make_shells(self) -> list[list[BodyShell]]:
        """The shells of everybody as posed now, of avatars whose surfaces are known."""
        shells = []
        for person, field in zip(self.people(), self.fields, strict=True):
            T, surface = person.posed.T_world_canonical, SurfaceTable.of(field, self.geometry)
            vertices = posed_vertices(self.geometry, T, None)
            shells.append([BodyShell(self.geometry, T[b], vertices[b], surface=surface) for b in range(len(T))])
        return shells

    def learn(self, poses: bool, fields: bool) -> None:
        """What takes a gradient."""
        self.poses.requires_grad_(poses)
        self.trans.requires_grad_(poses)
        for field in self.fields:
            field.requires_grad_(fields)

    def clear(self) -> None:
        self.poses.grad = self.trans.grad = None
        for field in self.fields:
            field.zero_grad(set_to_none=True)


def milliseconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Median over the repeats, after three that warm up."""
    spent = []
    for repeat in range(repeats + 3):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat >= 3:
            spent.append(1e3 * (time.perf_counter() - start))
    return statistics.median(spent)


def main(settings: Settings) -> None:
    """Measure and print."""
    torch.set_num_threads(settings.threads)
    scene = Scene(settings)
    config = SamplingConfig()
    target = torch.rand(settings.rays, 3, device=settings.device)
    background = torch.rand(settings.rays, 3, device=settings.device)

    def whole() -> None:
        scene.clear()
        rendering = render(scene.people(), scene.shells, scene.rays, config, background)
        ((rendering.colour - target).square().mean() + rendering.alpha.mean()).backward()

    def clocked(call: Callable[[], object]) -> float:
        return milliseconds(call, settings.repeats, settings.device)

    whole()  # compiles what is still to be compiled
    rows: list[tuple[str, float]] = []
    with torch.no_grad():
        rows.append(("pose the surfaces", clocked(scene.make_shells)))
        people = scene.people()
        posed = [person.posed for person in people]
        everything = sample_people(scene.rays, posed, scene.shells, SamplingConfig(cull=False))
        samples = sample_people(scene.rays, posed, scene.shells, config)
        rows.append(("sample", clocked(lambda: sample_people(scene.rays, posed, scene.shells, config))))
        rows.append(("forward, no gradient", clocked(lambda: render(people, scene.shells, scene.rays, config))))
    scene.learn(poses=True, fields=False)

    def skin() -> None:
        scene.clear()
        loss = 0.0
        begin = 0
        for person, count in zip(scene.people(), samples.counts, strict=True):
            part = slice(begin, begin + count)
            begin += count
            points = samples.points(scene.rays)[part]
            frame, vertex = samples.frame[part], samples.vertex[part]
            x_ref = inverse_skin(to_root(points, frame, person.posed), frame, vertex, person.posed)
            loss = loss + x_ref.sum() + signed_body_distance(x_ref, vertex, person.posed.geometry).sum()
        loss.backward()

    def shade() -> None:
        scene.clear()
        rendering = render_samples(scene.people(), samples, scene.rays, config, background)
        (rendering.colour - target).square().mean().backward()

    def silhouette() -> None:
        scene.clear()
        render_samples(scene.people(), samples, scene.rays, config, want_colour=False).alpha.mean().backward()

    rows.append(("kinematic tree and skinning, forward and backward", clocked(skin)))
    rows.append(("all but sampling and colour, forward and backward", clocked(silhouette)))
    rows.append(("all but sampling, forward and backward", clocked(shade)))
    rows.append(("forward and backward to the poses", clocked(whole)))
    scene.learn(poses=False, fields=True)
    rows.append(("forward and backward to the fields", clocked(whole)))
    scene.learn(poses=True, fields=True)
    rows.append(("forward and backward to both", clocked(whole)))

    with torch.no_grad():
        rendering = render(scene.people(), scene.shells, scene.rays, config)
    step = dict(rows)["forward and backward to the poses"]
    title = f"{settings.rays} rays, {settings.people} people, {settings.threads} threads"
    table = Table("part", "ms", "share", title=title)
    for name, spent in rows:
        table.add_row(name, f"{spent:.1f}", f"{100 * spent / step:.0f} %")
    console = Console()
    console.print(table)
    console.print(
        f"{len(samples)} samples of {len(everything)} before the cull, {int(rendering.evaluated.sum())} evaluated, "
        f"mean opacity {float(rendering.alpha.mean()):.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
