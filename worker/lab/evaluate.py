"""`zeromask evaluate`: figures of quality, one protocol at a time."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from plugin_config.closed_output import run_command
from plugin_config.errors import ZeromaskError
from plugin_config.settings import Settings
from worker.lab.evaluation import (
    active,
    calibration,
    clicks,
    compose,
    drown,
    fold,
    learn,
    open_vocabulary,
    panoptic,
    refine,
    zeroshot,
)


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    Attributes:
        name: as in `--protocol`.
        meaning: one line of help.
        add_arguments: adds its options to a parser.
        run: measures and prints with parsed options, under settings that the options override; returns the exit
            status.
    """

    name: str
    meaning: str
    add_arguments: Callable[[argparse.ArgumentParser, Settings], None]
    run: Callable[[argparse.Namespace, Settings], int]


PROTOCOLS = (
    Protocol("compose", compose.MEANING, compose.add_arguments, compose.run),
    Protocol("panoptic", panoptic.MEANING, panoptic.add_arguments, panoptic.run),
    Protocol("clicks", clicks.MEANING, clicks.add_arguments, clicks.run),
    Protocol("refine", refine.MEANING, refine.add_arguments, refine.run),
    Protocol("zeroshot", zeroshot.MEANING, zeroshot.add_arguments, zeroshot.run),
    Protocol("fold", fold.MEANING, fold.add_arguments, fold.run),
    Protocol("open-vocabulary", open_vocabulary.MEANING, open_vocabulary.add_arguments, open_vocabulary.run),
    Protocol("drown", drown.MEANING, drown.add_arguments, drown.run),
    Protocol("learn", learn.MEANING, learn.add_arguments, learn.run),
    Protocol("calibration", calibration.MEANING, calibration.add_arguments, calibration.run),
    Protocol("active", active.MEANING, active.add_arguments, active.run),
)


def main(arguments: Sequence[str]) -> int:
    """Run the protocol of the command line. Returns its status; 2 when it cannot start or finish."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = Settings.from_env(os.environ)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        protocol, parser = _choose(arguments, settings)
        options = parser.parse_args(arguments)
        given = {name: vars(options)[name] for name in ("model", "device", "affinity_tower") if name in vars(options)}
        return protocol.run(options, replace(settings, **given))
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask evaluate: {error}\n")
        return 2


def _choose(arguments: Sequence[str], settings: Settings) -> tuple[Protocol, argparse.ArgumentParser]:
    """Find the protocol of the command line, and build a parser with its options."""
    by_name = {protocol.name: protocol for protocol in PROTOCOLS}
    rows = "\n".join(f"  {protocol.name:<15} {protocol.meaning}" for protocol in PROTOCOLS)
    parser = argparse.ArgumentParser(
        prog="zeromask evaluate", formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False,
        description="Measure quality.", epilog=f"protocols:\n{rows}\n\n--protocol NAME --help lists its options.",
    )  # fmt: skip
    name = _protocol_name(arguments)
    parser.add_argument("--protocol", choices=by_name, required=name not in by_name, default=name,
                        help="what to measure, see below; `learn` where --learn is given")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    if name in by_name:
        by_name[name].add_arguments(parser, settings)
    parser.add_argument("-h", "--help", action="help", help="show this")
    if name not in by_name:
        parser.parse_args(arguments)  # exits with what is wrong
    return by_name[name], parser


def _protocol_name(arguments: Sequence[str]) -> str:
    """Find the name before the options of the protocol are known; empty when the command line has none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--protocol", default="")
    parser.add_argument("--learn", default=None)
    known = parser.parse_known_args(arguments)[0]
    return str(known.protocol) or ("learn" if known.learn is not None else "")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
