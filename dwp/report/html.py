"""Templates of the report's pages: HTML, style, and the script of the latent-space explorer.

They are Python strings, so that a change of one is a change of code and remakes the report.
"""

import jinja2

STYLE = """\
:root { color-scheme: light; --ink: #1a1a1a; --soft: #595959; --line: #d9d9d9; --accent: #005a8c }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto;
  max-width: 74rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem }
h1 { font-size: clamp(1.5rem, 4.2vw, 2.2rem); line-height: 1.2; margin: .3rem 0 1rem; text-wrap: balance }
h2 { font-size: 1.4rem; margin: 3.5rem 0 .8rem; padding-top: .8rem; border-top: 2px solid var(--ink) }
h3 { font-size: 1.12rem; margin: 2.2rem 0 .6rem }
h4 { font-size: 1rem; margin: 0 0 .3rem }
a { color: var(--accent) }
small { font-weight: normal; color: var(--soft) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .6em; font-size: .9rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th:first-child, td:first-child, td.text { text-align: left }
td.text { white-space: normal }
thead th { border-bottom: 1.5px solid var(--ink); white-space: normal; vertical-align: bottom }
tbody th { font-weight: normal }
td.best { font-weight: 700 }
td.tie::after, span.tie::after { content: "†"; position: absolute }
.scroll { overflow-x: auto; position: relative }
"""

FRONT_STYLE = """\
.kicker { color: var(--soft); margin: 0 }
.findings p { font-size: 1.1rem; max-width: 46rem; margin: .5rem 0 }
.note, figcaption { color: var(--soft); font-size: .875rem; max-width: 56rem }
figcaption p { margin: .3rem 0 }
figure { margin: 1.2rem 0 2rem }
header figure { margin-bottom: .3rem }
header .note { margin-top: 0 }
figure img { display: block; height: auto; max-width: 100% }
nav { margin: 1.5rem 0 0; font-size: .95rem }
nav a { margin-right: 1.1em; white-space: nowrap }
.tables { display: flex; flex-wrap: wrap; gap: 1.6rem 2rem; align-items: flex-start; margin: 1rem 0 }
.tables th:first-child { padding-left: 0 }
.tables > div { max-width: 100% }
.panels { display: flex; flex-wrap: wrap; gap: 1.2rem 1.6rem; margin: .8rem 0 }
.panels > div { flex: 0 1 15rem; min-width: 8.5rem }
.panels p { margin: 0 0 .3rem; font-size: .9rem }
.panels canvas { width: 100%; display: block; image-rendering: pixelated }
.kernel { border: 1px solid var(--line) }
.plane { position: relative; cursor: crosshair; touch-action: none; border: 1px solid var(--ink) }
.plane:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
.plane i { position: absolute; width: 16px; height: 16px; margin: -8px; border: 3px solid var(--accent);
  border-radius: 50%; background: #fff; pointer-events: none }
.axes { display: flex; justify-content: space-between; font-size: .8rem; color: var(--soft) }
output { display: block; font-size: .9rem; font-variant-numeric: tabular-nums; min-height: 1.5em }
@media (max-width: 44rem) {
  figure img { max-width: none; width: max(100%, min(var(--width), 40rem)) }
  .tables th, .tables td { padding: .25em .4em; font-size: .82rem }
  .tables tbody th { white-space: normal; min-width: 6rem }
  .panels > div { flex-basis: 8.5rem }
  .panels > div:first-child { flex: 1 1 100%; max-width: 20rem }
}
@media print {
  body { font-size: 10pt; max-width: none; padding: 0 }
  nav, .explorer { display: none }
  h2, h3, h4 { break-after: avoid }
  figure, .tables > div, tr { break-inside: avoid }
  figure img { max-height: 17cm; width: auto; max-width: 100% }
}
"""

SCRIPT = """\
for (const box of document.querySelectorAll(".explorer")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const [decoded, nearest, density] = [data.decoded, data.nearest, data.density].map(bytes);
  const [planeCanvas, left, right] = box.querySelectorAll("canvas");
  const plane = box.querySelector(".plane"), dot = plane.querySelector("i");
  const {columns, rows, size, limit, reach, names} = data, pixels = size * size;
  const red = [178, 24, 43], blue = [33, 102, 172];
  const colour = (byte) => {
    const value = (byte - 128) / 127, end = value > 0 ? red : blue;
    return end.map((channel) => 255 + (channel - 255) * Math.abs(value) ** 0.6);
  };
  const paint = (canvas, width, height, colourAt) => {
    canvas.width = width; canvas.height = height;
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) image.data.set([...colourAt(i), 255], 4 * i);
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  const weights = (kernels, cell) =>
    Array.from(kernels.subarray(cell * pixels, (cell + 1) * pixels), (byte) => (byte - 128) / 127 * limit);
  const length = (values) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const coordinate = (index, count) => count > 1 ? reach * (2 * index / (count - 1) - 1) : 0;
  const signed = (value) => value.toFixed(2).replace("-", "\\u2212");
  let x, y;
  const show = (column, row) => {
    x = Math.min(columns - 1, Math.max(0, column)); y = Math.min(rows - 1, Math.max(0, row));
    const cell = y * columns + x;
    paint(left, size, size, (i) => colour(decoded[cell * pixels + i]));
    paint(right, size, size, (i) => colour(nearest[cell * pixels + i]));
    const a = weights(decoded, cell), b = weights(nearest, cell);
    const distance = length(a.map((value, i) => value - b[i]));
    dot.style.left = 100 * (x + 0.5) / columns + "%"; dot.style.top = 100 * (y + 0.5) / rows + "%";
    const place = [`${names[0]} = ${signed(coordinate(x, columns))}`];
    if (rows > 1) place.push(`${names[1]} = ${signed(coordinate(rows - 1 - y, rows))}`);
    const [norm, other, apart] = [length(a), length(b), distance].map((value) => value.toFixed(2));
    box.querySelector("output").textContent =
      `${place.join(", ")}; norms: decoded ${norm}, nearest ${other}; distance ${apart}`;
  };
  const follow = (event) => {
    const frame = planeCanvas.getBoundingClientRect();
    show(Math.floor((event.clientX - frame.left) / frame.width * columns),
      Math.floor((event.clientY - frame.top) / frame.height * rows));
  };
  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    follow(event);
  });
  plane.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
  const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  plane.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [right, down] = steps[event.key], stride = event.shiftKey ? 5 : 1;
    show(x + stride * right, y + stride * down);
  });
  paint(planeCanvas, columns, rows, (i) => Array(3).fill(255 - 0.75 * density[i]));
  show(Math.round(0.7 * (columns - 1)), Math.round(0.3 * (rows - 1)));
}
"""

_MACROS = """\
{% macro table(one) %}
<table>
<thead>
<tr><th></th>{% for column in one.columns %}<th>{{ column }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for name, cells in one.rows %}
<tr><th>{{ name }}</th>{% for cell in cells %}
<td{% if cell.mark %} class="{{ cell.mark }}"{% endif %}>{{ cell.text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% endmacro %}
{% macro figure(one) %}
<figure>
<div class="scroll"><img src="data:image/webp;base64,{{ one.data }}" alt="{{ one.label }}"
 width="{{ one.width }}" height="{{ one.height }}" style="--width: {{ one.width }}px"></div>
{% if one.caption %}
<figcaption>{{ one.caption | safe }}</figcaption>
{% endif %}
</figure>
{% endmacro %}
{% macro tables(several) %}
<div class="tables">
{% for one in several %}
<div>
<h4>{{ one.heading }} <small>({{ one.note }})</small></h4>
<div class="scroll">{{ table(one) }}</div>
</div>
{% endfor %}
</div>
{% endmacro %}
{% macro explorer(one) %}
<div class="explorer">
<p>{{ one.text }}</p>
<div class="panels">
<div><p>plane of codes</p><div class="plane" tabindex="0" role="application"
 aria-label="plane of codes: move with the arrow keys, faster with Shift"><canvas></canvas><i></i></div>
<div class="axes"><span>{{ one.names | join(" → ") }}{{ " ↑" if one.rows > 1 else "" }}</span></div></div>
{% for name in ("decoded kernel", "nearest real kernel") %}
<div><p>{{ name }}</p><canvas class="kernel" role="img" aria-label="{{ name }}"></canvas></div>
{% endfor %}
</div>
<output aria-live="polite"></output>
<script type="application/json">{{ one.json | safe }}</script>
<noscript><p>The explorer needs JavaScript; the figure below shows the same plane.</p></noscript>
</div>
{% endmacro %}
"""

_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>
{{ style | safe }}</style>
</head>
"""

_TABLES = (
    _HEAD + """\
<body>
<h1>{{ title }}</h1>
{% for one in tables %}
{% if one.heading %}
<h2>{{ one.heading }} <small>({{ one.note }})</small></h2>
{% endif %}
<div class="scroll">
"""
    "{{ macros.table(one) }}"
    """\
</div>
{% endfor %}
<p>{{ footnote }}</p>
</body>
</html>
"""
)

_FRONT = (
    _HEAD
    + """\
<body>
<header>
<p class="kicker">The Deep Weight Prior{% if about %} · {{ about }}{% endif %}</p>
<h1>{{ title }}</h1>
<div class="findings">
{% for sentence in sentences %}
<p>{{ sentence }}</p>
{% endfor %}
</div>
{% if figure %}
{{ macros.figure(figure) }}
<p class="note">{{ note }}</p>
{% endif %}
<nav aria-label="Sections">
{% for one in sections %}
<a href="#{{ one.anchor }}">{{ one.title }}</a>
{% endfor %}
</nav>
</header>
<main>
{% for one in sections %}
<section id="{{ one.anchor }}">
<h2>{{ one.title }}</h2>
{% for part in one.parts %}
{{ macros[part.kind](part.content) }}
{% endfor %}
{% if one.note %}
<p class="note">{{ one.note }}</p>
{% endif %}
</section>
{% endfor %}
</main>
<script>
{{ script | safe }}</script>
</body>
</html>
"""
)

_ENVIRONMENT = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
_MODULE = _ENVIRONMENT.from_string(_MACROS).module


def tables_page(**content: object) -> str:
    """Return a page of tables: `title`, `tables` (`dwp.report.pages.Table`) and `footnote`."""
    return _ENVIRONMENT.from_string(_TABLES).render(macros=_MODULE, style=STYLE, **content)


def front_page(**content: object) -> str:
    """Return the page of findings and figures; see `dwp.report.front` for its content."""
    style = STYLE + FRONT_STYLE
    return _ENVIRONMENT.from_string(_FRONT).render(macros=_MODULE, style=style, script=SCRIPT, **content)
