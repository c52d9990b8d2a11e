"""Tiny synthetic DICOM files and contest trees for tests."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from input.contest import (
    EXAM_LABELS,
    GTE_1,
    ID_COLUMNS,
    LEFT,
    LT_1,
    NEGATIVE,
    QA_LABELS,
    RIGHT,
    SERIES,
    SLICE_LABEL,
    SOP,
    STUDY,
    TRAIN_COLUMNS,
)

SIDE = 64
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "jpeg_lossless": JPEGLosslessSV1,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
    "rle": RLELossless,
}
SUPINE = (1, 0, 0, 0, 1, 0)


def body_hu(side: int = SIDE) -> np.ndarray:
    """Return an asymmetric test slice: air, a disc of muscle, a bone mark at the front left; int16 HU (y, x)."""
    y, x = np.mgrid[:side, :side]
    hu = np.where((y - side / 2) ** 2 + (x - side / 2) ** 2 < (0.4 * side) ** 2, 46, -1000) + (x + 2 * y) % 7
    hu[side // 4 : side // 4 + 5, side // 2 + 8 : side // 2 + 20] = 700
    return hu.astype(np.int16)


def write_slice(
    path: Path, hu: np.ndarray | None = None, *, syntax: str = "explicit", z: float = 0.0, **tags: Any
) -> Path:
    """Write one CT slice.

    Args:
        path: the file; a stem of 12 characters is used as the SOPInstanceUID.
        hu: int16 (rows, columns) as transmitted; `body_hu()` by default.
        syntax: a key of `SYNTAXES`.
        z: third component of ImagePositionPatient, mm.
        **tags: DICOM keywords that override the defaults; None removes the element.

    Returns:
        `path`.
    """
    hu = body_hu() if hu is None else hu
    signed = bool(tags.get("PixelRepresentation", 0))
    slope, intercept = (
        float(tags.get("RescaleSlope") or 1),
        float(tags.get("RescaleIntercept") or (0 if signed else -1024)),
    )
    stored = np.rint((hu.astype(float) - intercept) / slope).astype("<i2" if signed else "<u2")
    sop = path.stem if len(path.stem) == 12 else "1.2.3.4.5"
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": sop, "Modality": "CT",
        "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "InstanceNumber": 1, "PatientPosition": "HFS",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SeriesDescription": "CTPA 1.25", "SliceThickness": 1.25,
        "ImagePositionPatient": [-20.0, -20.0, z], "ImageOrientationPatient": list(SUPINE), "PixelSpacing": [0.7, 0.7],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": hu.shape[0], "Columns": hu.shape[1],
        "BitsAllocated": 16, "BitsStored": 16, "PixelRepresentation": int(signed), "RescaleSlope": slope,
        "RescaleIntercept": intercept,
    }  # fmt: skip
    values |= tags
    values.setdefault("HighBit", (values["BitsStored"] or 16) - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the contest's UIDs are invalid, and some tests write other invalid values
        _save(path, values, stored, syntax)
    return path


def _save(path: Path, values: dict[str, Any], stored: np.ndarray, syntax: str) -> None:
    uid = SYNTAXES[syntax]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if uid.is_compressed and uid.is_encapsulated else uid
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.PixelData = stored.astype(">u2" if syntax == "big_endian" else stored.dtype).tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax in ("rle", "jpeg_ls", "jpeg_2000"):
        plugin = {"rle": "pydicom", "jpeg_ls": "pyjpegls", "jpeg_2000": "pylibjpeg"}[syntax]
        dataset.compress(uid, stored, encoding_plugin=plugin, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=False if "SOPInstanceUID" not in dataset else True)
    if syntax == "jpeg_lossless":
        _to_jpeg_lossless(path)


def _to_jpeg_lossless(path: Path) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    converter = gdcm.ImageChangeTransferSyntax()
    converter.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    converter.SetInput(reader.GetImage())
    assert converter.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(converter.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


def uid(number: int) -> str:
    """Format a UID as the contest does: 12 hexadecimal digits."""
    return f"{number:012x}"


def exam_rows(number: int, slices: int, positive: tuple[int, ...] = (), **labels: int) -> pd.DataFrame:
    """Build rows of train.csv for one exam with consistent labels, in z order.

    Args:
        number: the StudyInstanceUID is `uid(number)`; the other UIDs follow it.
        slices: number of slices.
        positive: indices of the slices with PE.
        **labels: exam labels that override the defaults.
    """
    base = dict.fromkeys((*EXAM_LABELS, *QA_LABELS), 0)
    base |= {LT_1: 1, RIGHT: 1} if positive else {NEGATIVE: 1}
    rows = [
        {STUDY: uid(number), SERIES: uid(number + 1), SOP: uid(number + 2 + index), SLICE_LABEL: int(index in positive)}
        | base
        | labels
        for index in range(slices)
    ]
    return pd.DataFrame(rows, columns=list(TRAIN_COLUMNS))


def write_tree(root: Path, exams: int = 6, slices: int = 3) -> Path:
    """Write a small valid contest tree: half of the training exams positive, two test exams, CSV rows shuffled."""
    train = pd.concat(
        exam_rows(
            0xA000 * (index + 1),
            slices,
            (1,) if index % 2 else (),
            **({GTE_1: 1, LT_1: 0, LEFT: 1} if index == 1 else {}),
        )
        for index in range(exams)
    )
    test = pd.concat(exam_rows(0xB00000 * (index + 1), slices) for index in range(2))[list(ID_COLUMNS)]
    root.mkdir(parents=True, exist_ok=True)
    for split, table in (("train", train), ("test", test)):
        for study, rows in table.groupby(STUDY):
            for z, (series, sop) in enumerate(zip(rows[SERIES], rows[SOP], strict=True)):
                write_slice(
                    root / split / study / series / f"{sop}.dcm", z=1.25 * z, InstanceNumber=z + 1,
                    StudyInstanceUID=study, SeriesInstanceUID=series,
                )  # fmt: skip
        table.sample(frac=1, random_state=3).to_csv(root / f"{split}.csv", index=False)
    ids = [f"{study}_{label}" for study in test[STUDY].unique() for label in EXAM_LABELS] + list(test[SOP])
    pd.DataFrame({"id": ids, "label": 0.5}).to_csv(root / "sample_submission.csv", index=False)
    return root
