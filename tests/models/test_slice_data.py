"""Inputs and targets of the slice networks: sampling, targets, views, inner exams, batches."""

import dataclasses
import threading
import time

import numpy as np
import pandas as pd
import pytest

from features.lung_box import Box
from features.store import write_exam
from input.contest import CHRONIC, GTE_1, LEFT, QA_MOTION, RIGHT, SLICE_LABEL, STUDY
from models.batches import prefetched
from models.sampling import draw_epoch, q_weights, sampling_weights, slice_keys
from models.slice_targets import TARGETS, evidence_targets, flip_targets, slice_targets
from models.slice_views import Augmentation, SliceViews, draw_augmentation
from pipeline.artifact import MANIFEST
from pipeline.errors import UserError
from pipeline.files import sha256, write_json
from pipeline.settings import ModelsSettings


def _slices(**exam_labels) -> pd.DataFrame:
    """Make an exam with PE (on 3 of 10 slices, with the given exam labels) and an exam without (10 slices)."""
    table = pd.DataFrame({STUDY: ["pos"] * 10 + ["neg"] * 10, SLICE_LABEL: [0.0] * 4 + [1.0] * 3 + [0.0] * 13})
    table["plane"] = [*range(10)] * 2
    for name in TARGETS[1:]:
        table[name] = np.where(table[STUDY] == "pos", exam_labels.get(name, 0.0), 0.0)
    return table


def test_slices_are_sampled_in_the_configured_shares():
    slices = _slices()
    rows, repeats = draw_epoch(sampling_weights(slices, 0.5, 0.3), slice_keys(slices), 1000, seed=1, epoch=0)
    sampled = slices.iloc[rows]
    assert len(rows) == 1000
    assert len(set(zip(rows, repeats, strict=True))) == 1000 and repeats.max() == np.bincount(rows).max() - 1
    assert abs((sampled[SLICE_LABEL] > 0).mean() - 0.5) < 0.01
    assert abs((sampled[STUDY] == "neg").mean() - 0.3) < 0.01


def test_an_epoch_is_a_pure_function_of_seed_and_number():
    weights, keys = sampling_weights(_slices(), 0.5, 0.25), slice_keys(_slices())
    rows = draw_epoch(weights, keys, 64, seed=1, epoch=3).rows
    assert np.array_equal(rows, draw_epoch(weights, keys, 64, seed=1, epoch=3).rows)
    for other in ({"seed": 1, "epoch": 4}, {"seed": 2, "epoch": 3}):
        assert not np.array_equal(rows, draw_epoch(weights, keys, 64, **other).rows)


def test_overlapping_sets_of_exams_mostly_draw_the_same_slices_of_common_exams():
    exams = [_slices().assign(**{STUDY: lambda table, exam=exam: table[STUDY] + str(exam)}) for exam in range(30)]
    drawn = []
    for part in (exams[:20], exams[10:]):
        slices = pd.concat(part, ignore_index=True)
        rows, repeats = draw_epoch(sampling_weights(slices, 0.5, 0.25), slice_keys(slices), 120, seed=1, epoch=0)
        assert np.bincount(rows).max() <= 2
        drawn.append(set(zip(slices[STUDY][rows], slices["plane"][rows], repeats, strict=True)))
    common = {f"{kind}{exam}" for kind in ("pos", "neg") for exam in range(10, 20)}
    first, second = ({draw for draw in part if draw[0] in common} for part in drawn)
    assert len(first & second) > 0.9 * len(first | second) > 40


def test_the_share_of_an_empty_group_is_distributed_over_the_others():
    slices = _slices().query("StudyInstanceUID == 'neg'")
    np.testing.assert_allclose(sampling_weights(slices, 0.5, 0.25), 0.1)


def test_shares_above_one_are_an_error():
    with pytest.raises(UserError, match="positive_share 0.8"):
        sampling_weights(_slices(), 0.8, 0.4)


def test_uniform_sampling_ignores_the_shares():
    slices = _slices()
    np.testing.assert_allclose(sampling_weights(slices, 0.5, 0.25, "uniform"), 1 / 20)
    weights = sampling_weights(slices, 0.5, 0.25, "uniform")
    rows = draw_epoch(weights, slice_keys(slices), 40, seed=1, epoch=0).rows
    assert np.bincount(rows).tolist() == [2] * 20


def test_an_unknown_sampling_mode_is_an_error():
    with pytest.raises(UserError, match="models.sampling. Expected one of shares, uniform, got 'even'"):
        sampling_weights(_slices(), 0.5, 0.25, "even")


def test_q_weighting_with_uniform_sampling_is_the_image_part_of_the_metric():
    """Weights are proportional to q (0.3 and 0) with mean 1 over sampled slices, so slices of the PE exam weigh 2."""
    slices = _slices()
    weights = q_weights(slices, sampling_weights(slices, 0.5, 0.25, "uniform"))
    np.testing.assert_allclose(weights, [2.0] * 10 + [0.0] * 10)


def test_q_weighting_affects_only_the_slice_label_and_has_mean_one():
    slices = _slices()
    probabilities = sampling_weights(slices, 0.5, 0.2)
    weights = q_weights(slices, probabilities)
    assert probabilities @ weights == pytest.approx(1)
    plain, weighted = slice_targets(slices, 0.2), slice_targets(slices, 0.2, weights)
    np.testing.assert_allclose(weighted[:, len(TARGETS)], weights, rtol=1e-6)
    assert np.array_equal(np.delete(weighted, len(TARGETS), 1), np.delete(plain, len(TARGETS), 1))


def test_q_weighting_without_pe_is_an_error():
    slices = _slices().query("StudyInstanceUID == 'neg'")
    with pytest.raises(UserError, match="q_weighting: no sampled training slice belongs to an exam with PE"):
        q_weights(slices, np.full(10, 0.1))


def test_with_auxiliary_weight_zero_only_the_slice_label_is_trained():
    weight = slice_targets(_slices(**{LEFT: 1.0}), 0.0)[:, len(TARGETS) :]
    assert (weight[:, 0] == 1).all() and not weight[:, 1:].any()


def test_exam_labels_are_trained_on_the_slices_that_can_show_them():
    slices = _slices(**{LEFT: 1.0, GTE_1: 1.0})
    truth, weight = np.split(slice_targets(slices, 0.2), 2, axis=1)
    weights = {name: weight[:, TARGETS.index(name)] for name in TARGETS}
    assert (weights[SLICE_LABEL] == 1).all()
    assert np.flatnonzero(weights[LEFT]).tolist() == [4, 5, 6]
    assert np.flatnonzero(weights[GTE_1]).tolist() == list(range(10))
    np.testing.assert_allclose(weights[QA_MOTION], 0.2)
    assert truth[4, TARGETS.index(LEFT)] == 1 and truth[4, TARGETS.index(CHRONIC)] == 0


def test_missing_labels_have_weight_zero():
    slices = _slices()
    slices[GTE_1] = np.nan
    targets = slice_targets(slices, 0.2)
    assert np.isfinite(targets).all()
    assert (targets[:, len(TARGETS) + TARGETS.index(GTE_1)] == 0).all()


def test_a_side_counts_as_evidence_only_if_the_other_side_has_no_pe():
    rows = pd.DataFrame(0.0, index=range(4), columns=list(TARGETS)).assign(StudyInstanceUID=["a", "b", "b", "c"])
    rows[SLICE_LABEL] = [1, 1, 0, 0]
    rows[LEFT] = [1, 1, 1, 0]
    rows[RIGHT] = [0, 1, 1, 0]
    evidence = evidence_targets(slice_targets(rows, 0.2), np.array([2.0, 2.0, 2.0, 0.0]))
    assert evidence[:, :3].tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert evidence[:, 3:].tolist() == [[2, 2, 2], [2, 0, 0], [2, 0, 0], [0, 0, 0]]


def test_a_flip_swaps_left_and_right_and_is_its_own_inverse():
    targets = slice_targets(_slices(**{LEFT: 1.0}), 0.2)
    flipped = flip_targets(targets)
    assert flipped[5, TARGETS.index(RIGHT)] == 1 and flipped[5, TARGETS.index(LEFT)] == 0
    assert np.array_equal(flip_targets(flipped), targets)


@pytest.fixture
def store(tmp_path):
    random = np.random.default_rng(0)
    hu = random.integers(-1000, 600, (5, 20, 30)).astype(np.int16)
    write_exam(
        tmp_path, "study", "series", hu, z_mm=np.arange(5) * 5.0, spacing_mm=(1.6, 1.6), raw_spacing_mm=(0.8, 0.8),
        sop_uids=tuple("abcde"), box=Box(y0=0, y1=40, x0=0, x1=60, z0=0, z1=5, middle_x=29.0, found=True),
    )  # fmt: skip
    return tmp_path, hu


SETTINGS = ModelsSettings(height=32, width=48, pixel_mm=1.6)


def test_an_unchanged_view_is_the_windowed_stack_padded_with_air(store):
    folder, hu = store
    view = SliceViews(folder, SETTINGS).view("study", 2)
    assert view.shape == (32, 48, 3) and view.dtype == np.float32
    expected = np.clip((hu[1:4].transpose(1, 2, 0) + 250) / 700, 0, 1)
    np.testing.assert_allclose(view[6:26, 9:39], expected, atol=1e-6)
    assert view[:6].max() == 0 and view[:, 39:].max() == 0


def test_a_flipped_view_is_the_mirror_image_of_the_view(store):
    views = SliceViews(store[0], SETTINGS)
    np.testing.assert_allclose(
        views.view("study", 2, Augmentation(flip=True)), views.view("study", 2)[:, ::-1], atol=1e-6
    )


def test_half_the_pixel_size_doubles_the_magnification(store):
    """A 20 x 30 plane of 1.6 mm covers 40 x 60 pixels of 0.8 mm: more than the input, without a border of air."""
    double = SliceViews(store[0], ModelsSettings(height=32, width=48, pixel_mm=0.8)).view("study", 2)
    for edge in (double[0], double[-1], double[:, 0], double[:, -1]):
        assert edge.max() > 0


def test_without_a_pixel_size_the_whole_plane_is_fitted(store):
    small = SliceViews(store[0], ModelsSettings(height=10, width=20, pixel_mm=0.0)).view("study", 0)
    assert small.shape == (10, 20, 3)
    assert small[:, 3:17].mean() > 0.1  # 15 columns show the plane, the other columns are air
    assert small[:, 0].max() == 0


def test_with_neighbour_distance_zero_all_channels_show_the_slice_itself(store):
    settings = ModelsSettings(height=32, width=48, pixel_mm=1.6, neighbour_mm=0.0)
    view = SliceViews(store[0], settings).view("study", 2)
    np.testing.assert_array_equal(view[..., 0], view[..., 1])
    np.testing.assert_array_equal(view[..., 2], view[..., 1])
    np.testing.assert_array_equal(view[..., 1], SliceViews(store[0], SETTINGS).view("study", 2)[..., 1])


@pytest.mark.parametrize(
    ("measured", "factor"), [(175.0, 2.0), (400.0, 0.875), (50.0, 3.0), (-20.0, 3.0), (1400.0, 0.6), (np.nan, 1.0)]
)
def test_blood_gets_the_wanted_value_within_limits_and_the_rest_is_unchanged(store, measured, factor):
    plain = SliceViews(store[0], SETTINGS).hu("study", 2)
    settings = dataclasses.replace(SETTINGS, artery_hu=350.0)
    scaled = SliceViews(store[0], settings, enhancement={"study": measured}).hu("study", 2)
    assert scaled.dtype == np.int16
    np.testing.assert_array_equal(scaled, np.where(plain > 0, np.rint(plain * factor), plain))


def test_the_enhancement_comes_from_the_measurements_of_the_store(store):
    settings = dataclasses.replace(SETTINGS, artery_hu=350.0)
    without = SliceViews(store[0], settings)
    assert without.matrix("study").shape == (2, 3)  # clot maps need no more
    with pytest.raises(UserError, match="Exam table missing: .*artery_hu"):
        without.hu("study", 2)
    exams = pd.DataFrame({STUDY: ["study", "other"], "pulmonary_artery_hu": [np.nan, 1.0], "vessel_hu": [175.0, 2.0]})
    exams.to_parquet(store[0] / "exams.parquet")
    expected = SliceViews(store[0], settings, enhancement={"study": 175.0}).hu("study", 2)
    np.testing.assert_array_equal(SliceViews(store[0], settings).hu("study", 2), expected)


def test_the_first_slice_is_its_own_previous_neighbour(store):
    view = SliceViews(store[0], SETTINGS).view("study", 0)
    np.testing.assert_array_equal(view[..., 0], view[..., 1])


def test_a_changed_stored_exam_is_rejected_before_it_is_parsed(store):
    folder, _ = store
    write_json(folder / MANIFEST, {"files": {name: sha256(folder / name) for name in ("study.b2nd", "study.json")}})
    SliceViews(folder, SETTINGS).view("study", 0)
    pixels = bytearray((folder / "study.b2nd").read_bytes())
    pixels[-3] ^= 1
    (folder / "study.b2nd").write_bytes(pixels)
    with pytest.raises(UserError, match="study.b2nd"):
        SliceViews(folder, SETTINGS).view("study", 0)


def test_augmentation_is_deterministic_and_stays_in_range(store):
    views = SliceViews(store[0], SETTINGS)
    augmentation = draw_augmentation(SETTINGS, epoch=1, key=5, repeat=0)
    assert augmentation == draw_augmentation(SETTINGS, epoch=1, key=np.uint64(5), repeat=0)
    for epoch, key, repeat in ((2, 5, 0), (1, 6, 0), (1, 5, 1)):
        assert augmentation != draw_augmentation(SETTINGS, epoch=epoch, key=key, repeat=repeat)
    view = views.view("study", 2, augmentation)
    np.testing.assert_array_equal(view, views.view("study", 2, augmentation))
    assert 0 <= view.min() and view.max() <= 1


def test_cutout_is_the_probability_of_a_hole():
    def holes(cutout):
        settings = ModelsSettings(cutout=cutout)
        return [draw_augmentation(settings, epoch=0, key=key, repeat=0).hole[2] for key in range(200)]

    assert not any(holes(0.0)) and all(holes(1.0)) and 20 < np.count_nonzero(holes(0.2)) < 60


def _views_of_square(folder, **settings):
    """Make views of one exam: 40 x 40 planes of -1000 HU with 8 x 4 (y, x) pixels of 100 HU in the middle."""
    hu = np.full((1, 40, 40), -1000, np.int16)
    hu[0, 16:24, 18:22] = 100
    write_exam(
        folder, "square", "series", hu, z_mm=np.zeros(1), spacing_mm=(1.0, 1.0), raw_spacing_mm=(1.0, 1.0),
        sop_uids=("a",), box=Box(y0=0, y1=40, x0=0, x1=40, z0=0, z1=1, middle_x=19.5, found=True),
    )  # fmt: skip
    return SliceViews(folder, ModelsSettings(height=40, width=40, pixel_mm=1.0, **settings))


def test_shift_rotation_and_scale_transform_the_view(tmp_path):
    views = _views_of_square(tmp_path)

    def geometry(**augmentation):
        """Return centre (y, x) and extent (y, x) of the square in the view."""
        y, x = np.nonzero(views.view("square", 0, Augmentation(**augmentation))[..., 1] > 0.05)
        return [y.mean(), x.mean(), np.ptp(y) + 1, np.ptp(x) + 1]

    assert geometry() == [19.5, 19.5, 8, 4]
    assert geometry(shift=(0.1, -0.05)) == [23.5, 17.5, 8, 4]
    assert geometry(angle_degrees=90.0) == [19.5, 19.5, 4, 8]
    assert geometry(scale=2.0) == [19.5, 19.5, 16, 8]


def test_gain_offset_and_noise_change_hu(tmp_path):
    views = _views_of_square(tmp_path)

    def middle(**augmentation):
        return views.view("square", 0, Augmentation(**augmentation))[18:22, 19:21, 1]

    assert middle() == pytest.approx(350 / 700, abs=1e-6)
    assert middle(gain=1.1, offset_hu=20.0) == pytest.approx(380 / 700, abs=1e-6)
    noisy = np.concatenate([middle(noise_hu=10.0, noise_seed=(seed,)).ravel() for seed in range(200)]) * 700 - 350
    assert abs(noisy.mean()) < 1.5 and noisy.std() == pytest.approx(10, rel=0.1)


def test_inner_exams_are_whole_stratified_and_independent_of_the_row_order():
    from models.inner_split import split_inner

    exams = [f"{number:02d}" for number in range(30)]
    table = pd.DataFrame({STUDY: np.repeat(exams, 4), SLICE_LABEL: [float(row % 12 == 0) for row in range(120)]})
    train, inner = split_inner(table, 0.2, seed=1)
    assert inner[STUDY].nunique() == 6 and not set(train[STUDY]) & set(inner[STUDY])
    assert len(train) + len(inner) == len(table)
    assert inner.groupby(STUDY)[SLICE_LABEL].max().sum() == 2  # 10 of the 30 exams show PE
    shuffled = table.sample(frac=1, random_state=0)
    assert set(split_inner(shuffled, 0.2, seed=1)[1][STUDY]) == set(inner[STUDY])
    assert set(split_inner(table, 0.2, seed=2)[1][STUDY]) != set(inner[STUDY])
    assert split_inner(table, 0.01, seed=1)[1][STUDY].nunique() == 2
    assert split_inner(table, 0.0, seed=1)[1].empty


def test_an_inner_share_that_sets_no_exam_aside_is_an_error():
    from models.inner_split import split_inner

    table = pd.DataFrame({STUDY: ["a", "b"], SLICE_LABEL: [1.0, 0.0]})
    with pytest.raises(UserError, match="0 of 2 training exams would be set aside"):
        split_inner(table, 0.4, seed=1)


def test_views_do_not_depend_on_the_number_of_threads(store):
    views = SliceViews(store[0], SETTINGS)
    expected = [views.view("study", plane % 5) for plane in range(40)]
    threaded = list(prefetched(lambda plane: views.view("study", plane % 5), 40, threads=4))
    for expected_view, view in zip(expected, threaded, strict=True):
        np.testing.assert_array_equal(view, expected_view)


def test_several_threads_keep_the_order_of_batches():
    def make(index):
        time.sleep(0.002 * (index % 3 == 0))
        return index

    assert list(prefetched(make, 30, threads=4)) == list(range(30))


def test_all_threads_make_batches_while_one_is_in_use():
    """Six threads meet at a barrier while the loop uses a batch; at most two further batches are started."""
    started, barrier, used = [], threading.Barrier(6), 0

    def make(index):
        started.append(index)
        barrier.wait(timeout=10)
        return index

    for item in prefetched(make, 60, threads=6):
        assert item == used
        used += 1
        assert len(started) <= used + 8


def test_leaving_the_loop_early_stops_the_preparation():
    made = []
    for item in prefetched(lambda index: made.append(index) or index, 1000, ahead=2):
        if item == 3:
            break
    count = len(made)
    time.sleep(0.02)
    assert len(made) == count <= 7


def test_a_hole_shows_air(store):
    view = SliceViews(store[0], SETTINGS).view("study", 2, Augmentation(hole=(0.25, 0.25, 0.25)))
    assert view[8:16, 12:24].max() == 0


def test_batches_are_in_order_and_exceptions_are_raised_at_their_batch():
    assert list(prefetched(lambda index: index * 2, 20)) == list(range(0, 40, 2))

    def broken(index):
        if index == 3:
            raise ZeroDivisionError
        return index

    received = []
    with pytest.raises(ZeroDivisionError):
        for item in prefetched(broken, 10):
            received.append(item)
    assert received == [0, 1, 2]
