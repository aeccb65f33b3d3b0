// The status line, and the page's pulse: while something runs it asks for the next look after `again_ms`. No timer runs when nothing does.
//
// A look that was asked for but not drawn is asked for again, ever more seldom. While the person goes to another page the pulse waits: what is
// asked for before the server has answered still names the page that is left, and Streamlit would make one request of both and stay there.
const PATIENCE_MS = 5000;
const LINK = "[data-testid=stPageLink-NavLink]";

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".status");
  root.className = `status ${data.mood}`;
  root.querySelector(".text").textContent = data.text;
  root.querySelector(".bar").style.width = data.fraction == null ? "0" : `${Math.round(100 * data.fraction)}%`;
  root.title = data.detail || "";
  still(root);
  if (data.again_ms) beat(root, data, setStateValue);
  return () => still(root);
}

function beat(root, data, setStateValue) {
  let asked = 0;
  const ask = () => {
    setStateValue("beat", data.turn + asked / 1000); // a new value every time, or nothing would be sent
    asked += 1;
    root.timer = setTimeout(ask, PATIENCE_MS * 2 ** (asked - 1));
  };
  const wait = () => {
    clearTimeout(root.timer);
    root.timer = setTimeout(ask, PATIENCE_MS);
  };
  root.timer = setTimeout(ask, data.again_ms);
  root.ends = new AbortController();
  const { signal } = root.ends;
  document.addEventListener("click", (event) => event.target.closest?.(LINK) && wait(), { capture: true, signal });
  window.addEventListener("popstate", wait, { signal });
}

function still(root) {
  clearTimeout(root.timer);
  root.ends?.abort();
}
