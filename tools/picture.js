/* Put behind a report page by tools/pictures: takes the page's own drawings and leaves one picture, PICTURE, of a
 * lesson. Figures are those of the runs in the page; what is not in a log is in FIGURES, which tools/pictures computes. */
'use strict';
(() => {
  const {runs} = window.brimReport, WIDTH = 780;
  const style = 'body{background:#fff;overflow:hidden} main,header,footer{display:none!important} #picture{width:' + WIDTH + 'px;padding:14px 16px 12px;background:#fff}' +
    '#picture h3{font-size:15px;margin-bottom:2px} #picture h3+p,#picture p{color:var(--soft);font-size:13px;margin:0} #picture .legend{margin-top:6px} #picture .part+.part{margin-top:14px} .level{stroke:var(--soft)} .planned{display:none} #picture .chart{margin-top:8px}';
  document.head.append(h('style', {}, style));
  const box = h('div', {id: 'picture'});

  /* A chart without its cursor. */
  function still(svg, width) {
    svg.setAttribute('viewBox', '0 0 ' + width + ' ' + svg.getAttribute('height'));
    svg.setAttribute('width', width);
    return h('div', {class: 'chart'}, svg);
  }
  function stepOf(run, id, most) {
    const v = run.views[id];
    return still(drawTimeline(run, {id, axis: 'event', from: v.from, to: v.to, least: most || 0, height: most ? 300 : 400}, WIDTH), WIDTH);
  }
  function seen(run, id) {
    const v = run.views[id];
    return run.order.filter(c => { for (let i = v.from; i < v.to; i++) if (run.by[i * run.C + c] * 200 > run.books.peak_bytes) return true; return false; });
  }
  function peakIn(run, id) { return run.total[highest(run, run.views[id].from, run.views[id].to)]; }
  function titled(title, text) { return [h('h3', {}, title), text ? h('p', {}, text) : null]; }
  function batch(run) { return 'batch ' + run.options.batch + (run.options.accumulate > 1 ? ' \u00d7 accumulate ' + run.options.accumulate : ''); }

  const pictures = {
    /* One step: activations pile up in forward; in backward gradients take their place. */
    step() {
      const [run] = runs;
      put(box, titled('One step of ' + run.info.model + ', ' + batch(run), 'Each allocation and each free, in order, stacked by component.'), stepOf(run, 'step2'), legend(run, seen(run, 'step2')));
    },
    /* Two runs over each other. */
    overlay() {
      const [a, b] = runs, part = overlay(a, b), chart = part.probe.chart;
      put(box, titled(a.info.model + ', ' + batch(a) + ': A without checkpointing, B with every block checkpointed'), chart.node);
      document.body.append(box);
      chart.draw();
      for (const mark of box.querySelectorAll('.cursor, .dot-a, .dot-b')) mark.remove();
    },
    /* The same effective batch at once and in parts, on one scale. */
    parts() {
      const most = Math.max(...runs.map(run => peakIn(run, 'step2')));
      for (const run of runs) put(box, h('div', {class: 'part'}, titled(run.info.model + ', ' + batch(run) + ': peak ' + size(peakIn(run, 'step2'))), stepOf(run, 'step2', most)));
      put(box, legend(runs[0], seen(runs[0], 'step2')));
    },
    /* Bytes a parameter, by convention. */
    bytes() {
      const rows = FIGURES.conventions, most = Math.max(...rows.map(r => r.parts.reduce((a, [, b]) => a + b, 0)));
      const left = 250, right = 60, H = 24, gap = 12, scale = (WIDTH - left - right) / most, svg = s('svg', {height: rows.length * (H + gap) + 22});
      rows.forEach((row, i) => {
        const y = i * (H + gap) + 4, total = row.parts.reduce((a, [, b]) => a + b, 0);
        let x = left;
        svg.append(s('text', {x: left - 10, y: y + 17, 'text-anchor': 'end', class: 'strong', style: {'font-size': '13px'}}, row.name));
        for (const [name, bytes, text] of row.parts) {
          const wide = bytes * scale;
          svg.append(s('rect', {x: fixed(x), y, width: Math.max(.8, fixed(wide - 1)), height: H, rx: 2, style: {fill: paint(name)}}));
          if (wide > 26) svg.append(s('text', {x: fixed(x + wide / 2), y: y + 17, 'text-anchor': 'middle', class: 'inside ' + onPaint(name)}, text || plainNumber(Number(bytes.toPrecision(3)))));
          x += wide;
        }
        svg.append(s('text', {x: fixed(x + 8), y: y + 17, class: 'strong', style: {'font-size': '13px'}}, total < 4 ? total.toFixed(2) : plainNumber(total)));
      });
      const words = {parameter: 'weights', gradient: 'gradients', master: 'fp32 master copy', optimizer: 'Adam\u2019s two states'};
      put(box, titled('Bytes a parameter', 'LoRA and QLoRA: of Llama 3.1 8B, all model states divided by its 8.03 billion parameters; what is trained is the thin end.'), still(svg, WIDTH),
        h('ul', {class: 'legend'}, Object.entries(words).map(([name, text]) => h('li', {}, swatch(name), text))));
    },
    /* What lies in what: here, and by PyTorch's rules on a card. Not to scale. */
    boxes() {
      const [run] = runs, m = run.memory, p = run.pytorch, wide = WIDTH / 2 - 10, svg = s('svg', {height: 330});
      const nest = (x, title, layers) => {
        svg.append(s('text', {x, y: 14, class: 'strong', style: {'font-size': '13px'}}, title));
        layers.forEach(([name, bytes, note], i) => {
          const top = 26 + 38 * i, side = 12 * i, height = 330 - 26 - 2 - 38 * i - 10 * i;
          svg.append(s('rect', {x: x + side, y: top, width: wide - 2 * side, height, rx: 6, style: {fill: ['#f3f3ef', '#e6ebf3', '#d5def0', '#c2d0ec', '#aec3e8'][i + 5 - layers.length], stroke: 'var(--soft)', 'stroke-width': '1'}}),
            s('text', {x: x + side + 10, y: top + 16, class: 'strong'}, name), s('text', {x: x + wide - side - 10, y: top + 16, class: 'strong', 'text-anchor': 'end'}, bytes),
            s('text', {x: x + side + 10, y: top + 31}, note));
        });
        const i = layers.length, y = 26 + 38 * i + 4, from = x + 12 * i, long = wide - 24 * i;
        let at = from;
        for (const c of run.order) {
          const part = atPeak(run, run.components[c]) / run.books.peak_bytes * long;
          if (part > .3) svg.append(s('rect', {x: fixed(at), y, width: fixed(part), height: 330 - y - 12 * i, style: {fill: paint(run.components[c])}}));
          at += part;
        }
      };
      nest(0, 'brim, on this machine', [['process', size(m.process.peak_bytes), 'libraries, stacks, BLAS buffers'], ['reserved', size(m.needs_bytes), 'one piece, made once: what is needed, exactly'],
        ['needs', size(m.needs_bytes), 'gaps between blocks: ' + size(m.needs_bytes - m.peak_bytes)], ['live', size(m.peak_bytes), 'at the peak, rounded to 64 bytes']]);
      nest(WIDTH / 2 + 10, 'the same requests by the rules of PyTorch\u2019s allocator', [['card', FIGURES.card.bytes, FIGURES.card.note], ['process', FIGURES.process(p.peak_reserved), FIGURES.context],
        ['reserved', size(p.peak_reserved), 'in ' + plural(p.small_segments + p.large_segments, 'segment') + ' that are kept'], ['allocated', size(p.peak_allocated), 'rounded to 512 bytes'], ['live', size(p.peak_requested), 'as requested']]);
      const shown = run.order.filter(c => atPeak(run, run.components[c]) * 100 > run.books.peak_bytes);
      put(box, titled('What lies in what: ' + run.info.model + ', ' + batch(run) + ', checkpoint ' + run.options.checkpoint, 'Boxes are not to scale; the strip inside is what is live at the peak.'), still(svg, WIDTH), legend(run, shown));
    },
  };
  pictures[PICTURE]();
  document.body.append(box);
  document.title = 'picture ' + Math.ceil(box.getBoundingClientRect().height) + ' high';
})();
