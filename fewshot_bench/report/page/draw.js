// Draws the figures of the protocol that is chosen. A native list, because Plotly's own menu cannot be reached by keyboard.
const figures = JSON.parse(document.getElementById("figures").textContent);
const list = document.getElementById("protocol");
const draw = (some) => Object.entries(some).forEach(([id, { data, layout }]) => Plotly.react(id, data, layout, figures.config));
if (list) list.addEventListener("change", () => draw(figures.protocols[list.value]));
if (list) draw(figures.protocols[list.value]);
draw(figures.fixed);
