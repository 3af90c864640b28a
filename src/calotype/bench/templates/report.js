"use strict";

function sortKey(row, column) {
  const { dataset, textContent } = row.cells[column];
  if (dataset.key === undefined) return textContent;
  return dataset.key === "" ? null : Number(dataset.key);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b);
}

function sortRows(body, column, sign) {
  const keyed = [...body.rows].map((row) => ({ row, key: sortKey(row, column) }));
  const known = keyed.filter(({ key }) => key !== null).sort((a, b) => sign * compare(a.key, b.key));
  const missing = keyed.filter(({ key }) => key === null);
  body.append(...[...known, ...missing].map(({ row }) => row));
}

function sortBy(head) {
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  sortRows(head.closest("table").tBodies[0], head.cellIndex, order === "ascending" ? 1 : -1);
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

async function readPixels(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function difference(pixels, original, factor) {
  const shown = new ImageData(pixels.width, pixels.height);
  for (let i = 0; i < shown.data.length; i++) {
    shown.data[i] = i % 4 === 3 ? 255 : factor * Math.abs(pixels.data[i] - original.data[i]);
  }
  return shown;
}

class Viewer {
  constructor(section, exhibits) {
    this.section = section;
    this.exhibits = exhibits;
    this.stage = section.querySelector(".stage");
    this.handle = section.querySelector(".handle");
    this.split = 50;
    this.view = { zoom: 1, x: 0, y: 0 };
    this.loads = 0;
    this.listen();
    this.choosePicture();
  }

  control(id) {
    return document.getElementById(id);
  }

  listen() {
    this.control("picture").addEventListener("change", () => this.choosePicture());
    for (const side of ["left", "right"]) this.control(side).addEventListener("change", () => this.load());
    for (const id of ["difference", "factor"]) this.control(id).addEventListener("input", () => this.paint());
    for (const button of this.section.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.zoomTo(Number(button.dataset.zoom)));
    }
    this.handle.addEventListener("keydown", (event) => this.press(event));
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.grab(event));
    this.stage.addEventListener("pointermove", (event) => this.drag?.(event));
    for (const end of ["pointerup", "pointercancel"]) this.stage.addEventListener(end, () => (this.drag = null));
  }

  choosePicture() {
    const { width, height, versions } = this.exhibits[this.control("picture").value];
    this.section.style.setProperty("--width", width);
    this.section.style.setProperty("--height", height);
    this.offer("left", versions, 1);
    this.offer("right", versions, 2);
    this.zoomTo(1);
    this.load();
  }

  offer(side, versions, first) {
    const select = this.control(side);
    const names = versions.map(({ codec }) => codec);
    const chosen = names.includes(select.value) ? select.value : names[Math.min(first, names.length - 1)];
    select.replaceChildren(...names.map((name) => new Option(name, name, name === chosen, name === chosen)));
  }

  async load() {
    const load = ++this.loads;
    const { versions } = this.exhibits[this.control("picture").value];
    const [left, right] = ["left", "right"].map((side) => versions[this.control(side).selectedIndex]);
    const pixels = await Promise.all([left, right, versions[0]].map(({ source }) => readPixels(source)));
    if (load !== this.loads) return;
    [this.left, this.right, this.original] = pixels;
    this.caption("left", left);
    this.caption("right", right);
    this.paint();
  }

  caption(side, { codec, facts }) {
    this.section.querySelector(`.${side} .caption`).textContent = facts;
    this.section.querySelector(`canvas.${side}`).setAttribute("aria-label", `${codec}: ${facts}`);
  }

  paint() {
    if (!this.original) return;
    const factor = this.control("factor");
    const isDifference = this.control("difference").checked;
    factor.disabled = !isDifference;
    this.section.querySelector("output").value = factor.value;
    for (const side of ["left", "right"]) {
      const pixels = isDifference ? difference(this[side], this.original, Number(factor.value)) : this[side];
      const canvas = this.section.querySelector(`canvas.${side}`);
      canvas.width = pixels.width;
      canvas.height = pixels.height;
      canvas.getContext("2d").putImageData(pixels, 0, 0);
    }
  }

  splitAt(percent) {
    this.split = clamp(percent, 0, 100);
    this.stage.style.setProperty("--split", `${this.split}%`);
    this.handle.setAttribute("aria-valuenow", Math.round(this.split));
  }

  press(event) {
    const by = event.shiftKey ? 10 : 1;
    const { split } = this;
    const targets = {
      ArrowLeft: split - by, ArrowDown: split - by, PageDown: split - 10, Home: 0,
      ArrowRight: split + by, ArrowUp: split + by, PageUp: split + 10, End: 100,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    this.splitAt(targets[event.key]);
  }

  /** Where an event is on the stage, from 0 to 1 both ways. */
  place(event) {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  grab(event) {
    if (event.button !== 0) return;
    this.stage.setPointerCapture(event.pointerId);
    const isSlide = this.view.zoom === 1 || event.target === this.handle;
    this.drag = isSlide ? (moved) => this.splitAt(100 * this.place(moved)[0]) : this.panFrom(event);
    this.drag(event);
  }

  panFrom(start) {
    const { zoom, x, y } = this.view;
    const [startX, startY] = this.place(start);
    return (moved) => {
      const [toX, toY] = this.place(moved);
      this.look(zoom, x + toX - startX, y + toY - startY);
    };
  }

  wheel(event) {
    const zoom = clamp(this.view.zoom * 2 ** (-event.deltaY / 200), 1, 8);
    if (zoom === this.view.zoom) return;
    event.preventDefault();
    this.zoomTo(zoom, ...this.place(event));
  }

  /** Zoom so that one place on the stage keeps what it shows. */
  zoomTo(zoom, atX = 0.5, atY = 0.5) {
    const by = zoom / this.view.zoom;
    this.look(zoom, atX - by * (atX - this.view.x), atY - by * (atY - this.view.y));
    for (const button of this.section.querySelectorAll("[data-zoom]")) {
      button.setAttribute("aria-pressed", Number(button.dataset.zoom) === zoom);
    }
  }

  /** Show the picture enlarged, its corner at (x, y) of the stage. */
  look(zoom, x, y) {
    this.view = { zoom, x: clamp(x, 1 - zoom, 0), y: clamp(y, 1 - zoom, 0) };
    this.stage.classList.toggle("zoomed", zoom > 1);
    this.stage.style.setProperty("--zoom", zoom);
    this.stage.style.setProperty("--x", `${100 * this.view.x}%`);
    this.stage.style.setProperty("--y", `${100 * this.view.y}%`);
  }
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}
const data = document.querySelector("#exhibits");
if (data) new Viewer(document.querySelector("#viewer"), JSON.parse(data.textContent));
