// The status line, and the page's pulse: while something runs it asks for the next look after `again_ms`. No timer runs when nothing does.
export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".status");
  root.className = `status ${data.mood}`;
  root.querySelector(".text").textContent = data.text;
  root.querySelector(".bar").style.width = data.fraction == null ? "0" : `${Math.round(100 * data.fraction)}%`;
  root.title = data.detail || "";
  clearTimeout(root.timer);
  if (data.again_ms) root.timer = setTimeout(() => setStateValue("beat", data.turn), data.again_ms);
  return () => clearTimeout(root.timer);
}
