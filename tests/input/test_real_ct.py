"""The reader on public CT, if shared/ct exists next to the checkout (its README lists the sources)."""

from pathlib import Path

import numpy as np
import pytest

from input.dicom import read_series
from input.slice_errors import DicomError
from input.slice_file import read_header, read_pixels

CT = Path(__file__).resolve().parents[3] / "shared" / "ct"
pytestmark = pytest.mark.skipif(not CT.is_dir(), reason="no real CT in shared/ct")


def test_a_venous_chest_series_is_read_in_order():
    series = read_series(CT / "chest_contrast")
    assert series.hu.shape == (102, 512, 512) and series.flags == ()
    np.testing.assert_allclose(np.diff(series.z_mm), 3.0)
    assert (series.z_mm[0], series.z_mm[-1]) == (-266.5, 36.5)
    assert series.spacing_mm == (0.8828125, 0.8828125)
    assert series.hu.min() == -1024
    # The lungs are in the upper half; in the lower half only the foam of the table has such values.
    lung = ((series.hu > -950) & (series.hu < -700)).mean(axis=(1, 2))
    assert lung[51:].mean() > 1.8 * lung[:25].mean()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_padding_of_real_pulmonary_angiograms_becomes_air(name):
    header, hu = read_header(CT / "ctpa_slices" / f"{name}.dcm"), read_pixels(CT / "ctpa_slices" / f"{name}.dcm")
    assert header.padding_value == -2000 and hu[0, 0] == -1024
    assert ((hu > 150) & (hu < 600)).mean() > 0.005  # contrast medium


def test_a_coronal_reformat_is_refused_with_the_reason():
    with pytest.raises(DicomError, match="not an axial slice but coronal"):
        read_header(CT / "ctpa_slices" / "a_coronal.dcm")
