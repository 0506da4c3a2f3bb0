"""Warp kernels over bodies and their tables (`renderer.body_grid`): nearest vertices, and the samples of rays.

float32, CPU and CUDA from one source. Nothing is compiled or initialised at import; kernels are built for a number of
bones at their first use and kept by Warp in its own cache folder.
"""

import functools

import warp as wp

from renderer.body_grid import MARGIN, SKIP_UNIT
from renderer.canonical_warp import inverse_of, skin_distance
from renderer.surface_table import EMPTY_WIDTHS, OPAQUE_DEPTH

wp.set_module_options({"enable_backward": False})

FAR = wp.constant(1.0e8)
"""Metres: nothing is there."""
SKIP = wp.constant(SKIP_UNIT)
BOUND_MARGIN = wp.constant(MARGIN)
MOST_WALKS = wp.constant(4)
EMPTY = wp.constant(EMPTY_WIDTHS)
OPAQUE = wp.constant(OPAQUE_DEPTH)


@wp.struct
class Bodies:
    """Tables of all people, and the people as posed: entry = person * frames + frame of the batch."""

    frames: int
    bones: int
    present: wp.array(dtype=wp.int32)  # (entries,)
    vertex_base: wp.array(dtype=wp.int32)  # (entries,): first row of `posed`
    rest_base: wp.array(dtype=wp.int32)  # (people,): first row of what belongs to a person's vertices
    cell_base: wp.array(dtype=wp.int32)  # (people * bones,)
    size: wp.array(dtype=wp.vec3i)  # (people * bones,)
    low: wp.array(dtype=wp.vec3)  # (people * bones,)
    per_cell: wp.array(dtype=float)  # (people * bones,)
    cells: wp.array(dtype=wp.int32)
    neighbours: wp.array2d(dtype=wp.int32)  # (vertices, K)
    posed: wp.array(dtype=wp.vec3)  # (sum of vertices,), metres, world
    rest: wp.array(dtype=wp.vec3)  # metres, canonical, present shape
    normals: wp.array(dtype=wp.vec3)
    skin_indices: wp.array2d(dtype=wp.int32)
    skin_weights: wp.array2d(dtype=float)
    transforms: wp.array2d(dtype=wp.vec4)  # (entries * bones, 3): rows of world from canonical
    surface: wp.array(dtype=float)  # metres from each vertex to the avatar's surface
    surface_width: wp.array(dtype=wp.vec2)  # (people,): the field's beta in metres, 0 where unknown, and its shift


@wp.func
def to_bone(T: wp.array2d(dtype=wp.vec4), row: int, point: wp.vec3):
    """A point of the world in canonical space as one bone carries it."""
    a, b, c = T[row, 0], T[row, 1], T[row, 2]
    x, y, z = point[0] - a[3], point[1] - b[3], point[2] - c[3]
    return wp.vec3(a[0] * x + b[0] * y + c[0] * z, a[1] * x + b[1] * y + c[1] * z, a[2] * x + b[2] * y + c[2] * z)


@wp.func
def turn_to_bone(T: wp.array2d(dtype=wp.vec4), row: int, v: wp.vec3):
    a, b, c = T[row, 0], T[row, 1], T[row, 2]
    return wp.vec3(
        a[0] * v[0] + b[0] * v[1] + c[0] * v[2],
        a[1] * v[0] + b[1] * v[1] + c[1] * v[2],
        a[2] * v[0] + b[2] * v[1] + c[2] * v[2],
    )


@wp.func
def candidate(
    cells: wp.array(dtype=wp.int32),
    base: wp.array(dtype=wp.int32),
    sizes: wp.array(dtype=wp.vec3i),
    low: wp.array(dtype=wp.vec3),
    per_cell: wp.array(dtype=float),
    grid: int,
    at: wp.vec3,
):
    """What a bone's grid says at a point of canonical space (`BodyGrid.cells`); -1 outside."""
    size = sizes[grid]
    cell = (at - low[grid]) * per_cell[grid]
    i, j, k = int(wp.floor(cell[0])), int(wp.floor(cell[1])), int(wp.floor(cell[2]))
    if i < 0 or j < 0 or k < 0 or i >= size[0] or j >= size[1] or k >= size[2]:
        return -1
    return int(cells[base[grid] + (i * size[1] + j) * size[2] + k])


@wp.func
def walked(
    posed: wp.array(dtype=wp.vec3),
    neighbours: wp.array2d(dtype=wp.int32),
    vertex: int,
    first: int,
    rest_first: int,
    point: wp.vec3,
):
    """The vertex that no neighbour is nearer than, from a given one on."""
    best = vertex
    away = posed[first + best] - point
    square = wp.dot(away, away)
    for _ in range(MOST_WALKS):
        here = best
        for n in range(neighbours.shape[1]):
            other = int(neighbours[rest_first + here, n])
            away = posed[first + other] - point
            distance = wp.dot(away, away)
            if distance < square:
                square = distance
                best = other
        if best == here:
            break
    return best


@wp.func
def body_distance(
    transforms: wp.array2d(dtype=wp.vec4),
    skin_indices: wp.array2d(dtype=wp.int32),
    skin_weights: wp.array2d(dtype=float),
    rest: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    first_row: int,
    at: int,
    point: wp.vec3,
):
    """`renderer.skinning.signed_body_distance` of a world point from its nearest vertex."""
    a, b, c = wp.vec4(), wp.vec4(), wp.vec4()
    for n in range(skin_indices.shape[1]):
        row = first_row + int(skin_indices[at, n])
        weight = skin_weights[at, n]
        a += weight * transforms[row, 0]
        b += weight * transforms[row, 1]
        c += weight * transforms[row, 2]
    turn = inverse_of(wp.vec3(a[0], a[1], a[2]), wp.vec3(b[0], b[1], b[2]), wp.vec3(c[0], c[1], c[2]))
    x = turn * wp.vec3(point[0] - a[3], point[1] - b[3], point[2] - c[3])
    return skin_distance(x - rest[at], normals[at])


@wp.kernel(enable_backward=False)
def query_kernel(
    bodies: Bodies,
    points: wp.array(dtype=wp.vec3),
    index: wp.array(dtype=wp.int32),
    bound: float,
    start: int,
    vertex: wp.array(dtype=wp.int64),
    distance: wp.array(dtype=float),
):
    """Nearest vertices of the chosen points in the first body of all."""
    i = int(index[start + wp.tid()])
    point = points[i]
    first, rest_first = int(bodies.vertex_base[0]), int(bodies.rest_base[0])
    reach = bound + BOUND_MARGIN
    best = reach * reach
    found = wp.int32(-1)
    for bone in range(bodies.bones):
        carried = to_bone(bodies.transforms, bone, point)
        v = candidate(bodies.cells, bodies.cell_base, bodies.size, bodies.low, bodies.per_cell, bone, carried)
        if v >= 0:
            v = walked(bodies.posed, bodies.neighbours, v, first, rest_first, point)
            away = bodies.posed[first + v] - point
            square = wp.dot(away, away)
            if square < best:
                best = square
                found = v
    if found >= 0:
        length = wp.length(bodies.posed[first + found] - point)
        if length <= bound:
            vertex[i] = wp.int64(found)
            distance[i] = length


@functools.cache
def march_kernel(bones: int) -> wp.Kernel:
    """The kernel that samples rays, for a number of bones; the arrays it fills are as its arguments say."""
    Numbers = wp.types.vector(length=bones, dtype=wp.float32)
    Bones = wp.types.vector(length=bones, dtype=wp.int32)

    @wp.kernel(enable_backward=False, module="unique")
    def march(
        bodies: Bodies,
        people: int,
        origins: wp.array(dtype=wp.vec3),
        directions: wp.array(dtype=wp.vec3),
        frame: wp.array(dtype=wp.int32),
        shift: wp.array2d(dtype=float),
        step: float,
        shell: float,
        inside: float,  # metres; infinite: nothing is hidden
        start: int,
        number: wp.array3d(dtype=wp.int32),  # (people, rays, most): whole numbers on the lattice
        vertex: wp.array3d(dtype=wp.int32),
        count: wp.array2d(dtype=wp.int32),  # (people, rays)
        last: wp.array(dtype=float),  # (rays,): depth behind which everything is hidden
    ):
        ray = start + wp.tid()
        origin, direction = origins[ray], directions[ray]
        stop = wp.float32(FAR)
        bound = shell + BOUND_MARGIN
        most = number.shape[2]
        for person in range(people):
            entry = person * bodies.frames + int(frame[ray])
            if bodies.present[entry] != 0:
                first, rest_first = int(bodies.vertex_base[entry]), int(bodies.rest_base[person])
                enter = Numbers()
                leave = Numbers()
                met = Bones()
                hits = wp.int32(0)
                near = wp.float32(FAR)
                far = wp.float32(0.0)
                for bone in range(bodies.bones):
                    grid = person * bodies.bones + bone
                    size = bodies.size[grid]
                    if size[0] > 0:
                        o = to_bone(bodies.transforms, entry * bodies.bones + bone, origin) - bodies.low[grid]
                        d = turn_to_bone(bodies.transforms, entry * bodies.bones + bone, direction)
                        t0 = wp.float32(0.0)
                        t1 = wp.float32(FAR)
                        for axis in range(3):
                            slope = d[axis]
                            if wp.abs(slope) < 1.0e-9:
                                slope = 1.0e-9
                            a = -o[axis] / slope
                            b = (float(size[axis]) / bodies.per_cell[grid] - o[axis]) / slope
                            t0 = wp.max(t0, wp.min(a, b))
                            t1 = wp.min(t1, wp.max(a, b))
                        if t1 > t0:
                            enter[hits] = t0
                            leave[hits] = t1
                            met[hits] = bone
                            hits += 1
                            near = wp.min(near, t0)
                            far = wp.max(far, t1)
                if hits > 0:
                    u = shift[person, ray]
                    k = int(wp.ceil(near / step - u))
                    kept = wp.int32(0)
                    through = wp.float32(0.0)
                    beta, lift = bodies.surface_width[person][0], bodies.surface_width[person][1]
                    z = (float(k) + u) * step
                    while z <= far and z <= stop and kept < most:
                        point = origin + z * direction
                        best = bound * bound
                        found = wp.int32(-1)
                        # Metres ahead in which there is nothing for certain.
                        free = wp.float32(FAR)
                        for hit in range(hits):
                            if z < enter[hit]:
                                free = wp.min(free, enter[hit] - z)
                            elif z <= leave[hit]:
                                grid = person * bodies.bones + int(met[hit])
                                row = entry * bodies.bones + int(met[hit])
                                carried = to_bone(bodies.transforms, row, point)
                                v = candidate(
                                    bodies.cells,
                                    bodies.cell_base,
                                    bodies.size,
                                    bodies.low,
                                    bodies.per_cell,
                                    grid,
                                    carried,
                                )
                                if v >= 0:
                                    free = 0.0
                                    v = walked(bodies.posed, bodies.neighbours, v, first, rest_first, point)
                                    away = bodies.posed[first + v] - point
                                    square = wp.dot(away, away)
                                    if square < best:
                                        best = square
                                        found = v
                                else:
                                    free = wp.min(free, float(-v - 1) * SKIP)
                        if found >= 0:
                            length = wp.length(bodies.posed[first + found] - point)
                            free = length - shell
                            if length <= shell:
                                distance = body_distance(
                                    bodies.transforms, bodies.skin_indices, bodies.skin_weights, bodies.rest,
                                    bodies.normals, entry * bodies.bones, rest_first + found, point,
                                )  # fmt: skip
                                height = wp.float32(0.0)
                                if beta > 0.0:
                                    height = (distance - bodies.surface[rest_first + found]) / beta
                                if height <= EMPTY:
                                    number[person, ray, kept] = k
                                    vertex[person, ray, kept] = found
                                    kept += 1
                                    if distance < -inside:
                                        stop = wp.min(stop, z)
                                    if beta > 0.0 and inside < FAR:
                                        through += step / (beta * (1.0 + wp.exp(wp.clamp(height + lift, -20.0, 20.0))))
                                        if through > OPAQUE:
                                            stop = wp.min(stop, z)
                        k += wp.max(int(free / step), 1)
                        z = (float(k) + u) * step
                    count[person, ray] = kept
        last[ray] = stop

    return march
