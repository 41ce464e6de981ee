"""Average precision and counts by COCO's rules, against figures worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from platecrypt.training.matching import (
    ImageResult,
    as_boxes,
    average_precision,
    counts_at,
    iou_matrix,
    match,
)

Boxes = list[tuple[float, float, float, float]]


def result(
    found: list[tuple[float, tuple[float, float, float, float]]],
    labels: Boxes,
    ignored: list[bool] | None = None,
    **widths: float,
) -> ImageResult:
    found = sorted(found, key=lambda row: -row[0])
    return ImageResult(
        as_boxes([box for _, box in found]),
        np.array([score for score, _ in found], np.float64),
        as_boxes(labels),
        np.array(ignored or [False] * len(labels), np.bool_),
        **widths,
    )


A, B, FAR = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def test_overlap_of_boxes_known_by_hand() -> None:
    a = as_boxes([(0, 0, 10, 10), (0, 0, 0, 0)])
    b = as_boxes([(5, 0, 15, 10), (0, 0, 10, 10), (10, 0, 20, 10), (0, 0, 0, 0)])
    np.testing.assert_allclose(iou_matrix(a, b), [[1 / 3, 1, 0, 0], [0, 0, 0, 0]])


def test_all_found_and_nothing_else_is_one() -> None:
    assert average_precision([result([(0.9, A), (0.8, B)], [A, B])], 0.5) == 1.0


def test_nothing_found_is_zero_and_no_labels_is_unknown() -> None:
    assert average_precision([result([], [A])], 0.5) == 0.0
    assert average_precision([result([(0.9, A)], [])], 0.5) is None
    assert average_precision([], 0.5) is None


def test_half_found_gives_the_recalls_up_to_a_half() -> None:
    # precision 1 at recalls 0, .01, .. .50: 51 of 101 points
    assert average_precision([result([(0.9, A)], [A, B])], 0.5) == pytest.approx(51 / 101)


def test_a_false_detection_before_a_hit_halves_the_precision() -> None:
    assert average_precision([result([(0.9, FAR), (0.8, A)], [A])], 0.5) == pytest.approx(0.5)


def test_a_false_detection_after_every_hit_costs_nothing() -> None:
    assert average_precision([result([(0.9, A), (0.1, FAR)], [A])], 0.5) == 1.0


def test_a_second_detection_of_one_label_is_false() -> None:
    one = result([(0.9, A), (0.8, A)], [A])
    assert match(one, 0.5).tolist() == [0, -1]
    counts = counts_at([one], 0.25, 0.5)
    assert (counts.hits, counts.false, counts.missed) == (1, 1, 0)


def test_images_are_pooled_by_score() -> None:
    # 0.9 false, 0.8 hit, 0.7 hit: precision 0, 1/2, 2/3; the envelope is 2/3 everywhere
    results = [result([(0.9, FAR), (0.7, A)], [A]), result([(0.8, A)], [A])]
    assert average_precision(results, 0.5) == pytest.approx(2 / 3)


def test_an_ignored_label_neither_rewards_nor_punishes() -> None:
    one = result([(0.9, A), (0.8, B)], [A, B], [True, False])
    assert match(one, 0.5).tolist() == [-2, 1]
    assert average_precision([one], 0.5) == 1.0
    assert counts_at([one], 0.25, 0.5).missed == 0


def test_a_false_detection_counts_only_in_the_slice_of_its_width() -> None:
    one = result([(0.9, FAR), (0.8, A)], [A], min_width=11.0)
    assert match(one, 0.5).tolist() == [-2, 0]


def test_only_scores_above_the_threshold_count() -> None:
    counts = counts_at([result([(0.9, A), (0.25, B)], [A, B])], 0.25, 0.5)
    assert (counts.hits, counts.false, counts.missed) == (1, 0, 1)
    assert counts.precision == 1.0
    assert counts.recall == 0.5


def test_it_agrees_with_the_area_that_scikit_learn_computes() -> None:
    """Scores as a ranking: our 101-point area is within the grid's width of the exact one."""
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(3)
    hits = generator.random(400) < 0.6
    scores = generator.random(400)
    boxes: NDArray[np.float64] = np.array([(i * 20, 0, i * 20 + 10, 10) for i in range(400)], float)
    found = [
        (float(score), tuple(box) if hit else (box[0], 500.0, box[2], 510.0))
        for score, box, hit in zip(scores, boxes.tolist(), hits, strict=True)
    ]
    ours = average_precision([result(found, [tuple(b) for b in boxes[hits].tolist()])], 0.5)
    assert ours == pytest.approx(average_precision_score(hits, scores), abs=0.03)
