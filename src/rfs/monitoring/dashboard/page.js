/*
 * The page: asks for one JSON document a second and writes it into the elements of index.html.
 *
 * What comes from the service is only ever written as text nodes or attribute values, never parsed as HTML. Every number
 * stands in a <data value="…"> with the exact value of the API; what is unknown has no value. Times of this page's own
 * (how long ago, when to try again) come from the monotonic clock.
 */
import { MESSAGES } from "./messages.js";

const PERIOD_MS = 1000;
const STALE_MS = 5000;
const TIMEOUT_MS = 10000;
const LONGEST_WAIT_MS = 30000;
const SVG = "http://www.w3.org/2000/svg";
const CONDITIONS = { greater_than: ">", greater_than_or_equal: "≥", less_than: "<", less_than_or_equal: "≤", equal: "=", not_equal: "≠" };

const $ = (id) => document.getElementById(id);

// --- settings that this browser remembers ---------------------------------------------------------------------------

const remembered = {
  get(key, allowed, otherwise) {
    try {
      const value = localStorage.getItem(`rfs.${key}`);
      return allowed.includes(value) ? value : otherwise;
    } catch {
      return otherwise; // storage is blocked: the page works, and forgets
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`rfs.${key}`, value);
    } catch {
      // as above
    }
  },
};

const preferred = navigator.languages.find((language) => language.slice(0, 2) in MESSAGES) ?? "en";
const settings = {
  language: remembered.get("language", ["en", "ko"], preferred.slice(0, 2)),
  theme: remembered.get("theme", ["system", "light", "dark"], "system"),
  range: remembered.get("range", ["5m", "15m", "1h"], "5m"),
  rows: remembered.get("rows", ["operations", "routes"], "operations"),
  level: remembered.get("level", ["0", "20", "30", "40"], "0"),
};

const view = { id: null, overview: null, trace: null, scroll: 0, from: null };
const link = { paused: false, answeredAt: null, answeredTime: null, failures: 0, problem: null, nextAt: 0, timer: 0, request: null };

// --- words and numbers ----------------------------------------------------------------------------------------------

function say(key, values = {}) {
  return MESSAGES[settings.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

let formats = {};

function makeFormats() {
  const plain = (digits) => new Intl.NumberFormat(settings.language, { maximumFractionDigits: digits });
  const unit = (name) => new Intl.NumberFormat(settings.language, { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: 0 });
  formats = {
    digits: [plain(0), plain(1), plain(2), plain(3)],
    units: { second: unit("second"), minute: unit("minute"), hour: unit("hour"), day: unit("day") },
    time: new Intl.DateTimeFormat(settings.language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }),
    full: new Intl.DateTimeFormat(settings.language, { dateStyle: "medium", timeStyle: "long" }),
  };
}

const count = (value) => formats.digits[Number.isInteger(value) ? 0 : 2].format(value);
const significant = (value) => formats.digits[value >= 100 ? 0 : value >= 10 ? 1 : value >= 0.1 || value === 0 ? 2 : 3].format(value);
const rate = (value) => say("per_second", { value: significant(value) });

function ratio(value) {
  if (value > 0 && value < 0.0001) return `<${formats.digits[2].format(0.01)}%`;
  return `${formats.digits[value >= 0.1 ? 1 : 2].format(value * 100)}%`;
}

function took(milliseconds) {
  if (milliseconds < 1000) return `${significant(milliseconds)} ms`;
  if (milliseconds < 60000) return `${formats.digits[milliseconds < 10000 ? 2 : 1].format(milliseconds / 1000)} s`;
  return span(milliseconds / 1000);
}

function span(seconds) {
  const { second, minute, hour, day } = formats.units;
  if (seconds < 60) return second.format(Math.max(0, Math.round(seconds)));
  if (seconds < 3600) return minute.format(Math.round(seconds / 60));
  if (seconds < 172800) return hour.format(Math.round(seconds / 3600));
  return day.format(Math.round(seconds / 86400));
}

function windowSpan(text) {
  const parts = /^(\d+)([smhd])$/.exec(text);
  return parts ? span(Number(parts[1]) * { s: 1, m: 60, h: 3600, d: 86400 }[parts[2]]) : text;
}

function bytes(value) {
  const steps = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (value >= 1024 && step < steps.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${significant(value)} ${steps[step]}`;
}

function measured(value, unit) {
  if (unit === "seconds") return took(value * 1000);
  if (unit === "milliseconds") return took(value);
  if (unit === "ratio") return ratio(value);
  if (unit === "bytes") return bytes(value);
  return count(value); // another unit is said by the title, in its language
}

// --- writing into the document --------------------------------------------------------------------------------------

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/* Write a measured number; what was not measured reads "unknown", in a table a dash that says so. */
function figure(node, value, format, { short = false, unknown = "unknown" } = {}) {
  const known = value !== null && value !== undefined;
  write(node, known ? format(value) : short ? "–" : say(unknown));
  if (known) {
    mark(node, "value", String(value));
    node.removeAttribute("data-unknown");
    node.removeAttribute("title");
  } else {
    node.removeAttribute("value");
    mark(node, "data-unknown", "true");
    mark(node, "title", say(unknown));
  }
  if (short && !known) mark(node, "aria-label", say(unknown));
  else node.removeAttribute("aria-label");
}

/* Bring the children of a list in line with its items, keeping the elements (and so focus and selection) of those that stay. */
function list(container, items, keyOf, make, fill) {
  const wanted = new Set(items.map(keyOf));
  const known = new Map();
  for (const child of [...container.children]) {
    if (wanted.has(child.dataset.key)) known.set(child.dataset.key, child);
    else child.remove();
  }
  let cursor = container.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    if (!node) {
      node = make(item);
      node.dataset.key = key;
    }
    fill(node, item);
    if (node === cursor) cursor = cursor.nextElementSibling;
    else container.insertBefore(node, cursor);
  }
}

/* Increases per step without the last one: it is not over yet, and would look like a fall. */
const finished = (points) => points.slice(0, -1);

/* A sparkline without axes: the numbers stand beside it, so it is hidden from assistive technology. A gap stays a gap. */
function chart(container, lines, height) {
  let svg = container.firstElementChild;
  if (!svg) {
    svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of [["viewBox", `0 0 100 ${height}`], ["preserveAspectRatio", "none"], ["height", height], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
    for (const { kind } of lines) {
      for (const part of ["area", "line"]) {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", `${part} ${kind}`.trim());
        svg.append(path);
      }
    }
    container.append(svg);
  }
  const values = lines.flatMap(({ points }) => points).filter((value) => value !== null);
  const top = Math.max(...values, 0) || 1;
  lines.forEach(({ points }, index) => {
    const [area, line] = paths(points, top, height);
    mark(svg.children[index * 2], "d", area);
    mark(svg.children[index * 2 + 1], "d", line);
  });
}

function paths(points, top, height) {
  if (!points.some((value) => value)) return ["", ""]; // nothing happened: no line
  const step = 100 / Math.max(1, points.length - 1);
  const at = (value) => (height - 1.5 - (value / top) * (height - 4)).toFixed(2);
  let area = "";
  let line = "";
  let from = -1;
  points.forEach((value, index) => {
    if (value === null) return;
    const x = (index * step).toFixed(2);
    if (from < 0) {
      from = index;
      area += `M${x} ${height}L${x} ${at(value)}`;
      line += `M${x} ${at(value)}h0.01`;
    } else {
      area += `L${x} ${at(value)}`;
      line += `L${x} ${at(value)}`;
    }
    if (index === points.length - 1 || points[index + 1] === null) {
      area += `L${x} ${height}Z`;
      from = -1;
    }
  });
  return [area, line];
}

const instant = (timestamp) => new Date(timestamp);

function clock(node, timestamp) {
  const date = instant(timestamp);
  write(node, formats.time.format(date));
  mark(node, "datetime", timestamp);
  mark(node, "title", formats.full.format(date));
}

function ago(timestamp, now) {
  return span((instant(now) - instant(timestamp)) / 1000);
}

// --- the overview ---------------------------------------------------------------------------------------------------

function showOverview(data) {
  const overview = $("overview");
  overview.setAttribute("aria-busy", "false");
  write($("service"), data.service);
  document.title = say("title", { service: data.service });
  showHealth(data.health);
  showVitals(data);
  showAlerts(data);
  showIndicators(data);
  showRows(data);
  showErrors(data);
  showBooks(data);
  showRecords(data);
}

function showHealth(health) {
  const pill = $("health");
  const state = health.status === "healthy" && health.active_alerts ? "alerts" : health.status;
  mark(pill, "data-state", state);
  const parts = health.status === "unknown" ? [] : [say(health.status)];
  if (health.active_alerts === null) parts.push(say("alerts_unknown"));
  else if (health.active_alerts) parts.push(say("alerts_firing", { count: count(health.active_alerts) }));
  write(pill, parts.join(" · "));
  pill.hidden = false;
}

function showVital(card, value, format, note, lines, { bad = false, unknown = "unknown" } = {}) {
  const reading = card.querySelector(".figure");
  figure(reading.firstElementChild, value, format, { unknown });
  mark(reading, "data-state", value === null ? "unknown" : bad ? "bad" : "known");
  write(card.querySelector(".note"), note.filter(Boolean).join(" · "));
  chart(card.querySelector(".chart"), lines, 44);
}

function showVitals(data) {
  const range = say(`range_${data.time_range}`);
  const { requests, operations_total: operations } = data;
  showVital(
    $("vital-requests"),
    requests.per_second,
    rate,
    [
      requests.total !== null && say("in_range", { count: count(requests.total), range }),
      requests.active !== null && say("in_flight", { count: count(requests.active) }),
      requests.streams !== null && requests.streams > 0 && say("streams_open", { count: count(requests.streams) }),
    ],
    [{ kind: "", points: finished(requests.points) }],
  );
  showVital(
    $("vital-errors"),
    requests.error_ratio,
    ratio,
    [
      requests.total !== null && requests.total > 0 && say("of_total", { count: count(requests.failed), total: count(requests.total) }),
      requests.client_error_ratio !== null && say("client_errors", { ratio: ratio(requests.client_error_ratio) }),
    ],
    [{ kind: "bad", points: finished(requests.failed_points) }],
    { bad: requests.failed > 0, unknown: requests.total === 0 ? "no_traffic" : "unknown" },
  );
  showVital(
    $("vital-operations"),
    operations.per_second,
    rate,
    [
      operations.error_ratio !== null && say("failed_ratio", { ratio: ratio(operations.error_ratio) }),
      operations.total !== null && say("in_range", { count: count(operations.total), range }),
      operations.active !== null && say("in_flight", { count: count(operations.active) }),
    ],
    [{ kind: "", points: finished(operations.points) }, { kind: "bad", points: finished(operations.failed_points) }],
  );
  for (const name of ["p50", "p95", "p99"]) {
    const node = $(`latency-${name}`);
    const value = requests[`${name}_ms`];
    figure(node, value, took);
    mark(node, "data-state", value === null ? "unknown" : "known");
  }
  write(
    $("vital-latency").querySelector(".note"),
    requests.mean_ms === null ? "" : `${say("mean", { value: took(requests.mean_ms) })} · ${say("max", { value: took(requests.max_ms) })}`,
  );
  showScale($("vital-latency").querySelector(".scale"), requests);
}

/* p50, p95 and p99 on one logarithmic line from 1 ms to 10 s. */
function showScale(container, latency) {
  let svg = container.firstElementChild;
  if (!svg) {
    svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 300 10");
    svg.setAttribute("height", "10");
    svg.setAttribute("preserveAspectRatio", "none");
    for (const className of ["track", "reach"]) {
      const line = document.createElementNS(SVG, "line");
      line.setAttribute("class", className);
      svg.append(line);
    }
    for (let index = 0; index < 3; index += 1) {
      const tick = document.createElementNS(SVG, "rect");
      tick.setAttribute("class", "tick");
      svg.append(tick);
    }
    container.append(svg);
  }
  const known = latency.p50_ms !== null;
  const at = (value) => 2 + (Math.min(4, Math.max(0, Math.log10(Math.max(value, 1e-9)))) / 4) * 296;
  const places = known ? [latency.p50_ms, latency.p95_ms, latency.p99_ms].map(at) : [];
  const [track, reach, ...ticks] = svg.children;
  for (const [name, value] of [["x1", 0], ["x2", 300], ["y1", 5], ["y2", 5]]) mark(track, name, String(value));
  for (const [name, value] of [["x1", places[0] ?? 0], ["x2", places[2] ?? 0], ["y1", 5], ["y2", 5]]) mark(reach, name, String(value));
  ticks.forEach((tick, index) => {
    for (const [name, value] of [["x", (places[index] ?? 0) - 1.5], ["y", 1], ["width", known ? 3 : 0], ["height", 8]]) mark(tick, name, String(value));
  });
}

function showAlerts(data) {
  const alerts = data.alerts ?? [];
  const unknown = data.alerts === null;
  let empty = say("not_recording");
  if (data.health.monitoring_active) empty = unknown ? say("alerts_untold") : say("alerts_empty", { rules: count(data.alert_rules) });
  write($("alerts-empty"), empty);
  $("alerts-empty").hidden = alerts.length > 0 && data.health.monitoring_active;
  const more = (data.health.active_alerts ?? 0) - alerts.length;
  $("alerts-more").hidden = more <= 0;
  write($("alerts-more"), say("more_rows", { count: count(more) }));
  list(
    $("alerts"),
    alerts,
    (alert) => alert.rule_name,
    () => {
      const item = element("li", "alert");
      item.append(element("span", "severity"), element("span", "name"), element("span", "since note"), element("p", "what"));
      return item;
    },
    (item, alert) => {
      const [severity, name, since, what] = item.children;
      mark(item, "data-severity", alert.severity);
      write(severity, alert.severity);
      write(name, alert.rule_name);
      write(since, alert.started_at ? say("alert_since", { ago: ago(alert.started_at, data.timestamp) }) : "");
      const labels = Object.entries(alert.labels ?? {}).map(([label, value]) => `${label}=${value}`).join(", ");
      const text = say("alert_condition", {
        metric: alert.metric_name + (labels ? ` {${labels}}` : ""),
        value: alert.current_value === null ? say("unknown") : significant(alert.current_value),
        condition: CONDITIONS[alert.condition] ?? alert.condition,
        threshold: count(alert.threshold),
      });
      if (what.dataset.text !== text + alert.runbook_url) {
        what.dataset.text = text + alert.runbook_url;
        what.replaceChildren(text);
        if (/^https?:\/\//.test(alert.runbook_url ?? "")) {
          const runbook = element("a", "", say("runbook"));
          runbook.href = alert.runbook_url;
          runbook.rel = "noreferrer";
          what.append(" · ", runbook);
        }
      }
    },
  );
}

function showIndicators(data) {
  write($("indicators-empty"), say("indicators_empty"));
  $("indicators-empty").hidden = data.indicators.length > 0;
  list(
    $("indicators"),
    data.indicators,
    (indicator) => indicator.key,
    () => {
      const item = element("li", "indicator");
      const reading = element("p", "reading");
      reading.append(document.createElement("data"));
      item.append(element("h3", "title"), element("p", "state"), reading, element("p", "bound"), element("div", "chart"));
      return item;
    },
    (item, indicator) => {
      const [title, state, reading, bound, trend] = item.children;
      mark(item, "data-state", indicator.state);
      write(title, indicator.title[settings.language]);
      write(state, say(`state_${indicator.state}`));
      figure(reading.firstElementChild, indicator.value, (value) => measured(value, indicator.unit));
      const over = indicator.kind === "latest" ? say("now") : say("over_window", { range: windowSpan(indicator.window) });
      const limit = indicator.threshold === null ? say("no_threshold") : say("below", { value: measured(indicator.threshold, indicator.unit) });
      write(bound, `${over} · ${limit}`);
      chart(trend, [{ kind: indicator.state === "over" ? "bad" : "", points: indicator.kind === "latest" ? indicator.points : finished(indicator.points) }], 22);
    },
  );
}

function showRows(data) {
  const routes = settings.rows === "routes";
  const rows = routes ? data.routes : data.operations;
  const known = routes ? data.routes_known : data.operations_known;
  mark($("operations"), "data-rows", settings.rows);
  write($("operations-name"), say(routes ? "route" : "operation"));
  write($("operations-empty"), say(routes ? "routes_empty" : "operations_empty"));
  $("operations-empty").hidden = rows.length > 0;
  $("operations").hidden = rows.length === 0;
  write($("operations-more"), say("more_rows", { count: count(known - rows.length) }));
  $("operations-more").hidden = known <= rows.length;
  const name = (row) => (routes ? `${row.method} ${row.route}` : row.operation);
  const columns = [
    ["rate", "per_second", rate],
    ["count", "total", count],
    ["failed", "error_ratio", ratio],
    ["p50", "p50_ms", took],
    ["p95", "p95_ms", took],
    ["p99", "p99_ms", took],
    ["active", "active", count],
  ];
  list(
    $("operations").tBodies[0],
    rows,
    (row) => `${settings.rows}:${name(row)}`,
    () => {
      const line = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      const trend = document.createElement("td");
      trend.append(element("div", "chart"));
      line.append(head, trend);
      for (const [label] of columns) {
        const cell = document.createElement("td");
        const value = document.createElement("data");
        value.dataset.column = label;
        cell.append(value);
        line.append(cell);
      }
      return line;
    },
    (line, row) => {
      write(line.children[0], name(row));
      chart(line.children[1].firstElementChild, [{ kind: "", points: finished(row.points) }, { kind: "bad", points: finished(row.failed_points) }], 20);
      columns.forEach(([label, key, format], index) => {
        const cell = line.children[index + 2];
        mark(cell, "data-label", say(label));
        figure(cell.firstElementChild, row[key], format, { short: true });
      });
      line.children[4].classList.toggle("bad", row.failed > 0);
    },
  );
}

function showErrors(data) {
  write($("errors-empty"), say("errors_empty"));
  $("errors-empty").hidden = data.errors.length > 0;
  list(
    $("errors"),
    data.errors,
    (error) => JSON.stringify([error.operation, error.error_code, error.error_type]),
    () => {
      const item = document.createElement("li");
      item.append(element("span", "code"), element("data", "count"), element("span", "where"), element("a", "when"), element("p", "sample"));
      return item;
    },
    (item, error) => {
      const [code, total, where, when, sample] = item.children;
      write(code, error.error_code);
      figure(total, error.count, count);
      write(where, error.operation);
      write(when, error.last_seen ? say("last_seen", { ago: ago(error.last_seen, data.timestamp) }) : "");
      if (error.correlation_id) {
        mark(when, "href", `#id=${encodeURIComponent(error.correlation_id)}`);
        mark(when, "title", say("show_id", { id: error.correlation_id }));
      } else when.removeAttribute("href");
      write(sample, error.message ?? "");
    },
  );
}

function showBooks(data) {
  const signals = Object.entries(data.books);
  write($("books-empty"), say("books_unknown"));
  $("books-empty").hidden = signals.length > 0;
  list(
    $("books"),
    signals,
    ([signal]) => signal,
    () => {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      return row;
    },
    (row, [signal, entries]) => {
      write(row.children[0], named("signal", signal));
      const shown = Object.entries(entries).filter(([name, value]) => value || name === "produced" || name === "delivered");
      if (!shown.some(([name]) => name.startsWith("dropped"))) shown.push(["dropped", 0]);
      list(
        row.children[1],
        shown,
        ([name]) => name,
        () => {
          const item = document.createElement("span");
          item.append(element("span", "key"), " ", document.createElement("data"));
          return item;
        },
        (item, [name, value]) => {
          write(item.firstElementChild, bookName(name));
          figure(item.lastElementChild, value, count);
          item.classList.toggle("bad", value > 0 && (name.startsWith("dropped") || name === "lost_on_crash"));
        },
      );
    },
  );
}

/* The translated name of something the service names; its own name where the page knows no other. */
function named(kind, name) {
  const key = `${kind}_${name}`;
  return key in MESSAGES[settings.language] ? say(key) : name.replaceAll("_", " ");
}

function bookName(name) {
  return name.startsWith("dropped_") ? `${say("book_dropped")} (${name.slice(8)})` : named("book", name);
}

function showRecords(data) {
  write($("records-empty"), say(settings.level === "0" ? "records_empty" : "records_empty_filter"));
  $("records-empty").hidden = data.records.length > 0;
  list(
    $("records"),
    data.records,
    (record) => record.cursor,
    () => {
      const item = element("li", "record");
      const message = element("span", "message");
      message.append(element("span", "chip"), document.createElement("span"));
      item.append(document.createElement("time"), element("span", "level"), element("span", "operation"), message, element("data", "took"), element("a", "to-id"));
      return item;
    },
    (item, record) => {
      const [time, level, operation, message, duration, id] = item.children;
      const [chip, words] = message.children;
      clock(time, record.timestamp);
      mark(level, "data-level", record.level);
      write(level, record.level);
      const where = [record.operation || record.logger, record.step].filter(Boolean).join(" › ");
      write(operation, where);
      mark(operation, "title", where);
      chip.hidden = !record.error_code;
      write(chip, record.error_code);
      write(words, record.message);
      if (record.duration_ms === null) {
        write(duration, "");
        duration.removeAttribute("value");
      } else figure(duration, record.duration_ms, took);
      id.hidden = !record.correlation_id;
      if (record.correlation_id) {
        write(id, record.correlation_id);
        mark(id, "href", `#id=${encodeURIComponent(record.correlation_id)}`);
        mark(id, "title", say("show_id", { id: record.correlation_id }));
      }
    },
  );
}

// --- all records of one correlation id ------------------------------------------------------------------------------

function showTrace(data) {
  write($("trace-id"), data.correlation_id);
  const { records } = data;
  write($("trace-empty"), say("trace_empty"));
  $("trace-empty").hidden = records.length > 0;
  const first = records[0]?.timestamp;
  const whole = records.length ? instant(records.at(-1).timestamp) - instant(first) : 0;
  const summary = records.length ? say("trace_summary", { count: count(records.length), duration: took(whole) }) : "";
  write($("trace-summary"), data.truncated ? `${summary}. ${say("trace_truncated", { count: count(records.length) })}` : summary);
  list($("trace-records"), records, (record) => record.cursor, makeTraceRecord, (item, record) => {
    const [offset, level, message, duration, more] = item.children;
    mark(item, "data-level", record.level);
    write(offset, `+${took(Math.max(0, instant(record.timestamp) - instant(first)))}`);
    mark(offset, "title", formats.full.format(instant(record.timestamp)));
    mark(level, "data-level", record.level);
    write(level, record.level);
    write(message, record.message);
    if (record.duration_ms !== null && record.duration_ms !== undefined) figure(duration, record.duration_ms, took);
    const stack = more.querySelector("summary");
    if (stack) write(stack, say("stack_trace"));
    const defect = more.querySelector(".defect");
    if (defect) write(defect, say("defect"));
  });
}

/* A record never changes once it is written, so all that needs no translation is filled in here. */
function makeTraceRecord(record) {
  const item = element("li", "trace-record");
  const more = element("div", "more");
  more.append(element("p", "operation", [record.operation ?? record.logger, record.step].filter(Boolean).join(" › ")));
  const { error } = record;
  if (error) {
    const line = element("p", "error");
    line.append(element("span", "chip", error.code), `${error.type}: ${error.message}`);
    if (error.is_defect) line.append(" ", element("span", "chip defect"));
    more.append(line);
    if (error.stack_trace) {
      const details = document.createElement("details");
      details.append(document.createElement("summary"), element("pre", "", error.stack_trace));
      more.append(details);
    }
  }
  const fields = Object.entries(record.context ?? {});
  if (fields.length) {
    const shown = element("dl", "fields");
    for (const [name, value] of fields) {
      const pair = document.createElement("div");
      pair.append(element("dt", "", name), element("dd", "", typeof value === "string" ? value : JSON.stringify(value)));
      shown.append(pair);
    }
    more.append(shown);
  }
  item.append(element("time", "offset"), element("span", "level"), element("p", "message"), element("data", "took"), more);
  return item;
}

function followHash() {
  const hash = location.hash;
  let id = null;
  if (hash.startsWith("#id=")) {
    try {
      id = decodeURIComponent(hash.slice(4));
    } catch {
      id = hash.slice(4); // not well encoded: the service will say that it is no id
    }
  }
  if (id === view.id && link.request) return;
  const back = view.id !== null && id === null;
  if (view.id === null && id !== null) {
    view.scroll = scrollY;
    view.from = document.activeElement?.closest?.("[data-key]")?.dataset.key ?? null;
  }
  view.id = id;
  view.trace = null;
  Object.assign(link, { failures: 0, problem: null });
  $("trace").hidden = id === null;
  $("overview").hidden = id !== null;
  $("trace-records").replaceChildren();
  write($("trace-id"), id ?? "");
  write($("trace-summary"), id === null ? "" : say("loading"));
  $("trace-empty").hidden = true;
  if (id !== null) {
    scrollTo(0, 0);
    $("trace-title").focus({ preventScroll: true });
  } else if (back) {
    scrollTo(0, view.scroll);
    const from = [...$("records").children].find((row) => row.dataset.key === view.from);
    from?.lastElementChild.focus({ preventScroll: true });
  }
  ask();
}

// --- asking, once a second ------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status) {
    super(`status ${status}`);
    this.status = status;
  }
}

async function ask() {
  clearTimeout(link.timer);
  link.request?.abort();
  const request = new AbortController();
  link.request = request;
  const deadline = setTimeout(() => request.abort(), TIMEOUT_MS);
  const startedAt = performance.now();
  const id = view.id;
  const address = id === null
    ? `api/overview?time_range=${settings.range}&min_level=${settings.level}`
    : `api/records/${encodeURIComponent(id)}`;
  try {
    const response = await fetch(address, { signal: request.signal, cache: "no-store", headers: { Accept: "application/json" } });
    if (!response.ok) throw new Refused(response.status);
    const data = await response.json();
    if (request !== link.request) return;
    Object.assign(link, { answeredAt: performance.now(), answeredTime: new Date(), failures: 0, problem: null });
    if (id === null) view.overview = data;
    else view.trace = data;
    show();
    schedule(Math.max(200, PERIOD_MS - (performance.now() - startedAt)));
  } catch (problem) {
    if (request !== link.request) return; // a newer question has taken its place
    link.failures += 1;
    link.problem = problem;
    if (id !== null && problem.status === 422) write($("trace-summary"), "");
    schedule(Math.min(LONGEST_WAIT_MS, 1000 * 2 ** Math.min(link.failures - 1, 8)));
  } finally {
    clearTimeout(deadline);
    if (request === link.request) showConnection();
  }
}

function schedule(wait) {
  link.nextAt = performance.now() + wait;
  clearTimeout(link.timer);
  if (!link.paused && !document.hidden) link.timer = setTimeout(ask, wait);
}

function show() {
  if (view.id === null && view.overview) showOverview(view.overview);
  if (view.id !== null && view.trace) showTrace(view.trace);
}

let announced = "";

function showConnection() {
  const silent = link.answeredAt === null ? 0 : performance.now() - link.answeredAt;
  let state = "live";
  if (link.failures) state = "disconnected";
  else if (link.paused) state = "paused";
  else if (link.answeredAt === null) state = "loading";
  else if (silent > STALE_MS) state = "stale";
  mark($("connection"), "data-state", state);
  const answered = link.answeredTime && formats.time.format(link.answeredTime);
  const word = say(state, { ago: span(silent / 1000) });
  write($("connection-text"), answered && state !== "stale" ? `${word} · ${answered}` : word);
  mark($("connection"), "title", answered ? say("updated", { time: answered }) : "");
  const old = state === "disconnected" || state === "stale";
  mark($("overview"), "data-stale", String(old));
  if (old) {
    mark($("health"), "data-state", "unknown"); // how a service is that does not answer, nobody knows
    write($("health"), say("unknown"));
  } else if (view.overview) showHealth(view.overview.health);
  if (announced !== state) {
    announced = state;
    write($("announce"), word);
  }
  showBanner();
}

function showBanner() {
  const { problem } = link;
  $("banner").hidden = !problem;
  if (!problem) return;
  let text;
  if (problem.status === 401 || problem.status === 403) text = say("error_denied");
  else if (problem.status === 422 && view.id !== null) text = say("error_record_id", { id: view.id });
  else if (problem.status) text = say("error_status", { status: problem.status });
  else if (link.answeredTime) text = say("error_unreachable", { time: formats.time.format(link.answeredTime) });
  else text = say("error_unreachable_first");
  const wait = Math.max(0, Math.ceil((link.nextAt - performance.now()) / 1000));
  write($("banner-text"), text);
  write($("banner-wait"), link.paused ? "" : say("retry_in", { seconds: count(wait) }));
}

// --- what a person can change ---------------------------------------------------------------------------------------

function translate() {
  document.documentElement.lang = settings.language;
  makeFormats();
  for (const node of document.querySelectorAll("[data-i18n]")) write(node, say(node.dataset.i18n));
  mark($("language"), "lang", settings.language === "en" ? "ko" : "en");
  write($("theme"), say(`theme_${settings.theme}`));
  write($("pause"), say(link.paused ? "resume" : "pause"));
  show();
  showConnection();
}

function applyTheme() {
  if (settings.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  write($("theme"), say(`theme_${settings.theme}`));
}

function change(name, value) {
  settings[name] = value;
  remembered.set(name, value);
}

function wire() {
  for (const name of ["range", "rows"]) {
    for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
      input.checked = input.value === settings[name];
      input.addEventListener("change", () => {
        change(name, input.value);
        if (name === "range") ask();
        else show();
      });
    }
  }
  $("level").value = settings.level;
  $("level").addEventListener("change", () => {
    change("level", $("level").value);
    ask();
  });
  $("language").addEventListener("click", () => {
    change("language", settings.language === "en" ? "ko" : "en");
    translate();
  });
  $("theme").addEventListener("click", () => {
    const order = ["system", "light", "dark"];
    change("theme", order[(order.indexOf(settings.theme) + 1) % order.length]);
    applyTheme();
  });
  $("pause").addEventListener("click", () => {
    link.paused = !link.paused;
    mark($("pause"), "aria-pressed", String(link.paused));
    write($("pause"), say(link.paused ? "resume" : "pause"));
    if (link.paused) clearTimeout(link.timer);
    else ask();
    showConnection();
  });
  $("retry").addEventListener("click", ask);
  $("copy").hidden = !navigator.clipboard;
  $("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    write($("announce"), say("copied"));
    write($("copy"), say("copied"));
    setTimeout(() => write($("copy"), say("copy_link")), 2000);
  });
  addEventListener("hashchange", followHash);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(link.timer);
    else if (!link.paused) ask();
  });
  setInterval(showConnection, 1000);
}

// A one-time token has done its work; it belongs neither in the history nor in a copied link.
if (location.search) history.replaceState(history.state, "", location.pathname + location.hash);
applyTheme();
translate();
wire();
followHash();
