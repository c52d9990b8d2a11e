"""The JPEG-256 derivative: HU back out of its windows within stated bounds, and its layout as a contest tree."""

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
from input.contest import SOP, STUDY
from input.contest_tree import check_tree, is_jpeg_tree, read_tree
from input.exam_headers import read_exam_headers, read_exam_jpegs
from input.jpeg256 import recover_hu, split_name, window_channels
from input.jpeg256_writer import convert_tree, shrink
from input.slice_faults import DicomFault
from input.slice_file import read_pixels, read_plane
from input.tables import build_tables, prepared_artifact
from models.slice_views import SliceViews
from pipeline.errors import UserError
from pipeline.settings import FeaturesSettings, InputSettings, ModelsSettings, Settings
from tests.support.dicom_files import write_tree
from tests.support.synthetic_thorax import draw_thorax


def jpeg(rgb: np.ndarray, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", **({"quality": 95} | options))
    return buffer.getvalue()


def through_jpeg(hu: np.ndarray, **options: int) -> np.ndarray:
    """HU of a slice after the derivative's windows, JPEG and recovery."""
    with Image.open(io.BytesIO(jpeg(window_channels(hu), **options))) as image:
        return recover_hu(np.asarray(image))


@pytest.fixture(scope="module")
def chest() -> dict[str, np.ndarray]:
    """A drawn chest of 256 x 256 pixels with 15 HU of noise: HU, and masks of even places."""
    y, x = np.mgrid[:256, :256]

    def disc(x0: int, y0: int, width: float, height: float) -> np.ndarray:
        return ((y - y0) / height) ** 2 + ((x - x0) / width) ** 2 < 1

    body, lung = disc(128, 128, 115, 90), disc(70, 128, 45, 60) | disc(186, 128, 45, 60)
    hu = np.where(lung, -850.0, np.where(body, 50.0, -1000.0))
    for middle in (110, 128, 150):
        hu[disc(middle, 120, 8, 8)] = 300
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=hu.shape), 0.7)
    hu = np.rint(ndimage.gaussian_filter(hu, 0.7) + 15 * noise / noise.std()).astype(np.int16)
    even = ndimage.maximum_filter(hu, 7) - ndimage.minimum_filter(hu, 7) < 150
    tissue = body & ~lung & even
    return {"hu": hu, "lung": lung & even & (hu < -700), "tissue": tissue & (hu < 150), "vessel": tissue & (hu > 200)}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A contest tree of DICOM files and its derivative."""
    root = tmp_path_factory.mktemp("trees")
    dicom = write_tree(root / "dicom")
    convert_tree(dicom, root / "jpeg", workers=1)
    return dicom, root / "jpeg"


@pytest.fixture
def jpegs(trees, tmp_path):
    """A copy of the derivative to break."""
    return shutil.copytree(trees[1], tmp_path / "jpegs")


def first_exam(root, pattern):
    folder = sorted(root.glob(pattern))[0]
    return folder, [split_name(each.name)[1] for each in sorted(folder.iterdir())]


@pytest.mark.parametrize(("low", "high", "bound"), [(-1024, -250, 3), (-250, -160, 2), (-160, 450, 1.5)])
def test_quantisation_costs_no_more_than_stated(low, high, bound):
    hu = np.arange(low, high + 1)
    assert np.abs(recover_hu(window_channels(hu)) - hu).max() <= bound


def test_the_dense_end_is_cut_at_450():
    assert set(recover_hu(window_channels(np.array([450, 700, 3071])))) == {450}


@pytest.mark.parametrize(("where", "bound"), [("lung", 13.0), ("tissue", 6.0), ("vessel", 8.0)])
def test_jpeg_costs_no_more_than_stated(chest, where, bound):
    error = (through_jpeg(chest["hu"], subsampling=2) - chest["hu"].astype(float))[chest[where]]
    assert np.sqrt(np.mean(error**2)) < bound
    assert abs(error.mean()) < 3


def test_blurred_colour_makes_no_tissue_out_of_lung(chest):
    recovered = through_jpeg(chest["hu"], subsampling=2)
    assert recovered[chest["lung"]].max() < -500
    assert (recovered[chest["tissue"]] > -100).all()


def test_a_converted_tree_passes_the_check(trees):
    tree, faults = check_tree(trees[1])
    assert faults == [] and len(tree.tables["train"]) == 18


def test_dicom_files_beside_the_derivative_are_preferred(jpegs):
    (jpegs / "train").mkdir()
    tree = read_tree(jpegs)
    assert not is_jpeg_tree(jpegs)
    assert tree.notes == ["the JPEG files are not read: there are DICOM files beside them"]


def test_missing_and_surplus_files_are_told(jpegs):
    lost = sorted(jpegs.rglob("*.jpg"))[0]
    lost.rename(lost.with_name("0000_ffffffffffff.jpg"))
    (jpegs / "train-jpegs" / "notes.txt").write_text("hello")
    text = "\n".join(check_tree(jpegs)[1])
    assert "test-jpegs/: 1 files of test.csv are missing (1 exams), e.g. test-jpegs/" in text
    assert f"{split_name(lost.name)[1]}.jpg (with its rank before it)" in text
    assert "test-jpegs/: 1 files are in no row of test.csv (1 exams)" in text and "0000_ffffffffffff.jpg" in text
    assert "train-jpegs/: 1 files are in no row of train.csv (1 exams), e.g. train-jpegs/notes.txt" in text


def test_ranks_give_the_order_of_the_positions(trees):
    folder, sops = first_exam(trees[1], "train-jpegs/*/*")
    exam = read_exam_jpegs(folder, sops[::-1])
    place = folder.relative_to(trees[1] / "train-jpegs")
    headers = read_exam_headers(trees[0] / "train" / place, place.parent.name, place.name, sops[::-1])
    np.testing.assert_array_equal(exam.position, headers.position)
    assert exam.z_mm.tolist() == [2.0, 1.0, 0.0]
    assert np.isnan([*exam.spacing_mm, exam.slice_step_mm]).all() and exam.flags == ("jpeg256",)


def test_pixels_and_sides_are_those_of_the_dicom_file(trees):
    folder, sops = first_exam(trees[1], "train-jpegs/*/*")
    plane = read_plane(folder / f"0001_{sops[1]}.jpg")
    dicom = trees[0] / "train" / folder.relative_to(trees[1] / "train-jpegs") / f"{sops[1]}.dcm"
    expected = np.clip(shrink(read_pixels(dicom)), -1024, 450)
    assert plane.hu.shape == (256, 256) and plane.z_mm == 1.0
    assert np.median(np.abs(plane.hu - expected)) < 4
    # The bone mark lies in front on the patient's left.
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
def test_a_file_of_another_kind_is_a_fault(tmp_path, data, reason):
    path = tmp_path / "0000_abc.jpg"
    path.write_bytes(data)
    with pytest.raises(DicomFault, match=reason):
        read_plane(path)


def test_unreadable_files_keep_their_rows_in_the_tables(jpegs):
    broken, lost = sorted(jpegs.glob("train-jpegs/*/*/*.jpg"))[:2]
    broken.write_bytes(b"no picture")
    lost.unlink()
    exams, slices, report = build_tables(read_tree(jpegs), 2, 7)
    reasons = slices.set_index(SOP)["quarantine"]
    assert reasons[split_name(broken.name)[1]] == "not a JPEG file"
    assert reasons[split_name(lost.name)[1]] == "file missing"
    assert report["quarantined"] == 2 and report["flags"] == {"jpeg256": 8}
    assert exams[["spacing_y_mm", "spacing_x_mm", "slice_step_mm"]].isna().all(axis=None)
    readable = slices[slices["position"] >= 0]
    assert len(readable) == 22 and all((jpegs / path).is_file() for path in readable["path"])


def test_the_same_tables_with_other_files_are_another_product(trees):
    dicom, derivative = (prepared_artifact(Settings(input=InputSettings(data=str(tree)))) for tree in trees)
    assert dicom.identity != derivative.identity


@pytest.fixture
def stored(trees, tmp_path):
    """One exam of the derivative in a store: the store, the UID, and what the ingest told."""
    folder, sops = first_exam(trees[1], "train-jpegs/*/*")
    table = pd.DataFrame({SOP: sops, STUDY: folder.parent.name, "SeriesInstanceUID": folder.name})
    names = [f"train-jpegs/{folder.parent.name}/{folder.name}/{rank:04d}_{sop}.jpg" for rank, sop in enumerate(sops)]
    (job,) = exam_jobs(table.assign(position=range(3), path=names), trees[1], tmp_path, FeaturesSettings())
    return tmp_path, job, ingest_exam(job, {})


def test_lengths_are_missing_and_the_other_numbers_are_there(stored):
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


def test_a_network_sees_the_whole_box_whatever_its_pixel_is(stored):
    store, job, _ = stored
    fitted, any_pixel = (
        SliceViews(store, ModelsSettings(height=64, width=64, pixel_mm=pixel, neighbour_mm=1.0)) for pixel in (0.0, 1.4)
    )
    np.testing.assert_array_equal(any_pixel.view(job.name, 1), fitted.view(job.name, 1))


def test_without_spacing_lungs_are_found_in_pixels_of_the_usual_size():
    hu = draw_thorax()
    usual = find_lung_box(hu, (NOMINAL_PIXEL_MM, NOMINAL_PIXEL_MM))
    assert usual.found and find_lung_box(hu, (np.nan, np.nan)) == usual


def test_the_converter_leaves_other_folders_alone(trees, tmp_path):
    dicom, derivative = trees
    with pytest.raises(UserError, match="not an empty folder"):
        convert_tree(dicom, derivative)
    with pytest.raises(UserError, match="derivative already"):
        convert_tree(derivative, tmp_path / "new")


def test_a_killed_conversion_goes_on_and_names_what_it_could_not_read(trees, tmp_path, monkeypatch):
    dicom = shutil.copytree(trees[0], tmp_path / "dicom")
    broken = sorted((dicom / "train").rglob("*.dcm"))[1]
    broken.write_bytes(broken.read_bytes()[:-500])
    out = tmp_path / "out"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("input.jpeg256_writer.write_table", Mock(side_effect=KeyboardInterrupt))
        convert_tree(dicom, out, workers=1)
    first = min((out / "train-jpegs").rglob("*.jpg"))
    first.write_bytes(b"kept")
    convert_tree(dicom, out, workers=1)
    assert first.read_bytes() == b"kept" and not list(out.glob(".*"))
    (lost,) = pd.read_csv(out / "unreadable.csv", dtype=str).to_dict("records")
    assert lost[SOP] == broken.stem and "truncated" in lost["reason"]
