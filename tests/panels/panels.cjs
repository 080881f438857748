/**
 * What Grafana's panels show, without Grafana: Grafana's own library (@grafana/data) processes the data, and this program
 * does what the panels do with it, following their sources (https://github.com/grafana/grafana, public/app/plugins/panel).
 *
 * Reads from stdin a JSON list of {panel, frames, variables, range}: the panel's JSON in its dashboard, the data frames
 * of its queries, the values of the dashboard's variables by their names, and the time range as {from, to} in
 * milliseconds. Writes to stdout a list with, for each of them,
 *
 *     {empty, shown, ignored}   or, if the panel would show an error,   {error}
 *
 * `empty` is true if the panel shows "No data". `shown` depends on the type of the panel: see `kinds`. `ignored` names
 * the properties in the panel's field configuration that have no effect, because this type of panel does not have them.
 */
'use strict';

const { JSDOM } = require('jsdom');

// The libraries' messages go to stderr, because stdout has the result.
globalThis.console = new console.Console(process.stderr);

// Grafana's library expects these globals of a browser. In some versions of Node, `navigator` is read-only.
const { window } = new JSDOM('', { url: 'http://grafana.invalid/' });
window.__grafanaSceneContext = {}; // as in Grafana's dashboards: `$1` in a transformation is not a variable
Object.defineProperties(globalThis, {
  window: { value: window },
  document: { value: window.document },
  navigator: { value: window.navigator },
});

const grafana = require('@grafana/data');
const { get, uniqBy } = require('lodash');

const { FieldType, FieldConfigProperty, formattedValueToString, getFieldDisplayName } = grafana;
const theme = grafana.createTheme({ colors: { mode: 'dark' } });
const TIME_ZONE = 'utc';

const isNumber = (field) => field.type === FieldType.number;
const hasValue = (value) => value !== null && value !== undefined;

// The properties of a field configuration -----------------------------------------------------------------------------

/** A property in the form of the library's registries, without what only an editor needs. */
function property(id, process, more = {}) {
  return { id, path: id, name: id, process, shouldApply: () => true, settings: {}, ...more };
}

const ofNumbers = { shouldApply: isNumber };
const standardProperties = [
  property('unit', grafana.unitOverrideProcessor),
  property('min', grafana.numberOverrideProcessor, ofNumbers),
  property('max', grafana.numberOverrideProcessor, ofNumbers),
  property('fieldMinMax', grafana.identityOverrideProcessor, ofNumbers),
  property('decimals', grafana.numberOverrideProcessor, ofNumbers),
  property('displayName', grafana.displayNameOverrideProcessor, { settings: { expandTemplateVars: true } }),
  property('noValue', grafana.stringOverrideProcessor),
  property('color', grafana.identityOverrideProcessor),
  property('links', grafana.dataLinksOverrideProcessor),
  property('mappings', grafana.valueMappingsOverrideProcessor, { defaultValue: [] }),
  property('thresholds', grafana.thresholdsOverrideProcessor, {
    defaultValue: {
      mode: 'absolute',
      steps: [
        { value: -Infinity, color: 'green' },
        { value: 80, color: 'red' },
      ],
    },
  }),
];

/** The field configuration that a type of panel registers: its own properties, and options for the standard ones. */
function fieldConfig(own, standard = {}) {
  const useCustomConfig = (builder) =>
    own.forEach((id) => builder.addCustomEditor(property(id, grafana.identityOverrideProcessor)));
  return { useCustomConfig, ...standard };
}

const colouredBySeries = {
  standardOptions: { [FieldConfigProperty.Color]: { defaultValue: { mode: 'palette-classic' } } },
};
const linksOnly = {
  disableStandardOptions: Object.values(FieldConfigProperty).filter((id) => id !== FieldConfigProperty.Links),
};

/** The panel with the defaults of its type, and without properties that its type does not have (Grafana drops them). */
function complete(panel, registered) {
  const plugin = new grafana.PanelPlugin(null).useFieldConfig(registered);
  const currentFieldConfig = structuredClone(panel.fieldConfig ?? { defaults: {}, overrides: [] });
  const configured = propertyIds(currentFieldConfig);
  const completed = grafana.getPanelOptionsWithDefaults({
    plugin,
    currentOptions: panel.options,
    currentFieldConfig,
    isAfterPluginChange: false,
  });
  const registry = plugin.fieldConfigRegistry;
  return { ...completed, registry, ignored: configured.filter((id) => !registry.getIfExists(id)) };
}

function propertyIds({ defaults, overrides }) {
  const { custom = {}, ...standard } = defaults;
  const ids = [...Object.keys(standard), ...Object.keys(custom).map((id) => `custom.${id}`)];
  return [...ids, ...overrides.flatMap((rule) => rule.properties.map(({ id }) => id))];
}

// Variables ----------------------------------------------------------------------------------------------------------

const VARIABLE = /\$\{(\w+)(?:\.([^:}]+))?(?::(\w+))?\}|\$(\w+)/g;

/** A function that replaces variables in texts as Grafana does; it throws for unknown variables. */
function replacer(variables, range) {
  return (text, scopedVars = {}, format = 'raw') =>
    text.replace(VARIABLE, (match, name, path, ownFormat, bareName) => {
      const value = valueOf(name ?? bareName, path, { variables, range, ...scopedVars.__dataContext?.value });
      if (!hasValue(value)) {
        throw new Error(`Unknown variable ${match} in ${text}`);
      }
      return name === '__url_time_range' ? value : formatted(value, ownFormat ?? format);
    });
}

function valueOf(name, path, context) {
  switch (name) {
    case '__from':
      return context.range.from;
    case '__to':
      return context.range.to;
    case '__url_time_range':
      return `from=${context.range.from}&to=${context.range.to}`;
    case '__value':
      return cellValue(path, context);
    case '__field':
      return fieldValue(path, context);
    case '__data':
      return rowValue(path, context);
    default:
      return context.variables[name];
  }
}

/** ${__value...}: the number that was calculated from a field, or the value in a row. */
function cellValue(path, { frame, field, rowIndex, calculatedValue }) {
  if (calculatedValue) {
    const values = { numeric: calculatedValue.numeric, raw: calculatedValue.numeric, time: '' };
    return values[path] ?? formattedValueToString(calculatedValue);
  }
  if (rowIndex === undefined) {
    return undefined;
  }
  if (path === 'time') {
    return frame.fields.find((other) => other.type === FieldType.time)?.values[rowIndex];
  }
  const shown = field.display(field.values[rowIndex]);
  const values = { numeric: shown.numeric, raw: field.values[rowIndex] };
  return path in values ? values[path] : formattedValueToString(shown);
}

/** ${__field...}. In a field without labels, every label is empty. */
function fieldValue(path, { field, frame, data }) {
  if (!field || (path?.startsWith('labels.') && !field.labels)) {
    return field && '';
  }
  const known = {
    name: field.name,
    labels: field.labels,
    // Lazy, because the library caches a field's name when it is first read, and this variable may be part of the name.
    get displayName() {
      return getFieldDisplayName(field, frame, data);
    },
  };
  return get(known, path);
}

/** ${__data...}: the values of other fields in the same row. */
function rowValue(path, { frame, rowIndex }) {
  if (rowIndex === undefined) {
    return undefined;
  }
  const fields = grafana.getFieldDisplayValuesProxy({ frame, rowIndex });
  return get({ name: frame.name, refId: frame.refId, fields }, path);
}

const strict = (text) => text.replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);
const formats = {
  raw: (text) => text,
  percentencode: (text) => strict(encodeURIComponent(text)),
  uriencode: (text) => strict(encodeURI(text)),
};

function formatted(value, format) {
  if (!(format in formats)) {
    throw new Error(`Unknown format ${format}`);
  }
  return formats[format](String(value));
}

// From data frames to fields with display values ---------------------------------------------------------------------

function transformed(frames, transformations, replaceVariables) {
  for (const { id } of transformations) {
    grafana.standardTransformersRegistry.get(id); // throws for unknown ones, which transformDataFrame ignores
  }
  return new Promise((resolve, reject) => {
    const context = { interpolate: replaceVariables };
    grafana.transformDataFrame(transformations, frames, context).subscribe({ next: resolve, error: reject });
  });
}

/** The input of the functions below, which return what a panel shows. */
async function prepared({ panel, frames, variables, range }, registered) {
  const { options, fieldConfig: config, registry, ignored } = complete(panel, registered);
  const replaceVariables = replacer(variables, range);
  const data = grafana.applyFieldOverrides({
    data: await transformed(frames.map(grafana.dataFrameFromJSON), panel.transformations ?? [], replaceVariables),
    fieldConfig: config,
    fieldConfigRegistry: registry,
    replaceVariables,
    theme,
    timeZone: TIME_ZONE,
  });
  return { frames: data, options, fieldConfig: config, replaceVariables, ignored };
}

const shownIn = (field, place) => !field.config.custom?.hideFrom?.[place];
const read = (links) => links.map(({ title, href }) => ({ title, url: href }));

/** Undefined if there is no such row. */
function textOf(field, row) {
  return row in field.values ? formattedValueToString(field.display(field.values[row])) : undefined;
}

function linksOf(field, row) {
  return row in field.values ? read(field.getLinks({ valueRowIndex: row })) : [];
}

// What each type of panel shows --------------------------------------------------------------------------------------

/** [{name, first, last, colour, hidden, links}]: the first and the last value, and the links of the last row. */
function timeSeries({ frames }) {
  if (!frames.some((frame) => frame.fields.some((field) => field.type === FieldType.time))) {
    throw new Error('Data is missing a time field');
  }
  const series = frames.flatMap((frame) => frame.fields.filter(isNumber).map((field) => ({ frame, field })));
  return series.map(({ frame, field }, index) => {
    field.state.seriesIndex = index;
    return oneSeries(field, getFieldDisplayName(field, frame, frames));
  });
}

function oneSeries(field, name) {
  const colour = grafana.getFieldSeriesColor(field, theme).color;
  const rows = [...field.values.keys()].filter((row) => hasValue(field.values[row]));
  const last = rows.at(-1);
  return {
    name,
    first: textOf(field, rows[0]),
    last: textOf(field, last),
    colour,
    hidden: !shownIn(field, 'viz'),
    links: linksOf(field, last),
  };
}

/** The numbers of a panel that shows one number per field or per row: [{name, text, colour, links}]. */
function figures({ frames, options, fieldConfig: config, replaceVariables }) {
  const values = grafana.getFieldDisplayValues({
    data: frames,
    fieldConfig: config,
    reduceOptions: options.reduceOptions,
    replaceVariables,
    theme,
    timeZone: TIME_ZONE,
  });
  return values
    .filter(({ field }) => !field.custom?.hideFrom?.viz)
    .map(({ display, getLinks, hasLinks }) => ({
      name: display.title ?? '',
      text: formattedValueToString(display),
      colour: display.color,
      links: hasLinks ? read(getLinks()) : [],
    }));
}

/** The columns of the first frame: [{header, width, cells, colours, links}], with the links of the first row. */
function table({ frames: [frame, ...others] }) {
  return frame.fields.filter((field) => shownIn(field, 'viz')).map((field) => ({
    header: getFieldDisplayName(field, frame, [frame, ...others]),
    width: field.config.custom?.width,
    cells: [...field.values.keys()].map((row) => textOf(field, row)),
    colours: backgrounds(field),
    links: linksOf(field, 0),
  }));
}

function backgrounds(field) {
  const coloured = field.config.custom?.cellOptions?.type === 'color-background';
  return coloured ? field.values.map((value) => field.display(value).color) : undefined;
}

/** [{from, to, count, links}] */
function histogram({ frames }) {
  const fields = grafana.getHistogramFields(frames[0]);
  if (!fields) {
    throw new Error('There is no xMin and xMax: Grafana would not use the precomputed counts');
  }
  const { xMin, xMax, counts: [count] } = fields;
  return [...count.values.keys()].map((row) => ({
    from: textOf(xMin, row),
    to: textOf(xMax, row),
    count: textOf(count, row),
    links: linksOf(count, row),
  }));
}

/** The rows from bottom to top: [{label, count, links}], with count and links of the last cell that has a count. */
function heatMap({ frames: [frame], options }) {
  const [, ...rest] = frame.fields;
  return rest.filter(isNumber).map((field) => {
    const row = field.values.findLastIndex((count) => count > (options.filterValues?.le ?? 0));
    return {
      label: axisLabel(getFieldDisplayName(field, frame), options.yAxis),
      count: textOf(field, row),
      links: linksOf(field, row),
    };
  });
}

function axisLabel(name, { unit, decimals } = {}) {
  const number = Number(name);
  if (Number.isNaN(number) || !(unit || hasValue(decimals))) {
    return name;
  }
  return formattedValueToString(grafana.getValueFormat(unit ?? 'short')(number, decimals));
}

// Node graphs --------------------------------------------------------------------------------------------------------

const PLACES = ['nodes', 'edges'];
const lowerCase = (field) => field.name.toLowerCase();
const named = (frame, name) => frame.fields.find((field) => lowerCase(field) === name);
const prefixed = (frame, prefix) => frame.fields.filter((field) => field.name.startsWith(prefix));
const isEdges = (frame) => frame.name === 'edges' || frame.fields.some((field) => field.name === 'source');

function graphFrames(frames) {
  return frames.filter(({ name, refId, fields }) =>
    PLACES.includes(name) || PLACES.includes(refId) || fields.some((field) => field.name === 'id'));
}

/** {nodes: [{id, title, subtitle, main, secondary, arcs, details, links}], edges: the same with source and target}. */
function nodeGraph({ frames, options }) {
  const graph = graphFrames(frames);
  const nodes = graphItems(graph.find((frame) => !isEdges(frame)), 'nodes', options);
  const edges = graphItems(graph.find(isEdges), 'edges', options);
  const ids = new Set(nodes.map(({ id }) => id));
  for (const { id, source, target } of edges) {
    if (!ids.has(source) || !ids.has(target)) {
      throw new Error(`A node of the edge ${id} is missing`);
    }
  }
  return { nodes, edges };
}

function graphItems(frame, kind, options) {
  if (!frame) {
    return [];
  }
  const id = named(frame, 'id');
  if (!id) {
    throw new Error(`id field is required for ${kind} data frame.`);
  }
  return id.values.map((_, row) => graphItem(frame, row, options[kind] ?? {}));
}

function graphItem(frame, row, { mainStatUnit, secondaryStatUnit, arcs = [] }) {
  const text = (name) => named(frame, name)?.values[row] || undefined;
  return {
    id: text('id'),
    source: text('source'),
    target: text('target'),
    title: text('title'),
    subtitle: text('subtitle'),
    main: stat(named(frame, 'mainstat'), row, mainStatUnit),
    secondary: stat(named(frame, 'secondarystat'), row, secondaryStatUnit),
    arcs: prefixed(frame, 'arc__').map((field) => arc(field, row, arcs)),
    details: prefixed(frame, 'detail__').map((field) => ({ name: label(field), text: stat(field, row) })),
    links: frame.fields.flatMap((field) => linksOf(field, row)),
  };
}

const label = (field) => field.config.displayName || field.name;

function arc(field, row, options) {
  const option = options.find(({ field: name }) => name?.toLowerCase() === lowerCase(field));
  return { name: label(field), value: field.values[row], colour: option?.color ?? field.config.color?.fixedColor };
}

/** Node graphs append the unit as text instead of formatting the number with it. */
function stat(field, row, unit = field?.config.unit) {
  const value = field?.values[row];
  if (typeof value === 'string') {
    return value;
  }
  return Number.isFinite(value) ? value.toFixed(field.config.decimals || 2) + (unit ? ` ${unit}` : '') : '';
}

// Panels -------------------------------------------------------------------------------------------------------------

const noFields = (frames) => frames.every((frame) => frame.fields.length === 0);
const never = () => false;

// For each type of panel: its field configuration, when it shows "No data", and what it shows otherwise.
const kinds = {
  timeseries: {
    registered: fieldConfig(['hideFrom', 'lineWidth', 'fillOpacity', 'thresholdsStyle'], colouredBySeries),
    isEmpty: noFields,
    shown: timeSeries,
  },
  piechart: { registered: fieldConfig(['hideFrom'], colouredBySeries), isEmpty: noFields, shown: figures },
  // Without data, a stat panel shows the field configuration's `noValue`.
  stat: { registered: fieldConfig([]), isEmpty: never, shown: figures },
  table: {
    registered: fieldConfig(['hideFrom', 'align', 'inspect', 'filterable', 'width', 'cellOptions']),
    isEmpty: noFields,
    shown: table,
  },
  histogram: {
    registered: fieldConfig(['hideFrom', 'lineWidth', 'fillOpacity', 'gradientMode'], colouredBySeries),
    isEmpty: noFields,
    shown: histogram,
  },
  heatmap: { registered: fieldConfig(['hideFrom'], linksOnly), isEmpty: noFields, shown: heatMap },
  nodeGraph: {
    registered: fieldConfig([], linksOnly),
    isEmpty: (frames) => graphFrames(frames).length === 0,
    shown: nodeGraph,
  },
};

async function reading(request) {
  try {
    const kind = kinds[request.panel.type];
    if (!kind) {
      throw new Error(`Unknown type of panel: ${request.panel.type}`);
    }
    const { ignored, ...panel } = await prepared(request, kind.registered);
    return kind.isEmpty(panel.frames) ? { empty: true, ignored } : { empty: false, shown: kind.shown(panel), ignored };
  } catch (error) {
    return { error: error.message };
  }
}

async function main() {
  grafana.standardFieldConfigEditorRegistry.setInit(() => standardProperties);
  grafana.standardTransformersRegistry.setInit(() =>
    uniqBy(Object.values(grafana.standardTransformers), 'id').map((info) => ({ ...info, transformation: () => info })));
  grafana.locationUtil.initialize({ config: { appSubUrl: '' } });
  const requests = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
  process.stdout.write(JSON.stringify(await Promise.all(requests.map(reading))));
}

main();
