"""The only file with st.cache_*: the store, the client of the cluster, the shelf of measured runs, what was measured of layers and of exports.

Shared by every session of this server. Connecting to the cluster, and starting it where there is none, happens in the
background: what is asked before it answers is delivered when it does.
"""

from __future__ import annotations

import gc

import streamlit as st


@st.cache_resource(show_spinner=False)
def store():
    """The runs of this person or team; raises `StoreError`."""
    from core.store import Store

    return Store()


@st.cache_resource(show_spinner=False)
def cluster():
    """Whom work is given to. Never waits."""
    from core.cluster import connect

    return connect(wait=0, store=store())


@st.cache_resource(show_spinner=False)
def shelf():
    """Every measured run as flat rows, the gallery's among them. Shared: do not change the rows."""
    from core.studies.known import Shelf

    return Shelf.of(store())


def examined(identity: str) -> dict | None:
    """What was measured of layers under this identity (`core.layers.sensitivity`, `core.layers.facts`), while it is kept. Shared: do not change it."""
    try:
        return _examined(identity)
    except LookupError:
        return None


def forget(identity: str) -> None:
    """Drop what was measured under this identity, so that it can be measured again."""
    from core.keeping import kept

    kept.drop(kept.path_of("layers", f"{identity}.json"))
    _examined.clear(identity)


@st.cache_resource(show_spinner=False, max_entries=48)
def _examined(identity: str) -> dict:
    from core.keeping import kept

    found = kept.get_json("layers", f"{identity}.json")
    if found is None:
        raise LookupError(identity)  # so that only what is there is remembered
    return found


def exported(asked):
    """What was measured of a `core.exports.Export`, while it is kept."""
    try:
        return _exported(asked.identity(), asked)
    except LookupError:
        return None


@st.cache_resource(show_spinner=False, max_entries=64)
def _exported(identity: str, _asked):
    found = _asked.recorded()
    if found is None:
        raise LookupError(identity)
    return found


@st.cache_resource(show_spinner=False)
def settle(connected: bool) -> None:
    """Hide what lives as long as the server from the garbage collector: once, and once more when the cluster is connected.

    Streamlit collects garbage after every run of a page or a fragment, which went through a million objects of libraries
    and measured runs and took a tenth of a second each time. The first time nothing is collected either: whoever opened the page waits.
    """
    if connected:
        gc.collect()
    gc.freeze()


def graph(key: str | None):
    """The `core.targets.graphs.Graph` of that key, while it is kept. Shared: it does not change."""
    try:
        return _graph(key)
    except LookupError:
        return None


@st.cache_resource(show_spinner=False, max_entries=256)
def _graph(key: str | None):
    from core.targets import graphs

    found = graphs.find(key)
    if found is None:
        raise LookupError(key)  # so that only what is there is remembered
    return found
