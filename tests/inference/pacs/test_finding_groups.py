"""Findings and the clot burden in the structured report: position in the source image, site, volume, probability."""

import dataclasses
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.spatial import ImageToReferenceTransformer
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.codedict import codes

from inference.findings import Finding
from inference.pacs.finding_groups import ReportedFinding, clot_burden, finding_group
from inference.predicted_studies import PredictedStudies
from tests.inference.pacs.predicted_scan import (
    APART_MM,
    CELL_MM,
    CLOT,
    MARK_HU,
    MARK_MM,
    NAME,
    ORIENTATIONS,
    OTHER_CLOT,
    STEP_MM,
    export_scan,
    predict_scan,
    write_scan,
)

#: Volume of a cell with probability 1, ml: half of it is clot.
CELL_ML = CELL_MM**2 * STEP_MM / 2 / 1000


def exported_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: str = "display") -> Comprehensive3DSR:
    """The structured report of a scan, read back."""
    write_scan(tmp_path / "scans", orientation)
    return read_report(export_scan(tmp_path, monkeypatch)[1])


def read_report(path: Path) -> Comprehensive3DSR:
    return Comprehensive3DSR.from_dataset(pydicom.dcmread(path))


def finding_groups(report: Comprehensive3DSR) -> list[VolumetricROIMeasurementsAndQualitativeEvaluations]:
    return report.content.get_volumetric_roi_measurement_groups()


def values(group: VolumetricROIMeasurementsAndQualitativeEvaluations) -> dict[str, tuple[float, str]]:
    """Name of a measurement -> value and unit."""
    return {
        measurement.name.meaning: (measurement.value, measurement.unit.value)
        for measurement in group.get_measurements()
    }


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_point_is_on_the_pixel_of_the_source_image_that_shows_the_finding(
    orientation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = finding_groups(exported_report(tmp_path, monkeypatch, orientation))
    for group, number, right_mm in ((first, 3, 0), (second, 1, APART_MM)):
        (region,) = group.roi
        (image,) = region.ContentSequence
        source = pydicom.dcmread(tmp_path / "scans" / f"{number}.dcm")
        assert region.graphic_type.value == "POINT"
        assert image.referenced_sop_instance_uid == source.SOPInstanceUID == f"1.2.3.{number}"
        to_patient = ImageToReferenceTransformer(
            source.ImagePositionPatient, source.ImageOrientationPatient, source.PixelSpacing
        )
        expected = (MARK_MM[0] - right_mm, MARK_MM[1], STEP_MM * number)
        np.testing.assert_allclose(to_patient(np.reshape(region.value, (1, 2))), [expected], atol=0.15)
    column, row = np.ravel(first.roi[0].value).astype(int)
    pixels = pydicom.dcmread(tmp_path / "scans" / "3.dcm").pixel_array
    assert pixels[row, column] == MARK_HU + 1024 == pixels.max()


def test_a_finding_has_type_site_tracking_probability_and_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = finding_groups(exported_report(tmp_path, monkeypatch))
    for group, side in ((first, codes.SCT.Left), (second, codes.SCT.Right)):
        (site,) = group.finding_sites
        assert group.finding_type == codes.SCT.PulmonaryEmbolism and site.value == codes.SCT.Lung
        assert site.laterality == side and site.topographical_modifier == codes.SCT.Central
        assert pydicom.uid.UID(group.tracking_uid).is_valid
        geometric_purpose = [item for item in group[0].ContentSequence if item.name.value == "130400"]
        assert [item.value.meaning for item in geometric_purpose] == ["Representative point"]
    assert first.tracking_uid != second.tracking_uid
    assert first.tracking_identifier.startswith("finding 1, z ")
    highest = values(first)["Probability"][0] / (0.95 * 0.5)  # slice and exam; the map's peak, smoothed along z
    assert 0.3 < highest < max(CLOT.values())
    assert values(first)["Volume"] == (pytest.approx(CELL_ML * sum(CLOT.values()), abs=6e-4), "ml")
    assert values(second)["Volume"] == (pytest.approx(CELL_ML * OTHER_CLOT, abs=6e-4), "ml")
    assert 0.1 <= values(second)["Probability"][0] < values(first)["Probability"][0]


def test_the_clot_burden_is_reported_for_both_lungs_and_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = exported_report(tmp_path, monkeypatch).content.get_image_measurement_groups()
    (group,) = [group for group in groups if group.tracking_identifier == "clot burden"]
    volumes = {
        measurement.finding_sites[0].laterality.meaning: measurement.value for measurement in group.get_measurements()
    }
    assert {measurement.name for measurement in group.get_measurements()} == {codes.SCT.Volume}
    assert volumes["Left"] == pytest.approx(CELL_ML * sum(CLOT.values()), abs=6e-4)
    assert volumes["Right"] == pytest.approx(CELL_ML * OTHER_CLOT, abs=6e-4)
    assert volumes["Bilateral"] == pytest.approx(volumes["Left"] + volumes["Right"], abs=2e-3)


def test_the_occluded_share_of_each_lung_is_reported_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_vessels(predicted: PredictedStudies) -> PredictedStudies:
        maps = {name: dataclasses.replace(clot, vessel_ml=(20.0, np.nan)) for name, clot in predicted.maps.items()}
        return dataclasses.replace(predicted, maps=maps)

    write_scan(tmp_path / "scans")
    report = read_report(export_scan(tmp_path, monkeypatch, change=with_vessels)[1])
    groups = report.content.get_image_measurement_groups()
    (group,) = [group for group in groups if group.tracking_identifier == "clot burden"]
    (share,) = [measurement for measurement in group.get_measurements() if measurement.unit == codes.UCUM.Percent]
    assert share.finding_sites[0].value == codes.SCT.PulmonaryArtery
    assert share.finding_sites[0].laterality == codes.SCT.Left
    assert 0 <= share.value < 100


def without_pe(predicted: PredictedStudies) -> PredictedStudies:
    return dataclasses.replace(predicted, slices=predicted.slices.assign(label=0.01))


def test_an_exam_without_a_finding_has_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scan(tmp_path / "scans")
    report = read_report(export_scan(tmp_path, monkeypatch, change=without_pe)[1])
    assert finding_groups(report) == []
    assert len(report.content.get_image_measurement_groups()) == 9 + 1 + 1 + 1  # labels, diameters, burden, key image


@pytest.mark.parametrize(
    ("left_share", "laterality"), [(0.9, codes.SCT.Left), (0.5, codes.cid244.Bilateral), (0.1, codes.SCT.Right)]
)
def test_unknown_volume_and_depth_are_left_out(left_share: float, laterality: pydicom.sr.coding.Code) -> None:
    finding = Finding(
        first=1, last=2, key=2, slices=6, sop="1.2.3", probability=0.4, volume_ml=np.nan, left_share=left_share,
        first_mm=2.5, last_mm=5.0, key_mm=5.0, below_top_mm=(np.nan,) * 3, point=(1.0, 2.0), point_left_mm=np.nan,
    )  # fmt: skip
    header = pydicom.Dataset()
    header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    group = finding_group(1, ReportedFinding(finding, header, (7.25, 3.5)), AlgorithmIdentification("a", "1"))
    assert values(group) == {"Probability": (0.4, "1")}
    (site,) = group.finding_sites
    assert site.laterality == laterality and site.topographical_modifier is None
    assert np.ravel(group.roi[0].value).tolist() == [7.75, 4.0]  # the centre of the first pixel is at (0.5, 0.5)


def test_no_burden_without_spacing(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans")
    clot = predict_scan(tmp_path / "scans", tmp_path).maps[NAME]
    assert set(clot_burden(clot)) == {"both", "left", "right"}
    assert clot_burden(dataclasses.replace(clot, cell_mm=np.nan)) == {}
