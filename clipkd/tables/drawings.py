"""Small drawings beside the numbers of an HTML table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A bar that is `share` (0 to 1) full."""

    share: float

    @property
    def percent(self) -> float:
        return 100 * min(max(self.share, 0), 1)


@dataclass(frozen=True)
class Interval:
    """A difference and its confidence interval, on an axis from -reach to reach; None where there is no interval."""

    mean: float
    low: float | None
    high: float | None
    reach: float

    def x(self, value: float) -> float:
        """Return the horizontal place of a value in a drawing that is 200 wide."""
        return 100 + 96 * min(max(value / self.reach, -1), 1)
