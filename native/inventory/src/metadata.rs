//! The key-values of a model, as far as they are shown: bounded, whatever the file holds.

/// Bytes kept of one text.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Values kept of one array.
pub const PREVIEW_MAX: usize = 16;
/// All of it, counted generously.
const BYTES_MAX: usize = 256 * 1024;
/// What an entry takes beside its texts.
const ENTRY_BYTES: usize = 96;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A whole number of at least zero.
    Unsigned(u64),
    /// A whole number below zero.
    Negative(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A text that is not shown whole.
    Cut {
        /// Its beginning.
        beginning: String,
        /// Of all of it.
        bytes: u64,
        /// Of all of it, where it was hashed.
        sha256: Option<String>,
    },
    /// Values of one type.
    Array {
        /// Its name.
        element: &'static str,
        /// Of all of them.
        count: u64,
        /// The first of them.
        preview: Vec<Value>,
        /// Of all of them, where they are whole numbers of at least zero.
        sum: Option<u64>,
    },
}

impl Value {
    fn weight(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Value::Text(text) | Value::Cut { beginning: text, .. } => text.len(),
                Value::Array { preview, .. } => preview.iter().map(Value::weight).sum(),
                _ => 0,
            }
    }
}

/// Keys and values in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    bytes: usize,
    full: bool,
}

impl Metadata {
    /// Adds an entry; false, and nothing, when there is no room left. Of a key that stands twice
    /// the first is kept.
    pub fn add(&mut self, key: String, value: Value) -> bool {
        if self.full || self.get(&key).is_some() {
            return !self.full;
        }
        let weight = key.len() + value.weight();
        if self.bytes + weight > BYTES_MAX {
            // From here on nothing is compared with what there is, however many keys follow.
            self.full = true;
            return false;
        }
        self.bytes += weight;
        self.entries.push((key, value));
        true
    }

    /// All entries.
    pub fn iter(&self) -> std::slice::Iter<'_, (String, Value)> {
        self.entries.iter()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// A whole text that is not empty.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::Text(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    /// A whole number of at least zero.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Unsigned(number) => Some(*number),
            _ => None,
        }
    }

    /// The texts of an array, those that are shown.
    #[must_use]
    pub fn texts(&self, key: &str) -> Vec<String> {
        let Some(Value::Array { preview, .. }) = self.get(key) else {
            return self.text(key).into_iter().collect();
        };
        let texts = preview.iter().filter_map(|value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        });
        texts.collect()
    }
}
