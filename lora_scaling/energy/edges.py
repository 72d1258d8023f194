"""Find the energy of a GPU at the edge of a window, which lies within a step of its counter."""

from __future__ import annotations

from dataclasses import dataclass

LEVEL = 0.02  # powers this close are one
COARSE_STEP_S = 0.15  # within longer steps, the power may change more than once


@dataclass
class Edge:
    """The cumulative energy of one GPU at one moment, refined when the counter next moves.

    before_w, after_w: mean power over the counter's steps before and after the one that contains the edge; None if they
        were not seen one by one.
    """

    at_s: float
    raw_j: float
    joules: float
    bound_j: float
    range_w: float = 0.0
    power_j: float | None = None  # what the power readings alone add up to, None without one
    gap_j: float = 0.0
    apart_j: float = 0.0
    worst_j: float = 0.0
    slack_j: float = 0.0
    even_j: float = 0.0
    even_apart_j: float = 0.0
    even_slack_j: float = 0.0
    bridged_j: float = 0.0
    step_power_w: float | None = None  # mean power over the counter step that contains the edge
    spread_s: float = 0.0
    pending: bool = False
    watched: bool = True  # until the counter moves; others are refined by whichever reading comes next
    next_j: float = 0.0  # the counter's next value
    moved_at_s: float = 0.0  # when it appeared
    before_w: float | None = None
    after_w: float | None = None
    follows: bool = False  # waits for the step after its own

    def refine(self, now_j: float, before_s: float, after_s: float, step_s: float) -> None:
        """Refine the edge: the counter moved to `now_j` in (before_s, after_s], and that step contains this edge."""
        self.pending = False
        moved = now_j - self.raw_j
        self.next_j, self.moved_at_s = now_j, (before_s + after_s) / 2
        if after_s - self.at_s > 2 * step_s:
            self.bound_j = max(self.bound_j, moved)  # seen too late to know which step it was
            return
        self.joules = self._interpolated(step_s)
        self.step_power_w = moved / step_s
        self.spread_s = (after_s - before_s) / 2
        self.follows = True

    def settle(self, inside_w: float | None, step_s: float, *, opens: bool) -> None:
        """Place the energy within the step: power often jumps when a window opens or closes.

        If the steps on both sides were seen, the power is taken to change once in between, at the moment that makes
        the step's energy right. Otherwise the power on the inner side is used: `inside_w` if the step was not seen.
        """
        if self.step_power_w is None:
            return
        self.joules = self._interpolated(step_s)  # not what an earlier look made of it
        begun_s = self.moved_at_s - step_s
        inner_w = self.inner_w(inside_w, opens=opens)
        if self.before_w is not None and self.after_w is not None:
            before_w, after_w = self.before_w, self.after_w
            if abs(after_w - before_w) <= LEVEL * max(after_w, before_w):
                return  # as interpolated
            change_s = step_s * (self.step_power_w - after_w) / (before_w - after_w)
            if not -LEVEL * step_s <= change_s <= (1 + LEVEL) * step_s:
                return
            change_s, into_s = min(max(change_s, 0.0), step_s), min(max(self.at_s - begun_s, 0.0), step_s)
            joules = self.raw_j + before_w * min(into_s, change_s) + after_w * max(into_s - change_s, 0.0)
        elif inner_w is None:
            return
        elif opens:
            joules = self.next_j - inner_w * (self.moved_at_s - self.at_s)
        else:
            joules = self.raw_j + inner_w * (self.at_s - begun_s)
        self.joules = min(max(joules, self.raw_j), self.next_j)

    def _interpolated(self, step_s: float) -> float:
        share = min(max((self.moved_at_s - self.at_s) / step_s, 0.0), 1.0)
        return self.next_j - (self.next_j - self.raw_j) * share

    def inner_w(self, inside_w: float | None, *, opens: bool) -> float | None:
        """Return the mean power next to the edge, inside the window."""
        seen_w = self.after_w if opens else self.before_w
        return inside_w if seen_w is None else seen_w

    def bound(self, inside_w: float | None, step_s: float) -> float:
        """Return the half-width of the energy at this edge, given the mean power next to it inside the window."""
        if self.step_power_w is None:
            return self.bound_j
        hard = max(self.joules - self.raw_j, self.next_j - self.joules)
        if step_s > COARSE_STEP_S:
            return hard + 0.002
        jump = abs(self.step_power_w - inside_w) if inside_w is not None else self.step_power_w
        loose = self.step_power_w * (self.spread_s + 0.05 * step_s) + jump * step_s
        return min(hard, loose) + 0.002  # the counter counts in millijoules
