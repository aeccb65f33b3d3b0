"""The line in the sidebar below a page, which is also its pulse: what the cluster does for the page, and when to look again.

The explorer's says more, and is drawn by `live`.
"""

from __future__ import annotations

import streamlit as st

from pages.ui import services
from pages.ui.status import BUSY, IDLE, WRONG, status

SELDOM = 2.0  # seconds between two looks at what others wait for


def pulse(doing: str, again: float, *, fraction: float | None = None, others: bool = False, seldom: float = SELDOM) -> None:
    """`doing` is what the page waits for, "" for nothing, to be looked at `again` after so many seconds; with `others`, the runs of others are told as well."""
    told = services.cluster().state()
    services.settle(told["connected"])
    count = told["waiting"] + told["running"]
    with st.sidebar:
        if told["trouble"]:
            status("the cluster is in trouble", WRONG, detail=told["trouble"], again=seldom)
        elif (doing or others) and not told["connected"]:
            status("starting the cluster …", BUSY, again=again)
        elif doing:
            status(doing, BUSY, fraction=fraction, again=again)
        elif others and count:
            status(f"computing {count} run{'s' if count > 1 else ''}", BUSY, again=seldom)
        else:
            status("idle", IDLE)
