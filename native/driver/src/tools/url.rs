//! Which URLs there are and which of them may be contacted. The parts that were checked are the
//! parts that are used: nothing reads the text a second time.
//!
//! Strict on purpose: no user names, no backslashes, no characters outside of printable ASCII.

use std::fmt;
use std::net::Ipv6Addr;

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2048;
/// Longest host name (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// An address on the web.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it is https.
    pub secure: bool,
    /// In lower case; an IPv6 address in its shortest form and without its brackets.
    pub host: String,
    /// The one it names, or that of its scheme.
    pub port: u16,
    /// Path and query, from the slash on.
    pub target: String,
}

impl Url {
    /// Reads an absolute URL. A fragment is no part of it.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Url, String> {
        let refused =
            |cause: &str| format!("cannot use URL {}: {cause}", super::text::excerpt(text));
        if text.len() > URL_BYTES_MAX {
            return Err(refused("it is longer than 2048 bytes"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(refused("it holds a character that must be escaped"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refused("it has no scheme"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(refused("its scheme is neither http nor https")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if target.starts_with('/') { "" } else { "/" };
        let (host, port) = split(authority).ok_or_else(|| refused("it names no host and port"))?;
        let port = match port {
            None => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(port) => number(port).ok_or_else(|| refused("its port is not 1 to 65535"))?,
        };
        let host = normal(host).ok_or_else(|| refused("its host is neither name nor address"))?;
        Ok(Url { secure, host, port, target: format!("{slash}{target}") })
    }

    /// Where a redirection leads: to an absolute URL or to another path of the same host.
    ///
    /// # Errors
    /// A sentence; also when it would leave https.
    pub fn join(&self, location: &str) -> Result<Url, String> {
        let scheme = if self.secure { "https" } else { "http" };
        let next = if location.starts_with("//") {
            Url::parse(&format!("{scheme}:{location}"))?
        } else if location.starts_with('/') {
            Url::parse(&format!("{scheme}://{}{location}", self.authority()))?
        } else {
            Url::parse(location)?
        };
        if self.secure && !next.secure {
            return Err(format!("cannot follow to {next}: it would leave https"));
        }
        Ok(next)
    }

    /// Whether an entry of the allow-list, `host:port` or `host:*`, names this host and port.
    ///
    /// # Errors
    /// A sentence that says what would allow it.
    pub fn check(&self, hosts: &[String]) -> Result<(), String> {
        let names = |entry: &String| {
            let Some((host, port)) = entry.rsplit_once(':') else {
                return false;
            };
            normal(host).is_some_and(|host| host == self.host)
                && (port == "*" || number(port) == Some(self.port))
        };
        if hosts.iter().any(names) {
            return Ok(());
        }
        let host = bracketed(&self.host);
        Err(format!(
            "cannot contact {host}:{}: [hosts] of policy.toml does not allow it (nothing was sent)",
            self.port
        ))
    }

    /// Host and port as a `Host` header has them.
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority(), self.target)
    }
}

/// Host, still in its brackets, and port.
fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    let end = if authority.starts_with('[') { authority.find(']')? + 1 } else { 0 };
    match authority[end..].find(':') {
        None => Some((authority, None)),
        Some(at) => Some((&authority[..end + at], Some(&authority[end + at + 1..]))),
    }
}

fn number(port: &str) -> Option<u16> {
    let digits = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|port| digits && *port > 0)
}

/// The one way to write a host, so that two texts can be compared.
fn normal(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(address.to_string());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let sound = !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(plain);
    sound.then(|| host.to_ascii_lowercase())
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (bool, String, u16, String) {
        let url = Url::parse(text).unwrap();
        (url.secure, url.host, url.port, url.target)
    }

    /// The parts are what is contacted, in one way of writing.
    #[test]
    fn a_url_is_read_into_its_parts() {
        let expect = |secure, host: &str, port, target: &str| {
            (secure, host.to_owned(), port, target.to_owned())
        };
        assert_eq!(parsed("http://Fleet.LAN"), expect(false, "fleet.lan", 80, "/"));
        assert_eq!(parsed("HTTPS://a:8443/x?y#z"), expect(true, "a", 8443, "/x?y"));
        assert_eq!(parsed("http://a?q"), expect(false, "a", 80, "/?q"));
        assert_eq!(parsed("http://[0:0::1]:81/"), expect(false, "::1", 81, "/"));
    }

    /// What could be read in two ways is not read at all.
    #[test]
    fn an_ambiguous_url_is_refused() {
        let long = format!("http://a/{}", "x".repeat(2048));
        for text in [
            "",
            "a",
            "/a",
            "ftp://a/",
            "http:/a",
            "http://",
            "http:///x",
            "http://:80/",
            "http://a:/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+1/",
            "http://u@a/",
            "http://u:p@a/",
            "http://a\\@b/",
            "http://a b/",
            "http://a\r\nX: y/",
            "http://[::1/",
            "http://[::1%251]/",
            "http://[::1]x/",
            "http://a:80:80/",
            "http://ä/",
            "http://%61/",
            &long,
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    /// Host and port both count, `*` stands for ports only, and no entry means nobody.
    #[test]
    fn only_listed_hosts_are_allowed() {
        let hosts = ["fleet.lan:443", "127.0.0.1:*", "[0::1]:80", "*:80"].map(String::from);
        for text in ["https://FLEET.lan/x", "http://127.0.0.1:1/", "http://[::1]/"] {
            assert_eq!(Url::parse(text).unwrap().check(&hosts), Ok(()), "{text}");
        }
        for text in [
            "http://fleet.lan/",
            "https://fleet.lan:444/",
            "https://fleet.lan.evil/",
            "https://xfleet.lan/",
            "http://127.0.0.2/",
            "http://[::1]:81/",
            "http://other/",
        ] {
            let refusal = Url::parse(text).unwrap().check(&hosts).unwrap_err();
            assert!(refusal.contains("[hosts] of policy.toml"), "{refusal}");
        }
        assert!(Url::parse("http://a/").unwrap().check(&[]).is_err());
    }

    /// A redirection is read like any URL, and never leaves https.
    #[test]
    fn a_redirection_is_joined() {
        let from = Url::parse("https://a:8/b/c").unwrap();
        assert_eq!(from.join("/d?e").unwrap().to_string(), "https://a:8/d?e");
        assert_eq!(from.join("//b/d").unwrap().to_string(), "https://b/d");
        assert_eq!(from.join("https://c").unwrap().to_string(), "https://c/");
        for location in ["http://a:8/", "d", "../d", "", "javascript:1", "/\r\n"] {
            assert!(from.join(location).is_err(), "{location}");
        }
    }

    proptest! {
        /// Any text is read or refused, and what was read is written so that it is read the same.
        #[test]
        fn a_url_survives_being_written(text in "(https?://)?[!-~]{0,40}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(Url::parse(&url.to_string()), Ok(url));
            }
        }
    }
}
