//! Where model files are: folders on the disk, and those of a tool beneath its directory.

use limpet_inventory::source::{Folder, Source};
use limpet_inventory::{INDEX_ENDING, PARTIAL, Split, shard_prefix};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Entries of one folder; more are not a collection of models.
const ENTRIES_MAX: usize = 65_536;
/// Of all folders together.
const FOUND_MAX: usize = 65_536;
const FOLDERS_DEEP_MAX: usize = 32;
/// Bytes that `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;
/// From this size on it is told how much of a file is stored.
const TOLD_BYTES_MIN: u64 = 1 << 20;
const ENDINGS: [&str; 3] = [".gguf", ".safetensors", INDEX_ENDING];

/// A file that was opened.
#[derive(Debug)]
pub struct Opened {
    file: File,
    size: u64,
    stored: u64,
}

impl Opened {
    /// Takes an open regular file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(file: File) -> io::Result<Opened> {
        let found = file.metadata()?;
        // It is advice, which a file system need not take.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Opened { size: found.len(), stored: found.blocks() * BLOCK_BYTES, file })
    }
}

impl Source for Opened {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }

    /// A small file may stand within its inode, and has no blocks then.
    fn stored(&self) -> Option<u64> {
        (self.size >= TOLD_BYTES_MIN).then_some(self.stored)
    }
}

/// A folder on the disk.
#[derive(Debug, Clone)]
pub struct Directory(pub PathBuf);

impl Folder for Directory {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Source>>> {
        let path = self.0.join(name);
        // A pipe must not hold us up: it is looked at before it is opened, and never waited for.
        let found = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(&path)?;
        Ok(Some(Box::new(Opened::new(file)?)))
    }
}

/// A model to look at.
#[derive(Debug)]
pub struct Found {
    /// Where it lies.
    pub folder: Directory,
    /// Its file, or one of them.
    pub name: String,
    /// As it was asked for.
    pub shown: String,
    /// Of its file, or of all its files where a folder was asked for.
    pub bytes: u64,
}

/// The models that `paths` name: files, and folders with all below them.
///
/// # Errors
/// A sentence, when one cannot be looked at.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Found>, String> {
    let mut all = Vec::new();
    for path in paths {
        let failed = |cause: String| format!("cannot read {}: {cause}", path.display());
        let found = fs::metadata(path).map_err(|cause| failed(cause.to_string()))?;
        if found.is_dir() {
            walk(path, 0, &mut all)?;
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| failed("its name is not text".to_owned()))?.to_owned();
        let folder = Directory(path.parent().unwrap_or(Path::new("")).to_owned());
        let shown = path.to_string_lossy().into_owned();
        all.push(Found { folder, name, shown, bytes: found.len() });
    }
    Ok(all)
}

/// Adds the models of a folder and of those in it, sorted by name. Links to folders are not
/// followed, so that there is an end.
fn walk(folder: &Path, depth: usize, all: &mut Vec<Found>) -> Result<(), String> {
    let failed =
        |cause: &dyn std::fmt::Display| format!("cannot read {}: {cause}", folder.display());
    let (mut names, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(|cause| failed(&cause))? {
        let entry = entry.map_err(|cause| failed(&cause))?;
        if names.len() + folders.len() == ENTRIES_MAX {
            return Err(failed(&format!("it has more than {ENTRIES_MAX} entries")));
        }
        let kind = entry.file_type().map_err(|cause| failed(&cause))?;
        // A name that is not text is no model's.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if kind.is_dir() {
            folders.push(name);
        } else if is_model(&name) {
            names.push(name);
        }
    }
    sort(&mut names);
    sort(&mut folders);
    for name in models(&names) {
        if all.len() == FOUND_MAX {
            return Err(failed(&format!("there are more than {FOUND_MAX} models")));
        }
        let path = folder.join(&name);
        let bytes = fs::metadata(&path).map_or(0, |found| found.len());
        let shown = path.to_string_lossy().into_owned();
        all.push(Found { folder: Directory(folder.to_owned()), name, shown, bytes });
    }
    for name in folders {
        if depth == FOLDERS_DEEP_MAX {
            return Err(failed(&format!("it is deeper than {FOLDERS_DEEP_MAX} folders")));
        }
        walk(&folder.join(name), depth + 1, all)?;
    }
    Ok(())
}

/// By name, whether letters are large or small.
fn sort(names: &mut [String]) {
    names.sort_unstable_by_key(|name| name.to_ascii_lowercase());
}

fn is_model(name: &str) -> bool {
    let whole = PARTIAL.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    ENDINGS.iter().any(|ending| whole.ends_with(ending))
}

/// One name for each model: the index of a sharded one, the first split that is there.
fn models(names: &[String]) -> Vec<String> {
    let index = |name: &String| name.strip_suffix(INDEX_ENDING).map(str::to_owned);
    let indexed: Vec<String> = names.iter().filter_map(index).collect();
    // Sorted as they are, the files of a set stand together.
    let mut last = None;
    let one = |name: &&String| match (Split::of(name), shard_prefix(name)) {
        (Some(split), _) => {
            let set = Some((split.prefix, split.count));
            let first = last != set;
            last = set;
            first
        }
        (None, Some(prefix)) => !indexed.contains(&prefix),
        (None, None) => true,
    };
    names.iter().filter(one).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder's models come once each, in order, with those of the folders below.
    #[test]
    fn a_folder_is_walked() {
        let root = tempfile::tempdir().expect("a directory");
        for name in [
            "b.gguf",
            "A.safetensors",
            "notes.txt",
            "c.gguf.part",
            "big-00001-of-00002.gguf",
            "big-00002-of-00002.gguf",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "other-00001-of-00002.safetensors",
            "deep/x/z.gguf",
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("beneath")).expect("made");
            fs::write(path, "x").expect("written");
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("deep/loop")).expect("a link");
        let found = find(&[root.path().to_owned()]).expect("readable");
        let names: Vec<&str> = found.iter().map(|one| &*one.name).collect();
        assert_eq!(
            names,
            [
                "A.safetensors",
                "b.gguf",
                "big-00001-of-00002.gguf",
                "c.gguf.part",
                "model.safetensors.index.json",
                "other-00001-of-00002.safetensors",
                "z.gguf",
            ]
        );
        let missing = find(&[root.path().join("none")]).expect_err("it is missing");
        assert!(missing.starts_with("cannot read "), "{missing}");
    }

    /// What is no regular file is not opened, so that nothing waits.
    #[test]
    fn a_device_is_no_model() {
        let folder = Directory("/dev".into());
        assert!(folder.open("null").is_err());
        assert!(folder.open("there-is-none").expect("looked").is_none());
    }
}
