"""Link finished artifacts of this stage into an experiment that starts at a later stage."""

from features.build_acceptance import acceptance_artifact
from features.build_store import store_artifact
from features.clot_masks import masks_artifact, training_masks
from input.tables import connect_tables, load_slices
from pipeline import paths
from pipeline.settings import Settings


def connect_features(settings: Settings) -> None:
    """Link a finished store of these settings, and what is made from it, into an experiment that has none yet."""
    connect_tables(settings)
    if not paths.store().exists() and paths.prepared().exists():
        store_artifact(settings).connect_if_finished()
    if not paths.store().exists():
        return
    if not paths.acceptance().exists():
        acceptance_artifact().connect_if_finished()
    if not paths.masks().exists():
        masks_artifact(training_masks(settings, load_slices())).connect_if_finished()
