//! JSON as tokens, read forwards: of a text only its beginning is kept, of the nesting one bit a
//! level. It accepts what the standard does, no more.

use crate::reader::{Reader, Stop};
use crate::seen::Naming;
use crate::text::Passing;
use std::hash::Hasher;

/// Arrays and objects around a value.
const DEPTH_MAX: u32 = 16;
/// Characters of a number; those that mean anything here have at most twenty.
const NUMBER_BYTES_MAX: usize = 400;

/// A piece of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `}` or `]`
    Close,
    /// The name of a member: see [`Json::text`].
    Key,
    /// A text: see [`Json::text`].
    Text,
    /// A number: see [`Json::number`].
    Number,
    /// `true` or `false`
    Bool(bool),
    /// `null`
    Null,
    /// Nothing but white space follows.
    End,
}

/// Why there is no next token.
#[derive(Debug)]
pub enum Fault {
    /// What is not JSON, at which byte.
    Invalid(&'static str, u64),
    /// It is nested too deeply.
    Deep(u64),
    /// Reading failed.
    Stop(Stop),
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Fault {
        Fault::Stop(stop)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Value,
    ValueOrClose,
    Key,
    KeyOrClose,
    CommaOrClose,
    End,
}

/// See the head of this file. `H` hears every text.
pub struct Json<'j, 's, H> {
    reader: &'j mut Reader<'s>,
    hashers: Box<dyn Fn() -> H + 'j>,
    /// One bit a level: whether it is an object.
    objects: u32,
    depth: u32,
    expect: Expect,
    keep: usize,
    scan: bool,
    /// The text of the last token.
    pub text: Passing<H>,
    number: Vec<u8>,
}

/// Reads JSON from where `reader` is to its bound.
pub fn json<'j, 's>(
    reader: &'j mut Reader<'s>,
    naming: &'j Naming,
    keep: usize,
) -> Json<'j, 's, impl Hasher + use<>> {
    let text = Passing::new(0, Some(naming.hasher()));
    let hashers = Box::new(|| naming.hasher());
    let (objects, depth, expect, number) = (0, 0, Expect::Value, Vec::new());
    Json { reader, hashers, objects, depth, expect, keep, scan: false, text, number }
}

impl<H: Hasher> Json<'_, '_, H> {
    /// Has the next text looked at as a chat template.
    pub fn scan_next(&mut self) {
        self.scan = true;
    }

    /// The number of the last token, if it is whole and below 2^64.
    pub fn number(&self) -> Option<u64> {
        std::str::from_utf8(&self.number).ok()?.parse().ok()
    }

    /// The number of the last token, as it stands.
    pub fn digits(&self) -> String {
        String::from_utf8_lossy(&self.number).into_owned()
    }

    /// The next token.
    ///
    /// # Errors
    /// When it is none.
    pub fn next(&mut self) -> Result<Token, Fault> {
        self.skip_space()?;
        if self.expect == Expect::End {
            return match self.reader.peek() {
                Err(Stop::End) => Ok(Token::End),
                Err(stop) => Err(stop.into()),
                Ok(_) => Err(self.invalid("something follows the value")),
            };
        }
        let mut byte = self.peek()?;
        if self.expect == Expect::CommaOrClose && byte == b',' {
            self.reader.byte()?;
            self.skip_space()?;
            byte = self.peek()?;
            self.expect = if self.in_object() { Expect::Key } else { Expect::Value };
        }
        match (self.expect, byte) {
            (Expect::ValueOrClose | Expect::KeyOrClose | Expect::CommaOrClose, b']' | b'}') => {
                self.close()
            }
            (Expect::Key | Expect::KeyOrClose, b'"') => self.key(),
            (Expect::Value | Expect::ValueOrClose, _) => self.value(byte),
            _ => Err(self.invalid("a comma, a name or a closing bracket is missing")),
        }
    }

    /// Passes over the value whose first token was `token`.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn pass(&mut self, token: Token) -> Result<(), Fault> {
        if matches!(token, Token::Object | Token::Array) {
            let depth = self.depth;
            while self.depth >= depth {
                self.next()?;
            }
        }
        Ok(())
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn invalid(&self, cause: &'static str) -> Fault {
        Fault::Invalid(cause, self.reader.position())
    }

    fn peek(&mut self) -> Result<u8, Fault> {
        match self.reader.peek() {
            Err(Stop::End) => Err(self.invalid("it ends early")),
            other => Ok(other?),
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = self.peek()?;
        self.reader.byte()?;
        Ok(byte)
    }

    fn skip_space(&mut self) -> Result<(), Fault> {
        loop {
            match self.reader.peek() {
                Ok(b' ' | b'\t' | b'\n' | b'\r') => drop(self.reader.byte()?),
                Ok(_) | Err(Stop::End) => return Ok(()),
                Err(stop) => return Err(stop.into()),
            }
        }
    }

    fn open(&mut self, object: bool) -> Result<Token, Fault> {
        if self.depth == DEPTH_MAX {
            return Err(Fault::Deep(self.reader.position()));
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u32::from(object);
        self.expect = if object { Expect::KeyOrClose } else { Expect::ValueOrClose };
        Ok(if object { Token::Object } else { Token::Array })
    }

    fn close(&mut self) -> Result<Token, Fault> {
        let bracket = if self.in_object() { b'}' } else { b']' };
        if self.byte()? != bracket {
            return Err(self.invalid("a bracket is closed by the other kind"));
        }
        self.depth -= 1;
        self.objects >>= 1;
        self.ended();
        Ok(Token::Close)
    }

    /// A value has ended.
    fn ended(&mut self) {
        self.expect = if self.depth == 0 { Expect::End } else { Expect::CommaOrClose };
    }

    fn key(&mut self) -> Result<Token, Fault> {
        self.read_text()?;
        self.skip_space()?;
        if self.byte()? != b':' {
            return Err(self.invalid("a colon is missing"));
        }
        self.expect = Expect::Value;
        Ok(Token::Key)
    }

    fn value(&mut self, first: u8) -> Result<Token, Fault> {
        let token = match first {
            b'{' | b'[' => {
                self.reader.byte()?;
                return self.open(first == b'{');
            }
            b'"' => {
                self.read_text()?;
                Token::Text
            }
            b't' => self.word(b"true", Token::Bool(true))?,
            b'f' => self.word(b"false", Token::Bool(false))?,
            b'n' => self.word(b"null", Token::Null)?,
            _ => self.read_number()?,
        };
        self.ended();
        Ok(token)
    }

    fn word(&mut self, word: &[u8], token: Token) -> Result<Token, Fault> {
        for &byte in word {
            if self.byte()? != byte {
                return Err(self.invalid("a word is none of true, false and null"));
            }
        }
        Ok(token)
    }

    fn read_number(&mut self) -> Result<Token, Fault> {
        self.number.clear();
        while let Ok(byte) = self.reader.peek() {
            if !byte.is_ascii_digit() && !b"+-.eE".contains(&byte) {
                break;
            }
            if self.number.len() == NUMBER_BYTES_MAX {
                return Err(self.invalid("a number is too long"));
            }
            self.number.push(byte);
            self.reader.byte()?;
        }
        if is_number(&self.number) {
            Ok(Token::Number)
        } else {
            Err(self.invalid("a value is none"))
        }
    }

    fn read_text(&mut self) -> Result<(), Fault> {
        self.reader.byte()?;
        self.text = Passing::new(self.keep, Some((self.hashers)()));
        if std::mem::take(&mut self.scan) {
            self.text.scan();
        }
        loop {
            if self.pass_plain()? {
                break;
            }
            match self.byte()? {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return Err(self.invalid("a text holds a control character")),
            }
        }
        if self.text.is_utf8() { Ok(()) } else { Err(self.invalid("a text is not UTF-8")) }
    }

    /// Takes what stands for itself; whether the text ended with it.
    fn pass_plain(&mut self) -> Result<bool, Fault> {
        loop {
            self.peek()?;
            let piece = self.reader.chunk(u64::MAX)?;
            let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
            let count = piece.iter().position(special).unwrap_or(piece.len());
            self.text.push(&piece[..count]);
            let (rest, ends) = (piece.len() - count, piece.get(count) == Some(&b'"'));
            if rest > 0 {
                self.reader.give_back(rest - usize::from(ends));
                return Ok(ends);
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let plain = match self.byte()? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.escape_unicode(),
            _ => return Err(self.invalid("an escape is none")),
        };
        self.text.push(&[plain]);
        Ok(())
    }

    fn escape_unicode(&mut self) -> Result<(), Fault> {
        let mut units = [self.unit()?, 0];
        let mut count = 1;
        if (0xd800..0xdc00).contains(&units[0]) && self.byte()? == b'\\' && self.byte()? == b'u' {
            units[1] = self.unit()?;
            count = 2;
        }
        let Ok(text) = String::from_utf16(&units[..count]) else {
            return Err(self.invalid("half of a surrogate pair is missing"));
        };
        self.text.push(text.as_bytes());
        Ok(())
    }

    fn unit(&mut self) -> Result<u16, Fault> {
        let mut unit = 0;
        for _ in 0..4 {
            let byte = self.byte()?;
            let digit = char::from(byte).to_digit(16);
            unit = unit << 4 | digit.ok_or_else(|| self.invalid("an escape is none"))? as u16;
        }
        Ok(unit)
    }
}

/// The grammar of numbers: `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`.
fn is_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, rest) = digits(text);
    let mut sound = whole > 0 && (whole == 1 || text[0] != b'0');
    let mut rest = rest;
    if let [b'.', after @ ..] = rest {
        let (count, next) = digits(after);
        sound = sound && count > 0;
        rest = next;
    }
    if let [b'e' | b'E', after @ ..] = rest {
        let after = match after {
            [b'+' | b'-', after @ ..] => after,
            _ => after,
        };
        let (count, next) = digits(after);
        sound = sound && count > 0;
        rest = next;
    }
    sound && rest.is_empty()
}

fn digits(text: &[u8]) -> (usize, &[u8]) {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count, &text[count..])
}
