"""The statistics behind the figure sheet give the published values on published inputs."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the sheet takes its special functions from SciPy")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "cipher_figures.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cipher_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


figures = _load()


def bits(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8) - ord("0")


# The first 100 binary digits of pi, the example that most sections of SP 800-22 end with.
PI = bits(
    "11001001000011111101101010100010001000010110100011"
    "00001000110100110001001100011001100010100010111000"
)


# SP 800-22 rev. 1a


@pytest.mark.parametrize(
    ("name", "found", "published"),
    [
        ("2.1.4", figures.frequency(bits("1011010101")), 0.527089),
        ("2.1.8", figures.frequency(PI), 0.109599),
        ("2.2.4", figures.block_frequency(bits("0110011010"), 3), 0.801252),
        ("2.2.8", figures.block_frequency(PI, 10), 0.706438),
        ("2.3.4", figures.runs(bits("1001101011")), 0.147232),
        ("2.3.8", figures.runs(PI), 0.500798),
        ("2.11.4, first", figures.serial(bits("0011011101"), 3)[0], 0.808792),
        ("2.11.4, second", figures.serial(bits("0011011101"), 3)[1], 0.670320),
        ("2.12.4", figures.approximate_entropy(bits("0100110101"), 3), 0.261961),
        ("2.12.8", figures.approximate_entropy(PI, 2), 0.235301),
        ("2.13.4", figures.cumulative_sums(bits("1011010111")), 0.4116588),
        ("2.13.8, forward", figures.cumulative_sums(PI), 0.219194),
        ("2.13.8, backward", figures.cumulative_sums(PI, backward=True), 0.114866),
    ],
)
def test_the_worked_examples_of_sp_800_22(name: str, found: float, published: float) -> None:
    # Those of section 2.6 do not follow its own description; Appendix B below has that test.
    assert found == pytest.approx(published, abs=1e-6), name


def test_the_longest_run_in_the_example_of_128_bits() -> None:
    example = bits(
        "1100110000010101011011000100110011100000000000100100110101010001"
        "0001001111010110100000001101011111001100111001101101100010110010"
    )
    assert figures.longest_run(example) == pytest.approx(0.180609, abs=2e-5)


def test_a_million_bits_of_the_root_of_two() -> None:
    # Appendix B gives these p-values for the 1 000 000 first binary digits.
    root = bits(bin(math.isqrt(2 << 2 * 999_999))[2:])
    assert root.size == 1_000_000
    found = {
        "frequency": figures.frequency(root),
        "block frequency": figures.block_frequency(root, 128),
        "cumulative sums": figures.cumulative_sums(root),
        "backward": figures.cumulative_sums(root, backward=True),
        "runs": figures.runs(root),
        "longest run": figures.longest_run(root),
        "rank": figures.matrix_rank(root),
        "spectral": figures.spectral(root),
        "approximate entropy": figures.approximate_entropy(root, 10),
        "serial": figures.serial(root, 16)[0],
    }
    assert found == pytest.approx(
        {
            "frequency": 0.811881,
            "block frequency": 0.833222,
            "cumulative sums": 0.879009,
            "backward": 0.957206,
            "runs": 0.313427,
            "longest run": 0.012117,
            "rank": 0.823810,
            "spectral": 0.581909,
            "approximate entropy": 0.884740,
            "serial": 0.861925,
        },
        abs=1.5e-6,
    )


def test_what_is_not_random_fails() -> None:
    size = 1 << 16
    biased = (np.random.default_rng(1).random(size) < 0.52).astype(np.uint8)
    striped = np.tile(bits("01"), size // 2)
    assert figures.frequency(biased) < 1e-9
    assert figures.cumulative_sums(biased) < 1e-9
    assert figures.runs(biased) == 0  # section 2.3.4 (2): not even asked
    assert figures.frequency(striped) == 1
    for test in (figures.runs, figures.longest_run, figures.matrix_rank, figures.spectral):
        assert test(striped) < 1e-9, test.__name__
    assert max(figures.serial(striped, 8)) < 1e-9
    assert figures.approximate_entropy(striped, 6) < 1e-9
    halves = np.concatenate([np.zeros(size // 2, np.uint8), np.ones(size // 2, np.uint8)])
    assert figures.block_frequency(halves, 1024) < 1e-9


def test_ranks_over_gf_2() -> None:
    powers = (1 << np.arange(32, dtype=np.uint64)).astype(np.uint32)
    twice = powers.copy()
    twice[7] = twice[3] ^ twice[20]
    matrices = np.stack(
        [powers, powers[::-1], twice, np.zeros(32, np.uint32), powers[:1].repeat(32)]
    )
    assert figures.gf2_ranks(matrices).tolist() == [32, 32, 31, 0, 1]


def test_uniform_p_values_and_the_share_that_must_pass() -> None:
    even = (np.arange(1000) + 0.5) / 1000
    assert figures.uniformity(even) == pytest.approx(1)
    assert figures.uniformity(even**2) < 1e-4
    assert figures.uniformity([1.0] * 100) < 1e-4
    assert figures.least_proportion(1000) == pytest.approx(0.980561, abs=1e-6)  # section 4.2.1


# Pictures


def test_npcr_and_uaci_on_bytes_by_hand() -> None:
    one = np.array([0, 10, 255, 7], np.uint8)
    two = np.array([255, 10, 0, 8], np.uint8)
    assert figures.npcr(one, two) == 0.75
    assert figures.uaci(one, two) == pytest.approx((255 + 255 + 1) / 4 / 255)


def test_the_ideals_are_those_of_independent_uniform_bytes() -> None:
    one, two = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    assert figures.npcr(one, two) == pytest.approx(figures.IDEAL_NPCR)
    assert figures.uaci(one, two) == pytest.approx(figures.IDEAL_UACI)
    distance = np.abs(one.astype(float) - two) / 255
    assert distance.var() == pytest.approx(figures.UACI_VARIANCE)
    assert f"{figures.IDEAL_NPCR:.4%} {figures.IDEAL_UACI:.4%}" == "99.6094% 33.4635%"


def test_z_counts_standard_deviations() -> None:
    assert figures.z_of_mean([0.5, 0.5], 0.5, 0.25, 100) == 0
    assert figures.z_of_mean([0.6], 0.5, 0.25, 100) == pytest.approx(2)
    assert figures.z_of_mean([0.6] * 4, 0.5, 0.25, 100) == pytest.approx(4)


def test_entropy_of_known_distributions() -> None:
    assert figures.entropy(np.zeros(100, np.uint8)) == 0
    assert figures.entropy(np.arange(256, dtype=np.uint8)) == pytest.approx(8)
    assert figures.entropy(np.array([0, 0, 1, 2], np.uint8)) == pytest.approx(1.5)
    random = np.random.default_rng(2).integers(0, 256, (200, 20_000), dtype=np.uint8)
    mean = np.mean([figures.entropy(row) for row in random])
    assert mean == pytest.approx(figures.expected_entropy(20_000), abs=2e-4)


def test_neighbours_of_a_slope_and_of_noise() -> None:
    across = np.tile(np.arange(64, dtype=np.uint8), (32, 1))[:, :, np.newaxis]
    checks = ((np.indices((32, 32)).sum(axis=0) % 2) * 255).astype(np.uint8)[:, :, np.newaxis]
    noise = np.random.default_rng(3).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for direction in figures.DIRECTIONS:
        assert figures.correlation(across, direction) == pytest.approx(1)
        assert abs(figures.correlation(noise, direction)) < 0.03
    assert figures.correlation(checks, "horizontal") == pytest.approx(-1)
    assert figures.correlation(checks, "vertical") == pytest.approx(-1)
    assert figures.correlation(checks, "diagonal") == pytest.approx(1)
    assert figures.correlation(np.full((9, 9, 3), 7, np.uint8), "vertical") == 0


def test_one_changed_bit_of_a_plate_changes_its_whole_ciphertext() -> None:
    plate = np.full(figures.SHAPE, 120, np.uint8)
    changed = plate.copy()
    changed[50, 60, 1] ^= 1
    one, two = figures.ciphertext(plate), figures.ciphertext(changed)
    assert one.shape == plate.shape
    assert figures.npcr(one, two) > 0.99
    assert figures.npcr(one, figures.ciphertext(plate)) == 0  # nothing but the plate decides


def test_the_first_line_of_the_sheet_says_what_it_does_not_prove() -> None:
    source = SCRIPT.read_text()
    main = source[source.index("def main()") :]
    assert "do not prove security" in figures.WARNING
    assert main.index("console.print(WARNING)") < main.index("console.print(table")
