//! What many spans share: operations, resources and scopes, and the origins that combine them.

use std::collections::HashMap;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use crate::json::{Any, Floats, KeyValue, Nesting, utf8, without_nul, write_members};
use crate::refusal::{Refused, checked_text};
use crate::row::INT4_MAX;
use crate::wire::{self, Field, Fields, MAX_DEPTH, Malformed, Value};

/// An entry of a PostgreSQL index has room for 2,704 bytes, and some indexes have two names.
const MAX_NAME_BYTES: usize = 1000;
/// OpenTelemetry's semantic conventions: the service.name of a resource that has none.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// A row of _promscale.resource.
#[derive(Clone)]
pub struct Resource {
    pub id: i64,
    pub tags: String,
    pub dropped_tags_count: u32,
    pub schema_url: Option<String>,
    pub service_name: String,
}

/// A row of _promscale.scope.
#[derive(Clone)]
pub struct Scope {
    pub id: i64,
    pub name: Option<String>,
    pub version: Option<String>,
    pub schema_url: Option<String>,
    pub tags: String,
}

/// An origin and its operation.
pub struct Origin {
    /// Whether a span of it is stored.
    pub used: bool,
    pub id: i64,
    pub operation_id: i64,
    pub resource_id: i64,
    pub scope_id: i64,
    pub span_kind: usize,
    pub span_name: String,
}

/// The origins of a request, and the resources and scopes of those that are used.
#[derive(Default)]
pub struct Origins<'a> {
    pub origins: Vec<Origin>,
    pub resources: HashMap<i64, Resource>,
    pub scopes: HashMap<i64, Scope>,
    /// How many origins are used.
    pub used: usize,
    indexes: HashMap<(i64, i64, usize, &'a [u8]), usize>,
}

impl<'a> Origins<'a> {
    /// The index of the origin of a span.
    pub fn find(
        &mut self,
        resource: &Resource,
        scope: &Scope,
        span_kind: usize,
        name: &'a [u8],
    ) -> Result<usize, Refused> {
        let key = (resource.id, scope.id, span_kind, name);
        if let Some(&index) = self.indexes.get(&key) {
            return Ok(index);
        }
        let span_name = truncated_name(&checked_text(name, "its name")?).to_owned();
        let kind = span_kind.to_string();
        let operation_id = hash(&[resource.service_name.as_bytes(), kind.as_bytes(), span_name.as_bytes()]);
        let ids = format!("{},{},{}", operation_id, resource.id, scope.id);
        self.origins.push(Origin {
            used: false,
            id: hash(&[ids.as_bytes()]),
            operation_id,
            resource_id: resource.id,
            scope_id: scope.id,
            span_kind,
            span_name,
        });
        self.indexes.insert(key, self.origins.len() - 1);
        Ok(self.origins.len() - 1)
    }

    /// Record that a span of the origin with this index, this resource and this scope is stored.
    pub fn record_use(&mut self, index: usize, resource: &Resource, scope: &Scope) {
        let origin = &mut self.origins[index];
        if !origin.used {
            origin.used = true;
            self.used += 1;
            self.resources.entry(resource.id).or_insert_with(|| resource.clone());
            self.scopes.entry(scope.id).or_insert_with(|| scope.clone());
        }
    }
}

/// A serialized Resource or InstrumentationScope, and its schema_url.
pub type Message<'a> = (&'a [u8], &'a [u8]);

pub fn resource((message, schema_url): Message) -> Result<Resource, Refused> {
    let malformed = |_| Refused("its resource is not a valid OTLP Resource".to_owned());
    let mut service_name = UNKNOWN_SERVICE.to_owned();
    let mut dropped = 0;
    for field in Fields::of(message, MAX_DEPTH) {
        match field.map_err(malformed)? {
            Field { number: 1, value: Value::Bytes(attribute), .. } => {
                let attribute = KeyValue::parse(attribute, Nesting::UpTo(MAX_DEPTH - 1)).map_err(malformed)?;
                match (attribute.key, attribute.value) {
                    ("service.name", Any::Text(name)) if !name.is_empty() => {
                        service_name = truncated_name(&without_nul(name)).to_owned();
                    }
                    _ => {}
                }
            }
            Field { number: 2, value: Value::Varint(number), .. } => dropped = number as u32,
            Field { number: 3, value: Value::Bytes(entity), .. } => validate_entity(entity).map_err(malformed)?,
            _ => {}
        }
    }
    Ok(Resource {
        id: hash(&[message, schema_url]),
        tags: tags(message, 1).map_err(malformed)?,
        dropped_tags_count: dropped.min(INT4_MAX),
        schema_url: not_empty(&checked_text(schema_url, "its resource's schema_url")?),
        service_name,
    })
}

/// Validate an EntityRef, of which no column has anything.
fn validate_entity(message: &[u8]) -> Result<(), Malformed> {
    for field in Fields::of(message, MAX_DEPTH - 1) {
        if let Field { number: 1..=4, value: Value::Bytes(text), .. } = field? {
            utf8(text)?;
        }
    }
    Ok(())
}

pub fn scope((message, schema_url): Message) -> Result<Scope, Refused> {
    let malformed = |_| Refused("its scope is not a valid OTLP InstrumentationScope".to_owned());
    let (mut name, mut version) = ("", "");
    for field in Fields::of(message, MAX_DEPTH) {
        match field.map_err(malformed)? {
            Field { number: 1, value: Value::Bytes(text), .. } => name = utf8(text).map_err(malformed)?,
            Field { number: 2, value: Value::Bytes(text), .. } => version = utf8(text).map_err(malformed)?,
            Field { number: 3, value: Value::Bytes(attribute), .. } => {
                KeyValue::parse(attribute, Nesting::UpTo(MAX_DEPTH - 1)).map_err(malformed)?;
            }
            _ => {}
        }
    }
    Ok(Scope {
        id: hash(&[message, schema_url]),
        name: not_empty(&without_nul(name)),
        version: not_empty(&without_nul(version)),
        schema_url: not_empty(&checked_text(schema_url, "its scope's schema_url")?),
        tags: tags(message, 3).map_err(malformed)?,
    })
}

/// The attributes in the field `number` of a validated message, as a JSON object.
fn tags(message: &[u8], number: u32) -> Result<String, Malformed> {
    let mut json = Vec::new();
    write_members(&mut json, || wire::repeated(message, number), Floats::for_size(message.len()))?;
    String::from_utf8(json).map_err(|_| Malformed)
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn truncated_name(text: &str) -> &str {
    let mut end = text.len().min(MAX_NAME_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn hash(parts: &[&[u8]]) -> i64 {
    let mut digest = Blake2b::<U8>::new();
    for part in parts {
        digest.update(part.len().to_string());
        digest.update(b":");
        digest.update(part);
    }
    i64::from_be_bytes(digest.finalize().into())
}
