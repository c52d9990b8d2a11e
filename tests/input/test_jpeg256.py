"""The JPEG-256 derivative: accuracy of the recovered HU, and its layout as a contest tree."""

import hashlib
import io
import shutil
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from features.build_store import exam_jobs
from features.ingest import ingest_exam
from features.lung_box import NOMINAL_PIXEL_MM, find_lung_box
from features.store import open_exam
from input.check_data import check_tree
from input.contest import SOP, STUDY
from input.contest_tree import is_jpeg_tree, read_tree
from input.exam_headers import read_exam_headers, read_exam_jpegs
from input.jpeg256 import parse_jpeg_name, recover_hu, window_channels
from input.jpeg256_writer import convert_tree, downsample
from input.slice_errors import DicomError
from input.slice_file import read_pixels, read_plane
from input.tables import build_tables, prepared_artifact
from models.slice_views import SliceViews
from pipeline.errors import UserError
from pipeline.settings import FeaturesSettings, InputSettings, ModelsSettings, Settings
from tests.support.dicom_files import write_tree
from tests.support.synthetic_thorax import make_thorax


def jpeg(rgb: np.ndarray, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", **({"quality": 95} | options))
    return buffer.getvalue()


def through_jpeg(hu: np.ndarray, **options: int) -> np.ndarray:
    """Return the HU recovered from a slice after windowing and JPEG compression."""
    with Image.open(io.BytesIO(jpeg(window_channels(hu), **options))) as image:
        return recover_hu(np.asarray(image))


@pytest.fixture(scope="module")
def chest() -> dict[str, np.ndarray]:
    """A synthetic chest of 256 x 256 pixels with 15 HU of noise: HU, and masks of homogeneous regions."""
    y, x = np.mgrid[:256, :256]

    def disc(x0: int, y0: int, width: float, height: float) -> np.ndarray:
        return ((y - y0) / height) ** 2 + ((x - x0) / width) ** 2 < 1

    body, lung = disc(128, 128, 115, 90), disc(70, 128, 45, 60) | disc(186, 128, 45, 60)
    hu = np.where(lung, -850.0, np.where(body, 50.0, -1000.0))
    for middle in (110, 128, 150):
        hu[disc(middle, 120, 8, 8)] = 300
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=hu.shape), 0.7)
    hu = np.rint(ndimage.gaussian_filter(hu, 0.7) + 15 * noise / noise.std()).astype(np.int16)
    homogeneous = ndimage.maximum_filter(hu, 7) - ndimage.minimum_filter(hu, 7) < 150
    tissue = body & ~lung & homogeneous
    return {
        "hu": hu,
        "lung": lung & homogeneous & (hu < -700),
        "tissue": tissue & (hu < 150),
        "vessel": tissue & (hu > 200),
    }


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A contest tree of DICOM files and its derivative."""
    root = tmp_path_factory.mktemp("trees")
    dicom = write_tree(root / "dicom")
    convert_tree(dicom, root / "jpeg", workers=1)
    return dicom, root / "jpeg"


@pytest.fixture
def jpegs(trees, tmp_path):
    """A copy of the derivative that a test may damage."""
    return shutil.copytree(trees[1], tmp_path / "jpegs")


def first_exam(root, pattern):
    folder = sorted(root.glob(pattern))[0]
    return folder, [parse_jpeg_name(path.name)[1] for path in sorted(folder.iterdir())]


@pytest.mark.parametrize(("low", "high", "bound"), [(-1024, -250, 3), (-250, -160, 2), (-160, 450, 1.5)])
def test_the_quantisation_error_is_within_the_documented_bounds(low, high, bound):
    hu = np.arange(low, high + 1)
    assert np.abs(recover_hu(window_channels(hu)) - hu).max() <= bound


def test_values_above_450_are_read_as_450():
    assert set(recover_hu(window_channels(np.array([450, 700, 3071])))) == {450}


@pytest.mark.parametrize(("region", "bound"), [("lung", 13.0), ("tissue", 6.0), ("vessel", 8.0)])
def test_the_jpeg_error_is_within_the_documented_bounds(chest, region, bound):
    error = (through_jpeg(chest["hu"], subsampling=2) - chest["hu"].astype(float))[chest[region]]
    assert np.sqrt(np.mean(error**2)) < bound
    assert abs(error.mean()) < 3


def test_blurred_colour_does_not_turn_lung_into_tissue(chest):
    recovered = through_jpeg(chest["hu"], subsampling=2)
    assert recovered[chest["lung"]].max() < -500
    assert (recovered[chest["tissue"]] > -100).all()


def test_a_converted_tree_passes_the_check(trees):
    tree, faults = check_tree(trees[1])
    assert faults == [] and len(tree.tables["train"]) == 18


def test_dicom_files_are_preferred_to_jpeg_files(jpegs):
    (jpegs / "train").mkdir()
    tree = read_tree(jpegs)
    assert not is_jpeg_tree(jpegs)
    assert tree.notes == ["the JPEG files are not used because the tree also has DICOM files"]


def test_missing_and_additional_files_are_reported(jpegs):
    missing = sorted(jpegs.rglob("*.jpg"))[0]
    missing.rename(missing.with_name("0000_ffffffffffff.jpg"))
    (jpegs / "train-jpegs" / "notes.txt").write_text("hello")
    text = "\n".join(check_tree(jpegs)[1])
    assert "test-jpegs/: 1 files of test.csv are missing (1 exams), e.g. test-jpegs/" in text
    assert f"{parse_jpeg_name(missing.name)[1]}.jpg (preceded by its rank)" in text
    assert "test-jpegs/: 1 files are not in test.csv (1 exams)" in text and "0000_ffffffffffff.jpg" in text
    assert "train-jpegs/: 1 files are not in train.csv (1 exams), e.g. train-jpegs/notes.txt" in text


def test_ranks_give_the_slice_order(trees):
    folder, sops = first_exam(trees[1], "train-jpegs/*/*")
    exam = read_exam_jpegs(folder, sops[::-1])
    series = folder.relative_to(trees[1] / "train-jpegs")
    headers = read_exam_headers(trees[0] / "train" / series, series.parent.name, series.name, sops[::-1])
    np.testing.assert_array_equal(exam.position, headers.position)
    assert exam.z_mm.tolist() == [2.0, 1.0, 0.0]
    assert np.isnan([*exam.spacing_mm, exam.slice_step_mm]).all() and exam.flags == ("jpeg256",)


def test_pixels_and_sides_agree_with_the_dicom_file(trees):
    folder, sops = first_exam(trees[1], "train-jpegs/*/*")
    plane = read_plane(folder / f"0001_{sops[1]}.jpg")
    dicom = trees[0] / "train" / folder.relative_to(trees[1] / "train-jpegs") / f"{sops[1]}.dcm"
    expected = np.clip(downsample(read_pixels(dicom)), -1024, 450)
    assert plane.hu.shape == (256, 256) and plane.z_mm == 1.0
    assert np.median(np.abs(plane.hu - expected)) < 4
    # The bone mark is in front on the patient's left.
    assert plane.hu[70, 180] > 400 and plane.hu[70, 75] < 100
    assert plane.sha256 == hashlib.sha256((folder / f"0001_{sops[1]}.jpg").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG file"),
        (jpeg(np.zeros((64, 64, 3), np.uint8)), r"JPEG of \(64, 64\) pixels"),
        (jpeg(np.zeros((256, 256), np.uint8)), "JPEG of shape"),
        (jpeg(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8))[:9000], "undecodable JPEG: image"),
    ],
    ids=["empty", "small", "grey", "truncated"],
)
def test_a_file_of_another_type_is_refused(tmp_path, data, reason):
    path = tmp_path / "0000_abc.jpg"
    path.write_bytes(data)
    with pytest.raises(DicomError, match=reason):
        read_plane(path)


def test_unreadable_files_keep_their_rows_in_the_tables(jpegs):
    damaged, missing = sorted(jpegs.glob("train-jpegs/*/*/*.jpg"))[:2]
    damaged.write_bytes(b"not an image")
    missing.unlink()
    exams, slices, report = build_tables(read_tree(jpegs), 2, 7)
    reasons = slices.set_index(SOP)["quarantine"]
    assert reasons[parse_jpeg_name(damaged.name)[1]] == "not a JPEG file"
    assert reasons[parse_jpeg_name(missing.name)[1]] == "file missing"
    assert report["quarantined"] == 2 and report["flags"] == {"jpeg256": 8}
    assert exams[["spacing_y_mm", "spacing_x_mm", "slice_step_mm"]].isna().all(axis=None)
    readable = slices[slices["position"] >= 0]
    assert len(readable) == 22 and all((jpegs / path).is_file() for path in readable["path"])


def test_the_same_tables_with_other_files_are_another_artifact(trees):
    dicom, derivative = (prepared_artifact(Settings(input=InputSettings(data=str(tree)))) for tree in trees)
    assert dicom.identity != derivative.identity


@pytest.fixture
def stored(trees, tmp_path):
    """One exam of the derivative in a store: the store, its job, and the result of the ingest."""
    folder, sops = first_exam(trees[1], "train-jpegs/*/*")
    table = pd.DataFrame({SOP: sops, STUDY: folder.parent.name, "SeriesInstanceUID": folder.name})
    names = [f"train-jpegs/{folder.parent.name}/{folder.name}/{rank:04d}_{sop}.jpg" for rank, sop in enumerate(sops)]
    (job,) = exam_jobs(table.assign(position=range(3), path=names), trees[1], tmp_path, FeaturesSettings())
    return tmp_path, job, ingest_exam(job, {})


def test_lengths_are_nan_and_other_measurements_are_finite(stored):
    store, job, ingested = stored
    exam = open_exam(store, job.name)
    assert not exam.has_spacing and np.isnan([*exam.spacing_mm, *exam.raw_spacing_mm]).all()
    assert exam.sidecar["spacing_mm"] == [None, None]
    lengths = [name for name in ingested.slices if name.endswith(("_mm", "_cm2"))]
    assert len(lengths) > 10 and ingested.slices[lengths].isna().all(axis=None)
    assert np.isfinite(ingested.slices[["relative_z", "lung_share", "noise_hu"]]).all(axis=None)
    assert all(np.isnan(value) for name, value in ingested.numbers.items() if name.endswith(("_mm", "_ml", "_ratio")))
    assert ingested.numbers["n_stored"] == 3
    again = ingest_exam(job, {})
    pd.testing.assert_frame_equal(again.slices, ingested.slices)


def test_the_box_holds_the_pixels_of_the_file_itself(stored):
    store, job, _ = stored
    exam, box = open_exam(store, job.name), open_exam(store, job.name).box
    hu = read_plane(job.files[1]).hu
    np.testing.assert_array_equal(exam.hu[1], hu[box.y0 : box.y1, box.x0 : box.x1])
    assert exam.middle_column == box.middle_x - box.x0
    assert list(exam.sidecar["source_sha256"].values()) == [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in job.files
    ]


def test_a_network_gets_the_whole_box_for_any_pixel_size(stored):
    store, job, _ = stored
    fitted, any_pixel = (
        SliceViews(store, ModelsSettings(height=64, width=64, pixel_mm=pixel, neighbour_mm=1.0)) for pixel in (0.0, 1.4)
    )
    np.testing.assert_array_equal(any_pixel.view(job.name, 1), fitted.view(job.name, 1))


def test_without_spacing_lungs_are_segmented_at_the_nominal_pixel_size():
    hu = make_thorax()
    nominal = find_lung_box(hu, (NOMINAL_PIXEL_MM, NOMINAL_PIXEL_MM))
    assert nominal.found and find_lung_box(hu, (np.nan, np.nan)) == nominal


def test_the_converter_refuses_other_folders(trees, tmp_path):
    dicom, derivative = trees
    with pytest.raises(UserError, match="not empty"):
        convert_tree(dicom, derivative)
    with pytest.raises(UserError, match="already a JPEG-256 derivative"):
        convert_tree(derivative, tmp_path / "new")


@pytest.mark.slow
def test_a_killed_conversion_resumes_and_lists_unreadable_slices(trees, tmp_path, monkeypatch):
    dicom = shutil.copytree(trees[0], tmp_path / "dicom")
    damaged = sorted((dicom / "train").rglob("*.dcm"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-500])
    out = tmp_path / "out"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("input.jpeg256_writer.write_table", Mock(side_effect=KeyboardInterrupt))
        convert_tree(dicom, out, workers=1)
    first = min((out / "train-jpegs").rglob("*.jpg"))
    first.write_bytes(b"kept")
    convert_tree(dicom, out, workers=1)
    assert first.read_bytes() == b"kept" and not list(out.glob(".*"))
    (unreadable,) = pd.read_csv(out / "unreadable.csv", dtype=str).to_dict("records")
    assert unreadable[SOP] == damaged.stem and "truncated" in unreadable["reason"]
