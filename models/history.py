"""What a training run remembers of its epochs; it decides when to stop and which epoch was the best."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass
class History:
    """One number an epoch each.

    Attributes:
        losses: mean training loss.
        rates: learning rate at the end of the epoch.
        inner_losses: mean loss on the inner exams; empty where none are set aside.
    """

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    inner_losses: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept, from 1: of the lowest inner loss, the first of equals, else the last."""
        return int(np.argmin(self.inner_losses)) + 1 if self.inner_losses else len(self)

    def improved(self) -> bool:
        """Whether the last epoch is the best one."""
        return self.best_epoch == len(self)

    def stopped(self, patience: int) -> bool:
        """Whether so many epochs in a row brought no lower inner loss."""
        return bool(self.inner_losses) and len(self) - self.best_epoch >= patience

    def table(self) -> pd.DataFrame:
        """A row an epoch: epoch, loss, inner_loss (where there is one), learning_rate."""
        inner = {"inner_loss": self.inner_losses} if self.inner_losses else {}
        return pd.DataFrame(
            {"epoch": np.arange(1, len(self) + 1), "loss": self.losses, **inner, "learning_rate": self.rates}
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint."""
        return {name: np.array(values, np.float64) for name, values in vars(self).items()}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "History":
        """Read what `arrays` gave."""
        return cls(*(arrays[name].tolist() for name in ("losses", "rates", "inner_losses")))
