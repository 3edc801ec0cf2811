'use strict'
// The inspector of a run. Everything it shows was computed in Python and stands in #data; it loads nothing, and puts text into the page as text.
;(() => {

const $ = id => document.getElementById(id)
const SVG = 'http://www.w3.org/2000/svg'

function fill(node, attributes, inside) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, '')
    else if (value !== null && value !== false && value !== undefined) node.setAttribute(name, value)
  }
  node.append(...inside.flat().filter(x => x !== null && x !== undefined && x !== ''))
  return node
}
const make = (tag, attributes, ...inside) => fill(document.createElement(tag), attributes, inside)
const draw = (tag, attributes, ...inside) => fill(document.createElementNS(SVG, tag), attributes, inside)

// ---- the data

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0))
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))
  const whole = new Uint8Array(await new Response(stream).arrayBuffer())
  let at = 4 + new DataView(whole.buffer).getUint32(0, true)
  const about = JSON.parse(new TextDecoder().decode(whole.subarray(4, at)))
  const arrays = {}
  for (const { name, n, whole: isWhole, base } of about.arrays) {
    const bits = base ? new Uint32Array(arrays[base].buffer.slice(0)) : new Uint32Array(n)
    for (let plane = 0; plane < 4; plane++, at += n)
      for (let i = 0; i < n; i++) bits[i] ^= whole[at + i] << 8 * plane
    arrays[name] = isWhole ? bits : new Float32Array(bits.buffer)
  }
  return [about, arrays]
}

let run, arrays
const at = { s: 0, g: 0, r: 0, t: -1, kind: '', beside: '', epsilon: null, beta: null, loss: null, query: '' }
const step = () => run.steps[at.s]
const group = () => step().groups[at.g]
const row = () => group().rows[at.r]
const has = name => name in arrays
const piece = i => run.vocab[arrays.piece[i]]
const shown = i => piece(i).replaceAll('\n', '⏎\n') || '·' // A token in the middle of a character has no text of its own
const trained = i => arrays.flags[i] & 1
const textOf = r => r.text ?? Array.from({ length: r.n }, (_, k) => k).filter(k => !(arrays.flags[r.at + k] & 8)).map(k => piece(r.at + k)).join('')

function number(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return '–'
  const size = Math.abs(x)
  if (size === 0 || size === Infinity) return String(x)
  if (size < 1e-3) return x.toExponential(3)
  if (size < 1) return x.toPrecision(4)
  return size < 100 ? x.toFixed(4) : String(+x.toPrecision(5))
}
const short = x => x === null || x === undefined ? '–' : Math.abs(x) >= 1000 || Number.isInteger(x) ? String(Math.round(x)) : String(+x.toPrecision(3))
const signed = x => Number.isFinite(x) ? (x > 0 ? '+' : '') + x.toFixed(2) : '–'

// ---- the rules in force: as recorded, or one stop further

const beta = () => at.beta ?? step().beta
const changed = () => at.epsilon !== null || at.beta !== null || at.loss !== null
const variant = (name, plain) => {
  const stop = at.loss !== null ? `:loss_type=${at.loss}` : at.epsilon !== null ? `:epsilon=${at.epsilon}` : ''
  return arrays[name + stop] || arrays[plain || name]
}
function gradient(i) {
  if (at.loss !== null) return variant('gradient')[i]
  if (!changed()) return arrays.gradient[i]
  return variant('pull')[i] + (has('leash') && beta() ? beta() * arrays.leash[i] : 0)
}
const flagsOf = i => (at.loss === null && at.epsilon !== null ? variant('flags') : arrays.flags)[i]
const value = (kind, i) => kind === 'gradient' ? gradient(i) : has(kind) ? arrays[kind][i] : NaN

// ---- colours

const KINDS = {
  logp: { name: 'log-prob', low: 'certain', high: 'surprising', rgb: '230,159,0', of: x => -x },
  ratio: { name: 'ratio', low: 'less likely now', high: 'more likely now', both: true, of: x => Math.log(x) },
  kl: { name: 'KL', low: 'as the reference', high: 'far from it', rgb: '204,121,167', of: x => x, root: true },
  entropy: { name: 'entropy', low: 'no choice', high: 'open', rgb: '0,158,115', of: x => x },
  gradient: { name: 'gradient', low: 'pushed down', high: 'pushed up', both: true, of: x => -x },
}
const limits = {}
function limit(kind) { // The 99th percentile of the run, so that steps can be compared
  if (!(kind in limits)) {
    const { of } = KINDS[kind], sizes = []
    const every = Math.max(1, Math.floor(run.tokens / 20000))
    for (let i = 0; i < run.tokens; i += every) {
      const x = Math.abs(of(arrays[kind][i]))
      if (x > 0 && Number.isFinite(x)) sizes.push(x)
    }
    sizes.sort((a, b) => a - b)
    const least = kind === 'ratio' ? .05 : kind === 'logp' || kind === 'entropy' ? .5 : 1e-9
    limits[kind] = Math.max(least, sizes.length ? sizes[Math.floor(sizes.length * .99)] : 1)
  }
  return limits[kind]
}
const mixed = (colour, share) => `color-mix(in srgb, ${colour} calc(${share.toFixed(3)} * var(--most)), transparent)`
function shade(kind, x) {
  const { of, rgb, both, root } = KINDS[kind]
  const v = of(x) / limit(kind)
  if (!Number.isFinite(v) || v === 0) return ''
  const size = Math.min(1, Math.abs(v)), share = root ? Math.sqrt(size) : size
  return share < .02 ? '' : mixed(both ? (v > 0 ? 'var(--up)' : 'var(--down)') : `rgb(${rgb})`, share)
}

// ---- curves

function drawCurves() {
  const known = run.steps.map(s => s.step)
  const figures = run.curves.map(curve => {
    const points = curve.x.map((x, k) => [x, curve.y[k]]).filter(p => p[1] !== null)
    const lowX = Math.min(curve.x[0], known[0]), highX = Math.max(curve.x.at(-1), known.at(-1))
    const ys = points.map(p => p[1])
    const low = Math.min(...ys), high = Math.max(...ys)
    const px = x => highX > lowX ? 2 + 196 * (x - lowX) / (highX - lowX) : 100
    const py = y => high > low ? 50 - 44 * (y - low) / (high - low) : y ? 28 : 50
    const path = points.map(([x, y], k) => `${k ? 'L' : 'M'}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join('')
    const now = draw('line', { class: 'cursor', y1: 0, y2: 54 })
    const reading = make('b')
    const events = run.events.map(e => draw('line', { class: 'event', x1: px(e.step), x2: px(e.step), y1: 0, y2: 54 }, draw('title', {}, `step ${e.step}: ${e.text}`)))
    const picture = draw('svg', { viewBox: '0 0 200 54', preserveAspectRatio: 'none', role: 'img',
      'aria-label': `${curve.title}: from ${short(ys[0])} to ${short(ys.at(-1))}, between ${short(low)} and ${short(high)}` },
      draw('line', { class: 'ground', x1: 0, x2: 200, y1: 53, y2: 53 }), ...events, draw('path', { class: 'path', d: path }), now)
    const figure = make('figure', { class: 'curve', title: curve.hint }, make('figcaption', {}, make('span', {}, curve.title), reading), picture)
    figure.addEventListener('click', e => {
      const box = picture.getBoundingClientRect()
      const x = lowX + (highX - lowX) * ((e.clientX - box.left) / box.width * 200 - 2) / 196
      goStep(nearest(known, x))
    })
    figure.move = () => {
      const x = step().step
      now.setAttribute('x1', px(x)); now.setAttribute('x2', px(x))
      const k = curve.x.indexOf(x)
      reading.textContent = k < 0 ? '' : short(curve.y[k])
    }
    return figure
  })
  $('curves').replaceChildren(...figures)
}
const nearest = (list, x) => list.reduce((best, y, k) => Math.abs(y - x) < Math.abs(list[best] - x) ? k : best, 0)

// ---- search

let texts = null, hits = null
function search() {
  const query = at.query.toLowerCase()
  hits = null
  if (query) {
    texts ??= run.steps.map(s => s.groups.map(g => g.rows.map(r => textOf(r).toLowerCase())))
    hits = []
    texts.forEach((groups, s) => groups.forEach((rows, g) => rows.forEach((text, r) => { if (text.includes(query)) hits.push({ s, g, r }) })))
  }
  drawHits()
  drawGroup()
}
function drawHits() {
  const box = $('hits')
  box.hidden = !hits
  $('found').replaceChildren()
  if (!hits) return
  const counts = run.steps.map(() => 0)
  hits.forEach(h => counts[h.s]++)
  const most = Math.max(1, ...counts), wide = 1000 / counts.length
  counts.forEach((n, s) => n && $('found').append(draw('rect', { x: s * wide + wide * .1, width: wide * .8, y: 16 - 16 * n / most, height: 16 * n / most })))
  const steps = counts.filter(n => n).length
  const list = make('ol')
  for (const h of hits.slice(0, 200)) {
    const text = textOf(run.steps[h.s].groups[h.g].rows[h.r])
    const k = text.toLowerCase().indexOf(at.query.toLowerCase())
    const button = make('button', { type: 'button' }, make('span', { class: 'quiet' }, `step ${run.steps[h.s].step} · prompt ${run.steps[h.s].groups[h.g].number} · #${h.r + 1}  `),
      make('code', {}, text.slice(Math.max(0, k - 30), k), make('mark', {}, text.slice(k, k + at.query.length)), text.slice(k + at.query.length, k + 90)))
    button.addEventListener('click', () => go(h))
    list.append(make('li', {}, button))
  }
  const few = hits.length > 200 ? `; the first 200 of them:` : ''
  box.replaceChildren(make('p', {}, make('b', {}, `${hits.length} of ${run.completions} completions`), ` in ${steps} of ${counts.length} steps have “${at.query}”${few}`), list)
}

// ---- prompts and the group

function drawPrompts() {
  const buttons = step().groups.map((g, k) => {
    const pips = g.rows.slice(0, 16).map(r => make('i', { class: r.advantage > 0 ? 'up' : r.advantage < 0 ? 'down' : '' }))
    const button = make('button', { type: 'button', class: g.dead ? 'dead' : '', 'aria-current': String(k === at.g), title: g.dead ? `no signal: ${g.dead}` : '' },
      make('span', { class: 'name' }, g.name), make('span', { class: 'pips' }, pips, g.rows.length > 16 ? '…' : '', g.dead ? make('span', {}, g.dead) : ''))
    button.addEventListener('click', () => go({ g: k, r: 0 }))
    return button
  })
  $('prompts').replaceChildren(...buttons)
  const here = $('prompts').children[at.g]
  if (here) {
    const box = $('prompts')
    box.scrollLeft = here.offsetLeft - box.offsetLeft - 40
    box.scrollTop = here.offsetTop - box.offsetTop - 60
  }
}

const drawn = { most: 0 } // How many tokens of the chosen completion are in the page
function marks(r) { // Which tokens are part of what was searched
  const found = new Set()
  if (!at.query) return found
  const query = at.query.toLowerCase()
  let text = '', ends = []
  for (let k = 0; k < r.n; k++) { text += piece(r.at + k).toLowerCase(); ends.push(text.length) }
  for (let from = text.indexOf(query), k = 0; from >= 0; from = text.indexOf(query, from + query.length)) {
    while (ends[k] <= from) k++
    for (let j = k; j < r.n && (j ? ends[j - 1] : 0) < from + query.length; j++) found.add(j)
  }
  return found
}
function tokens(r, most, kind, chosen) {
  const body = make('div', { class: 'body', dir: 'ltr' })
  if (r.at < 0) {
    const text = textOf(r), query = at.query.toLowerCase(), k = query ? text.toLowerCase().indexOf(query) : -1
    body.classList.add('text')
    if (k < 0) body.append(text)
    else body.append(text.slice(0, k), make('mark', {}, text.slice(k, k + query.length)), text.slice(k + query.length))
    return body
  }
  const found = marks(r)
  for (let k = 0; k < Math.min(r.n, most); k++) {
    const i = r.at + k
    const t = make('span', { class: 't' }, shown(i))
    t.i = i
    if (!trained(i)) t.classList.add('foreign')
    if (found.has(k)) t.style.boxShadow = 'inset 0 -3px #e69f00'
    if (chosen) { t.tabIndex = k === Math.max(0, at.t) ? 0 : -1; t.setAttribute('role', 'button') }
    body.append(t)
  }
  paint(body, kind)
  return body
}
function paint(body, kind) {
  const kindNow = kind || at.kind
  for (const t of body.children) {
    if (t.i === undefined) continue
    const on = trained(t.i), flags = flagsOf(t.i)
    t.style.backgroundColor = on && kindNow in KINDS ? shade(kindNow, value(kindNow, t.i)) : ''
    t.classList.toggle('clip', Boolean(on && flags & 6))
    t.classList.toggle('other', Boolean(on && changed() && differs(t.i)))
  }
}
const differs = i => Math.abs(gradient(i) - arrays.gradient[i]) > 1e-3 * limit('gradient')

function gauge(advantage) {
  const share = Math.min(1, Math.abs(advantage) / 2.5) * 50
  const bar = make('i')
  bar.style.width = share + '%'
  bar.style.left = (advantage > 0 ? 50 : 50 - share) + '%'
  bar.style.background = advantage > 0 ? 'var(--up)' : 'var(--down)'
  return make('span', { class: 'gauge', 'aria-hidden': 'true' }, bar)
}
function headOf(r, k, g) {
  const parts = r.rewards.map((x, j) => `${run.rewards[j].replace(/_reward$/, '')} ${short(x)}`).join(' · ')
  const reward = r.reward === null && !parts ? null
    : make('span', { title: run.rewards.join(', ') }, parts && r.rewards.length > 1 ? `${parts} → ` : 'reward ', make('b', {}, short(r.reward)))
  const advantage = r.advantage === null || r.advantage === undefined ? null
    : make('span', { class: 'adv' }, 'advantage ', make('b', {}, signed(r.advantage)), gauge(r.advantage))
  return [make('button', { type: 'button', class: 'pick', 'aria-label': `Completion ${k + 1} of ${g.rows.length}` }, make('b', {}, `#${k + 1}`)), advantage, reward,
    make('span', {}, `${r.tokens} tokens`), make('span', { title: r.why }, r.why.replace(/ with \S+$/, ''))]
}
function drawGroup() {
  const g = group()
  const facts = g.facts.map(([name, text]) => make('span', {}, `${name}: `, make('code', {}, text)))
  $('question').replaceChildren(make('h2', {}, `Prompt ${g.number} of ${step().prompts}, step ${step().step}`), make('div', { class: 'text', dir: 'auto' }, g.prompt),
    make('div', { class: 'facts' }, facts), g.dead ? make('span', { class: 'dead-why' }, `No signal from this group: ${g.dead}`) : '')
  const beside = besideGroup()
  $('rows').replaceChildren(...g.rows.map((r, k) => drawRow(r, k, g, beside)))
}
function drawRow(r, k, g, beside) {
  const chosen = k === at.r
  const box = make('article', { class: chosen ? 'row chosen' : 'row', 'aria-current': chosen ? 'true' : null }, make('div', { class: 'head' }, headOf(r, k, g)))
  const most = chosen ? drawn.most : 400
  box.append(tokens(r, most, null, chosen))
  const left = r.at >= 0 ? r.n - most : 0
  if (left > 0 && chosen) {
    const more = make('button', { type: 'button', class: 'more' }, `${left} more tokens`)
    more.addEventListener('click', () => { drawn.most = Infinity; drawGroup() })
    box.append(more)
  }
  if (r.cut) box.append(make('p', { class: 'more quiet' }, r.cut))
  if (at.beside === 'reference' && r.at >= 0) box.append(referenceOf(r, most))
  else if (beside && beside.rows[k]) {
    const other = beside.rows[k]
    box.append(make('div', { class: 'beside' }, make('p', { class: 'from' }, `${beside.label}: `, `reward ${short(other.reward)}, ${other.tokens} tokens, ${other.why}`), tokens(other, 400)))
  }
  box.addEventListener('click', e => {
    if (e.target.i !== undefined && e.target.closest('.beside') === null && trained(e.target.i)) pick(k, e.target.i - r.at)
    else if (!chosen && !e.target.closest('.more')) go({ r: k })
  })
  return box
}
function referenceOf(r, most) {
  const body = make('div', { class: 'body', dir: 'ltr' })
  for (let k = 0; k < Math.min(r.n, most); k++) {
    const t = make('span', { class: 't' }, shown(r.at + k))
    t.i = r.at + k
    if (trained(t.i)) t.style.backgroundColor = shade('logp', arrays.ref[t.i])
    else t.classList.add('foreign')
    body.append(t)
  }
  return make('div', { class: 'beside' }, make('p', { class: 'from' }, 'the same tokens, by the log-prob that the reference gives them:'), body)
}
function besideGroup() {
  if (!at.beside || at.beside === 'reference') return null
  const [s, g] = at.beside.split(':').map(Number)
  const other = run.steps[s]?.groups[Math.min(g, run.steps[s].groups.length - 1)]
  return other ? { rows: other.rows, label: other.prompt === group().prompt ? `step ${run.steps[s].step}` : `step ${run.steps[s].step}, another prompt` } : null
}
function drawBeside() {
  const options = [make('option', { value: '' }, 'nothing')]
  if (has('ref')) options.push(make('option', { value: 'reference' }, 'the reference'))
  const prompt = group().prompt
  run.steps.forEach((s, k) => s.groups.forEach((g, j) => {
    if (k !== at.s && g.prompt === prompt) options.push(make('option', { value: `${k}:${j}` }, `the same prompt, step ${s.step}`))
  }))
  const ends = [...new Set([0, run.steps.length - 1])].filter(k => k !== at.s)
  ends.forEach(k => options.push(make('option', { value: `${k}:${at.g}` }, `step ${run.steps[k].step}`)))
  if (!options.some(o => o.value === at.beside)) at.beside = at.beside && at.beside !== 'reference' ? options.at(-1).value : ''
  $('beside').replaceChildren(...options)
  $('beside').value = at.beside
}

// ---- colours and their legend

function drawKinds() {
  const kinds = Object.keys(KINDS).filter(has)
  at.kind = kinds.includes('gradient') ? 'gradient' : kinds[0] || 'none'
  const radio = kind => {
    const input = make('input', { type: 'radio', name: 'kind', value: kind })
    input.checked = kind === at.kind
    input.addEventListener('change', () => setKind(kind))
    return make('label', {}, input, KINDS[kind]?.name || 'none')
  }
  $('kinds').append(...[...kinds, 'none'].map(radio))
  $('kinds').closest('.tools').hidden = !kinds.length && run.steps.length < 2
  $('kinds').hidden = !kinds.length
}
function setKind(kind) {
  at.kind = kind
  for (const input of $('kinds').querySelectorAll('input')) input.checked = input.value === kind
  repaint()
}
function repaint() {
  document.querySelectorAll('.row > .body').forEach(body => paint(body))
  document.querySelectorAll('.beside .body').forEach(body => at.beside !== 'reference' && paint(body))
  drawLegend()
  drawToken()
}
function drawLegend() {
  const kind = KINDS[at.kind], box = $('legend')
  if (!kind) return box.replaceChildren(step().missing)
  const most = limit(at.kind)
  const bar = make('span', { class: 'bar', 'aria-hidden': 'true' })
  bar.style.background = kind.both ? `linear-gradient(90deg, ${mixed('var(--down)', 1)}, transparent, ${mixed('var(--up)', 1)})` : `linear-gradient(90deg, transparent, ${mixed(`rgb(${kind.rgb})`, 1)})`
  const ends = at.kind === 'logp' ? ['0', short(-most)] : at.kind === 'ratio' ? [short(Math.exp(-most)), short(Math.exp(most))]
    : at.kind === 'gradient' ? [short(most), short(-most)] : ['0', short(most)]
  const words = [`${kind.low} ${ends[0]}`, bar, `${ends[1]} ${kind.high}`]
  const signs = []
  if (group().rows.some(r => r.at >= 0 && Array.from({ length: r.n }, (_, k) => flagsOf(r.at + k)).some(f => f & 6))) signs.push(make('span', {}, make('span', { class: 't clip' }, 'clipped')))
  if (changed()) signs.push(make('span', {}, make('span', { class: 't other' }, 'changed')))
  if (row().at < 0 && step().missing) signs.push(make('span', {}, step().missing))
  box.replaceChildren(...words, ...signs)
}

// ---- one token: the loss as the sum that it is

const listOf = i => [
  ['log π', 'logp'], ['log π when sampled', 'old'], ['log π of the reference', 'ref'], ['ratio ρ', 'ratio'], ['KL', 'kl'], ['entropy', 'entropy'], ['gradient', 'gradient'],
].filter(([, kind]) => has(kind)).map(([name, kind]) => [name, kind, number(value(kind, i))])

function drawToken() {
  const box = $('token'), r = row(), i = r.at + at.t
  box.classList.toggle('picked', at.t >= 0 && r.at >= 0)
  if (r.at < 0) return box.replaceChildren(make('h2', {}, 'A token'), make('p', { class: 'quiet' }, step().missing || 'This completion is here as text only.'))
  if (at.t < 0) return box.replaceChildren(make('h2', {}, 'A token'), make('p', { class: 'quiet' }, 'Point at a token for its numbers. Pick one, and the loss stands here term by term.'))
  const terms = run.formula, policy = variant('policy')[i], kl = has('kl') ? arrays.kl[i] : null
  const total = has('kl') && beta() ? policy + beta() * kl : policy
  const term = (sign, label, x, hint) => make('span', { class: 'signed' }, sign ? make('span', { class: 'sign' }, sign) : '',
    make('span', { class: 'term', title: hint }, make('em', {}, label), make('b', {}, number(x))))
  const type = run.types[at.loss ?? run.recorded.loss_type]
  const sum = [term('', 'loss of it', changed() ? total : arrays.loss[i], 'what this token adds to the sum'), term('=', type.policy, policy, 'the policy term')]
  if (has('kl')) sum.push(term('+', 'β', beta(), 'price of a nat of KL'), term('×', 'KL', kl, `${terms.kl}, d = log π_ref − log π`))
  if (step().entropy_coef) sum.push(term('−', 'c', step().entropy_coef, 'reward of a nat of entropy'), term('×', 'H', arrays.entropy[i], 'entropy'))
  const g = gradient(i), flags = flagsOf(i)
  const lines = [['advantage A', signed(has('advantage') ? arrays.advantage[i] : r.advantage ?? NaN)], ...listOf(i).filter(o => o[1] !== 'kl' && o[1] !== 'gradient').map(o => [o[0], o[2]])]
  if (step().items) lines.push(['divided by', `${short(step().items)} (${terms.average})`])
  lines.push(['∂ loss / ∂ log π', number(g)])
  const push = flags & 6 && !beta() ? 'Clipped: no gradient comes from here.' : Math.abs(g) < 1e-4 * limit('gradient') ? 'Next to nothing pulls at this token.' : g < 0 ? '▲ this step makes the token likelier' : '▼ this step makes the token less likely'
  const clip = flags & 6 ? make('p', {}, `Clipped: the ratio left the ${flags & 2 ? 'lower' : 'upper'} bound in the direction of its advantage.`) : ''
  const close = make('button', { type: 'button', class: 'close', 'aria-label': 'Close' }, '×')
  close.addEventListener('click', () => pick(at.r, -1))
  box.replaceChildren(close, make('h2', {}, `Token ${at.t + 1} of ${r.n}, completion #${at.r + 1}`), make('span', { class: 'piece', dir: 'ltr' }, shown(i)),
    make('div', { class: 'sum' }, sum), clip,
    make('table', { class: 'parts' }, make('tbody', {}, lines.map(([name, x]) => make('tr', {}, make('th', { scope: 'row' }, name), make('td', {}, x))))),
    make('p', { class: push[0] === '▲' ? 'push up' : push[0] === '▼' ? 'push down' : 'push' }, push))
}

// ---- other rules

function drawRules() {
  const box = $('rules')
  box.hidden = !has('gradient')
  if (box.hidden) return
  const slider = (name, label, stops) => {
    const input = make('input', { type: 'range', min: 0, max: stops.length - 1, step: 1, 'aria-label': label, id: `rule-${name}` })
    const said = make('output', { for: `rule-${name}` })
    input.addEventListener('input', () => setRule(name, stops[+input.value]))
    input.show = () => {
      const now = at[name] ?? (name === 'beta' ? step().beta : run.recorded.epsilon)
      input.value = nearest(stops, now)
      said.textContent = short(now)
      input.setAttribute('aria-valuetext', short(now))
    }
    return make('div', { class: 'rule' }, make('label', { for: `rule-${name}` }, label), input, said)
  }
  const rules = []
  if (run.stops.epsilon.length) rules.push(slider('epsilon', 'epsilon', run.stops.epsilon))
  if (run.stops.beta.length) rules.push(slider('beta', 'beta', run.stops.beta))
  const types = make('select', { id: 'rule-loss' }, run.stops.loss_type.map(name => make('option', { value: name }, name)))
  types.addEventListener('change', () => setRule('loss', types.value))
  types.show = () => { types.value = at.loss ?? run.recorded.loss_type }
  rules.push(make('div', { class: 'rule' }, make('label', { for: 'rule-loss' }, 'loss type'), types))
  const reset = make('button', { type: 'button', id: 'reset' }, 'As recorded')
  reset.addEventListener('click', () => setRule(null))
  box.replaceChildren(make('h2', {}, 'What if'), make('p', { class: 'formula', id: 'formula' }), ...rules, make('p', { class: 'said', id: 'said', 'aria-live': 'polite' }), reset)
  showRules()
}
function setRule(name, x) {
  const recorded = { epsilon: run.recorded.epsilon, beta: step().beta, loss: run.recorded.loss_type }
  if (name === null || name === 'loss') at.epsilon = at.beta = null
  if (name !== 'loss') at.loss = null
  if (name) at[name] = x === recorded[name] ? null : x
  if (name && at.kind !== 'gradient') setKind('gradient')
  showRules()
  repaint()
}
function showRules() {
  if (!has('gradient')) return
  for (const id of ['rule-epsilon', 'rule-beta', 'rule-loss']) $(id)?.show()
  $('reset').disabled = !changed()
  const type = run.types[at.loss ?? run.recorded.loss_type]
  $('formula').textContent = `L = 1/N Σ [ ${type.policy}${has('kl') ? ` + β ${run.formula.kl}` : ''} ],  N: ${type.average}`
  const s = step(), said = []
  const clipped = x => s.clipped[x] ? s.clipped[x][0] + s.clipped[x][1] : null
  const was = clipped('recorded')
  if (at.epsilon !== null) said.push(`${clipped(at.epsilon)} of ${s.tokens} tokens of this step clipped at epsilon ${short(at.epsilon)}; ${was} as recorded (${short(run.recorded.epsilon)}).`)
  else if (was !== null) said.push(`${was} of ${s.tokens} tokens of this step clipped.`)
  if (s.note) said.push(s.note)
  if (changed()) {
    let n = 0, all = 0
    for (const r of group().rows) if (r.at >= 0) for (let k = 0; k < r.n; k++) if (trained(r.at + k)) { all++; n += differs(r.at + k) }
    said.push(`Another gradient for ${n} of the ${all} tokens of this group.`)
    if (at.loss !== null) said.push('A loss type goes with the recorded epsilon and beta; other combinations need the notebook.')
  }
  $('said').textContent = said.join(' ')
}

// ---- moving

function go(to) {
  const before = { ...at }
  Object.assign(at, to)
  at.s = Math.max(0, Math.min(run.steps.length - 1, at.s))
  at.g = Math.max(0, Math.min(step().groups.length - 1, at.g))
  at.r = Math.max(0, Math.min(group().rows.length - 1, at.r))
  const elsewhere = before.s !== at.s || before.g !== at.g
  if (elsewhere || before.r !== at.r) { at.t = -1; drawn.most = 3000 }
  if (before.s !== at.s) drawStep()
  if (elsewhere) { drawPrompts(); drawBeside() }
  drawGroup()
  drawLegend()
  drawToken()
  showRules()
}
const goStep = s => go({ s, r: 0 })
function drawStep() {
  const s = step()
  $('step').value = at.s
  $('step').setAttribute('aria-valuetext', `step ${s.step}`)
  $('back').disabled = at.s === 0
  $('next').disabled = at.s === run.steps.length - 1
  const dead = s.groups.filter(g => g.dead).length
  $('now').replaceChildren(make('b', {}, `Step ${s.step}`), ` of ${run.last}`, dead ? ` · ${dead} of ${s.groups.length} groups dead` : '')
  for (const figure of $('curves').children) figure.move()
}
function pick(r, t) {
  if (r !== at.r) go({ r })
  const all = row()
  if (all.at < 0) return
  at.t = Math.max(-1, Math.min(all.n - 1, t))
  const list = document.querySelectorAll('.row.chosen > .body > .t')
  list.forEach((span, k) => { span.classList.toggle('here', k === at.t); span.tabIndex = k === Math.max(0, at.t) ? 0 : -1 })
  drawToken()
  list[at.t]?.focus({ preventScroll: true })
  list[at.t]?.scrollIntoView({ block: 'nearest' })
}
function turn(by) { // To the next token that is trained
  const r = row()
  if (r.at < 0) return
  let t = at.t
  do t += by; while (t >= 0 && t < r.n && !trained(r.at + t))
  if (t >= 0 && t < r.n) pick(at.r, t)
}
function turnKind() {
  const inputs = [...$('kinds').querySelectorAll('input')].map(o => o.value)
  if (inputs.length) setKind(inputs[(inputs.indexOf(at.kind) + 1) % inputs.length])
}
function turnTheme() {
  const root = document.documentElement
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  root.dataset.theme = dark ? 'light' : 'dark'
}
function toRow(r) {
  go({ r })
  document.querySelector('.row.chosen').scrollIntoView({ block: 'nearest' })
}
const KEYS = [
  ['←  →', 'step before, next step', { ArrowLeft: () => goStep(at.s - 1), ArrowRight: () => goStep(at.s + 1) }],
  ['↑  ↓  or  k  j', 'completion before, next completion', { ArrowUp: () => toRow(at.r - 1), ArrowDown: () => toRow(at.r + 1), k: () => toRow(at.r - 1), j: () => toRow(at.r + 1) }],
  ['p  n', 'prompt before, next prompt', { p: () => go({ g: at.g - 1, r: 0 }), n: () => go({ g: at.g + 1, r: 0 }) }],
  [',  .', 'token before, next token', { ',': () => turn(-1), '.': () => turn(1) }],
  ['c', 'next colour', { c: turnKind }],
  ['b', 'beside the reference, or not', { b: () => { if (has('ref')) { at.beside = at.beside ? '' : 'reference'; $('beside').value = at.beside; drawGroup() } } }],
  ['/', 'search', { '/': () => $('query').focus() }],
  ['Home  End', 'first step, last step', { Home: () => goStep(0), End: () => goStep(run.steps.length - 1) }],
  ['d', 'dark or light', { d: turnTheme }],
  ['?', 'these keys', { '?': () => $('help').showModal() }],
]
const keys = Object.assign({}, ...KEYS.map(k => k[2]))

function listen() {
  addEventListener('keydown', e => {
    if (e.ctrlKey || e.metaKey || e.altKey || $('help').open) return
    const typing = e.target.matches('input[type=search], select') || (e.target.matches('input') && /^(Arrow|Home|End)/.test(e.key))
    if (e.key === 'Escape') { $('tip').hidden = true; if (at.t >= 0) pick(at.r, -1) }
    if (e.key === 'Escape' && e.target === $('query')) { $('query').value = at.query = ''; search(); $('query').blur() }
    else if (!typing && keys[e.key]) { e.preventDefault(); keys[e.key]() }
  })
  $('step').addEventListener('input', () => goStep(+$('step').value))
  $('back').addEventListener('click', () => goStep(at.s - 1))
  $('next').addEventListener('click', () => goStep(at.s + 1))
  $('beside').addEventListener('change', () => { at.beside = $('beside').value; drawGroup() })
  $('theme').addEventListener('click', turnTheme)
  $('help-button').addEventListener('click', keys['?'])
  $('search').addEventListener('submit', e => { e.preventDefault(); if (hits?.length) go(hits[0]) })
  let later
  $('query').addEventListener('input', () => { clearTimeout(later); later = setTimeout(() => { at.query = $('query').value; search() }, 120) })
  const tip = $('tip')
  const show = e => {
    const t = e.target
    if (t.i === undefined || !trained(t.i)) { tip.hidden = true; return }
    tip.replaceChildren(make('span', { class: 'piece', dir: 'ltr' }, shown(t.i)), make('table', {}, make('tbody', {},
      listOf(t.i).map(([name, kind, x]) => make('tr', { class: kind === at.kind ? 'on' : null }, make('th', {}, name), make('td', {}, x))))))
    tip.hidden = false
    const box = t.getBoundingClientRect(), size = tip.getBoundingClientRect()
    tip.style.left = Math.max(4, Math.min(box.left, innerWidth - size.width - 4)) + 'px'
    tip.style.top = (box.bottom + size.height + 8 > innerHeight ? Math.max(4, box.top - size.height - 6) : box.bottom + 6) + 'px'
  }
  $('rows').addEventListener('pointerover', e => { if (e.pointerType !== 'touch') show(e) })
  $('rows').addEventListener('pointerleave', () => { tip.hidden = true })
  $('rows').addEventListener('focusin', e => { if (e.target.matches?.(':focus-visible') && innerWidth > 720) show(e) })
  $('rows').addEventListener('focusout', () => { tip.hidden = true })
  addEventListener('scroll', () => { tip.hidden = true }, { passive: true, capture: true })
}

// ---- the beginning

function drawHelp() {
  const close = make('button', { type: 'button' }, 'Close')
  close.addEventListener('click', () => $('help').close())
  const keyed = text => text.split(/(\s+)/).map(k => !k.trim() || k === 'or' ? k : make('kbd', {}, k))
  $('help').replaceChildren(make('h2', {}, 'Keys'), make('table', {}, make('tbody', {}, KEYS.map(([k, text]) => make('tr', {}, make('th', {}, keyed(k)), make('td', {}, text))))), close)
}
function drawFoot() {
  const facts = run.facts.map(([name, text]) => make('tr', {}, make('th', {}, name), make('td', {}, text)))
  $('foot').replaceChildren(...run.left_out.map(text => make('p', {}, text)), make('p', {}, run.made),
    make('details', {}, make('summary', {}, 'The settings of this run'), make('table', {}, make('tbody', {}, facts))))
}
function firstToLookAt(groups) {
  const told = g => g.rows.some(r => r.at >= 0), alive = g => !g.dead
  const found = [g => told(g) && alive(g), told, alive].map(wanted => groups.findIndex(wanted))
  return found.find(k => k >= 0) ?? 0
}
async function begin() {
  try { [run, arrays] = await unpacked($('data').textContent.trim()) }
  catch (e) { $('wait').textContent = `This page could not be unpacked (${e.message}). It needs a browser of 2023 or later.`; return }
  $('data').textContent = ''
  if (!run.steps.length) { $('wait').textContent = 'There is nothing to look at: the run has no completions yet.'; return }
  run.completions = run.steps.reduce((n, s) => n + s.groups.reduce((m, g) => m + g.rows.length, 0), 0)
  $('step').max = run.steps.length - 1
  $('steps').hidden = run.steps.length < 2
  drawn.most = 3000
  at.s = run.steps.length - 1
  at.g = firstToLookAt(step().groups)
  $('wait').hidden = true
  $('all').hidden = false
  drawKinds()
  drawRules()
  drawCurves()
  drawHelp()
  drawFoot()
  listen()
  drawStep()
  drawPrompts()
  drawBeside()
  drawGroup()
  drawLegend()
  drawToken()
}
begin()
})()
