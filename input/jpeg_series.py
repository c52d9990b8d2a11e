"""A series of the JPEG-256 derivative from its files' names and folders: there are no headers."""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from input.dicom import Series
from input.jpeg256 import FLAG, read_jpeg, split_name
from input.slice_faults import DicomFault
from pipeline.errors import UserError


def read_jpegs(source: Path, files: Iterable[Path], *, without: Collection[Path] = ()) -> Series:
    """Read `<Study>/<Series>/<iiii>_<SOP>.jpg`, in the order of the ranks, which stand in for z.

    Args:
        source: where they lie; only named in errors.
        files: slices of one series, in a folder or an archive.
        without: files to leave out, which another reading found to kill or hang their decoder.

    Raises:
        UserError: no slice decodes.
    """
    planes, faults = [], []
    for path in sorted(files, key=lambda each: split_name(each.name)):
        rank, sop = split_name(path.name)
        try:
            if path in without:
                raise DicomFault("kills or hangs its decoder")
            planes.append((read_jpeg(path)[0], rank, sop, path))
        except DicomFault as fault:
            faults.append((path, fault.reason))
    if not planes:
        raise UserError.listing(f"{source}: no slice decodes:", [f"{path}: {reason}" for path, reason in faults])
    hu, ranks, sops, paths = zip(*planes, strict=True)
    return Series(
        hu=np.stack(hu),
        z_mm=np.array(ranks, float),
        spacing_mm=(np.nan, np.nan),
        sop_uids=sops,
        study_uid=paths[0].parent.parent.name,
        series_uid=paths[0].parent.name,
        flags=(FLAG,),
        quarantined=faults,
        why=f"{len(sops)} slices of the JPEG-256 derivative; spacing and slice distance are lost",
        others=(),
    )
