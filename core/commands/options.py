"""The parser whose complaints are one sentence, and the kinds of values that options take. Imports no torch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from core.errors import BadField, BadInput


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are `BadInput` instead of a page of usage."""

    def __init__(self, **settings):
        super().__init__(**({"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter} | settings))

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message[0].upper()}{message[1:]}; `{self.prog} --help` says what is accepted.")


def whole(name: str, low: int, high: int) -> Callable[[str], int]:
    """An option's type: a whole number from `low` to `high`; raises `BadField`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise BadField(name, text, f"a whole number from {low:,} to {high:,}")
        return value

    return parse


def number(name: str, above: float, high: float, low_too: bool = False) -> Callable[[str], float]:
    """An option's type: a number above `above`, or from it on, at most `high`; raises `BadField`, for NaN too."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (above < value <= high or low_too and value == above):
            raise BadField(name, text, f"a number {'from' if low_too else 'above'} {above:g}, at most {high:g}")
        return value

    return parse


def model_and_dataset(command: argparse.ArgumentParser) -> None:
    """The two options that most commands share."""
    command.add_argument("--model", required=True, metavar="M", help="a classifier, such as resnet18; `python -m core models` lists all")
    dataset_alone(command)


def dataset_alone(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dataset", required=True, metavar="D", help="a dataset, such as fashion_mnist; `python -m core datasets` lists all")


def split_and_images(command: argparse.ArgumentParser) -> None:
    """On which pictures to measure."""
    command.add_argument("--split", default="validation", metavar="S", help="validation (the default), or test for a last, confirmed figure")
    command.add_argument(
        "--images", type=whole("images", 1, 10**7), metavar="N", help="measure on the first N pictures of the split only; the default is all of them"
    )


def json_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object on standard output, and nothing else")
