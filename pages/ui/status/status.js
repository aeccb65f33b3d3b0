// The status line, and the page's pulse: while something runs it asks for the next look after `again_ms`. No timer runs when nothing does.
//
// A look that was asked for but not drawn is asked for again, ever more seldom. While the person goes to another page, or back, the pulse rests:
// what it asked for before the server has answered would still name the page that is left, and Streamlit would make one request of both and stay there.
const PATIENCE_MS = 5000;
const BACK_MS = 1000;
const AWAY = "[data-testid=stPageLink-NavLink], .st-key-use-layers button";
let leaving = { page: "", until: 0 }; // no look is asked for before then, unless another page is shown

document.addEventListener("click", (event) => {
  if (event.target.closest?.(AWAY)) leaving = { page: location.pathname, until: performance.now() + PATIENCE_MS };
}, true);
window.addEventListener("popstate", () => { leaving = { page: location.pathname, until: performance.now() + BACK_MS }; });

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".status");
  root.className = `status ${data.mood}`;
  root.querySelector(".text").textContent = data.text;
  root.querySelector(".bar").style.width = data.fraction == null ? "0" : `${Math.round(100 * data.fraction)}%`;
  root.title = data.detail || "";
  clearTimeout(root.timer);
  if (data.again_ms) beat(root, data, setStateValue);
  return () => clearTimeout(root.timer);
}

function beat(root, data, setStateValue) {
  let asked = 0;
  const ask = () => {
    const rest = location.pathname === leaving.page ? leaving.until - performance.now() : 0;
    if (rest > 0) {
      root.timer = setTimeout(ask, Math.min(rest, data.again_ms));
      return;
    }
    setStateValue("beat", data.turn + asked / 1000); // a new value every time, or nothing would be sent
    asked += 1;
    root.timer = setTimeout(ask, PATIENCE_MS * 2 ** (asked - 1));
  };
  root.timer = setTimeout(ask, data.again_ms);
}
