"""The one exception that a user is meant to read."""

from collections.abc import Iterable


class UserError(Exception):
    """A fault that the user can mend: says what was found, what was expected, and the next step.

    A command prints it without a traceback and exits with status 2.
    """

    @classmethod
    def listing(cls, headline: str, faults: Iterable[str], mend: str = "") -> "UserError":
        """Build one error out of all faults of an input, so that the user meets them at once."""
        faults = list(faults)
        shown = [f"  - {fault}" for fault in faults[:40]]
        if len(faults) > len(shown):
            shown.append(f"  ... and {len(faults) - len(shown)} more of the same kind")
        return cls("\n".join([headline, *shown, *([mend] if mend else [])]))
