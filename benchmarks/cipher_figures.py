"""The figures that papers on image encryption give: NPCR, UACI, entropy, correlation, SP 800-22.

    python benchmarks/cipher_figures.py [--trials 1000] [--sequences 128] [--json FILE]

They do not prove security: weak ciphers pass all of them. What carries confidentiality and
integrity here is AES-256-GCM. The sheet shows that nothing is visibly wrong, in the terms that
readers of that literature look for. Everything is drawn from fixed seeds: two runs agree.

NPCR and UACI follow Wu, Noonan, Agaian (2011), the statistical tests NIST SP 800-22 rev. 1a. Draws
build/benchmarks/cipher_figures.png.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy.special import erfc, gammaincc, ndtr

from platecrypt.cipher import OVERHEAD, PIXELS, Keyring, keystream, warm_up
from platecrypt.cipher.envelope import _seal

Bits = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "plates-ro" / "images"
OUT = ROOT / "build" / "benchmarks" / "cipher_figures.png"
WARNING = "These figures do not prove security: ciphers that are broken pass them too."

SHAPE = (96, 128, 3)
"""A plate of 36 864 bytes."""
PICTURES = 50
SEQUENCE_BITS = 1 << 20
CTX = b"x" * 330
IDEAL_NPCR = 255 / 256
IDEAL_UACI = (256**2 - 1) / (3 * 256) / 255
# Of |a - b| / 255 for two independent uniform bytes a and b.
UACI_VARIANCE = (256**2 - 1) / 6 / 255**2 - IDEAL_UACI**2
ALPHA = 0.01
"""Level of one statistical test, as SP 800-22 takes it."""
LEAST_UNIFORMITY = 1e-4
"""Below it the p-values of many sequences do not look uniform (SP 800-22, section 4.2.2)."""
DIRECTIONS = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}


@dataclass(frozen=True)
class Figure:
    """One line of the sheet; `met` is None where nothing is demanded."""

    what: str
    ideal: str
    value: str
    met: bool | None = None


# Pictures


def npcr(one: npt.NDArray[np.uint8], two: npt.NDArray[np.uint8]) -> float:
    """Number of pixels change rate: the share of bytes that differ, 0..1."""
    return float(np.mean(one != two))


def uaci(one: npt.NDArray[np.uint8], two: npt.NDArray[np.uint8]) -> float:
    """Unified average changing intensity: mean distance of bytes as a share of 255, 0..1."""
    return float(np.mean(np.abs(one.astype(np.int16) - two.astype(np.int16))) / 255)


def entropy(data: npt.NDArray[np.uint8]) -> float:
    """Shannon entropy of the bytes, bits a byte."""
    share = np.bincount(data.reshape(-1), minlength=256) / data.size
    share = share[share > 0]
    return float(-np.sum(share * np.log2(share)))


def expected_entropy(count: int) -> float:
    """What `entropy` gives on average for `count` random bytes: a little less than 8."""
    return 8 - 255 / (2 * count * math.log(2))


def neighbours(pixels: Pixels, direction: str) -> tuple[Floats, Floats]:
    """Each pixel of (H, W, C) and its neighbour in one direction, as two flat arrays."""
    down, right = DIRECTIONS[direction]
    height, width = pixels.shape[:2]
    first = pixels[: height - down, : width - right].astype(np.float64)
    second = pixels[down:, right:].astype(np.float64)
    return first.reshape(-1), second.reshape(-1)


def correlation(pixels: Pixels, direction: str) -> float:
    """Correlation of each pixel with its neighbour, -1..1; 0 for a picture of one colour."""
    first, second = neighbours(pixels, direction)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def z_of_mean(values: Sequence[float], ideal: float, variance: float, size: int) -> float:
    """How many standard deviations the mean of trials over `size` bytes is off."""
    deviation = math.sqrt(variance / (size * len(values)))
    return (float(np.mean(values)) - ideal) / deviation


# SP 800-22. Each takes bits (uint8, 0 or 1) and gives a p-value.


def frequency(bits: Bits) -> float:
    """Section 2.1: as many ones as zeros."""
    excess = 2 * int(bits.sum(dtype=np.int64)) - bits.size
    return float(erfc(abs(excess) / math.sqrt(2 * bits.size)))


def block_frequency(bits: Bits, size: int) -> float:
    """Section 2.2: the same in each block of `size` bits."""
    blocks = bits[: bits.size // size * size].reshape(-1, size)
    chi2 = 4 * size * float(np.sum((blocks.mean(axis=1) - 0.5) ** 2))
    return float(gammaincc(len(blocks) / 2, chi2 / 2))


def runs(bits: Bits) -> float:
    """Section 2.3: changes between ones and zeros are neither too fast nor too slow."""
    share = float(bits.mean())
    if abs(share - 0.5) >= 2 / math.sqrt(bits.size):
        return 0.0
    changes = 1 + int(np.count_nonzero(bits[1:] != bits[:-1]))
    spread = 2 * share * (1 - share)
    return float(erfc(abs(changes - bits.size * spread) / (math.sqrt(2 * bits.size) * spread)))


# Block length, shortest and longest run that is counted by itself, and the probabilities.
_LONGEST_RUNS = (
    (750_000, 10_000, 10, 16, (0.0882, 0.2092, 0.2483, 0.1933, 0.1208, 0.0675, 0.0727)),
    (6_272, 128, 4, 9, (0.1174, 0.2430, 0.2493, 0.1752, 0.1027, 0.1124)),
    (128, 8, 1, 4, (0.2148, 0.3672, 0.2305, 0.1875)),
)


def longest_run(bits: Bits) -> float:
    """Section 2.4: the longest run of ones in a block; at least 128 bits."""
    _, size, low, high, shares = next(row for row in _LONGEST_RUNS if bits.size >= row[0])
    blocks = bits[: bits.size // size * size].reshape(-1, size)
    longest = [max(map(len, block.tobytes().split(b"\0"))) for block in blocks]
    counts = np.bincount(np.clip(longest, low, high) - low, minlength=len(shares))
    return _goodness(counts, np.array(shares))


def matrix_rank(bits: Bits) -> float:
    """Section 2.5: the ranks of 32 x 32 matrices over GF(2); at least 38 matrices."""
    count = bits.size // 1024
    rows = np.packbits(bits[: count * 1024]).view(">u4").astype(np.uint32).reshape(count, 32)
    ranks = gf2_ranks(rows)
    counts = np.array([np.sum(ranks == 32), np.sum(ranks == 31), np.sum(ranks < 31)])
    full = math.prod(1 - 2.0**-i for i in range(1, 33))
    shares = np.array([full, full * 2 * (1 - 2.0**-32), 0])
    shares[2] = 1 - shares.sum()
    return _goodness(counts, shares)


def gf2_ranks(matrices: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Ranks over GF(2) of (N, 32) words: N matrices whose rows are the words."""
    rows = matrices.copy()
    everyone = np.arange(len(rows))
    used = np.zeros(rows.shape, bool)
    for bit in range(32):
        has = (rows >> np.uint32(bit) & 1).astype(bool)
        free = has & ~used
        pivot, found = free.argmax(axis=1), free.any(axis=1)
        rows ^= np.where(has & found[:, None], rows[everyone, pivot][:, None], np.uint32(0))
        used[everyone, pivot] |= found
    return used.sum(axis=1)


def spectral(bits: Bits) -> float:
    """Section 2.6: no frequency stands out of the discrete Fourier transform."""
    size = bits.size
    heights = np.abs(np.fft.rfft(2.0 * bits - 1))[: size // 2]
    below = int(np.count_nonzero(heights < math.sqrt(math.log(1 / 0.05) * size)))
    off = (below - 0.95 * size / 2) / math.sqrt(size * 0.95 * 0.05 / 4)
    return float(erfc(abs(off) / math.sqrt(2)))


def patterns(bits: Bits, length: int) -> npt.NDArray[np.int64]:
    """How often each pattern of `length` bits occurs, the sequence taken as a ring."""
    ring = np.concatenate([bits, bits[: length - 1]]) if length > 1 else bits
    words = np.zeros(bits.size, np.uint32)
    for at in range(length):
        words = words << np.uint32(1) | ring[at : at + bits.size]
    return np.bincount(words, minlength=1 << length)


def shorter(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The counts of patterns one bit shorter: on a ring each is the sum of two."""
    return counts.reshape(-1, 2).sum(axis=1)


def serial(bits: Bits, length: int) -> tuple[float, float]:
    """Section 2.11: all patterns of `length` bits are equally frequent; two p-values."""
    counts = patterns(bits, length)
    psi = []
    for _ in range(3):
        psi.append(len(counts) / bits.size * float(np.sum(counts.astype(float) ** 2)) - bits.size)
        counts = shorter(counts) if len(counts) > 1 else counts
    first, second = psi[0] - psi[1], psi[0] - 2 * psi[1] + psi[2]
    return (
        float(gammaincc(2.0 ** (length - 2), first / 2)),
        float(gammaincc(2.0 ** (length - 3), second / 2)),
    )


def approximate_entropy(bits: Bits, length: int) -> float:
    """Section 2.12: patterns of `length` and of one more bit tell as much as they should."""
    longer = patterns(bits, length + 1)
    gain = _log_share(shorter(longer)) - _log_share(longer)
    return float(gammaincc(2.0 ** (length - 1), bits.size * (math.log(2) - gain)))


def cumulative_sums(bits: Bits, *, backward: bool = False) -> float:
    """Section 2.13: the random walk of the bits goes neither too far nor stays too near."""
    steps = 2 * bits.astype(np.int64) - 1
    far = int(np.abs(np.cumsum(steps[::-1] if backward else steps)).max())
    size, root = bits.size, math.sqrt(bits.size)

    def terms(first: float, last: float, above: int, below: int) -> float:
        k = np.arange(int(first), int(last) + 1)
        return float(
            np.sum(ndtr((4 * k + above) * far / root) - ndtr((4 * k + below) * far / root))
        )

    last = (size / far - 1) / 4
    one = terms((-size / far + 1) / 4, last, 1, -1)
    return 1 - one + terms((-size / far - 3) / 4, last, 3, 1)


def _goodness(counts: npt.NDArray[Any], shares: Floats) -> float:
    wanted = counts.sum() * shares
    chi2 = float(np.sum((counts - wanted) ** 2 / wanted))
    return float(gammaincc((len(shares) - 1) / 2, chi2 / 2))


def _log_share(counts: npt.NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(np.sum(share * np.log(share)))


def all_tests(bits: Bits) -> dict[str, float]:
    """The subset, with the parameters that SP 800-22 recommends for 2^20 bits."""
    first, second = serial(bits, 16)
    return {
        "frequency": frequency(bits),
        "block frequency (16384)": block_frequency(bits, 16_384),
        "runs": runs(bits),
        "longest run of ones": longest_run(bits),
        "matrix rank (32 x 32)": matrix_rank(bits),
        "spectral": spectral(bits),
        "serial (16), first": first,
        "serial (16), second": second,
        "approximate entropy (10)": approximate_entropy(bits, 10),
        "cumulative sums, forward": cumulative_sums(bits),
        "cumulative sums, backward": cumulative_sums(bits, backward=True),
    }


def uniformity(p_values: Sequence[float]) -> float:
    """Section 4.2.2: p-value of the p-values being uniform, from ten classes."""
    classes = np.minimum((np.asarray(p_values) * 10).astype(int), 9)
    counts = np.bincount(classes, minlength=10)
    return _goodness(counts, np.full(10, 0.1))


def least_proportion(sequences: int) -> float:
    """Section 4.2.1: the share of sequences that must pass, three deviations below 0.99."""
    return 1 - ALPHA - 3 * math.sqrt(ALPHA * (1 - ALPHA) / sequences)


# What is measured


def crops(count: int) -> Iterator[Pixels]:
    """Pieces of natural pictures in the size of a plate, (96, 128, 3) uint8."""
    random = np.random.default_rng(22)
    pictures = list(natural_pictures())
    for at in range(count):
        picture = pictures[at % len(pictures)]
        y = random.integers(picture.shape[0] - SHAPE[0] + 1)
        x = random.integers(picture.shape[1] - SHAPE[1] + 1)
        yield np.ascontiguousarray(picture[y : y + SHAPE[0], x : x + SHAPE[1]])


def natural_pictures() -> Iterator[Pixels]:
    """Photographs where the folder with them is beside this checkout, else synthetic streets."""
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    if files:
        chosen = files[:: max(1, len(files) // PICTURES)][:PICTURES]
        data = [file.read_bytes() for file in chosen]
    else:
        from platecrypt.datasets.synthetic import generate

        data = [image.data for image in generate(PICTURES // 2, 7, "full")]
    for encoded in data:
        yield np.asarray(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def key_of(number: int) -> bytes:
    """A key out of a sleeve that holds nothing."""
    return hashlib.sha256(f"LCL-1 figures {number}".encode()).digest()


MASTER = Keyring([key_of(0)]).newest


def ciphertext(plate: Pixels) -> Pixels:
    """The ciphertext in the envelope of a plate; its random part is held at zero."""
    envelope = _seal(plate.tobytes(), CTX, MASTER, PIXELS, 0, bytes(32))
    start = OVERHEAD - 16 + len(CTX)
    return np.frombuffer(envelope, np.uint8)[start:-16].reshape(SHAPE)


@dataclass(frozen=True, eq=False)
class Differential:
    """What one changed bit of one pixel changes, trial by trial."""

    npcr: list[float]
    uaci: list[float]
    npcr_alone: float
    pictures: str


def differential(plates: Sequence[Pixels]) -> Differential:
    random = np.random.default_rng(800)
    rates, intensities = [], []
    for plate in plates:
        changed = plate.copy()
        changed.reshape(-1)[random.integers(plate.size)] ^= 1
        one, two = ciphertext(plate), ciphertext(changed)
        rates.append(npcr(one, two))
        intensities.append(uaci(one, two))
    alone = 1 / plates[0].size  # XOR with one keystream passes the changed byte through
    kind = "photographs" if PHOTOGRAPHS.exists() else "synthetic pictures"
    return Differential(rates, intensities, alone, kind)


def differential_figures(found: Differential) -> list[Figure]:
    size = math.prod(SHAPE)
    z1 = z_of_mean(found.npcr, IDEAL_NPCR, IDEAL_NPCR * (1 - IDEAL_NPCR), size)
    z2 = z_of_mean(found.uaci, IDEAL_UACI, UACI_VARIANCE, size)
    trials = f"mean of {len(found.npcr)} trials"
    return [
        Figure(
            f"NPCR, one bit of the plate changed, {trials}",
            f"{IDEAL_NPCR:.4%}",
            f"{np.mean(found.npcr):.4%} (z = {z1:+.2f})",
            abs(z1) < 3,
        ),
        Figure(
            f"UACI, one bit of the plate changed, {trials}",
            f"{IDEAL_UACI:.4%}",
            f"{np.mean(found.uaci):.4%} (z = {z2:+.2f})",
            abs(z2) < 3,
        ),
        Figure(
            "  NPCR of LCL-1 alone under one key (XOR: why it is never alone)",
            "",
            f"{found.npcr_alone:.4%}",
        ),
    ]


def picture_figures(plates: Sequence[Pixels]) -> list[Figure]:
    sealed = [ciphertext(plate) for plate in plates]
    rows = [
        Figure(
            "entropy, bits a byte, before / after",
            f"{expected_entropy(plates[0].size):.4f}",
            f"{np.mean([entropy(p) for p in plates]):.4f} / "
            f"{np.mean([entropy(p) for p in sealed]):.4f}",
        )
    ]
    for direction in DIRECTIONS:
        before = [correlation(plate, direction) for plate in plates]
        after = [correlation(plate, direction) for plate in sealed]
        rows.append(
            Figure(
                f"correlation of {direction} neighbours, before / after",
                "0",
                f"{np.mean(before):.4f} / {np.mean(after):+.4f} "
                f"(largest {np.max(np.abs(after)):.4f})",
            )
        )
    return rows


def sensitivity_figures() -> list[Figure]:
    """Every single bit of an LCL-1 key changed in turn."""
    key, size = key_of(1), math.prod(SHAPE)
    stream = np.frombuffer(keystream(key, size), np.uint8)
    shares, rates = [], []
    for bit in range(256):
        other = bytearray(key)
        other[bit // 8] ^= 1 << bit % 8
        changed = np.frombuffer(keystream(bytes(other), size), np.uint8)
        shares.append(float(np.bitwise_count(stream ^ changed).mean(dtype=float) / 8))
        rates.append(npcr(stream, changed))
    z = z_of_mean(shares, 0.5, 0.25, size * 8)
    return [
        Figure(
            "key sensitivity: bits changed by one bit of the key, mean of 256",
            "50 %",
            f"{np.mean(shares):.4%} ({min(shares):.3%} .. {max(shares):.3%}, z = {z:+.2f})",
            abs(z) < 3,
        ),
        Figure("  NPCR of the two keystreams", f"{IDEAL_NPCR:.4%}", f"{np.mean(rates):.4%}"),
    ]


def p_values(sequences: int) -> dict[str, list[float]]:
    """Every test over `sequences` LCL-1 keystreams, each under its own key."""
    found: dict[str, list[float]] = {}
    for number in range(sequences):
        stream = keystream(key_of(1000 + number), SEQUENCE_BITS // 8)
        for name, p in all_tests(np.unpackbits(np.frombuffer(stream, np.uint8))).items():
            found.setdefault(name, []).append(p)
    return found


def test_figures(found: dict[str, list[float]]) -> list[Figure]:
    rows = []
    for name, values in found.items():
        passed, uniform = float(np.mean(np.array(values) >= ALPHA)), uniformity(values)
        least = least_proportion(len(values))
        rows.append(
            Figure(
                name,
                f">= {least:.4f}, >= {LEAST_UNIFORMITY}",
                f"{passed:.4f}, {uniform:.4f}",
                passed >= least and uniform >= LEAST_UNIFORMITY,
            )
        )
    return rows


# The sheet


def table(title: str, ideal: str, rows: Sequence[Figure]) -> Table:
    made = Table("what", ideal, "measured", "", title=title)
    for row in rows:
        met = "" if row.met is None else "met" if row.met else "MISSED"
        made.add_row(row.what, row.ideal, row.value, met)
    return made


def draw(plates: Sequence[Pixels], found: Differential, tests: dict[str, list[float]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plate = max(plates, key=entropy)
    sealed = ciphertext(plate)
    figure, axes = plt.subplots(2, 4, figsize=(17, 8.5), layout="constrained")
    figure.suptitle(WARNING, fontsize=12)
    for axis, pixels, name in ((axes[0, 0], plate, "a plate's size of a picture"),
                               (axes[0, 1], sealed, "its ciphertext")):  # fmt: skip
        axis.imshow(pixels[:, :, ::-1])
        axis.set_title(name)
        axis.set_axis_off()
    histograms(axes[0, 2], plate, sealed)
    scatter(axes[1, 0], plate, "neighbours before")
    scatter(axes[1, 1], sealed, "neighbours after")
    trials(axes[0, 3], found.npcr, IDEAL_NPCR, "NPCR")
    trials(axes[1, 3], found.uaci, IDEAL_UACI, "UACI")
    strip(axes[1, 2], tests)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=100)
    plt.close(figure)


def histograms(axis: Any, plate: Pixels, sealed: Pixels) -> None:
    for pixels, name in ((plate, "before"), (sealed, "after")):
        axis.plot(np.bincount(pixels.reshape(-1), minlength=256), label=name, linewidth=1)
    axis.set(title="how often each byte occurs", xlabel="byte", ylabel="times", ylim=(0, None))
    axis.legend()


def scatter(axis: Any, pixels: Pixels, title: str) -> None:
    first, second = neighbours(pixels, "horizontal")
    axis.plot(first[::8], second[::8], ",", alpha=0.6)
    axis.set(title=f"{title} (horizontal)", xlabel="pixel", ylabel="its neighbour", aspect="equal")


def trials(axis: Any, values: Sequence[float], ideal: float, name: str) -> None:
    axis.hist(np.array(values) * 100, bins=40)
    axis.axvline(ideal * 100, color="black", linestyle="--", label=f"ideal {ideal:.4%}")
    axis.set(title=f"{name} of {len(values)} trials", xlabel="%", ylabel="trials")
    axis.legend()


def strip(axis: Any, tests: dict[str, list[float]]) -> None:
    """The p-values of every test as dots: an even spread is what is wanted."""
    for row, values in enumerate(tests.values()):
        axis.plot(values, [row] * len(values), "|", markersize=9, alpha=0.5)
    axis.set_yticks(range(len(tests)), tests, fontsize=8)
    axis.axvline(ALPHA, color="black", linewidth=0.7)
    axis.invert_yaxis()
    count = len(next(iter(tests.values())))
    axis.set(title=f"SP 800-22 p-values, {count} keystreams", xlabel="p", xlim=(0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    asked = parser.parse_args()
    warm_up()
    console = Console()
    console.print(WARNING)
    plates = list(crops(asked.trials))
    found = differential(plates)
    rows = [
        *differential_figures(found),
        *picture_figures(plates[: 4 * PICTURES]),
        *sensitivity_figures(),
    ]
    console.print(table(f"SLE1 on {found.pictures}, {SHAPE[1]} x {SHAPE[0]}", "ideal", rows))
    tests = p_values(asked.sequences)
    of_tests = test_figures(tests)
    title = f"SP 800-22 on {asked.sequences} LCL-1 keystreams of {SEQUENCE_BITS} bits"
    console.print(table(title, "pass share, uniformity", of_tests))
    draw(plates, found, tests)
    console.print(f"{OUT.relative_to(ROOT)} drawn")
    if asked.json:
        figures = {"warning": WARNING, "figures": [asdict(row) for row in [*rows, *of_tests]]}
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
