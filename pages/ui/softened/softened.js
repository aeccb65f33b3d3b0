// A teacher's answer to one picture at a temperature T: softmax(logits / T) as bars, and a mark where each is at T = 1.
// While the slider named by `slider` is dragged, its "paretoscope-drag" events move the bars here, and the server hears nothing.
// state value "picture": the number of the picture that was chosen.
const MOST_ROWS = 12, HAND_MS = 3000;

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".softened");
  root.view ??= make(root);
  root.view.update(data, setStateValue);
  return () => root.view.remove();
}

function make(root) {
  let data, report, at = 0, temperature = 1, told = null, drawn = "", rows = [], order = [], heard = -Infinity;
  const hear = (event) => {
    if (!data || !event.detail.key?.startsWith(data.prefix)) return;
    event.preventDefault();
    if (event.detail.key !== data.slider) return;
    temperature = event.detail.value;
    heard = performance.now();
    show();
  };

  const build = () => {
    const answer = data.answers[at];
    const now = JSON.stringify([answer.picture, data.names, data.answers.length]);
    if (now === drawn) return;
    drawn = now;
    root.querySelector(".picture").src = answer.picture;
    const truth = Object.assign(document.createElement("b"), { textContent: data.names[answer.label] });
    root.querySelector(".truth").replaceChildren("True class: ", truth);
    root.querySelector(".pictures").replaceChildren(...data.answers.map(thumb));
    // with many classes, those that the teacher finds most probable
    order = data.names.map((_, number) => number);
    if (order.length > MOST_ROWS) order = order.sort((a, b) => answer.logits[b] - answer.logits[a]).slice(0, MOST_ROWS);
    rows = order.map((number) => row(data.names[number], number === answer.label));
    root.querySelector(".bars").replaceChildren(...rows.map(({ line }) => line));
  };

  const thumb = ({ picture, label }, number) => {
    const button = Object.assign(document.createElement("button"), { type: "button", title: data.names[label] });
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(number === at));
    button.setAttribute("aria-label", `Picture ${number + 1}: ${data.names[label]}`);
    button.append(Object.assign(document.createElement("img"), { src: picture, alt: "" }));
    button.addEventListener("click", () => {
      told = at = number;
      build();
      show();
      report("picture", number);
    });
    return button;
  };

  const show = () => {
    const answer = data.answers[at], soft = softmax(answer.logits, temperature), cold = softmax(answer.logits, 1);
    const along = (share) => (100 * share) / Math.max(...cold); // a softened answer is nowhere above the sharpest
    order.forEach((number, place) => {
      const { line, bar, mark, share } = rows[place];
      bar.style.width = `${along(soft[number])}%`;
      mark.style.left = `calc(${along(cold[number])}% - 1px)`;
      share.textContent = `${(100 * soft[number]).toFixed(1)} %`;
      line.title = `${data.names[number]}: ${(100 * soft[number]).toFixed(2)} % at temperature ${temperature}, ${(100 * cold[number]).toFixed(2)} % at 1`;
    });
    const best = soft.indexOf(Math.max(...soft)), name = data.names[answer.label];
    const second = soft.indexOf(Math.max(...soft.filter((_, number) => number !== best)));
    const wrong = best === answer.label ? "" : ` Here the teacher is wrong, and ${second === answer.label ? "its second guess is right" : "so is its second guess"}.`;
    root.querySelector(".said").textContent =
      `The hard target says “${name}” and nothing else; the soft target also says how much it looks like “${data.names[best === answer.label ? second : best]}”.${wrong}`;
    root.dataset.temperature = String(temperature);
  };

  window.addEventListener("paretoscope-drag", hear);
  return {
    update(next, setStateValue) {
      if (next.temperature !== data?.temperature || performance.now() - heard > HAND_MS) temperature = next.temperature; // else a hand is on the slider
      data = next;
      report = setStateValue;
      if (told === null || told === data.at) { at = Math.min(data.at, data.answers.length - 1); told = null; } // else the click is still on its way
      build();
      show();
    },
    remove() { window.removeEventListener("paretoscope-drag", hear); },
  };
}

function row(name, isTrue) {
  const part = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  const line = part("div", isTrue ? "row true" : "row"), track = part("div", "track"), bar = part("div", "bar"), mark = part("div", "cold");
  const share = part("span", "share");
  track.append(bar, mark);
  line.append(part("span", "name", isTrue ? `${name} ✓` : name), track, share);
  return { line, bar, mark, share };
}

function softmax(logits, temperature) {
  const highest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp((logit - highest) / temperature));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}
