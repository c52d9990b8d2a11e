"""Names of the networks of an experiment: slice networks and exam networks; standard library only.

A slice network is called as its backbone, with an optional suffix: `mobilenetv2@b` is a second network of the same
architecture, whose settings are in `[models.per_backbone."mobilenetv2@b"]`. An exam network reads the embeddings of one
slice network and is called `<backbone>_<kind>`, e.g. `mobilenetv2_gru`. Folders, tables and reports use these names.
"""

from pipeline.settings import ModelsSettings


def architecture(backbone: str) -> str:
    """The registered backbone that a slice network is built with: its name without the suffix."""
    return backbone.partition("@")[0]


def exam_network_name(backbone: str, kind: str) -> str:
    """Name of the exam network of one kind (gru, transformer) that reads one backbone's embeddings."""
    return f"{backbone}_{kind}"


def exam_network_kinds(models: ModelsSettings, backbone: str) -> tuple[str, ...]:
    """Kinds of the exam networks that read one backbone's embeddings; empty if there are none."""
    return models.exam.kinds if backbone in (models.exam.backbones or models.backbones) else ()


def exam_network_names(models: ModelsSettings, kind: str) -> tuple[str, ...]:
    """Names of the exam networks of one kind, one per backbone whose embeddings are read."""
    return tuple(
        exam_network_name(backbone, kind)
        for backbone in models.backbones
        if kind in exam_network_kinds(models, backbone)
    )


def network_names(models: ModelsSettings) -> tuple[str, ...]:
    """Names of all networks whose predictions the ensemble reads: slice networks, then exam networks."""
    exam_networks = [name for kind in models.exam.kinds for name in exam_network_names(models, kind)]
    return (*models.backbones, *exam_networks)
