"""The history of a training run: losses and learning rates per epoch, the best epoch, early stopping."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass
class History:
    """One value per epoch.

    Attributes:
        losses: Mean training loss.
        rates: Learning rate at the end of the epoch.
        inner_losses: Mean loss on the inner exams; empty if none are set aside.
    """

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    inner_losses: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def best_epoch(self) -> int:
        """Epoch whose weights are kept, from 1: the first with the lowest inner loss, or else the last epoch."""
        return int(np.argmin(self.inner_losses)) + 1 if self.inner_losses else len(self)

    def improved(self) -> bool:
        """Return whether the last epoch is the best one."""
        return self.best_epoch == len(self)

    def stopped(self, patience: int) -> bool:
        """Return whether the inner loss has not improved for `patience` epochs."""
        return bool(self.inner_losses) and len(self) - self.best_epoch >= patience

    def table(self) -> pd.DataFrame:
        """Return one row per epoch: epoch, loss, inner_loss (if there is one), learning_rate."""
        inner = {"inner_loss": self.inner_losses} if self.inner_losses else {}
        return pd.DataFrame(
            {"epoch": np.arange(1, len(self) + 1), "loss": self.losses, **inner, "learning_rate": self.rates}
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the history as arrays for a checkpoint."""
        return {name: np.array(values, np.float64) for name, values in vars(self).items()}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "History":
        """Restore the history from the arrays of a checkpoint."""
        return cls(*(arrays[name].tolist() for name in ("losses", "rates", "inner_losses")))
