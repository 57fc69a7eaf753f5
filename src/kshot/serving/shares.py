"""Room that several share, so that nobody keeps all others out of it."""

from __future__ import annotations

from collections.abc import Hashable


class Shares:
    """How much of something each of several has.

    Args:
        most: of it that all may have together, about.
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._of: dict[Hashable, int] = {}

    def has_room(self, who: Hashable, more: int) -> bool:
        """Whether somebody may have more: while there is some left, and then up to an equal share. What is larger than
        all there is may be had by who is alone."""
        if self.taken + more <= self.most or not self.taken:
            return True
        own = self._of.get(who, 0)
        return own + more <= self.most / (len(self._of) + (not own))

    def take(self, who: Hashable, more: int) -> None:
        """Gives somebody more, or takes it back."""
        self.taken += more
        own = self._of.get(who, 0) + more
        if own:
            self._of[who] = own
        else:
            self._of.pop(who, None)
