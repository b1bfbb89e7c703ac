//! Feeds each target with what earlier searches have kept: inputs that reach new places, and those
//! that were a bug once.

use std::fs;
use std::path::Path;

#[test]
fn the_kept_corpus_finds_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in limpet_fuzz::TARGETS {
        let entries = fs::read_dir(root.join(name)).expect("a corpus for each target");
        let files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            println!("{}", file.display());
            target(&fs::read(file).expect("read"));
        }
        target(b"");
    }
}
