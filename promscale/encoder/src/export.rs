//! Encodes an OTLP ExportTraceServiceRequest as rows, with the same results as otlp.py.
//!
//! Nothing of a request is collected that is larger in memory than in the request: messages are validated first, and
//! then read where they are.

use std::collections::{HashMap, HashSet};

use zstd::bulk::Compressor;

use crate::origins::{self, Origins, Resource, Scope};
use crate::refusal::{Refusals, Refused, Rejected};
use crate::row::{self, Span};
use crate::tag_sets::TagSets;
use crate::wire::{self, Field, Fields, MAX_DEPTH, Malformed, Value};

/// Spans are encoded in batches of this size, to bound memory.
const EXPORT_SPANS: usize = 8192;
const MAX_ROWS_BYTES: usize = 128 << 20;
/// What an origin takes in memory as objects of Python, without its texts.
const ORIGIN_BYTES: usize = 512;
const MINUTE_NANOS: u64 = 60_000_000_000;
const COMPRESSION_LEVEL: i32 = 1;

/// Numbers of the fields of TracesData, ResourceSpans and ScopeSpans; wire.proto explains them.
const RESOURCE_SPANS: u32 = 1;
const CONTENT: u32 = 1; // resource or scope
const PARTS: u32 = 2; // scope_spans or spans
const SCHEMA_URL: u32 = 3;
const INSTRUMENTATION_LIBRARY_SPANS: u32 = 1000;

/// Rows that store the spans of a request, what else the store must know to commit them, and the refused spans.
#[derive(Default)]
pub struct Encoded<'a> {
    pub count: usize,
    pub spans: Vec<Vec<u8>>,
    pub traces_data: Vec<Vec<u8>>,
    pub origins: Origins<'a>,
    /// Of the spans' starts, since 1970.
    pub minutes: HashSet<u64>,
    pub trace_ids: Vec<&'a [u8]>,
    pub refusals: Refusals<'a>,
}

/// What spans of an export share: the serialized resource or scope and its schema_url, None where the sender left it
/// out, and the fields around them that this version of OTLP does not know.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Envelope<'a> {
    content: Option<&'a [u8]>,
    schema_url: Option<&'a [u8]>,
    unknown_fields: Vec<u8>,
}

impl<'a> Envelope<'a> {
    /// The envelope of a validated ResourceSpans or ScopeSpans, whose fields with these numbers are not part of it.
    fn of(message: &'a [u8], parts: &[u32]) -> Self {
        let mut envelope = Envelope::default();
        for Field { number, value, raw } in Fields::of(message, MAX_DEPTH).flatten() {
            match value {
                Value::Bytes(bytes) if number == CONTENT => envelope.content = Some(bytes),
                Value::Bytes(bytes) if number == SCHEMA_URL => envelope.schema_url = Some(bytes),
                Value::Bytes(_) if parts.contains(&number) => {}
                _ => envelope.unknown_fields.extend_from_slice(raw),
            }
        }
        envelope
    }

    /// The resource or scope, and its schema_url.
    fn message(&self) -> origins::Message<'a> {
        (self.content.unwrap_or_default(), self.schema_url.unwrap_or_default())
    }

    /// The size of the message without its parts.
    fn size(&self) -> usize {
        let known = [self.content, self.schema_url].into_iter().flatten();
        known.map(|value| wire::size_of_bytes(value.len())).sum::<usize>() + self.unknown_fields.len()
    }

    /// Append the message; `write_parts` appends its parts.
    fn write(&self, out: &mut Vec<u8>, write_parts: impl FnOnce(&mut Vec<u8>)) {
        if let Some(content) = self.content {
            wire::write_bytes(out, CONTENT, content);
        }
        write_parts(out);
        if let Some(schema_url) = self.schema_url {
            wire::write_bytes(out, SCHEMA_URL, schema_url);
        }
        out.extend_from_slice(&self.unknown_fields);
    }
}

/// The spans of one trace in a batch, by their sources.
struct Trace<'a> {
    id: &'a [u8],
    last_start: u64,
    spans: Vec<(Source, Vec<&'a [u8]>)>,
}

/// Where in its request a span was: the indexes of the envelopes of its resource and its scope.
type Source = (usize, usize);

/// Envelopes, each one once.
#[derive(Default)]
struct Envelopes<'a> {
    all: Vec<Envelope<'a>>,
    indexes: HashMap<Envelope<'a>, usize>,
}

impl<'a> Envelopes<'a> {
    fn index(&mut self, envelope: &Envelope<'a>) -> usize {
        *self.indexes.entry(envelope.clone()).or_insert_with(|| {
            self.all.push(envelope.clone());
            self.all.len() - 1
        })
    }
}

/// The rows of a serialized request. Only `Rejected` requests have none.
pub fn encode<'a>(request: &'a [u8], tag_sets: &'a TagSets) -> Result<Encoded<'a>, Rejected> {
    validate(request).map_err(|_| Rejected::Malformed)?;
    let mut encoder = Encoder::new(tag_sets);
    let mut group: Option<Group> = None;
    for resource_spans in wire::repeated(request, RESOURCE_SPANS) {
        let mut scopes = [PARTS, INSTRUMENTATION_LIBRARY_SPANS]
            .into_iter()
            .flat_map(|number| wire::repeated(resource_spans, number))
            .peekable();
        if scopes.peek().is_none() {
            continue;
        }
        let envelope = Envelope::of(resource_spans, &[PARTS, INSTRUMENTATION_LIBRARY_SPANS]);
        let group = match &mut group {
            Some(group) if group.envelope == envelope => group,
            other => other.insert(Group::of(envelope)),
        };
        for scope_spans in scopes {
            encoder.add(group, scope_spans)?;
        }
    }
    encoder.end_batch()?;
    Ok(encoder.encoded)
}

fn validate(request: &[u8]) -> Result<(), Malformed> {
    for field in Fields::of(request, MAX_DEPTH) {
        let Field { number: RESOURCE_SPANS, value: Value::Bytes(resource_spans), .. } = field? else { continue };
        for field in Fields::of(resource_spans, MAX_DEPTH - 1) {
            let Field { number: PARTS | INSTRUMENTATION_LIBRARY_SPANS, value: Value::Bytes(scope_spans), .. } = field?
            else {
                continue;
            };
            for field in Fields::of(scope_spans, MAX_DEPTH - 2) {
                field?;
            }
        }
    }
    Ok(())
}

/// Consecutive ResourceSpans with the same envelope.
struct Group<'a> {
    envelope: Envelope<'a>,
    resource: Result<Resource, Refused>,
    /// Whether the refusal of the resource has been reported.
    reported: bool,
    /// The index of the envelope, once a span of it is stored.
    index: Option<usize>,
}

impl<'a> Group<'a> {
    fn of(envelope: Envelope<'a>) -> Self {
        let resource = origins::resource(envelope.message());
        Group { envelope, resource, reported: false, index: None }
    }
}

struct Encoder<'a> {
    tag_sets: &'a TagSets,
    encoded: Encoded<'a>,
    resources: Envelopes<'a>,
    scopes: Envelopes<'a>,
    /// Bytes of the rows of finished batches.
    size: usize,
    batch: Batch<'a>,
    compressor: Option<Compressor<'static>>,
    /// A trace's TracesData before it is compressed.
    buffer: Vec<u8>,
}

/// Up to EXPORT_SPANS spans.
#[derive(Default)]
struct Batch<'a> {
    count: usize,
    rows: Vec<u8>,
    traces: Vec<Trace<'a>>,
    trace_indexes: HashMap<&'a [u8], usize>,
}

impl<'a> Encoder<'a> {
    fn new(tag_sets: &'a TagSets) -> Self {
        Encoder {
            tag_sets,
            encoded: Encoded::default(),
            resources: Envelopes::default(),
            scopes: Envelopes::default(),
            size: 0,
            batch: Batch::default(),
            compressor: None,
            buffer: Vec::new(),
        }
    }

    /// Add the spans of a validated ScopeSpans.
    fn add(&mut self, group: &mut Group<'a>, scope_spans: &'a [u8]) -> Result<(), Rejected> {
        let refusals = &mut self.encoded.refusals;
        let spans = || wire::repeated(scope_spans, PARTS);
        let resource = match &group.resource {
            Ok(resource) => resource,
            Err(Refused(reason)) => {
                let count = spans().count();
                if group.reported {
                    refusals.count += count;
                } else {
                    refusals.add(|| format!("span refused: {reason}"), None, count);
                    group.reported = count > 0;
                }
                return Ok(());
            }
        };
        let envelope = Envelope::of(scope_spans, &[PARTS]);
        let scope = match origins::scope(envelope.message()) {
            Ok(scope) => scope,
            Err(Refused(reason)) => {
                refusals.add(|| format!("span refused: {reason}"), None, spans().count());
                return Ok(());
            }
        };
        let mut source = None;
        for raw in spans() {
            let Some(span) = self.encode_span(raw, resource, &scope) else { continue };
            let source = *source.get_or_insert_with(|| {
                let resource = *group.index.get_or_insert_with(|| self.resources.index(&group.envelope));
                (resource, self.scopes.index(&envelope))
            });
            self.batch.add(&span, raw, source);
            self.check_size(self.batch.rows.len())?;
            if self.batch.count == EXPORT_SPANS {
                self.end_batch()?;
            }
        }
        Ok(())
    }

    /// Append the span's row to the batch, or refuse the span.
    fn encode_span(&mut self, raw: &'a [u8], resource: &Resource, scope: &Scope) -> Option<Span<'a>> {
        let Ok(span) = Span::parse(raw) else {
            self.encoded.refusals.add(|| "span refused: its bytes are not an OTLP Span".to_owned(), None, 1);
            return None;
        };
        let start = self.batch.rows.len();
        if let Err(Refused(reason)) = self.write_row(&span, resource, scope) {
            self.batch.rows.truncate(start);
            self.encoded.refusals.add(|| reason, Some(raw), 1);
            return None;
        }
        self.encoded.minutes.insert(span.start / MINUTE_NANOS);
        Some(span)
    }

    fn write_row(&mut self, span: &Span<'a>, resource: &Resource, scope: &Scope) -> Result<(), Refused> {
        span.check_ids()?;
        let origins = &mut self.encoded.origins;
        let index = origins.find(resource, scope, span.kind(), span.name)?;
        let origin_id = origins.origins[index].id;
        span.write(&mut self.batch.rows, origin_id, self.tag_sets.get(&origin_id))?;
        origins.record_use(index, resource, scope);
        Ok(())
    }

    fn check_size(&self, more: usize) -> Result<(), Rejected> {
        let size = self.size + more + self.encoded.origins.used * ORIGIN_BYTES;
        if size <= MAX_ROWS_BYTES { Ok(()) } else { Err(Rejected::TooLarge) }
    }

    fn end_batch(&mut self) -> Result<(), Rejected> {
        let batch = std::mem::take(&mut self.batch);
        self.size += batch.rows.len();
        let mut rows = Vec::new();
        for trace in &batch.traces {
            self.buffer.clear();
            trace.write(&mut self.buffer, &self.resources.all, &self.scopes.all);
            let data = self.compressed();
            row::write_traces_data(&mut rows, trace.id, trace.last_start, &data);
            self.check_size(rows.len())?;
        }
        self.size += rows.len();
        self.encoded.count += batch.count;
        self.encoded.trace_ids.extend(batch.traces.iter().map(|trace| trace.id));
        self.encoded.spans.push(batch.rows);
        self.encoded.traces_data.push(rows);
        Ok(())
    }

    fn compressed(&mut self) -> Vec<u8> {
        let compressor = self
            .compressor
            .get_or_insert_with(|| Compressor::new(COMPRESSION_LEVEL).expect("zstd's context has memory"));
        compressor.compress(&self.buffer).expect("zstd's buffer has the size that zstd asks for")
    }
}

impl<'a> Batch<'a> {
    fn add(&mut self, span: &Span<'a>, raw: &'a [u8], source: Source) {
        self.count += 1;
        let index = *self.trace_indexes.entry(span.trace_id).or_insert_with(|| {
            self.traces.push(Trace { id: span.trace_id, last_start: 0, spans: Vec::new() });
            self.traces.len() - 1
        });
        self.traces[index].add(source, span.start, raw);
    }
}

impl<'a> Trace<'a> {
    fn add(&mut self, source: Source, start: u64, raw: &'a [u8]) {
        self.last_start = self.last_start.max(start);
        match self.spans.iter_mut().rev().find(|(known, _)| *known == source) {
            Some((_, spans)) => spans.push(raw),
            None => self.spans.push((source, vec![raw])),
        }
    }

    /// Append the trace as a TracesData.
    fn write(&self, out: &mut Vec<u8>, resources: &[Envelope], scopes: &[Envelope]) {
        for &((resource, scope), ref spans) in &self.spans {
            let (resource, scope) = (&resources[resource], &scopes[scope]);
            let spans_size: usize = spans.iter().map(|span| wire::size_of_bytes(span.len())).sum();
            let scope_size = scope.size() + spans_size;
            wire::write_head(out, RESOURCE_SPANS, resource.size() + wire::size_of_bytes(scope_size));
            resource.write(out, |out| {
                wire::write_head(out, PARTS, scope_size);
                scope.write(out, |out| {
                    for span in spans {
                        wire::write_bytes(out, PARTS, span);
                    }
                });
            });
        }
    }
}
