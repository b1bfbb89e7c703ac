//! Which models are trusted: a list of SHA-256, one a line, as `sha256sum` writes it; optionally
//! with a signature beside it, as `ssh-keygen -Y sign -n limpet-models` writes it.
//!
//! Both forms are those of tools that every administrator has, so a list needs no tool of ours.

mod sshsig;

use crate::model::Model;
use crate::rules::Rule;

/// Bytes of a list.
pub const LIST_BYTES_MAX: usize = 4 << 20;
/// What a signature must have been made for.
pub const NAMESPACE: &str = "limpet-models";
const HASH_CHARACTERS: usize = 64;

/// Hashes that are trusted.
#[derive(Debug, Clone, Default)]
pub struct List(Vec<[u8; 32]>);

impl List {
    /// Reads a list. Lines begin with a hash in hexadecimal; what follows is for people. Empty
    /// lines and those that begin with `#` are for people as well.
    ///
    /// # Errors
    /// A sentence, when a line is neither.
    pub fn parse(text: &[u8]) -> Result<List, String> {
        if text.len() > LIST_BYTES_MAX {
            return Err(format!("it has more than {LIST_BYTES_MAX} bytes"));
        }
        let text = std::str::from_utf8(text).map_err(|_| "it is not text".to_owned())?;
        let mut hashes = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let word = line.split_whitespace().next().unwrap_or("#");
            if word.starts_with('#') {
                continue;
            }
            let hash = hash(word).ok_or(format!("line {} begins with no SHA-256", index + 1))?;
            hashes.push(hash);
        }
        Ok(List(hashes))
    }

    /// Reads a list that one of `keys` has signed; `keys` are lines as in `authorized_keys`.
    ///
    /// # Errors
    /// A sentence, when nobody has.
    pub fn parse_signed(text: &[u8], signature: &[u8], keys: &[u8]) -> Result<List, String> {
        sshsig::check(text, signature, keys, NAMESPACE)?;
        List::parse(text)
    }

    /// Whether it has the hash.
    #[must_use]
    pub fn has(&self, sha256: &str) -> bool {
        hash(sha256).is_some_and(|hash| self.0.contains(&hash))
    }

    /// Judges a model that was hashed: it is trusted if the list has every one of its files, or the
    /// hash of their listing. With `required`, one that is not is malformed.
    pub fn judge(&self, model: &mut Model, required: bool) {
        let has = |hash: &Option<String>| hash.as_ref().is_some_and(|hash| self.has(hash));
        let each = !model.members.is_empty() && model.members.iter().all(|one| has(&one.sha256));
        let trusted = has(&model.sha256) || each;
        model.trusted = Some(trusted);
        if required && !trusted {
            let text = match &model.sha256 {
                Some(sha256) => format!("it is {sha256}"),
                None => "it was not hashed".to_owned(),
            };
            model.findings.add(Rule::TrustUnlisted, format_args!("{text}"));
        }
    }
}

fn hash(word: &str) -> Option<[u8; 32]> {
    if word.len() != HASH_CHARACTERS {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(word.as_bytes().chunks(2)) {
        let digit = |index: usize| char::from(pair[index]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list is what `sha256sum` writes, with remarks.
    #[test]
    fn a_list_is_what_sha256sum_writes() {
        let (one, other) = ("ab".repeat(32), "CD".repeat(32));
        let text = format!("# ours\n\n{one}  model.gguf\n{other} *b\n");
        let list = List::parse(text.as_bytes()).expect("it is one");
        assert!(list.has(&one) && list.has(&other.to_lowercase()));
        assert!(!list.has(&"ef".repeat(32)) && !list.has("ab"));
        let cause = List::parse(b"\nzz  model\n").expect_err("no hash");
        assert_eq!(cause, "line 2 begins with no SHA-256");
    }
}
