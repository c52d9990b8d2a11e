"""The exception for faults that the user can correct."""

from collections.abc import Iterable


class UserError(Exception):
    """A fault that the user can correct; the message says what happened, what was expected, and the next step.

    A command prints it without a traceback and exits with status 2.
    """

    @classmethod
    def listing(cls, headline: str, faults: Iterable[str], next_step: str = "") -> "UserError":
        """Combine all faults of an input in one error, so that the user sees them at once.

        Args:
            headline: the first line.
            faults: one line each; the first 40 are shown, the others are counted.
            next_step: the last line, what the user can do.
        """
        faults = list(faults)
        shown = [f"  - {fault}" for fault in faults[:40]]
        if len(faults) > len(shown):
            shown.append(f"  ... and {len(faults) - len(shown)} more")
        return cls("\n".join([headline, *shown, *([next_step] if next_step else [])]))
