"""What a person brings to the Devices page: a profile of their own, and latencies that were measured on a device."""

from __future__ import annotations

import json
from html import escape

import streamlit as st

from core.errors import BadInput, ParetoscopeError
from core.store import COMPLETE
from core.targets import devices, measured_there
from core.targets.devices import KINDS, Device
from pages.ui import services, state
from pages.ui.link import View

FIGURES = {  # field of the form → figure, its unit there, help
    "clock": ("Clock, MHz", 1e6, "Of the processor that computes, or that starts the operators of an accelerator."),
    "float32": ("float32, Gop/s", 1e9, "Peak operations of all cores; a multiply-add is two. Empty where there is no such arithmetic."),
    "float16": ("float16, Gop/s", 1e9, "Peak operations of all cores. Kept beside the others; estimates take float32 and int8."),
    "int8": ("int8, Gop/s", 1e9, "Peak operations of all cores on 8-bit integers. Empty where there is no such arithmetic."),
    "bandwidth": ("Memory, GB/s", 1e9, "Peak bandwidth of the memory that values lie in."),
    "ram": ("RAM, MB", 1e6, "What there is for activations, and for weights where they must be loaded."),
    "flash": ("Flash, MB", 1e6, "What there is to store the model in."),
    "flash_bandwidth": ("Flash, GB/s", 1e9, "Peak bandwidth of weights that are read from flash. Empty where they are read as fast as memory."),
}
EXAMPLE = '{"device": "my-pi", "run": "115e8b56fc8884bf", "format": "onnx", "runtime": "onnxruntime 1.31.1", "threads": 1, "batch": 1, "ms_p50": 14.2}'


def forms(device: Device) -> None:
    said = state.session().pop("brought", None)
    with st.container(key="device-forms", horizontal=True, gap="small"):
        count = len(device.unconfirmed)
        label = f"Sources, {count} not confirmed" if count else "Sources"
        with st.popover(label, icon=":material/menu_book:", key="device-sources", help="Where each figure of this profile comes from."):
            st.html(_sources(device))
            if device.own:
                st.button("Remove this device", key="device-remove", icon=":material/delete:", on_click=_remove, args=(device,))
        with st.popover("Measured there", icon=":material/timer:", key="device-measured", help="Give latencies that were measured on a device."):
            _measured(device)
        with st.popover("Add a device", icon=":material/add:", key="device-add", help="Add a profile of your own, by its figures or as a file."):
            _profile()
    if said:
        (st.success if said[0] else st.error)(said[1])


def _sources(device: Device) -> str:
    rows = []
    for name, figure in device.figures.items():
        links = ", ".join(f'<a href="{escape(at)}" target="_blank" rel="noopener">{escape(title)}</a>' for title, at in figure.sources)
        doubt = f"<div><span class='tag wrong'>not confirmed</span> {escape(figure.unconfirmed)}</div>" if figure.unconfirmed else ""
        rows.append(f"<tr><td>{name.replace('_', ' ').replace('ram', 'RAM')}</td><td>{escape(figure.how)}<div class='quiet'>{links}</div>{doubt}</td></tr>")
    title = f'<div class="label">{escape(device.title)} <span class="quiet">{escape(device.processor)}</span></div>'
    return f'{title}<table class="devices sources">{"".join(rows)}</table>'


def _measured(device: Device) -> None:
    st.caption(
        f"One JSON object a line, as the script of an export prints it with `--time`. They are taken as measured on {device.title}, unless a line's own "
        "`device` is the name of a profile, and scale the device's estimates."
    )
    with st.form("lines", border=False):
        st.text_area("Lines", key="lines-given", placeholder=EXAMPLE, height=120)
        st.form_submit_button("Keep", on_click=_keep_lines, args=(device.name,))
    count = sum(line["device"] == device.name for line in measured_there.lines())
    if count:
        st.button(f"Forget the {count} of {device.title}", key="lines-forget", icon=":material/delete:", on_click=_forget, args=(device,))


def _forget(device: Device) -> None:
    state.session()["brought"] = (True, f"{measured_there.forget(device.name)} forgotten, of {device.title}.")


def _remove(device: Device) -> None:
    try:
        devices.remove(device.name)
        state.session()["brought"] = (True, f"{device.title} was removed.")
        state.change(device=View.device)
    except ParetoscopeError as error:
        state.session()["brought"] = (False, str(error))


def _keep_lines(device: str) -> None:
    try:
        runs = [*services.shelf().results(), *services.store().rows(kind="run", states=[COMPLETE])]
        kept = measured_there.add(state.widget("lines-given") or "", runs, device)
        names = ", ".join(sorted({line["device"] for line in kept}))
        state.session()["brought"] = (True, f"{len(kept)} kept, of {names}.")
        state.change(device=kept[-1]["device"])
    except ParetoscopeError as error:
        state.session()["brought"] = (False, str(error))


def _profile() -> None:
    with st.form("profile", border=False):
        left, right = st.columns(2)
        with left:
            st.text_input("Name", key="profile-name", placeholder="my_board", help="Small letters, digits and underscores.")
            st.text_input("Title", key="profile-title", placeholder="My board")
            st.text_input("Processor", key="profile-processor", placeholder="4 × Cortex-A55")
            st.selectbox("Kind", KINDS, key="profile-kind", index=1)
            st.number_input("Cores", key="profile-cores", min_value=1, value=1, step=1)
            st.checkbox("Weights are read from flash", key="profile-weights_in_flash", help="As microcontrollers do; the weights then take no RAM.")
        with right:
            for name, (label, _unit, help) in FIGURES.items():
                st.number_input(label, key=f"profile-{name}", value=None, help=help, format="%g")
        st.text_input("How the figures were derived", key="profile-how", placeholder="4 cores × 1.8 GHz × 8 FLOP/cycle = 57.6 GFLOP/s")
        st.text_input("Source, its title", key="profile-source", placeholder="Data sheet")
        st.text_input("Source, its address", key="profile-address", placeholder="https://")
        st.file_uploader("Or a file, in the form of assets/devices", type="json", key="profile-file")
        st.form_submit_button("Add", on_click=_keep_profile)


def _keep_profile() -> None:
    try:
        device = devices.add(_given())
        state.session()["brought"] = (True, f"{device.title} was added.")
        state.change(device=device.name)
    except ParetoscopeError as error:
        state.session()["brought"] = (False, str(error))


def _given():
    """The profile in the uploaded file, else in the form."""
    file = state.widget("profile-file")
    if file is not None:
        data = file.getvalue()
        try:
            return json.loads(data[: devices.MOST_BYTES])
        except (ValueError, RecursionError):
            raise BadInput(
                f"The profile {file.name!r} is not JSON of at most {devices.MOST_BYTES:,} bytes; it takes a file like those of assets/devices."
            ) from None
    how = state.widget("profile-how")
    values = {name: (state.widget(f"profile-{name}"), unit) for name, (_label, unit, _help) in FIGURES.items()}
    figures = {name: {"value": value * unit, "how": how, "sources": [0]} for name, (value, unit) in values.items() if value is not None}
    plain = {name: state.widget(f"profile-{name}") for name in ("name", "title", "processor", "kind", "cores", "weights_in_flash")}
    return plain | {"figures": figures, "sources": [{"title": state.widget("profile-source"), "address": state.widget("profile-address")}]}
