//! Attributes that most spans of an origin have, and that are stored once for all of them.

use std::collections::HashMap;

/// The tag sets that new spans get, by their origin's id.
pub type TagSets = HashMap<i64, TagSet>;

pub struct TagSet {
    pub id: i32,
    /// Each key as JSON, with the colon behind it: its number, and its value as JSON.
    tags: HashMap<Vec<u8>, (usize, Vec<u8>)>,
}

impl TagSet {
    pub fn new(id: i32, tags: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let numbered = tags.into_iter().enumerate();
        TagSet { id, tags: numbered.map(|(number, (key, value))| (key, (number, value))).collect() }
    }

    /// To match the attributes of a span.
    pub fn matcher(&self) -> Matcher<'_> {
        Matcher { tags: &self.tags, found: vec![false; self.tags.len()], conflict: false }
    }
}

pub struct Matcher<'a> {
    tags: &'a HashMap<Vec<u8>, (usize, Vec<u8>)>,
    found: Vec<bool>,
    conflict: bool,
}

impl Matcher<'_> {
    /// Whether the tag set has this attribute: its key as JSON, with the colon behind it, and its value as JSON.
    pub fn has(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some((number, expected)) = self.tags.get(key) else { return false };
        // Of attributes with the same key, the last one counts: such a span keeps all of its attributes.
        self.conflict |= value != expected || self.found[*number];
        self.found[*number] = true;
        true
    }

    /// Whether the span has each attribute of the tag set once.
    pub fn all_found(&self) -> bool {
        !self.conflict && self.found.iter().all(|&found| found)
    }
}
