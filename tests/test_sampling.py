"""Shells and samples against brute force: every lattice point of every ray, every vertex."""

import pytest
import torch
from capsule_people import geometry, person, posed_vertices, rays_towards

from renderer.sampling import RayBatch, SamplingConfig, sample_people
from renderer.shell import Shell
from renderer.skinning import inverse_skin, signed_body_distance, to_root

SHELL = 0.06


@pytest.fixture(scope="module")
def scene():
    """Two people in two frames, their shells, and 40 rays from one side, some of which pass by everybody."""
    body = geometry()
    generator = torch.Generator().manual_seed(5)
    people = []
    for place in (0.0, 0.25):
        turns = 0.3 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
        trans = torch.tensor([[place, 0.0, 0.5 * place], [place, 0.1, 0.0]], dtype=torch.float64)
        people.append(person(body, turns, trans))
    shells = [[Shell(posed_vertices(one, b)) for b in range(2)] for one in people]
    aim = torch.rand(40, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1.8, 0.6])
    origins, directions = rays_towards(aim - torch.tensor([0.4, 0.9, 0.3]), (0.1, 0.2, -2.0))
    frame = torch.randint(2, (40,), generator=generator)
    return people, shells, RayBatch(origins, directions, frame)


def brute_force(people, rays, config, shift=0.5):
    """All (person, frame, ray, number on the lattice, nearest vertex) within the shells, by the definition."""
    found = []
    for p, one in enumerate(people):
        for b in range(2):
            vertices = posed_vertices(one, b)
            for r in torch.nonzero(rays.frame == b)[:, 0].tolist():
                k = torch.arange(400)
                points = rays.origins[r] + ((k + shift) * config.step)[:, None] * rays.directions[r]
                distance, vertex = torch.cdist(points, vertices).min(dim=1)
                near = torch.nonzero(distance <= config.shell)[:, 0]
                found += [(p, b, r, int(k[i]), int(vertex[i])) for i in near]
    return found


def as_tuples(samples, step, shift=0.5):
    k = torch.round(samples.z / step - shift).long()
    columns = (samples.person, samples.frame, samples.ray, k, samples.vertex)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def sampled(scene, rays=None, **settings):
    people, shells, all_rays = scene
    return sample_people(rays or all_rays, people, shells, SamplingConfig(**settings))


def test_query_is_the_nearest_vertex_within_the_thickness():
    vertices = geometry().vertices
    shell = Shell(vertices, SHELL)
    points = torch.rand(3000, 3, dtype=torch.float64) * torch.tensor([0.5, 1.5, 0.5]) - torch.tensor([0.25, 0.75, 0.25])
    expected, index = torch.cdist(points, vertices).min(dim=1)
    vertex, distance = shell.query(points)
    near = expected < SHELL
    assert 100 < int(near.sum()) < 2900
    assert torch.equal(torch.isfinite(distance), near)
    assert torch.equal(vertex[near], index[near])
    torch.testing.assert_close(distance[near], expected[near], atol=1e-12, rtol=0)


def test_occupied_cells_hold_the_whole_shell_and_little_else():
    vertices = geometry(4).vertices
    shell = Shell(vertices, SHELL)
    points = torch.rand(10_000, 3, dtype=torch.float64) * torch.tensor([0.6, 1.6, 0.6]) - torch.tensor([0.3, 0.8, 0.3])
    inside = torch.cdist(points, vertices).amin(dim=1) <= SHELL
    occupied = shell.occupied(points)
    assert bool(occupied[inside].all())
    # Cells reach at most a diagonal beyond.
    assert bool((torch.cdist(points[occupied], vertices).amin(dim=1) <= SHELL + 3**0.5 * 0.03).all())
    low, high = shell.bounds
    assert bool(((points[inside] >= low) & (points[inside] <= high)).all())


@pytest.mark.parametrize("vertices", [torch.zeros(0, 3), torch.zeros(4, 2), torch.full((4, 3), torch.nan)])
def test_shell_refuses_what_is_no_body(vertices):
    with pytest.raises(ValueError, match="shell: vertices"):
        Shell(vertices)


def test_samples_are_all_lattice_points_in_the_shells_and_in_order(scene):
    config = SamplingConfig(jitter=False, cull=False, max_samples=1000)
    people, shells, rays = scene
    samples = sample_people(rays, people, shells, config)
    found = as_tuples(samples, config.step)
    expected = brute_force(people, rays, config)
    assert len(expected) > 500
    assert found == sorted(found, key=lambda s: s[:4])
    assert set(found) == set(expected)
    assert samples.counts == [sum(s[0] == p for s in found) for p in range(2)]
    assert {s[2] for s in found} != set(range(40))  # some rays meet nobody


def test_jitter_is_one_shift_for_each_ray_and_person(scene):
    people, shells, rays = scene
    config = SamplingConfig(cull=False)
    samples = sample_people(rays, people, shells, config, torch.Generator().manual_seed(1))
    shift = samples.z / config.step % 1
    pairs = samples.person * 40 + samples.ray
    spread = [shift[pairs == pair] for pair in pairs.unique()]
    assert all(float(one.max() - one.min()) < 1e-9 or float(one.max() - one.min()) > 1 - 1e-9 for one in spread)
    first = torch.stack([one[0] for one in spread])
    assert first.min() < 0.2 and first.max() > 0.8
    again = sample_people(rays, people, shells, config, torch.Generator().manual_seed(1))
    other = sample_people(rays, people, shells, config, torch.Generator().manual_seed(2))
    assert torch.equal(again.z, samples.z)
    assert len(other) != len(samples) or not torch.equal(other.z, samples.z)


def test_cull_keeps_all_up_to_the_first_deep_probe_of_anybody(scene):
    people, _, rays = scene
    every = sampled(scene, jitter=False, cull=False)
    kept = sampled(scene, jitter=False, cull=True)
    points = every.points(rays)
    depth = torch.empty_like(every.z)
    for p, one in enumerate(people):
        mine = every.person == p
        local = to_root(points[mine], every.frame[mine], one)
        x_ref = inverse_skin(local, every.frame[mine], every.vertex[mine], one)
        depth[mine] = signed_body_distance(x_ref, every.vertex[mine], one.geometry)
    is_probe = torch.round(every.z / 0.01 - 0.5).long() % 3 == 0  # every third sample: 30 mm apart
    expected = []
    for index, (r, z) in enumerate(zip(every.ray.tolist(), every.z.tolist(), strict=True)):
        deep = every.z[(every.ray == r) & (depth < -0.03) & is_probe]
        if len(deep) == 0 or z <= float(deep.min()):
            expected.append(index)
    assert len(expected) < 0.85 * len(every)
    assert as_tuples(kept, 0.01) == [as_tuples(every, 0.01)[i] for i in expected]


def test_the_limit_keeps_the_nearest_samples_of_each_person(scene):
    every = sampled(scene, jitter=False, cull=False)
    kept = sampled(scene, jitter=False, cull=False, max_samples=7)
    count: dict = {}
    expected = []
    for one in as_tuples(every, 0.01):
        count[one[0], one[2]] = count.get((one[0], one[2]), 0) + 1
        if count[one[0], one[2]] <= 7:
            expected.append(one)
    assert as_tuples(kept, 0.01) == expected


def test_rays_along_the_axes_and_from_within(scene):
    people, shells, _ = scene
    directions = torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0], [0, 1, 0]], dtype=torch.float64)
    origins = torch.tensor(
        [[0.02, 0.03, -2.0], [0.02, 0.03, 2.0], [0.0, 0.0, 0.0], [0.1, 1.0, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64
    )
    rays = RayBatch(origins, directions, torch.tensor([0, 1, 0, 1, 1]))
    config = SamplingConfig(jitter=False, cull=False, max_samples=1000)
    found = as_tuples(sample_people(rays, people, shells, config), config.step)
    assert set(found) == set(brute_force(people, rays, config))
    assert {one[2] for one in found} == set(range(5))


def test_absent_people_and_missing_rays(scene):
    people, shells, rays = scene
    config = SamplingConfig(jitter=False, cull=False)
    all_samples = as_tuples(sample_people(rays, people, shells, config), config.step)
    absent = [[shells[0][0], None], shells[1]]
    found = as_tuples(sample_people(rays, people, absent, config), config.step)
    assert found == [one for one in all_samples if one[:2] != (0, 1)]

    away = RayBatch(rays.origins, -rays.directions, rays.frame)
    none = RayBatch(rays.origins[:0], rays.directions[:0], rays.frame[:0])
    for some_rays, some_shells in ((away, shells), (none, shells), (rays, [[None, None], [None, None]])):
        samples = sample_people(some_rays, people, some_shells, SamplingConfig())
        assert len(samples) == 0 and samples.counts == [0, 0]
    assert len(sample_people(rays, [], [], SamplingConfig())) == 0


def test_shells_must_match_people(scene):
    people, shells, rays = scene
    with pytest.raises(ValueError, match="shells for"):
        sample_people(rays, people, [shells[0], shells[1][:1]], SamplingConfig())


def test_rays_must_see_frames_that_are_there(scene):
    people, shells, rays = scene
    third = RayBatch(rays.origins[:3], rays.directions[:3], torch.arange(3))
    with pytest.raises(ValueError, match="rays of frames 0 to 2"):
        sample_people(third, people, shells, SamplingConfig())


def test_settings_must_be_positive():
    with pytest.raises(ValueError, match=r"'step': 0\.0"):
        SamplingConfig(step=0.0)
