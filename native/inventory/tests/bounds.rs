//! Whatever a file claims: how much memory it takes is bounded, and how much work is not more than
//! its header is long. Counted, not timed: an allocator that knows its peak, and a source that
//! knows what was read.

mod files;

use files::{F32, Files, Gguf, inspect, safetensors};
use limpet_inventory::Inspector;
use limpet_inventory::source::{Folder, Nobody, Source};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::rc::Rc;

/// What an inspection may take besides its file.
const BYTES_MAX: usize = 8 << 20;
/// A file is read once; its beginning and each place where the parser jumped a buffer more.
const SLACK_BYTES: u64 = 256 * 1024;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn add(bytes: usize) {
    HELD.set(HELD.get() + bytes);
    PEAK.set(PEAK.get().max(HELD.get()));
}

fn subtract(bytes: usize) {
    HELD.set(HELD.get().saturating_sub(bytes));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches thread-locals that
// need no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    // Both are held while the old one is copied.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        subtract(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A file of some bytes and a large hole behind them, which counts what is read of it.
#[derive(Clone)]
struct Counted {
    bytes: Rc<Vec<u8>>,
    size: u64,
    read: Rc<Cell<u64>>,
}

impl Source for Counted {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(offset);
        let count = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        into[..count].fill(0);
        let real = (self.bytes.len() as u64).saturating_sub(offset).min(count as u64) as usize;
        let start = offset.min(self.bytes.len() as u64) as usize;
        into[..real].copy_from_slice(&self.bytes[start..start + real]);
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

struct Only(Counted);

impl Folder for Only {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Source>>> {
        let known = name.starts_with("model.") && !name.ends_with(".aria2");
        Ok(known.then(|| Box::new(self.0.clone()) as Box<dyn Source>))
    }
}

/// Inspects it within the bounds; returns the ids of its findings.
#[track_caller]
fn bounded(name: &str, bytes: Vec<u8>, size: u64) -> Vec<&'static str> {
    let header = bytes.len() as u64;
    let size = size.max(header);
    let counted = Counted { bytes: Rc::new(bytes), size, read: Rc::new(Cell::new(0)) };
    let folder = Only(counted.clone());
    let held = HELD.get();
    PEAK.set(held);
    let inspector = Inspector::new(false, &Nobody);
    let model = inspector.model(&folder, name, name, &mut |_| ()).expect("it can be read");
    let (peak, read) = (PEAK.get() - held, counted.read.get());
    assert!(peak <= BYTES_MAX, "{name}: {peak} bytes");
    assert!(read <= header + SLACK_BYTES, "{name}: {read} bytes read of {header}");
    model.findings.iter().map(|found| found.rule.id()).collect()
}

#[test]
fn a_large_file_costs_what_its_header_costs() {
    let gguf = Gguf::new().info(b"a", &[25 << 20, 1 << 10], F32, 0);
    let header = gguf.bytes();
    let whole = header.len() as u64 + (100 << 30);
    assert_eq!(bounded("model.gguf", header, whole), [""; 0]);
    let size = 100_u64 << 30;
    let text = format!(r#"{{"a":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
    let header = safetensors(&text, 0);
    let whole = header.len() as u64 + size;
    assert_eq!(bounded("model.safetensors", header, whole), [""; 0]);
}

/// Ten million keys of one byte: each is looked at, few are kept.
#[test]
fn ten_million_keys() {
    let mut gguf = Gguf::new();
    let mut entries = Vec::new();
    for number in 0..10_000_000_u32 {
        entries.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        entries.extend(&number.to_le_bytes()[..3]);
        entries.extend([0, 0, 0, 0, 1]);
    }
    gguf.entries.push(entries);
    gguf.keys = Some(10_000_000);
    let found = bounded("model.gguf", gguf.bytes(), 0);
    assert!(found.contains(&"gguf.too_many_keys") && found.contains(&"metadata.cut"), "{found:?}");
}

#[test]
fn a_million_tensors() {
    let mut gguf = Gguf::new();
    for number in 0..1_000_000_u32 {
        gguf = gguf.info(&number.to_le_bytes(), &[0], F32, 0);
    }
    let found = bounded("model.gguf", gguf.bytes(), 0);
    assert!(found.contains(&"gguf.too_many_tensors"), "{found:?}");
}

/// The abuse attempts of the format's own repository: very many tensors that share their bytes.
#[test]
fn ten_million_entries_that_share_their_bytes() {
    for count in [100_000, 1_500_000] {
        let mut text = String::from("{");
        for number in 0..count {
            let comma = if number == 0 { "" } else { "," };
            text += &format!(
                "{comma}\"{number}\":{{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"
            );
        }
        let found = bounded("model.safetensors", safetensors(text + "}", 2), 0);
        let first =
            if count > 131_072 { "safetensors.too_many_tensors" } else { "safetensors.overlap" };
        assert!(found.contains(&first), "{found:?}");
    }
}

/// Strings, arrays and nesting that fill a header.
#[test]
fn large_headers() {
    const LARGE: usize = 16_000_000;
    let fill = |head: &str, piece: &str, tail: &str| {
        let pieces = (LARGE - head.len() - tail.len()) / piece.len();
        safetensors([head, &piece.repeat(pieces), tail].concat(), 0)
    };
    for (name, file) in [
        ("key", fill("{\"", "k", "\":1}")),
        ("text", fill(r#"{"__metadata__":{"a":""#, "\\u0041", "\"}}")),
        ("shape", fill(r#"{"a":{"dtype":"U8","shape":[1"#, ",1", r#"],"data_offsets":[0,1]}}"#)),
        ("metadata", fill(r#"{"__metadata__":{"a":"b""#, r#","a":"b""#, "}}")),
        ("space", fill("{", " ", "}")),
        ("nested", fill("", "[", "")),
        ("field", fill(r#"{"a":{"x":1"#, r#","x":[1]"#, "}}")),
    ] {
        let found = bounded("model.safetensors", file, 0);
        assert_eq!(found.is_empty(), ["space", "text"].contains(&name), "{name}: {found:?}");
    }
}

/// One long text in each place of GGUF that has texts.
#[test]
fn long_texts() {
    let long = vec![b'a'; 16 << 20];
    let whole = Gguf::new();
    let value = whole.string(&long);
    let items = [&8_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &value].concat();
    for gguf in [
        whole.clone().raw(b"tokenizer.chat_template", 8, &value),
        whole.clone().raw(b"a", 9, &items),
        whole.clone().raw(&long, 0, &[1]),
        whole.info(&long, &[0], F32, 0),
    ] {
        bounded("model.gguf", gguf.bytes(), 0);
    }
}

/// An index of very many tensors, in more files than a model has.
#[test]
fn a_large_index() {
    let mut text = String::from(r#"{"weight_map":{"a":"b""#);
    for number in 0..1_000_000 {
        text += &format!(",\"{number}\":\"f{}\"", number % 5000);
    }
    let found = bounded("model.safetensors.index.json", (text + "}}").into_bytes(), 0);
    assert!(found.contains(&"set.too_many_shards"), "{found:?}");
    assert!(inspect(&Files::default(), "model.gguf").is_err());
}
