// Renews parts of the page while it is looked at. The server makes the HTML; here it only finds its place.
const path = document.body.dataset.live;
const connection = document.getElementById("connection");
let source = null;

function say(text) {
  connection.textContent = text;
  connection.hidden = !text;
}

function renew({ id, html }) {
  const part = document.getElementById(id);
  // Whoever is inside with the keyboard is not thrown out.
  if (!part || (part !== document.activeElement && part.contains(document.activeElement))) return;
  const scrolled = [...part.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
  part.innerHTML = html;
  part.querySelectorAll(".scroll").forEach((box, number) => {
    if (scrolled[number]) [box.scrollLeft, box.scrollTop] = scrolled[number];
  });
}

function open() {
  source = new EventSource(path);
  source.addEventListener("open", () => say(""));
  source.addEventListener("error", () => say("The connection is lost. If the coordinator has ended, `ip2p-coordinator serve` shows the run from its store."));
  source.addEventListener("part", (event) => renew(JSON.parse(event.data)));
  source.addEventListener("cells", (event) => document.dispatchEvent(new CustomEvent("cells", { detail: JSON.parse(event.data) })));
}

// Browsers hold six connections to a server: pages in the background give theirs back.
function watch() {
  source?.close();
  source = null;
  if (!document.hidden) open();
}

if (path) {
  document.addEventListener("visibilitychange", watch);
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (event) => event.persisted && watch());
  watch();
}
