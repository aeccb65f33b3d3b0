"""`device`: what accuracy and training are computed on, and whether CUDA or MPS may serve."""

from __future__ import annotations

import os

from core import device
from core.commands import options, terminal
from core.commands.threads import use_threads
from core.errors import BadInput
from core.jobs.connection import running_office
from core.work import THREADS


def add(commands) -> None:
    command = commands.add_parser(
        "device", help="check CUDA or MPS, and say what computes accuracy and training",
        description="Where this machine has CUDA or Apple's MPS, lets it answer pictures and train beside the processor; if both agree, it serves accuracy\n"
        "and training from then on. PARETOSCOPE_DEVICE=cpu, cuda or mps decides instead of the check. Latency is always the processor's.",
    )  # fmt: skip
    options.json_flag(command)
    command.set_defaults(act=say)


def say(given) -> None:
    found = _found()
    if given.json:
        terminal.print_json(found)
    else:
        print(found["sentence"])


def _found() -> dict:
    """`device` and a `sentence`, with the figures of the check where there was one."""
    name, here = device.candidate(), device.chosen()
    if os.environ.get("PARETOSCOPE_DEVICE"):
        return {"device": here, "sentence": f"PARETOSCOPE_DEVICE has {device.WORDS[here]} serve accuracy and training."}
    if name is None:
        return {"device": here, "sentence": "The processor serves accuracy and training; this machine has neither CUDA nor Apple's MPS."}
    if running_office() is not None:
        raise BadInput(f"The cluster is running, on {device.WORDS[here]}, and the check is for when none is; end it first: `python -m core cluster --stop`.")
    use_threads(THREADS)
    from core.device_check import check

    return check(name)


def hint() -> list[str]:
    """A sentence for whoever computes on the processor beside a device that nobody has checked."""
    name = device.unchecked()
    return [f"This machine seems to have {device.WORDS[name]}: `python -m core device` checks it, and has it serve accuracy and training."] if name else []
