//! The load: how many commands are under way at once, when the next is sent, what a result is.

use crate::mqtt::{Client, Packet};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

/// Before a command that was refused is sent again.
const PAUSE_NS: u64 = 20_000_000;
/// Times are told as `u64::MAX` where there is none.
const NEVER: u64 = u64::MAX;
const SECOND_NS: u64 = 1_000_000_000;

/// What is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    port: u16,
    /// Where commands go.
    send: String,
    /// Where what is said about them comes; nothing: only the broker's acknowledgement counts.
    hear: Vec<String>,
    /// A message whose topic begins so is a result, any other a refusal if it says `refused`.
    result: String,
    /// What a result says of a command that went well.
    success: String,
    /// A command: `@ID@` is its name, `@N@` its number, `@EXPIRES@` when it expires, `@MS@` a
    /// number of `milliseconds`.
    template: String,
    /// What its name starts with.
    prefix: String,
    tasks: usize,
    in_flight: usize,
    /// Commands sent in a second at most; 0 for as many as may be under way.
    rate: u64,
    expires_s: f64,
    /// Numbers for `@MS@`, taken in turn.
    #[serde(default)]
    milliseconds: Vec<u64>,
    /// After this a command that has not come back is lost.
    patience_s: f64,
    /// A number to be read from each result, by the text that stands before it.
    #[serde(default)]
    reads: Option<String>,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// From the first command sent to the last result heard.
    seconds: f64,
    results: usize,
    succeeded: usize,
    /// Refusals by their code.
    refused: BTreeMap<String, usize>,
    /// CLOCK_MONOTONIC of each command that was sent, by its number.
    sent_ns: Vec<u64>,
    /// From there to its result (or acknowledgement).
    latency_ns: Vec<u64>,
    /// What was read from the results.
    read: Vec<f64>,
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    order: Order,
    client: Client,
    /// Commands to send again, each with its time.
    again: VecDeque<(u64, usize)>,
    next: usize,
    under_way: usize,
    figures: Figures,
    began_ns: u64,
}

impl Load {
    /// Connects.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub fn new(order: Order) -> Result<Load> {
        let name = format!("load-{}", std::process::id());
        let client = Client::connect(order.port, &name, &order.hear)?;
        let figures = Figures {
            sent_ns: vec![NEVER; order.tasks],
            latency_ns: vec![NEVER; order.tasks],
            ..Figures::default()
        };
        let (again, began_ns) = (VecDeque::new(), monotonic_ns());
        Ok(Load { order, client, again, next: 0, under_way: 0, figures, began_ns })
    }

    /// Sends everything and waits for all of it.
    ///
    /// # Errors
    /// When the connection is lost, or results do not come in time.
    pub fn run(mut self) -> Result<Figures> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bound")]
        let patience_ns = (self.order.patience_s * 1e9) as u64;
        while self.figures.results < self.order.tasks {
            self.send()?;
            while let Some(packet) = self.client.take()? {
                self.heard(&packet);
            }
            if self.client.waits() || self.may_send(monotonic_ns()) {
                continue;
            }
            let now = monotonic_ns();
            if now > self.began_ns + patience_ns {
                let (got, all) = (self.figures.results, self.order.tasks);
                let refused = &self.figures.refused;
                let what = format!("{got} of {all} came back in time; refused: {refused:?}");
                return Err(Error::new(ErrorKind::TimedOut, what));
            }
            let due = self.due_ns().min(now + SECOND_NS);
            self.client.wait(Duration::from_nanos(due.saturating_sub(now)))?;
        }
        // The last acknowledgements.
        self.client.flush()?;
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        let seconds = (monotonic_ns() - self.began_ns) as f64 / 1e9;
        Ok(Figures { seconds, ..self.figures })
    }

    /// When the next command is to be sent, as far as that is a matter of time.
    fn due_ns(&self) -> u64 {
        let again = self.again.front().map_or(NEVER, |(due, _)| *due);
        let all_sent = self.next == self.order.tasks || self.under_way >= self.order.in_flight;
        let pace = if all_sent || self.order.rate == 0 { NEVER } else { self.paced_ns() };
        again.min(pace)
    }

    fn paced_ns(&self) -> u64 {
        self.began_ns + self.next as u64 * SECOND_NS / self.order.rate.max(1)
    }

    fn may_send(&self, now: u64) -> bool {
        self.next < self.order.tasks
            && self.under_way < self.order.in_flight
            && (self.order.rate == 0 || now >= self.paced_ns())
    }

    fn send(&mut self) -> Result<()> {
        let now = monotonic_ns();
        while self.again.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, number)) = self.again.pop_front() else { break };
            self.publish(number);
        }
        while self.may_send(now) {
            let number = self.next;
            (self.next, self.under_way) = (number + 1, self.under_way + 1);
            self.figures.sent_ns[number] = monotonic_ns();
            self.publish(number);
        }
        if self.client.waits() { self.client.flush() } else { Ok(()) }
    }

    fn publish(&mut self, number: usize) {
        let order = &self.order;
        let ms = order.milliseconds.get(number % order.milliseconds.len().max(1)).unwrap_or(&0);
        let body = order
            .template
            .replace("@ID@", &format!("{}{number}", order.prefix))
            .replace("@N@", &number.to_string())
            .replace("@MS@", &ms.to_string())
            .replace("@EXPIRES@", &expiry(order.expires_s));
        // Only one command at a time has this number while it is under way.
        let packet = u16::try_from(number % 0xFFFF).unwrap_or(0) + 1;
        self.client.publish(packet, &order.send, body.as_bytes());
    }

    fn heard(&mut self, packet: &Packet) {
        let now = monotonic_ns();
        match packet {
            Packet::PubAck(number) if self.order.hear.is_empty() => {
                // Acknowledgements come in the order of what they acknowledge.
                let expected = self.figures.results;
                debug_assert_eq!(usize::from(*number), expected % 0xFFFF + 1);
                self.ended(expected, now);
                self.figures.succeeded += 1;
            }
            Packet::PubAck(_) => {}
            Packet::Publish { topic, payload } => {
                let Some(number) = self.number(payload) else { return };
                if topic.starts_with(self.order.result.as_bytes()) {
                    if self.figures.latency_ns[number] == NEVER {
                        self.ended(number, now);
                        let good = find(payload, self.order.success.as_bytes()).is_some();
                        self.figures.succeeded += usize::from(good);
                        self.read(payload);
                    }
                } else if find(payload, b"refused").is_some() {
                    let code = text_after(payload, b"\"code\":\"").unwrap_or("unknown").to_owned();
                    *self.figures.refused.entry(code).or_default() += 1;
                    self.again.push_back((now + PAUSE_NS, number));
                }
            }
        }
    }

    fn ended(&mut self, number: usize, now: u64) {
        self.figures.latency_ns[number] = now - self.figures.sent_ns[number];
        self.figures.results += 1;
        self.under_way -= 1;
    }

    fn read(&mut self, payload: &[u8]) {
        let Some(before) = &self.order.reads else { return };
        if let Some(at) = find(payload, before.as_bytes()) {
            let rest = &payload[at + before.len()..];
            let end = rest.iter().position(|byte| !b"0123456789.-".contains(byte));
            let digits = std::str::from_utf8(&rest[..end.unwrap_or(rest.len())]);
            self.figures.read.extend(digits.ok().and_then(|text| text.parse::<f64>().ok()));
        }
    }

    /// The number of the command that a message is about.
    fn number(&self, payload: &[u8]) -> Option<usize> {
        let text =
            [&b"\"id\":\""[..], b"\"id\": \""].iter().find_map(|key| text_after(payload, key))?;
        let number = text.strip_prefix(&self.order.prefix)?.parse().ok()?;
        (number < self.next).then_some(number)
    }
}

/// The text between `key` and the next quote.
fn text_after<'a>(payload: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let rest = &payload[find(payload, key)? + key.len()..];
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * SECOND_NS + now.tv_nsec.unsigned_abs()
}

/// An instant so many seconds from now, as RFC 3339 with milliseconds.
fn expiry(after_s: f64) -> String {
    let now = clock_gettime(ClockId::Realtime);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "after 1970")]
    let after_ms = (after_s * 1e3) as u64;
    let ms = now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000 + after_ms;
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days to a date, after Howard Hinnant's `civil_from_days`.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_an_instant_of_the_calendar() {
        let said = expiry(0.0);
        let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H"]).output();
        let date = String::from_utf8(date.expect("date(1) runs").stdout).expect("ASCII");
        assert!(said.starts_with(date.trim_end()) && said.ends_with('Z'), "{said} {date}");
    }

    #[test]
    fn text_is_found_where_it_stands() {
        let payload = br#"{"kind":"answer","id":"a-7","code":"busy_ids"}"#;
        assert_eq!(text_after(payload, b"\"id\":\""), Some("a-7"));
        assert_eq!(text_after(payload, b"\"code\":\""), Some("busy_ids"));
        assert_eq!(text_after(payload, b"\"x\":\""), None);
    }
}
