"""The least work of each part of a refinement step: bytes to move and operations to do, from the sizes alone.

Bytes are those of inputs read once and of outputs written once, with indices and numbers of 4 bytes, everything between
kept in registers. Operations are additions, multiplications, comparisons and elementary functions, one each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optimize.config import RefineConfig
from optimize.poses import PARAMETERS
from optimize.stages import SMOOTHNESS_SAMPLES

INFLUENCES = 4
"""Bones that move a vertex."""
BLEND = 24 * INFLUENCES
"""Operations that blend the 12 numbers of a vertex's transforms."""
NEIGHBOURS = 16
"""Vertices that must be farther than the nearest one."""
ROTATION = 45
"""Operations of the product of two rotations."""


@dataclass(frozen=True)
class Work:
    """Bytes to move and operations to do."""

    bytes: float = 0.0
    operations: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.operations + other.operations)


@dataclass(frozen=True)
class Machine:
    """What a machine reaches: bytes and operations a second."""

    bandwidth: float
    rate: float

    def floor(self, work: Work) -> float:
        """The least seconds that the work takes."""
        return max(work.bytes / self.bandwidth, work.operations / self.rate)


def numbers(count: float, operations: float = 0.0) -> Work:
    """Work on that many numbers of 4 bytes."""
    return Work(4 * count, operations)


@dataclass(frozen=True)
class Least:
    """The least work of each part, forward and backward, from the sizes of what it works on.

    P people of V vertices and J bones in F frames; a step of R rays in B frames of C views with N samples, of which the
    field is asked for E densities and K colours; hash levels of M features, the first of them for the geometry.
    """

    P: int
    V: int
    J: int
    F: int
    B: int
    C: int
    R: int
    N: int
    E: int
    K: int
    pooled: int
    """Pixels in the pools that rays are drawn from."""
    parameters: int
    """Numbers that are optimised."""
    to_fields: bool
    """Whether gradients go to the fields, else to the poses."""
    config: RefineConfig
    rows: tuple[int, ...]
    """Of each level of the hash table."""
    shape: bool
    """Whether shapes move."""

    def parts(self) -> dict[str, tuple[Work, Work]]:
        """By part, forward and backward; in avatar stages bodies stand still."""
        first, last = self.config.field.geometry_levels, self.config.field.levels
        parts = {
            "rays drawn, errors noted": (self.rays(), Work()),
            "vertices skinned": (self.skinning(), Work()),
            "sampling": (self.sampling(), Work()),
            "inverse skinning, distance": self.inverse_skinning(),
            "hash grid, density": self.hash_grid(self.E, 0, first),
            "networks, density": self.networks(self.E, self.density_layers, 1),
            "hash grid, colour": self.hash_grid(self.K, first, last),
            "networks, colour": self.networks(self.K, self.colour_layers, 3),
            "shading": self.shading(),
            "compositing": self.compositing(),
            "losses": self.losses(),
            "optimiser": (numbers(7 * self.parameters, 14 * self.parameters), Work()),
        }
        if not self.to_fields:
            parts |= {
                "pose parameters": (self.pose_parameters(), self.pose_parameters()),
                "kinematic tree": self.tree(),
                "of which keypoints": self.keypoints(),
                "of which priors of motion": self.priors(),
            }
        return parts

    def rays(self) -> Work:
        """A running sum over the pools' weights and a search for each ray; 12 numbers of a pixel copied, 4 added, and
        the weight of each pixel drawn renewed."""
        return numbers(self.pooled + self.R * (2 * 12 + 4 + 3), self.pooled + self.R * (math.log2(self.pooled) + 6))

    def pose_parameters(self) -> Work:
        """A matrix of 75 x 75 times a vector for every person and frame; backward the same, transposed."""
        bodies = self.P * self.F
        return numbers(bodies * (PARAMETERS**2 + 3 * PARAMETERS), bodies * 2 * PARAMETERS**2)

    def tree(self) -> tuple[Work, Work]:
        """For every bone a rotation from its vector (40), two products of rotations, three rotated points (18 each);
        the shape as a product with 10 directions. Backward each product has two factors."""
        bodies, bone = self.P * self.F, 40 + 2 * ROTATION + 3 * 18
        ahead = numbers(bodies * (75 + self.J * (16 + 3)), bodies * self.J * bone)
        shape = numbers(self.V * 33 + self.P * (self.V * 6 + 10), self.P * self.V * 60) if self.shape else Work()
        return ahead + shape, ahead + numbers(bodies * 75, bodies * self.J * bone) + shape

    def skinning(self) -> Work:
        """A blend of four bones' transforms and its product with the point (18), for every vertex of the step."""
        vertices = self.P * self.V * (3 * (1 + self.shape) + 2 * INFLUENCES)
        posed = self.P * self.B
        return numbers(vertices + posed * (3 * self.V + 12 * self.J), posed * self.V * (BLEND + 18))

    def sampling(self) -> Work:
        """For every ray, person and bone the line in the bone's frame and the ends of a box (60); for every sample kept
        one look into a table in its bone's frame (20), the distance to the vertex found and its neighbours (8 each) and
        that to the skin. What is looked up in vain is not counted, nor what is read again from the tables."""
        tables = 1 + 3 + 6 + 2 * INFLUENCES + 1
        per_sample = 20 + 8 * (1 + NEIGHBOURS) + BLEND + 90
        read = 7 * self.R + self.P * (self.R + self.B * 12 * self.J) + min(self.N, self.P * self.V) * tables
        return numbers(read + 5 * self.N, 60 * self.P * self.R * self.J + per_sample * self.N)

    def inverse_skinning(self) -> tuple[Work, Work]:
        """A blend, its inverse (41), the product with the point (18), the distance (30). Backward the distance, the
        transposed product and what each of four bones gets of the outer product (24)."""
        tables = min(self.N, self.P * self.V) * (2 * INFLUENCES + 6 + 3 * self.shape)
        bones = self.P * self.B * self.J * 12
        ahead = numbers(self.N * (5 + 4) + tables + bones, self.N * (BLEND + 41 + 18 + 30))
        if self.to_fields:
            return ahead, Work()
        shape = 3 * self.P * self.V * self.shape
        return ahead, numbers(self.N * (2 + 4 + 3) + tables + 2 * bones + shape, self.N * (BLEND + 90))

    def hash_grid(self, points: int, first: int, last: int) -> tuple[Work, Work]:
        """For each point and level eight corners: a row (4), a weight (2), a sum of M features; read are the rows, each
        once. Backward to the table its sums and all of its gradient written; backward to the points three slopes (9).

        Colours need the finer levels only: the coarse ones are known from the densities.
        """
        M, corners = self.config.field.features, 8 * points * (last - first)
        encoded = points * (last - first) * M
        rows = self.P * M * sum(min(rows, 8 * points // self.P) for rows in self.rows[first:last])
        ahead = numbers(3 * points + rows + encoded, corners * (6 + 2 * M))
        if self.to_fields:
            table = self.P * M * sum(self.rows[first:last])
            return ahead, numbers(3 * points + encoded + table, corners * (6 + 2 * M))
        return ahead, numbers(6 * points + rows + encoded, corners * (6 + 2 * M + 9))

    @property
    def density_layers(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the layers up to the offset."""
        config = self.config.field
        return (config.geometry_levels * config.features, config.hidden), (config.hidden, 1)

    @property
    def colour_layers(self) -> tuple[tuple[int, int], ...]:
        """From the geometry's hidden layer to the colour, the largest first."""
        config = self.config.field
        encoded, hidden, handed = config.levels * config.features, config.hidden, config.geometry_features
        return (encoded, hidden), (hidden, handed), (handed, hidden), (hidden, hidden), (hidden, 3)

    def networks(self, points: int, layers: tuple[tuple[int, int], ...], answers: int) -> tuple[Work, Work]:
        """Two operations for each weight and point, and one for each output; backward to the inputs as many, and as
        many again to the weights."""
        weights = sum(a * b for a, b in layers)
        once = points * (2 * weights + sum(b for _, b in layers))
        moved = points * (layers[0][0] + answers + 1)
        back = numbers(2 * moved + self.P * weights, once * (1 + self.to_fields))
        return numbers(moved + self.P * weights, once), back

    def shading(self) -> tuple[Work, Work]:
        """A blend without translations, a turned and scaled normal (25), 8 harmonics (20) for 3 channels, for every
        colour. Backward to the 9 numbers of each channel."""
        tables = min(self.K, self.P * self.V) * (2 * INFLUENCES + 3)
        ahead = numbers(self.K * (2 + 3) + tables, self.K * (18 * INFLUENCES + 25 + 20 + 48))
        return ahead, numbers(self.K * (3 + 3), 2 * 48 * self.K) if self.to_fields else Work()

    def compositing(self) -> tuple[Work, Work]:
        """For every sample its place among those of P people, two exponentials and ten more; a sum of colours (6)."""
        merged = math.log2(max(self.P, 2))
        rays = self.R * (3 + self.P + 2)
        ahead = numbers(self.N * (4 + 2) + 4 * self.K + rays, self.N * (merged + 12) + 6 * self.K)
        return ahead, numbers(self.N * (4 + 2 + 1) + 8 * self.K + rays, 12 * self.N + 9 * self.K)

    def losses(self) -> tuple[Work, Work]:
        """On each ray some 60 operations. Avatar stages: 10 for each weight and density, and a second look at the
        geometry of some samples; pose stages: priors and keypoints."""
        rays = numbers(self.R * (3 + 1 + self.P + 3 + 3), 60 * self.R)
        ahead, back = rays, rays + rays
        if not self.to_fields:
            parts = (self.priors(), self.keypoints())
            return sum((p[0] for p in parts), ahead), sum((p[1] for p in parts), back)
        again = self.P * min(SMOOTHNESS_SAMPLES, self.E // self.P)
        grid = self.hash_grid(again, 0, self.config.field.geometry_levels)
        networks = self.networks(again, self.density_layers, 1)
        samples = numbers(4 * self.N, 20 * self.N)
        return ahead + samples + grid[0] + networks[0], back + samples + samples + grid[1] + networks[1]

    def priors(self) -> tuple[Work, Work]:
        """For every person and frame: each angle (4) and hinge (10), second differences of joints (22), rotations
        against the parent's and against the last frame's, their second differences (40). Backward twice that."""
        bodies = self.P * self.F
        operations = bodies * (69 * 4 + 40 + self.J * (22 + 2 * ROTATION + 40))
        moved = bodies * (72 + 12 * self.J)
        return numbers(moved, operations), numbers(2 * moved, 2 * operations)

    def keypoints(self) -> tuple[Work, Work]:
        """The tree again for the bodies of the step, 17 keypoints that hang on some four bones each (18), and their
        projections into all views with the robust cost (60). Backward twice that."""
        bodies = self.P * self.B
        operations = bodies * (self.J * (40 + 2 * ROTATION + 54) + 17 * (18 * INFLUENCES + 60 * self.C))
        moved = bodies * (75 + 17 * 3 * self.C)
        return numbers(moved, operations), numbers(2 * moved, 2 * operations)
