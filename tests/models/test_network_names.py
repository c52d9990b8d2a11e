"""Names of slice and exam networks."""

from models.network_names import exam_network_kinds, exam_network_names, network_names
from pipeline.settings import ExamNetworkSettings, ModelsSettings

MODELS = ModelsSettings(backbones=("a", "b"), exam=ExamNetworkSettings(kinds=("gru", "transformer"), backbones=("b",)))


def test_exam_networks_follow_the_slice_networks_by_kind() -> None:
    every_backbone = ModelsSettings(backbones=("a", "b"), exam=ExamNetworkSettings(kinds=("gru", "transformer")))
    assert network_names(every_backbone) == ("a", "b", "a_gru", "b_gru", "a_transformer", "b_transformer")


def test_only_the_chosen_backbones_have_exam_networks() -> None:
    assert network_names(MODELS) == ("a", "b", "b_gru", "b_transformer")
    assert exam_network_names(MODELS, "gru") == ("b_gru",)
    assert exam_network_kinds(MODELS, "a") == ()


def test_without_kinds_there_are_slice_networks_only() -> None:
    assert network_names(ModelsSettings(backbones=("a",))) == ("a",)
