"""Read a series of the JPEG-256 derivative; its order and UIDs come from file and folder names."""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from input.dicom import Series
from input.jpeg256 import FLAG, parse_jpeg_name, read_jpeg
from input.slice_errors import DicomError, describe_faults
from pipeline.errors import UserError


def read_jpegs(source: Path, files: Iterable[Path], *, without: Collection[Path] = ()) -> Series:
    """Read the files `<Study>/<Series>/<iiii>_<SOP>.jpg` of one series, ordered by rank; z is the rank.

    Args:
        source: folder or archive of the files; used in error messages only.
        files: slices of one series, in a folder or an archive; files with other names are ignored.
        without: files to skip because they crash or hang their decoder; they are quarantined.

    Raises:
        UserError: no slice can be decoded.
    """
    slices = [(*rank_and_sop, path) for path in files if (rank_and_sop := parse_jpeg_name(path.name))]
    planes, faults = [], []
    for rank, sop, path in sorted(slices, key=lambda entry: entry[:2]):
        try:
            if path in without:
                raise DicomError("crashes or hangs its decoder")
            planes.append((read_jpeg(path)[0], rank, sop, path))
        except DicomError as fault:
            faults.append((path, fault.reason))
    if not planes:
        raise UserError.listing(f"{source}: no slice can be decoded:", describe_faults(faults))
    hu, ranks, sops, paths = zip(*planes, strict=True)
    return Series(
        hu=np.stack(hu),
        z_mm=np.array(ranks, float),
        spacing_mm=(np.nan, np.nan),
        sop_uids=sops,
        files=tuple((path, 0) for path in paths),
        study_uid=paths[0].parent.parent.name,
        series_uid=paths[0].parent.name,
        flags=(FLAG,),
        quarantined=faults,
        selection_reason=f"{len(sops)} slices of the JPEG-256 derivative; spacing and slice distance are lost",
        other_series=(),
    )
