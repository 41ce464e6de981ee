"""What validation found, as JSON for programs and as one self-contained page for people."""

import base64
import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from platecrypt.datasets.manifest import SPLITS, Manifest

VERSION = 1
NAMED_IMAGES = 5
# Upper bounds of the size classes that the page counts plates in, pixels of width.
WIDTHS_PX = (8, 16, 32, 64, 128, 256)
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:74rem;padding:0 1rem}
body{color:#1d2430}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}
.verdict{display:inline-block;padding:.15rem .7rem;border-radius:1rem;color:#fff;font-weight:600}
.good{background:#1c7c43}.bad{background:#b3261e}.quiet{color:#5d6673}
table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #dfe3e8}
td:first-child,th:first-child{text-align:left}li{margin:.3rem 0}code{overflow-wrap:anywhere}
.grid{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;width:240px}
figcaption{font-size:.78rem;color:#5d6673;overflow-wrap:anywhere}
img{display:block;border-radius:4px}
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: which check found it, one or two words.
        images: names of the images concerned; empty where it is the dataset as a whole.
        message: what is wrong.
    """

    check: str
    images: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        names = ", ".join(self.images[:NAMED_IMAGES])
        more = len(self.images) - NAMED_IMAGES
        tail = f" and {more} more" if more > 0 else ""
        return (
            f"{self.check}: {names}{tail}: {self.message}"
            if names
            else f"{self.check}: {self.message}"
        )


@dataclass(frozen=True)
class Thumbnail:
    """A small picture for the page: the image's name, split and plate count, JPEG bytes."""

    name: str
    split: str
    plates: int
    jpeg: bytes


@dataclass(frozen=True)
class SplitStatistics:
    """One split in numbers; `widths` counts plates by width, classes as in WIDTHS_PX and above."""

    split: str
    images: int
    without_plates: int
    plates: int
    groups: int
    cameras: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class ValidationReport:
    """The outcome of a validation; `problems` refuse the dataset, `warnings` do not.

    Attributes:
        digest: the manifest's.
        form: the label form it was imported from.
        grouping: what the split keeps together.
        statistics: the splits in numbers.
        thumbnails: pictures of what the findings name, and samples of every split.
    """

    digest: str
    form: str
    grouping: str
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    statistics: tuple[SplitStatistics, ...]
    thumbnails: tuple[Thumbnail, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing refuses the dataset."""
        return not self.problems

    def to_json(self) -> str:
        """The report without its pictures; the same dataset gives the same text."""
        document: dict[str, Any] = {
            "validation": VERSION,
            "digest": self.digest,
            "form": self.form,
            "grouping": self.grouping,
            "ok": self.ok,
            "problems": [asdict(finding) for finding in self.problems],
            "warnings": [asdict(finding) for finding in self.warnings],
            "splits": [asdict(row) for row in self.statistics],
        }
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """One page that needs no other file."""
        verdict = "good" if self.ok else "bad"
        word = "fit for training" if self.ok else f"refused, problems: {len(self.problems)}"
        parts = [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            f"<title>Dataset {self.digest[:12]}</title><style>{STYLE}</style></head><body>",
            f"<h1>Dataset {self.digest[:12]} <span class='verdict {verdict}'>{word}</span></h1>",
            f"<p class='quiet'>read from {escape(self.form)}, split by {escape(self.grouping)}</p>",
            _findings("Problems", self.problems),
            _findings("Warnings", self.warnings),
            _table(self.statistics),
            self._pictures("Images that the findings name", self._named()),
        ]
        rest = [thumb for thumb in self.thumbnails if thumb.name not in self._named()]
        for split in SPLITS:
            names = {thumb.name for thumb in rest if thumb.split == split}
            parts.append(self._pictures(f"Samples of {split}", names))
        return "".join([*parts, "</body></html>\n"])

    def _named(self) -> set[str]:
        return {name for finding in (*self.problems, *self.warnings) for name in finding.images}

    def _pictures(self, title: str, names: set[str]) -> str:
        figures = [
            f"<figure><img alt='' width='240' src='data:image/jpeg;base64,"
            f"{base64.b64encode(thumb.jpeg).decode()}'><figcaption>{escape(thumb.name)} "
            f"({thumb.split}, {thumb.plates} plate{'' if thumb.plates == 1 else 's'})"
            "</figcaption></figure>"
            for thumb in self.thumbnails
            if thumb.name in names
        ]
        return f"<h2>{title}</h2><div class='grid'>{''.join(figures)}</div>" if figures else ""


def statistics(manifest: Manifest) -> tuple[SplitStatistics, ...]:
    """The splits of a dataset in numbers."""
    return tuple(_split_statistics(manifest, split) for split in SPLITS)


def _split_statistics(manifest: Manifest, split: Any) -> SplitStatistics:
    images = manifest.split(split)
    widths = [plate.box[2] - plate.box[0] for image in images for plate in image.plates]
    classes = Counter(sum(width >= bound for bound in WIDTHS_PX) for width in widths)
    return SplitStatistics(
        split=split,
        images=len(images),
        without_plates=sum(not image.plates for image in images),
        plates=len(widths),
        groups=len({image.group for image in images}),
        cameras=len({image.camera for image in images}),
        widths=tuple(classes[index] for index in range(len(WIDTHS_PX) + 1)),
    )


def _findings(title: str, findings: tuple[Finding, ...]) -> str:
    if not findings:
        return ""
    items = "".join(f"<li><code>{escape(str(finding))}</code></li>" for finding in findings)
    return f"<h2>{title} ({len(findings)})</h2><ul>{items}</ul>"


def _table(rows: tuple[SplitStatistics, ...]) -> str:
    bounds = [f"&lt; {WIDTHS_PX[0]}"]
    bounds += [f"{low}–{high - 1}" for low, high in itertools.pairwise(WIDTHS_PX)]
    bounds.append(f"&ge; {WIDTHS_PX[-1]}")
    heads = ["split", "images", "without plates", "plates", "groups", "cameras"]
    head = "".join(f"<th>{text}</th>" for text in [*heads, *(f"{b} px" for b in bounds)])
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{value}</td>"
            for value in (row.split, row.images, row.without_plates, row.plates, row.groups,
                          row.cameras, *row.widths)
        )
        + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<h2>Splits and plate widths</h2><table><tr>{head}</tr>{body}</table>"
