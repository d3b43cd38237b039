// Keeps the status page true: parts that the guard wrote, put where older ones stood; two charts; times that go on.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const live = byId("live"), pause = byId("pause");
  // A summary is said aloud by a screen reader, so it isn't changed more often.
  const SUMMARY = 10_000, KEPT = 300, RETRY = 15_000;
  let source = null, retry = 0, paused = false, offset = 0, heard = 0, at = 0;
  let summary = null, summaryAt = 0, waiting = 0;
  let points = [];

  const length = (seconds) => {
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
    return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds / 3600) % 24} h`;
  };
  const times = () => {
    const now = Date.now() + offset;
    for (const time of document.querySelectorAll("main time, .about time")) {
      const ms = Date.parse(time.dateTime) - now;
      let text = null;
      if ("ago" in time.dataset) text = `${length(Math.max(0, Math.floor(-ms / 1000)))} ago`;
      else if ("for" in time.dataset) text = length(Math.max(0, Math.floor(-ms / 1000)));
      else if ("left" in time.dataset) text = length(Math.max(0, Math.ceil(ms / 1000)));
      if (text !== null && text !== time.textContent) time.textContent = text;
    }
  };
  // The text is the guard's own, in which whatever strangers wrote is escaped; the page's policy lets no script of it run.
  const put = (id, html) => {
    const part = byId(`part-${id}`);
    if (part && part.innerHTML !== html) part.innerHTML = html;
  };
  const say = () => {
    waiting = 0;
    if (summary !== null) put("summary", summary);
    summary = null;
    summaryAt = Date.now();
  };
  const show = (state) => {
    live.textContent = state;
  };

  // Charts.
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let charts = [];
  const chart = (id, series) => {
    const box = byId(id);
    const axis = (more) => ({ stroke: css("--faint"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif", ...more });
    const number = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
    const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);
    const value = (_, raw) => (raw == null ? "–" : number.format(raw));
    return new uPlot(
      {
        width: Math.max(200, box.clientWidth), height: 170,
        cursor: { y: false, drag: { x: false, y: false } },
        scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1 || 0)] } },
        axes: [
          axis({ space: 90, size: 30, values: (_, all) => all.map((seconds) => clock(seconds)) }),
          axis({ size: 44, values: (_, all) => all.map((raw) => number.format(raw)) }),
        ],
        series: [
          { label: "UTC", value: (_, seconds) => (seconds == null ? "–" : clock(seconds)) },
          ...series.map(([label, color]) => ({ label, stroke: css(color), width: 1.5, points: { show: false }, value })),
        ],
      },
      [[], ...series.map(() => [])],
      box,
    );
  };
  const draw = () => {
    if (charts.length === 0) return;
    const column = (at) => points.map((point) => point[at]);
    charts[0].setData([column(0), column(1)]);
    charts[1].setData([column(0), column(3), column(2)]);
  };
  const build = () => {
    charts.forEach((old) => old.destroy());
    charts = [];
    if (typeof uPlot === "undefined") return;
    byId("charts").hidden = false;
    charts = [
      chart("chart-drops", [["Dropped", "--drops"]]),
      chart("chart-mail", [["Accepted", "--accepted"], ["Refused", "--refused"]]),
    ];
    draw();
  };
  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => {
      for (const one of charts) one.setSize({ width: Math.max(200, one.root.parentElement.clientWidth), height: 170 });
    });
  });
  dark.addEventListener("change", build);

  // What the guard says.
  const take = (whole) => (event) => {
    heard = Date.now();
    const told = JSON.parse(event.data);
    at = told.at;
    offset = told.at - heard;
    if (document.title !== told.title) document.title = told.title;
    for (const [id, html] of Object.entries(told.parts)) {
      if (id !== "summary") put(id, html);
      else {
        summary = html;
        if (!waiting) waiting = setTimeout(say, Math.max(0, summaryAt + SUMMARY - heard));
      }
    }
    points = (whole ? told.points : points.concat(told.points)).slice(-KEPT);
    draw();
    times();
    show("Live");
  };
  const connect = () => {
    clearTimeout(retry);
    source = new EventSource("/page/stream");
    source.addEventListener("all", take(true));
    source.addEventListener("change", take(false));
    source.addEventListener("error", () => {
      // The browser comes back by itself, unless it was refused.
      if (source && source.readyState === EventSource.CLOSED && !paused) {
        source = null;
        show("Not live: too many pages are open, or the guard refuses. Trying again");
        retry = setTimeout(connect, RETRY);
      }
    });
  };
  const disconnect = () => {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  };
  const since = () => `as of ${new Date(at).toISOString().slice(11, 19)} UTC`;
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) {
      disconnect();
      show(at ? `Paused, ${since()}` : "Paused");
    } else connect();
  });
  // Nobody looks at a page in the background.
  document.addEventListener("visibilitychange", () => {
    if (paused) return;
    if (document.hidden) disconnect();
    else if (!source) connect();
  });
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => {
    if (event.persisted && !paused && !source) connect();
  });
  setInterval(() => {
    if (paused) return;
    times();
    if (heard && source && Date.now() - heard > 5000) show(`The guard doesn't answer; ${since()}`);
  }, 1000);
  summaryAt = Date.now() - SUMMARY;
  build();
  connect();
})();
