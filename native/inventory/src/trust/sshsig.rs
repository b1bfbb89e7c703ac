//! OpenSSH's signatures of files, with Ed25519 (PROTOCOL.sshsig of OpenSSH).
//!
//! What is signed is `SSHSIG`, the namespace, nothing, the name of a hash, and that hash of the
//! file.

use ring::digest::{SHA256, SHA512, digest};
use ring::signature::{ED25519, UnparsedPublicKey};

const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const KIND: &[u8] = b"ssh-ed25519";
/// Bytes of a signature file, and of a file of keys.
const BYTES_MAX: usize = 64 * 1024;

/// Whether one of `keys` has signed `text` in `namespace`.
///
/// # Errors
/// A sentence, when none has.
pub fn check(text: &[u8], signature: &[u8], keys: &[u8], namespace: &str) -> Result<(), String> {
    let blob = armour(signature).ok_or("its signature is none of ssh-keygen")?;
    let signed = Signed::parse(&blob).ok_or("its signature is not one by Ed25519")?;
    if signed.namespace != namespace.as_bytes() {
        return Err(format!("its signature is not for {namespace}"));
    }
    let hash = match signed.hash {
        b"sha512" => digest(&SHA512, text),
        b"sha256" => digest(&SHA256, text),
        _ => return Err("its signature is over an unknown hash".to_owned()),
    };
    if !known(keys).any(|key| key == signed.key) {
        return Err("its signature is by a key that is not trusted".to_owned());
    }
    let mut message = MAGIC.to_vec();
    for part in [signed.namespace, b"", signed.hash, hash.as_ref()] {
        message.extend((part.len() as u32).to_be_bytes());
        message.extend(part);
    }
    let wrong = |_| "its signature does not fit it".to_owned();
    UnparsedPublicKey::new(&ED25519, signed.key).verify(&message, signed.signature).map_err(wrong)
}

struct Signed<'b> {
    key: &'b [u8],
    namespace: &'b [u8],
    hash: &'b [u8],
    signature: &'b [u8],
}

impl Signed<'_> {
    fn parse(blob: &[u8]) -> Option<Signed<'_>> {
        let mut blob = Blob(blob.strip_prefix(MAGIC)?);
        if blob.number()? != VERSION {
            return None;
        }
        let key = ed25519(blob.field()?)?;
        let (namespace, _reserved, hash) = (blob.field()?, blob.field()?, blob.field()?);
        let signature = ed25519(blob.field()?)?;
        blob.0.is_empty().then_some(Signed { key, namespace, hash, signature })
    }
}

/// The bytes of a key or a signature behind the name of its kind.
fn ed25519(blob: &[u8]) -> Option<&[u8]> {
    let mut blob = Blob(blob);
    let kind = blob.field()?;
    let bytes = blob.field()?;
    (kind == KIND && blob.0.is_empty()).then_some(bytes)
}

struct Blob<'b>(&'b [u8]);

impl<'b> Blob<'b> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn field(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}

fn armour(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text.get(..text.len().min(BYTES_MAX))?).ok()?;
    let inner = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    base64(&inner.split_whitespace().collect::<String>())
}

/// The keys of `ssh-ed25519 BASE64 REMARK` lines; all others are passed over.
fn known(keys: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let text = std::str::from_utf8(&keys[..keys.len().min(BYTES_MAX)]).unwrap_or("");
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "ssh-ed25519");
        let blob = base64(words.nth(1)?)?;
        ed25519(&blob).map(<[u8]>::to_vec)
    })
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for sign in text.bytes() {
        let value = match sign {
            b'A'..=b'Z' => sign - b'A',
            b'a'..=b'z' => sign - b'a' + 26,
            b'0'..=b'9' => sign - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}
