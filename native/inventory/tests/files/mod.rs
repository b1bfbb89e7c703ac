//! Model files, written by hand: so that they can be wrong in one place.
#![allow(dead_code)] // Each test uses some of it.

use limpet_inventory::model::Model;
use limpet_inventory::source::{Folder, Nobody, Source};
use limpet_inventory::{Failure, Inspector};
use std::collections::BTreeMap;
use std::io;

/// A GGUF file, little-endian unless `big`.
#[derive(Clone)]
pub struct Gguf {
    pub big: bool,
    pub version: u32,
    pub tensors: Option<u64>,
    pub keys: Option<u64>,
    pub entries: Vec<Vec<u8>>,
    pub infos: Vec<Vec<u8>>,
    pub alignment: usize,
    pub data: usize,
    pub trailing: usize,
}

pub const F32: u32 = 0;
pub const Q8_0: u32 = 8;
pub const I8: u32 = 24;

impl Gguf {
    pub fn new() -> Gguf {
        Gguf {
            big: false,
            version: 3,
            tensors: None,
            keys: None,
            entries: Vec::new(),
            infos: Vec::new(),
            alignment: 32,
            data: 0,
            trailing: 0,
        }
    }

    pub fn number(&self, number: u64, bytes: usize) -> Vec<u8> {
        let little = number.to_le_bytes()[..bytes].to_vec();
        if self.big { little.into_iter().rev().collect() } else { little }
    }

    pub fn long(&self, number: u64) -> Vec<u8> {
        self.number(number, if self.version == 1 { 4 } else { 8 })
    }

    pub fn string(&self, text: &[u8]) -> Vec<u8> {
        [self.long(text.len() as u64), text.to_vec()].concat()
    }

    /// A key with a value of this type and these bytes.
    pub fn raw(mut self, key: &[u8], kind: u32, value: &[u8]) -> Gguf {
        let entry = [self.string(key), self.number(kind.into(), 4), value.to_vec()].concat();
        self.entries.push(entry);
        self
    }

    pub fn text(self, key: &str, value: &str) -> Gguf {
        let value = self.string(value.as_bytes());
        self.raw(key.as_bytes(), 8, &value)
    }

    pub fn u32(self, key: &str, value: u32) -> Gguf {
        let value = self.number(value.into(), 4);
        self.raw(key.as_bytes(), 4, &value)
    }

    pub fn texts(self, key: &str, values: &[&[u8]]) -> Gguf {
        let items: Vec<u8> = values.iter().flat_map(|value| self.string(value)).collect();
        let head = [self.number(8, 4), self.long(values.len() as u64)].concat();
        self.raw(key.as_bytes(), 9, &[head, items].concat())
    }

    /// A tensor's description, and nothing else.
    pub fn info(mut self, name: &[u8], shape: &[u64], kind: u32, offset: u64) -> Gguf {
        let mut info = [self.string(name), self.number(shape.len() as u64, 4)].concat();
        shape.iter().for_each(|dimension| info.extend(self.long(*dimension)));
        info.extend(self.number(kind.into(), 4));
        info.extend(self.number(offset, 8));
        self.infos.push(info);
        self
    }

    /// A tensor of f32 where it belongs, with its data.
    pub fn tensor(mut self, name: &str, shape: &[u64]) -> Gguf {
        let offset = self.data as u64;
        let bytes = shape.iter().product::<u64>() as usize * 4;
        self.data = (self.data + bytes).next_multiple_of(self.alignment);
        self.info(name.as_bytes(), shape, F32, offset)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.number(self.version.into(), 4));
        bytes.extend(self.long(self.tensors.unwrap_or(self.infos.len() as u64)));
        bytes.extend(self.long(self.keys.unwrap_or(self.entries.len() as u64)));
        bytes.extend(self.entries.concat());
        bytes.extend(self.infos.concat());
        if !self.infos.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        }
        bytes.resize(bytes.len() + self.data + self.trailing, 0);
        bytes
    }
}

/// A safetensors file with this header and so many bytes of data.
pub fn safetensors(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header, &vec![0; data]].concat()
}

/// Files beside each other.
#[derive(Default)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn of<const N: usize>(files: [(&str, Vec<u8>); N]) -> Files {
        Files(files.map(|(name, bytes)| (name.to_owned(), bytes)).into())
    }
}

impl Folder for Files {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Source>>> {
        Ok(self.0.get(name).map(|bytes| Box::new(bytes.clone()) as Box<dyn Source>))
    }
}

pub fn inspect(files: &Files, name: &str) -> Result<Model, Failure> {
    Inspector::new(false, &Nobody).model(files, name, name, &mut |_| ())
}

/// What one file comes to.
pub fn one(name: &str, bytes: Vec<u8>) -> Model {
    inspect(&Files::of([(name, bytes)]), name).expect("it can be read")
}

pub fn ids(model: &Model) -> Vec<&'static str> {
    model.findings.iter().map(|found| found.rule.id()).collect()
}
