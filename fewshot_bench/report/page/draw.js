// Unpacks the libraries, and starts DataTables at once and Plotly for the first figure. Draws the figures of the chosen
// protocol, each when it first comes near the window: drawing all at once would delay the table. A native list chooses,
// because Plotly's own menu cannot be reached by keyboard.
const unpacked = async (id) => {
  const letters = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const run = (library) => {
  const script = document.createElement("script");
  script.text = library; // the page's policy has its digest
  document.head.append(script);
};
const tableLibrary = unpacked("datatables").then(run); // the script of the table waits for it
let plotly;
const plotlyIsUnpacked = tableLibrary.then(() => unpacked("plotly")).then((library) => { plotly = library; });
const figures = JSON.parse(document.getElementById("figures").textContent);
const list = document.getElementById("protocol");
const waiting = new Map();
const draw = (place) => {
  const { data, layout } = waiting.get(place);
  waiting.delete(place);
  near.unobserve(place);
  if (!("Plotly" in window)) run(plotly);
  Plotly.react(place, data, layout, figures.config);
  if (place.id.endsWith("-layout") && !place.dataset.listens) {
    place.dataset.listens = "yes";
    place.on("plotly_hover", ({ points }) => thumbnail(place.id, points[0]));
    place.on("plotly_unhover", () => thumbnail(place.id));
  }
};
// The image of a point, cut from the sheet of its network; without a point or a sheet, nothing.
const thumbnail = (id, point) => {
  const side = id.replace("-layout", "");
  const sheet = figures.sprites[figures.networks[document.getElementById(side).value].sprite];
  const picture = document.getElementById(`${side}-thumbnail`);
  picture.hidden = !sheet || !point || point.customdata >= sheet.count;
  if (picture.hidden) return;
  const size = sheet.side * Math.max(1, Math.round(84 / sheet.side)), tile = point.customdata;
  picture.style.width = picture.style.height = `${size}px`;
  picture.style.backgroundImage = `url(${sheet.image})`;
  picture.style.backgroundSize = `${size * sheet.columns}px auto`;
  picture.style.backgroundPosition = `${-size * (tile % sheet.columns)}px ${-size * Math.floor(tile / sheet.columns)}px`;
};
const near = new IntersectionObserver(
  async (entries) => {
    await plotlyIsUnpacked;
    entries.filter(({ isIntersecting, target }) => isIntersecting && waiting.has(target))
      .forEach(({ target }) => draw(target));
  },
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
["left", "right"].map((side) => document.getElementById(side)).filter((choice) => choice).forEach((choice) => {
  const chosen = () => Object.fromEntries(
    Object.entries(figures.networks[choice.value].figures).map(([name, figure]) => [`${choice.id}-${name}`, figure]),
  );
  choice.addEventListener("change", () => show(chosen()));
  show(chosen());
});
// A link to a card opens it.
const openCard = () => {
  const target = location.hash.startsWith("#embedding-") && document.getElementById(location.hash.slice(1));
  if (target) target.open = true;
};
addEventListener("hashchange", openCard);
openCard();
addEventListener("beforeprint", () => plotly && [...waiting.keys()].forEach(draw));
