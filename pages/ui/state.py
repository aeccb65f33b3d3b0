"""The only file that touches st.session_state and st.query_params: what the pages remember, and the address bar.

The view is remembered as its query parameters, so that the session, the address bar and a shared link are one thing. Going
back in the browser is told by Streamlit; another link is seen as parameters that this session did not write.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequestType
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

from pages.ui import link
from pages.ui.link import View

_VIEW, _WRITTEN, _SAID, _SESSION, _PAGE = "view", "written", "said", "session", "page"
PAST = 64  # addresses remembered: a message that the browser sent before it had the new address still carries an old one


def view() -> View:
    """What the pages show now, as restored from the address bar when that was changed from outside."""
    query = {name: st.query_params.get_all(name) for name in st.query_params}
    if _VIEW not in st.session_state or _elsewhere(query):
        restored, said = link.decode(query)
        _remember(restored)
        st.session_state[_SAID] = said
        st.session_state[_WRITTEN] = {"now": query, "past": _past()}  # a bare address stays bare until something is changed
    decoded, _ = link.decode(st.session_state[_VIEW])
    return decoded


def enter(page: str) -> None:
    """Called first by every page. A link between pages comes with a bare address: what was shown goes along, and `publish` writes it there."""
    if st.session_state.get(_PAGE, page) != page:
        session().pop("refused", None)  # what the other page would not do
        session().pop("mirrored", None)  # a widget of the same key is another one here
        if _VIEW in st.session_state and not st.query_params:
            st.session_state[_WRITTEN] = {"now": {}, "past": _past()}
    st.session_state[_PAGE] = page


def _elsewhere(query: link.Query) -> bool:
    """Whether the address is where a hand has gone, by Back or by another link, rather than a place that this session has left."""
    written, context = st.session_state[_WRITTEN], get_script_run_ctx()
    if query == written["now"]:
        return False
    if context is not None and context.is_history_navigation:
        return True
    inside = context is not None and context.fragment_ids_this_run  # a control was moved, or the page's pulse beat
    return not inside and query not in written["past"]


def _past() -> list[link.Query]:
    written = st.session_state.get(_WRITTEN)
    return [*written["past"], written["now"]][-PAST:] if written else []


def change(**changes: Any) -> View:
    """Change the view and remember it; `publish` puts it into the address bar."""
    changed = view().replace(**changes)
    _remember(changed)
    return changed


def publish() -> None:
    """Write the view into the address bar. Not called while something is dragged, so that Back goes to the last resting place."""
    query, written = st.session_state[_VIEW], st.session_state[_WRITTEN]["now"]
    bare = not written and query == link.encode(View())
    if query != written and not bare:
        st.query_params.from_dict(query)
        st.session_state[_WRITTEN] = {"now": query, "past": _past()}


def address() -> str:
    """The link that restores what is shown."""
    from urllib.parse import urlencode

    base = (st.context.url or "").partition("?")[0]
    return f"{base}?{urlencode(st.session_state[_VIEW], doseq=True)}"


def take_messages() -> list[str]:
    """Sentences about the link that are to be shown until it is changed."""
    return st.session_state.get(_SAID, [])


def drop_messages() -> None:
    st.session_state[_SAID] = []


def session() -> dict[str, Any]:
    """What this browser session keeps besides the view: plain values and handles, never a model."""
    if _SESSION not in st.session_state:
        st.session_state[_SESSION] = {"lane": uuid.uuid4().hex}
    return st.session_state[_SESSION]


def overtaken() -> bool:
    """Whether this session's browser has asked for something newer since this run of the page began.

    Streamlit lets the run of a fragment end before it answers the next message, and has no public way to see that one waits.
    """
    context = get_script_run_ctx()
    requests = context.script_requests if context is not None else None
    return getattr(requests, "_state", None) is ScriptRequestType.RERUN


def movers() -> dict[str, Any]:
    """Slider key → what is to be done when it moves."""
    return session().setdefault("movers", {})


def reported(key: str, name: str) -> Any:
    """What the component drawn with `key` last reported under `name`."""
    told = st.session_state.get(key)
    return told.get(name) if told is not None and hasattr(told, "get") else None


def widget(key: str) -> Any:
    """The value of a Streamlit widget; None before it is drawn."""
    return st.session_state.get(key)


def set_widget(key: str, value: Any) -> None:
    """Set a widget's value before it is drawn."""
    st.session_state[key] = value


def mirror(name: str, value: Any) -> str:
    """The key of a widget that shows a part of the view; to be drawn with it, and with `told` as its callback.

    The widget is another one whenever the value was changed by anything but itself. The browser sends the values of all widgets
    with every click, and so may send one that it was not yet told of the change of; under the old key it says nothing.
    """
    keys = session().setdefault("mirrors", {})
    key, number = keys.get(name, (name, 0))
    if key in st.session_state and st.session_state[key] != value:
        number += 1
        key = f"{name}-{number}"
    keys[name] = key, number
    drawn = session().setdefault("mirrored", set())
    if key not in drawn or key not in st.session_state:  # what is set goes to the browser, and would take back a click on its way from there
        st.session_state[key] = value
        drawn.add(key)
    return key


def told(key: str, act: Callable[[Any], None]) -> Callable[[], None]:
    """The callback of a widget drawn with a key of `mirror`: `act` with its value, unless another widget has taken its place.

    Streamlit calls it for that too: it has forgotten the value, so what the browser still sends looks new.
    """

    def heard() -> None:
        if any(key == current for current, _number in session().get("mirrors", {}).values()):
            act(st.session_state.get(key))

    return heard


def forget(keys: Sequence[str]) -> None:
    for key in keys:
        st.session_state.pop(key, None)


def _remember(changed: View) -> None:
    st.session_state[_VIEW] = link.encode(changed)


def dialog_opened() -> None:
    """Told by every dialog as it is drawn: a run of the whole page would draw it anew, with what was unfolded or filtered in it gone."""
    session()["dialog"] = True


def dialog_closed() -> None:
    session()["dialog"] = False
