"""Estimates of the ingest: size of the store and duration."""

import pytest

from features.estimate import RATES, ingest_hours, store_bytes
from pipeline.estimates import Hardware
from pipeline.load_settings import load_settings
from pipeline.settings import FeaturesSettings, Settings


def test_half_the_spacing_needs_four_times_the_store() -> None:
    coarse, fine = (Settings(features=FeaturesSettings(spacing_mm=step)) for step in (1.4, 0.7))
    assert store_bytes(fine, 1000) == 4 * store_bytes(coarse, 1000)


def test_the_store_of_the_contest_needs_243_gb() -> None:
    settings = load_settings("settings/rsna.toml", data="/rsna")
    assert store_bytes(settings, 1_937_447) == pytest.approx(243e9, rel=0.01)


def test_hours_fall_with_cores_until_the_disk_is_the_limit() -> None:
    settings = load_settings("settings/rsna.toml", data="/rsna")
    one, two, many = (ingest_hours(settings, 1_000_000, Hardware("", cores)) for cores in (1, 2, 10_000))
    assert one == pytest.approx(2 * two)
    assert many == pytest.approx(1e6 * 2 * 512**2 / 1e6 / RATES["disk"].value / 3600)
