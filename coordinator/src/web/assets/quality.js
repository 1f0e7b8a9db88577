// Counts what other thresholds would keep, as the filter does, and lets their lines be dragged.
const form = document.getElementById("thresholds");
const svg = document.querySelector("#what-if .scatter");
const answer = document.getElementById("answer");

if (form && svg) {
  const field = (name) => form.elements.namedItem(name);
  const axis = Object.fromEntries(Object.entries(svg.dataset).map(([name, value]) => [name, Number(value)]));
  let scores = null;

  function kept() {
    const [image, direction, text, keep] = ["image", "direction", "text", "keep"].map((name) => Number(field(name).value));
    const passing = new Map();
    for (let i = 0; i < scores.triplet.length; i += 1) {
      if (scores.text[i] >= text && scores.direction[i] >= direction && scores.image[i] >= image) {
        passing.set(scores.triplet[i], (passing.get(scores.triplet[i]) ?? 0) + 1);
      }
    }
    let pairs = 0;
    for (const n of passing.values()) pairs += Math.min(n, keep);
    return { pairs, triplets: keep > 0 ? passing.size : 0 };
  }

  function percent(part, whole) {
    const value = whole ? (100 * part) / whole : 0;
    return `${value === 0 || value >= 10 ? value.toFixed(0) : value.toFixed(1)}%`;
  }

  const number = (n) => n.toLocaleString("en-US");
  const x = (image) => axis.left + ((image - axis.x0) / (axis.x1 - axis.x0)) * (axis.right - axis.left);
  const y = (direction) => axis.bottom - ((direction - axis.y0) / (axis.y1 - axis.y0)) * (axis.bottom - axis.top);
  const within = (value, low, high) => Math.min(Math.max(value, low), high);

  function show() {
    const at = { image: within(x(Number(field("image").value)), axis.left, axis.right), direction: within(y(Number(field("direction").value)), axis.top, axis.bottom) };
    for (const line of svg.querySelectorAll(".threshold.image, .grip.image")) line.setAttribute("d", `M${at.image} ${axis.top}V${axis.bottom}`);
    for (const line of svg.querySelectorAll(".threshold.direction, .grip.direction")) line.setAttribute("d", `M${axis.left} ${at.direction}H${axis.right}`);
    const [image, direction] = svg.querySelectorAll(".label");
    for (const [label, name] of [[image, "image"], [direction, "direction"]]) {
      label.textContent = label.textContent.replace(/at least .*/, `at least ${Number(field(name).value)}`);
    }
    if (!scores) return;
    const { pairs, triplets } = kept();
    answer.textContent = `${number(pairs)} pairs of ${number(triplets)} triplets (${percent(pairs, scores.triplet.length)} of the candidates)`;
  }

  // A wide invisible line to take hold of; the fields are the keyboard's way.
  for (const name of ["image", "direction"]) {
    const line = svg.querySelector(`.threshold.${name}`);
    const grip = line.cloneNode();
    grip.setAttribute("class", `grip ${name}`);
    line.after(grip);
    grip.addEventListener("pointerdown", (event) => {
      grip.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    grip.addEventListener("pointermove", (event) => {
      if (!grip.hasPointerCapture(event.pointerId)) return;
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const value = name === "image"
        ? axis.x0 + ((place.x - axis.left) / (axis.right - axis.left)) * (axis.x1 - axis.x0)
        : axis.y0 + ((axis.bottom - place.y) / (axis.bottom - axis.top)) * (axis.y1 - axis.y0);
      field(name).value = within(value, name === "image" ? axis.x0 : axis.y0, name === "image" ? axis.x1 : axis.y1).toFixed(3);
      show();
    });
  }

  form.addEventListener("input", show);
  form.querySelector("button").hidden = true;
  form.addEventListener("submit", (event) => event.preventDefault());
  fetch("/quality/scores.json").then((reply) => reply.json()).then((columns) => {
    scores = columns;
    form.dataset.ready = "";
    show();
  });
}
