"""One process for everything: it finds plates and seals them, for the edge and for bulk work.

The same core, the same wires and the same flags as the two containers; the network runs in the
process that protects, so that no picture travels between two.
"""

import argparse
from collections.abc import Sequence

from platecrypt.serving.local import LocalDetector
from platecrypt.serving.predictor import add_detecting, finder_of, load_detector
from platecrypt.serving.requests import largest_body
from platecrypt.serving.server import argument_parser, run
from platecrypt.serving.transformer import (
    WORKING,
    Transformer,
    add_protecting,
    check_protecting,
    transformer,
)


def make(args: argparse.Namespace) -> Transformer:
    """Load the model and the keys.

    Raises:
        BadInputError: an argument, the model or the key file is wrong.
    """
    if args.working is None:
        # One batch gathers while another is worked on; with fewer threads none would ever be full.
        args.working = max(WORKING, 2 * args.batch_size)
    check_protecting(args)
    finder = finder_of(args, load_detector(args))
    return transformer(args, LocalDetector(finder, args.model_version))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until ended; returns the exit code."""
    parser = argument_parser("platecrypt in one process")
    add_detecting(parser)
    add_protecting(parser)
    parser.set_defaults(enable_grpc=False, working=None)
    return run(make, parser, argv, max_body=lambda args: largest_body(args.max_bytes))


if __name__ == "__main__":
    raise SystemExit(main())
