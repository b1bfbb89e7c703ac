//! The command line of `limpet inspect`.

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

/// What `--help` says. `controller/arguments.py` has the same options, for the shell's completion.
pub const HELP: &str = "\
usage: limpet inspect PATH... [OPTIONS]

What model files (GGUF, safetensors) are, whether they are sound, trusted and fit this device, and
their bills of materials. Headers are read as what they are, untrusted input, in a few MiB whatever
they claim. A PATH is a file, a set's index or any of its splits, or a folder with all below it.

  --format FORMAT        table (default on a terminal), json (default elsewhere; l-bom's fields and
                         more), cyclonedx (1.6, JSON), spdx (2.3, tag-value), spdx-json (2.3),
                         hf-readme
  --json                 the same as --format json
  --output FILE          write there, whole or not at all
  --no-hash              no SHA-256: only headers are read
  --tensors              with json: list every tensor
  --absolute             absolute paths (by default, as they are given)
  --trusted FILE         a list of SHA-256, one a line, as sha256sum writes it
  --keys FILE            the list must be signed by one of these: ssh-ed25519 keys, one a line; the
                         signature lies beside it, as ssh-keygen -Y sign -n limpet-models writes it
  --require-trusted      what is not in the list is malformed
  --context N            tokens of context that a model is to have (default: what it claims)
  --memory SIZE          memory that it may have, such as 4GiB (default: this device's pool)
  --idle                 read only while nobody else does
  --rules                list all rules with their severity, and end
  --hf-title TEXT        of the card; likewise --hf-sdk gradio|docker|static, --hf-app-file FILE,
                         --hf-app-port N (docker only), --hf-short-description TEXT
  -h, --help             show this, and end

SOURCE_DATE_EPOCH is honoured: the same files give the same bytes.

exit codes:
    0  every model is sound
    1  a model is suspect: something was found that somebody should look at
    2  a model is malformed or cannot be read, or the command line is wrong
  130  interrupted

examples:
  limpet inspect model.gguf
  limpet inspect models/ --format cyclonedx --output models.cdx.json
  sha256sum models/* > trusted; limpet inspect models/ --trusted trusted --require-trusted
";

/// In which form it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
    CycloneDx,
    Spdx,
    SpdxJson,
    Readme,
}

const FORMATS: [(&str, Format); 6] = [
    ("table", Format::Table),
    ("json", Format::Json),
    ("cyclonedx", Format::CycloneDx),
    ("spdx", Format::Spdx),
    ("spdx-json", Format::SpdxJson),
    ("hf-readme", Format::Readme),
];
const SDKS: [&str; 3] = ["gradio", "docker", "static"];

/// Everything that is asked for.
#[derive(Debug)]
pub struct Wish {
    pub help: bool,
    pub rules: bool,
    pub paths: Vec<PathBuf>,
    pub format: Format,
    pub output: Option<PathBuf>,
    pub hash: bool,
    pub tensors: bool,
    pub absolute: bool,
    pub trusted: Option<PathBuf>,
    pub keys: Option<PathBuf>,
    pub require_trusted: bool,
    pub context: Option<u64>,
    pub memory: Option<u64>,
    pub idle: bool,
    pub title: Option<String>,
    pub sdk: Option<String>,
    pub app_file: Option<String>,
    pub app_port: Option<u64>,
    pub short_description: Option<String>,
}

impl Wish {
    /// Reads the words.
    ///
    /// # Errors
    /// The cause, when they are wrong.
    pub fn parse(words: &[OsString]) -> Result<Wish, String> {
        let mut wish = Wish::nothing();
        let mut words = words.iter();
        let mut options = true;
        while let Some(word) = words.next() {
            let text =
                word.to_str().filter(|text| options && text.starts_with('-') && *text != "-");
            let Some(text) = text else {
                wish.paths.push(word.into());
                continue;
            };
            if text == "--" {
                options = false;
                continue;
            }
            let (name, inner) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (text, None),
            };
            let had = inner.is_some();
            let mut value = || {
                let value = inner.clone().or_else(|| words.next().cloned());
                value.ok_or(format!("{name} takes a value"))
            };
            if wish.flag(name) {
                if had {
                    return Err(format!("{name} takes no value"));
                }
            } else if !wish.option(name, &mut value)? {
                return Err(format!("there is no option {name:?}"));
            }
        }
        wish.check().map(|()| wish)
    }

    /// Whether any number of models may be meant.
    pub fn several(&self) -> bool {
        self.paths.len() != 1 || self.paths[0].is_dir()
    }

    /// Whether the fit is asked for: a person is told, and whoever names a number.
    pub fn fit(&self) -> bool {
        self.format == Format::Table || self.context.is_some()
    }

    fn nothing() -> Wish {
        let format = if stdout().is_terminal() { Format::Table } else { Format::Json };
        Wish {
            help: false,
            rules: false,
            paths: Vec::new(),
            format,
            output: None,
            hash: true,
            tensors: false,
            absolute: false,
            trusted: None,
            keys: None,
            require_trusted: false,
            context: None,
            memory: None,
            idle: false,
            title: None,
            sdk: None,
            app_file: None,
            app_port: None,
            short_description: None,
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        match name {
            "-h" | "--help" => self.help = true,
            "--rules" => self.rules = true,
            "--json" => self.format = Format::Json,
            "--no-hash" => self.hash = false,
            "--tensors" => self.tensors = true,
            "--absolute" => self.absolute = true,
            "--require-trusted" => self.require_trusted = true,
            "--idle" => self.idle = true,
            _ => return false,
        }
        true
    }

    fn option(
        &mut self,
        name: &str,
        value: &mut dyn FnMut() -> Result<OsString, String>,
    ) -> Result<bool, String> {
        match name {
            "--output" => self.output = Some(value()?.into()),
            "--trusted" => self.trusted = Some(value()?.into()),
            "--keys" => self.keys = Some(value()?.into()),
            _ => return self.text_option(name, value),
        }
        Ok(true)
    }

    fn text_option(
        &mut self,
        name: &str,
        value: &mut dyn FnMut() -> Result<OsString, String>,
    ) -> Result<bool, String> {
        let mut text =
            || value()?.into_string().map_err(|_| format!("the value of {name} is not text"));
        match name {
            "--format" => {
                let text = text()?;
                let known = FORMATS.iter().find(|(known, _)| *known == text);
                let (_, format) = known.ok_or(format!("there is no format {text:?}"))?;
                self.format = *format;
            }
            "--context" => self.context = Some(number(name, &text()?)?),
            "--memory" => self.memory = Some(size(name, &text()?)?),
            "--hf-title" => self.title = Some(text()?),
            "--hf-sdk" => {
                let text = text()?;
                if !SDKS.contains(&text.as_str()) {
                    return Err(format!("{text:?} is none of gradio, docker and static"));
                }
                self.sdk = Some(text);
            }
            "--hf-app-file" => self.app_file = Some(text()?),
            "--hf-app-port" => self.app_port = Some(number(name, &text()?)?),
            "--hf-short-description" => self.short_description = Some(text()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(&self) -> Result<(), String> {
        let card = self.title.is_some()
            || self.sdk.is_some()
            || self.app_file.is_some()
            || self.app_port.is_some()
            || self.short_description.is_some();
        let cause = if self.help || self.rules {
            return Ok(());
        } else if self.paths.is_empty() {
            "no PATH is given"
        } else if self.require_trusted && self.trusted.is_none() {
            "--require-trusted needs --trusted FILE"
        } else if self.trusted.is_some() && !self.hash {
            "--trusted needs hashes, so --no-hash makes no sense"
        } else if self.keys.is_some() && self.trusted.is_none() {
            "--keys needs --trusted FILE"
        } else if self.tensors && self.format != Format::Json {
            "--tensors needs --format json"
        } else if card && self.format != Format::Readme {
            "--hf-... needs --format hf-readme"
        } else if self.app_port.is_some() && self.sdk.as_deref().is_some_and(|sdk| sdk != "docker")
        {
            "--hf-app-port is for --hf-sdk docker"
        } else {
            return Ok(());
        };
        Err(cause.to_owned())
    }
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or(format!("the value of {name} is no whole number above zero"))
}

/// A size with its unit, as the configuration has it: `64KiB`, `4GiB`.
fn size(name: &str, text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
    let found = UNITS.iter().find_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(1 << bits)
    });
    found.ok_or(format!("the value of {name} is no size such as 512MiB or 4GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Wish, String> {
        Wish::parse(&text.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_read() {
        let wish = parse("a --format=spdx --no-hash b -- --c").expect("it is right");
        assert_eq!(wish.paths, ["a", "b", "--c"].map(PathBuf::from));
        assert_eq!((wish.format, wish.hash), (Format::Spdx, false));
        let wish = parse("a --memory 2GiB --context 4096 --trusted t --keys k").expect("right");
        assert_eq!((wish.memory, wish.context), (Some(2 << 30), Some(4096)));
        assert!(parse("--help").expect("it is right").help);
    }

    #[test]
    fn wrong_words_are_told() {
        for (text, cause) in [
            ("--format json", "no PATH"),
            ("a --format xml", "no format \"xml\""),
            ("a --nonsense", "no option"),
            ("a --idle=yes", "takes no value"),
            ("a --output", "takes a value"),
            ("a --memory 2GB", "no size"),
            ("a --memory 99999999999TiB", "no size"),
            ("a --context 0", "no whole number"),
            ("a --require-trusted", "needs --trusted"),
            ("a --trusted t --no-hash", "needs hashes"),
            ("a --hf-title x --format json", "hf-readme"),
            ("a --format hf-readme --hf-sdk gradio --hf-app-port 7860", "docker"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(cause), "{text}: {error}");
        }
    }
}
