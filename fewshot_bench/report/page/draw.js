// Draws the figures of the chosen protocol, each when it first comes near the window, and starts Plotly for the first one:
// drawing all at once would delay the table. A native list chooses, because Plotly's own menu cannot be reached by
// keyboard.
const figures = JSON.parse(document.getElementById("figures").textContent);
const list = document.getElementById("protocol");
const waiting = new Map();
const start = () => {
  if ("Plotly" in window) return;
  const script = document.createElement("script");
  script.text = document.getElementById("plotly").textContent; // the page's policy has its digest
  document.head.append(script);
};
const draw = (place) => {
  const { data, layout } = waiting.get(place);
  waiting.delete(place);
  near.unobserve(place);
  start();
  Plotly.react(place, data, layout, figures.config);
};
const near = new IntersectionObserver(
  (entries) => entries.filter(({ isIntersecting, target }) => isIntersecting && waiting.has(target))
    .forEach(({ target }) => draw(target)),
  { rootMargin: "50%" },
);
const show = (shown) => Object.entries(shown).forEach(([id, figure]) => {
  const place = document.getElementById(id);
  const isDrawn = "data" in place;
  place.style.minHeight = `${figure.layout.height}px`; // so that nothing moves when it is drawn
  waiting.set(place, figure);
  if (isDrawn) draw(place); else near.observe(place);
});
if (list) list.addEventListener("change", () => show(figures.protocols[list.value]));
if (list) show(figures.protocols[list.value]);
show(figures.fixed);
addEventListener("beforeprint", () => [...waiting.keys()].forEach(draw));
