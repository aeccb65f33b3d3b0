"""The parts of the Devices page, in one fragment: the device at hand at the left, every device for this run at the right."""

from __future__ import annotations

from html import escape

import streamlit as st

from core.errors import ParetoscopeError
from core.studies.points import bytes_words, ms_words
from core.studies.points import words as recipe_words
from core.targets import device_charts, estimates, measured_there
from core.targets.devices import Device
from core.targets.devices import devices as known_devices
from core.targets.estimates import Answer
from core.targets.graphs import Graph, Operators
from pages.ui import device_forms, examine, refusals, services, state, words
from pages.ui.chart import THEME, chart
from pages.ui.examine import Look
from pages.ui.frame import guard
from pages.ui.link import View
from pages.ui.pulse import pulse

FRAGMENT = "devices"
AGAIN = 0.5  # seconds between two looks while operators are counted
HELP = (
    "Profiles with published peak rates. An estimate takes, for every operator, the longer of its arithmetic and of its bytes, each at the share of the peak "
    "that this kind of operator reaches on the host, and adds what starting an operator costs. One picture, one thread."
)


@st.fragment(key=FRAGMENT)
def devices() -> None:
    with guard():
        view = state.view()
        known = known_devices()
        device = known.get(view.device) if view.device in known else known.get(View.device)
        graph, size, look = _graph(view)
        lines = measured_there.lines()
        answers = {} if graph is None else {each.name: estimates.for_device(each, graph, size, lines) for _name, each in known.items()}
        with st.container(key="devices"):
            with st.container(key="device-one", gap="xsmall"):
                _choice(device, [name for name, _each in known.items()])
                st.html(f'<div class="quiet recipe-line">of {view.model}: {words.escape(recipe_words(view.recipe))}</div>')
                if graph is None:
                    _absent(view, look)
                else:
                    _one(view, answers[device.name], graph, size)
            with st.container(key="device-all", gap="xsmall"):
                _all(list(answers.values()), device)
                device_forms.forms(device)
        refusals.say()
        pulse("counting operators" if look.running else "", AGAIN, fraction=look.fraction)
        state.publish()


def _graph(view: View) -> tuple[Graph | None, int | None, Look]:
    """The graph of the run at hand and the bytes it runs as, from the run where that is measured, else counted by a worker."""
    try:
        known = services.shelf().known(view.model, view.dataset)
        row = known.find(f"{view.model}/{view.recipe.key()}")
        graph, size = services.graph((row or {}).get("operators")), (row or {}).get("deployed_bytes")
        if graph is not None:
            return graph, size, Look()
        look = examine.recipe(view, Operators)
        return (None if look.result is None else Graph.from_json(look.result)), size, look
    except ParetoscopeError as error:
        return None, None, Look(problem=str(error))


def _choice(device: Device, names: list[str]) -> None:
    state.set_widget("device", device.name)
    st.selectbox(
        "Device", names, key="device", format_func=lambda name: _title(known_devices().get(name)), help=HELP,
        on_change=lambda: state.change(device=state.widget("device")),
    )  # fmt: skip


def _title(device: Device) -> str:
    return device.title + (" · yours" if device.own else "")


def _absent(view: View, look: Look) -> None:
    if look.problem:
        st.html(f'<div class="sentence"><span class="tag wrong">{words.escape(look.problem)}</span></div>')
    if look.running:
        st.caption("The run's operators are being counted …")
        st.button("Cancel", key="cancel-graph", icon=":material/stop_circle:", on_click=examine.stop, args=(look.row,))
    elif look.asks:
        label = f"Count the operators, {words.duration(examine.seconds(view))}"
        st.button(label, key="count-graph", type="primary", on_click=examine.started, args=(Operators(view.work()),))


def _one(view: View, answer: Answer, graph: Graph, size: int | None) -> None:
    cards = [_time(answer, graph)]
    cards += [_limit(limit, graph, size, answer.device) for limit in sorted(answer.limits, key=lambda limit: limit.name, reverse=True)]
    st.html(f'<div class="cards">{"".join(cards)}</div>')
    st.html(f'<div class="sentence small">{escape(answer.said)}</div>')
    if answer.estimate is not None:
        factor = answer.scale.factor if answer.scale else 1.0
        chart(
            device_charts.layers(answer.estimate, factor, THEME), key="device-chart", height="var(--device-height)", name=f"{view.model}-{answer.device.name}",
            label=f"Estimated milliseconds of each layer of {view.model} on {answer.device.title}, by what bound it",
        )  # fmt: skip


def _time(answer: Answer, graph: Graph) -> str:
    bound = max(answer.estimate.bound().items(), key=lambda item: item[1]) if answer.estimate else None
    change = f"{100 * bound[1] / answer.estimate.seconds:.0f} % bound by {bound[0]}" if bound else f"no {graph.type} arithmetic"
    there = "validated" if answer.checked else f"unvalidated in {graph.type}" if answer.scale else estimates.UNVALIDATED
    return _card("Latency", ms_words(answer.ms), change, f"estimated · {graph.type}, one thread · {there}", HELP)


def _limit(limit, graph: Graph, size: int | None, device: Device) -> str:
    if limit.name == "flash":
        foot = "runs as, measured" if size is not None else "weights alone, counted"
        help = "The file that the runtime loads, against what the device can store."
    else:
        foot = f"activations {bytes_words(graph.activation_bytes)}" + (", weights stay in flash" if device.weights_in_flash else " and the weights")
        help = "The most memory that lies between operators for one picture, and the weights where they must be loaded."
    tone = "better" if limit.fits else "worse"
    change = f"fits, {_share(limit)} of {bytes_words(limit.available)}" if limit.fits else f"does not fit in {bytes_words(limit.available)}"
    return _card(limit.name if limit.name == "RAM" else "Flash", bytes_words(limit.needed), change, foot, help, tone)


def _share(limit) -> str:
    share = 100 * limit.needed / limit.available
    return f"{share:.0f} %" if share >= 1 else "under 1 %"


def _card(title: str, value: str, change: str, foot: str, help: str, tone: str = "") -> str:
    return (
        f'<div class="card" title="{escape(help)}"><div class="card-title">{title}</div><div class="card-value">{value}</div>'
        f'<div class="card-change {tone}">{escape(change)}</div><div class="card-foot">{escape(foot)}</div></div>'
    )


def _all(answers: list[Answer], chosen: Device) -> None:
    """Every device for this run, the fastest first, those that cannot run it last."""
    st.html('<div class="label">This run on every device <span class="quiet">estimated; checked where latencies were measured</span></div>')
    rows = []
    for answer in sorted(answers, key=lambda answer: (answer.ms is None, answer.ms or 0)):
        binding = answer.binding
        fits = "fits" if answer.fits else f"{bytes_words(binding.needed)} of {bytes_words(binding.available)} {binding.name}"
        time = ms_words(answer.ms) if answer.ms is not None else "cannot run it"
        checked = "checked" if answer.checked else f"unvalidated in {answer.type}" if answer.scale else "unvalidated"
        checked += f", × {answer.scale.factor:.2f}" if answer.scale else ""
        tone = "better" if answer.fits else "worse"
        own = ' class="chosen"' if answer.device.name == chosen.name else ""
        cells = (escape(_title(answer.device)), time, checked, f'<span class="card-change {tone}">{escape(fits)}</span>')
        rows.append(f'<tr{own} title="{escape(answer.problem)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    head = "<tr><th>Device</th><th>Estimated</th><th>There</th><th>Fits</th></tr>"
    if rows:
        st.html(f'<table class="devices"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>')
