// A slider that reports its value while it is dragged and once more when it is let go.
// While it is dragged it tells the page by a "paretoscope-drag" event: the live chart hands it on, so that one run of the chart's own
// fragment answers it. Where nobody listens, and when it is let go, it reports itself.
// state value "at": {value, phase: "drag" | "release", seq}; seq grows, so that an answer can be told from an older one.
const THROTTLE_MS = 100;
const KEY_REST_MS = 180; // after the last key, a keyboard move counts as let go

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".slider");
  root.control ??= wire(root);
  root.control.update(JSON.parse(data.json), setStateValue);
}

function wire(root) {
  const input = root.querySelector("input");
  const output = root.querySelector("output");
  const help = root.querySelector(".help");
  const tip = root.querySelector(".tip");
  let data, report;
  let sent = 0, lastSent = 0, timer = null, keyTimer = null, held = false, unreleased = false;

  const valueAt = (index) => (data.stops ? data.stops[index] : Number((data.low + index * data.step).toFixed(data.digits)));
  const indexOf = (value) => (data.stops ? nearest(data.stops, value) : Math.round((value - data.low) / data.step));
  const textAt = (index) => {
    if (data.texts) return data.texts[index];
    const value = valueAt(index);
    return data.percent ? `${Math.round(value * 1000) / 10} %` : `${value.toLocaleString("en")}${data.unit ? " " + data.unit : ""}`;
  };
  const show = () => {
    const index = Number(input.value);
    const text = textAt(index);
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
    input.style.setProperty("--fill", `${(100 * index) / Math.max(1, Number(input.max))}%`);
    soften(root.querySelector(".answers"), data.answers, valueAt(index));
  };
  const send = (phase) => {
    clearTimeout(timer);
    timer = null;
    lastSent = performance.now();
    sent = Math.max(sent + 1, Date.now());
    unreleased = phase === "drag";
    const told = { value: valueAt(Number(input.value)), phase, seq: sent };
    const nobody = phase === "drag" && window.dispatchEvent(new CustomEvent("paretoscope-drag", { detail: { ...told, key: data.key }, cancelable: true }));
    if (phase === "release" || nobody) report("at", told);
  };
  const dragged = () => {
    show();
    unreleased = true;
    const wait = lastSent + THROTTLE_MS - performance.now();
    if (wait <= 0) send("drag");
    else timer ??= setTimeout(() => send("drag"), wait);
  };
  const letGo = () => {
    clearTimeout(keyTimer);
    keyTimer = null;
    held = false;
    if (unreleased) send("release");
  };

  input.addEventListener("pointerdown", () => { held = true; });
  input.addEventListener("keydown", () => { clearTimeout(keyTimer); keyTimer = null; });
  input.addEventListener("input", dragged);
  input.addEventListener("keyup", () => { if (unreleased) { clearTimeout(keyTimer); keyTimer = setTimeout(letGo, KEY_REST_MS); } });
  input.addEventListener("blur", letGo);
  for (const end of ["pointerup", "pointercancel"]) input.addEventListener(end, () => setTimeout(letGo, 0));
  input.addEventListener("change", () => { if (!held && keyTimer === null) keyTimer = setTimeout(letGo, KEY_REST_MS); });

  const showTip = () => {
    tip.showPopover?.();
    const at = help.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${at.bottom + 6 + tip.offsetHeight > window.innerHeight ? at.top - tip.offsetHeight - 6 : at.bottom + 6}px`;
  };
  const hideTip = () => { if (tip.matches(":popover-open")) tip.hidePopover(); };
  for (const [on, off] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
    help.addEventListener(on, showTip);
    help.addEventListener(off, hideTip);
  }

  return {
    update(next, setStateValue) {
      data = next;
      report = setStateValue;
      root.querySelector("label").textContent = data.label;
      root.querySelector(".note").textContent = data.note || "";
      root.classList.toggle("disabled", Boolean(data.disabled));
      help.hidden = !data.help;
      tip.textContent = data.help || "";
      input.disabled = Boolean(data.disabled);
      input.min = 0;
      input.step = 1;
      input.max = data.stops ? data.stops.length - 1 : Math.round((data.high - data.low) / data.step);
      input.setAttribute("aria-label", data.label);
      if (!held && !unreleased && data.seq >= sent) input.value = indexOf(data.value); // else the hand knows better than the answer
      show();
    },
  };
}

// A teacher's answer to one picture at a temperature T: softmax(logits / T), as bars that move while the slider does.
function soften(place, answers, temperature) {
  place.hidden = !answers;
  if (!answers) return;
  if (place.dataset.of !== answers.picture) {
    place.dataset.of = answers.picture;
    place.querySelector("img").src = answers.picture;
    place.querySelector(".bars").replaceChildren(...answers.names.map((name) => Object.assign(document.createElement("i"), { title: name })));
  }
  const highest = Math.max(...answers.logits);
  const powers = answers.logits.map((logit) => Math.exp((logit - highest) / temperature));
  const total = powers.reduce((sum, power) => sum + power, 0);
  const shares = powers.map((power) => power / total);
  [...place.querySelectorAll("i")].forEach((bar, at) => { bar.style.height = `${Math.max(1, 36 * shares[at])}px`; });
  const best = shares.map((share, at) => [share, answers.names[at]]).sort((a, b) => b[0] - a[0]).slice(0, 3);
  place.querySelector(".best").textContent = best.map(([share, name]) => `${name} ${Math.round(100 * share)} %`).join(" · ");
}

function nearest(stops, value) {
  let best = 0;
  stops.forEach((stop, index) => { if (Math.abs(stop - value) < Math.abs(stops[best] - value)) best = index; });
  return best;
}
