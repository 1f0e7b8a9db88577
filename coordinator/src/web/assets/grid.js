// Draws the partitions of a stage, a cell each, and tells about the one that is pointed at.
const canvas = document.getElementById("grid");
const wrap = canvas.parentElement;
const tip = document.getElementById("tip");
const stage = wrap.dataset.stage;
const hint = tip.textContent;
const pen = canvas.getContext("2d");

let digits = "";
let each = 1;
let size = 10;
let columns = 1;
let chosen = -1;
let asked = 0;

function colours() {
  const style = getComputedStyle(wrap);
  return Array.from({ length: 7 }, (_, state) => style.getPropertyValue(`--c${state}`).trim());
}

// The largest cells that fit the width and about 400 pixels of height.
function measure() {
  const width = wrap.clientWidth;
  for (size = 18; size > 3; size -= 1) {
    columns = Math.max(1, Math.floor(width / size));
    if (Math.ceil(digits.length / columns) * size <= 400) break;
  }
  columns = Math.max(1, Math.floor(width / size));
}

function draw() {
  measure();
  const scale = devicePixelRatio || 1;
  const rows = Math.max(1, Math.ceil(digits.length / columns));
  const [width, height] = [columns * size, rows * size];
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  pen.scale(scale, scale);
  const palette = colours();
  const gap = size > 6 ? 2 : 1;
  for (let cell = 0; cell < digits.length; cell += 1) {
    pen.fillStyle = palette[digits.charCodeAt(cell) - 48];
    pen.fillRect((cell % columns) * size, Math.floor(cell / columns) * size, size - gap, size - gap);
  }
  if (chosen >= 0 && chosen < digits.length) {
    pen.strokeStyle = getComputedStyle(wrap).getPropertyValue("--text");
    pen.lineWidth = 2;
    pen.strokeRect((chosen % columns) * size - 1, Math.floor(chosen / columns) * size - 1, size - gap + 2, size - gap + 2);
  }
}

function cellAt(event) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const cell = Math.floor(y / size) * columns + Math.floor(x / size);
  return x >= 0 && x < columns * size && cell >= 0 && cell < digits.length ? cell : -1;
}

async function tell(cell) {
  const question = (asked += 1);
  const first = cell * each;
  let text = each > 1 ? `${stage} ${first} to ${first + each - 1}` : "";
  if (each === 1) {
    const answer = await fetch(`/partition/${stage}/${first}/lines`);
    if (!answer.ok) return;
    text = await answer.text();
  }
  if (question === asked) tip.textContent = text;
}

let waiting = 0;
function choose(cell) {
  if (cell === chosen) return;
  chosen = cell;
  draw();
  clearTimeout(waiting);
  if (cell < 0) {
    asked += 1;
    tip.textContent = hint;
  } else {
    waiting = setTimeout(() => tell(cell), 80);
  }
}

function open(cell) {
  if (cell >= 0) location.href = `/partition/${stage}/${cell * each}`;
}

canvas.addEventListener("pointermove", (event) => choose(cellAt(event)));
canvas.addEventListener("pointerleave", () => choose(-1));
canvas.addEventListener("click", (event) => open(cellAt(event)));
canvas.addEventListener("blur", () => choose(-1));
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  if (event.key === "Enter") return open(chosen);
  let next = chosen < 0 ? 0 : chosen + (steps[event.key] ?? 0);
  if (event.key === "Home") next = 0;
  if (event.key === "End") next = digits.length - 1;
  if (!(event.key in steps) && event.key !== "Home" && event.key !== "End") return;
  event.preventDefault();
  choose(Math.min(Math.max(next, 0), digits.length - 1));
});

let due = 0;
function redraw() {
  cancelAnimationFrame(due);
  due = requestAnimationFrame(draw);
}

document.addEventListener("cells", (event) => {
  ({ digits, each } = event.detail);
  wrap.dataset.drawn = digits.length;
  redraw();
});
new ResizeObserver(redraw).observe(wrap);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
