//! `device`: facts about the device. What it does not tell of itself is left out.

use super::{Call, Failure, beneath};
use rustix::fs::{StatVfs, fstatvfs, statvfs};
use rustix::system::uname;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes read of any one file of the system.
const FILE_BYTES_MAX: u64 = 4096;
/// Characters kept of a name.
const NAME_CHARACTERS_MAX: usize = 64;
/// Sensors looked at; a large board has a dozen.
const ZONES_MAX: usize = 16;

/// Input `path` (optional: whose file system is measured; else the working directory's); result
/// `{"model", "kernel", "machine", "memory": {"total_bytes", "available_bytes"}, "uptime_s",
/// "load": [1, 5 and 15 minutes], "disk": {"total_bytes", "available_bytes"},
/// "temperatures": {SENSOR: degrees Celsius}}`.
///
/// # Errors
/// A sentence, when the path cannot be looked at.
pub fn run(call: &Call) -> Result<Value, Failure> {
    let disk = match call.optional_text("path")? {
        None => statvfs(".").ok(),
        Some(path) => {
            let failed = |cause: std::io::Error| format!("cannot look at {path}: {cause}");
            let entry = beneath::entry(call, "path").map_err(failed)?;
            Some(fstatvfs(&entry).map_err(|cause| failed(cause.into()))?)
        }
    };
    let mut facts = facts(Path::new("/"));
    facts.extend(disk.map(|found| ("disk".into(), room(&found))));
    Ok(Value::Object(facts))
}

fn room(found: &StatVfs) -> Value {
    let total = found.f_blocks.saturating_mul(found.f_frsize);
    json!({
        "total_bytes": total,
        "available_bytes": found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// What the system's files beneath `root` and the kernel itself tell.
fn facts(root: &Path) -> Map<String, Value> {
    let system = uname();
    let facts = [
        ("model", file(root, "proc/device-tree/model").map(|model| json!(name(&model)))),
        ("kernel", Some(json!(name(&system.release().to_string_lossy())))),
        ("machine", Some(json!(name(&system.machine().to_string_lossy())))),
        ("memory", file(root, "proc/meminfo").and_then(|text| memory(&text))),
        ("uptime_s", file(root, "proc/uptime").and_then(|text| uptime(&text))),
        ("load", file(root, "proc/loadavg").and_then(|text| load(&text))),
        ("temperatures", temperatures(root)),
    ];
    let known = facts.into_iter().filter_map(|(key, fact)| Some((key.to_owned(), fact?)));
    known.collect()
}

fn file(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    let mut text = Vec::new();
    File::open(root.join(path)).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The device tree ends its texts with NUL.
fn name(text: &str) -> String {
    let plain = text.trim_matches(|character: char| character == '\0' || character.is_whitespace());
    plain.chars().filter(|character| !character.is_control()).take(NAME_CHARACTERS_MAX).collect()
}

fn memory(text: &str) -> Option<Value> {
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(json!({"total_bytes": bytes("MemTotal")?, "available_bytes": bytes("MemAvailable")?}))
}

fn uptime(text: &str) -> Option<Value> {
    let seconds: u64 = text.split('.').next()?.parse().ok()?;
    Some(json!(seconds))
}

fn load(text: &str) -> Option<Value> {
    let numbers: Vec<f64> = text.split(' ').take(3).map_while(|word| word.parse().ok()).collect();
    (numbers.len() == 3).then(|| json!(numbers))
}

fn temperatures(root: &Path) -> Option<Value> {
    let mut sensors = Map::new();
    for zone in 0..ZONES_MAX {
        let folder = format!("sys/class/thermal/thermal_zone{zone}");
        let read = |member: &str| file(root, format!("{folder}/{member}"));
        let Some(Ok(milli)) = read("temp").map(|text| text.trim().parse::<i32>()) else {
            continue;
        };
        let sensor = read("type").map_or_else(|| format!("zone{zone}"), |text| name(&text));
        sensors.insert(sensor, json!(f64::from(milli) / 1000.0));
    }
    (!sensors.is_empty()).then_some(Value::Object(sensors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A board tells everything; what is malformed is left out and hides nothing else.
    #[test]
    fn the_systems_files_become_facts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0");
        write("proc/meminfo", "MemTotal:       1000 kB\nMemFree: 5 kB\nMemAvailable:    500 kB\n");
        write("proc/uptime", "86400.12 1.00\n");
        write("proc/loadavg", "0.50 0.25 0.10 1/100 4242\n");
        write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
        write("sys/class/thermal/thermal_zone0/temp", "48250\n");
        write("sys/class/thermal/thermal_zone1/temp", "not a number\n");
        let mut found = facts(root.path());
        assert_eq!(found["model"], "Raspberry Pi 4 Model B Rev 1.4");
        assert_eq!(found["memory"], json!({"total_bytes": 1_024_000, "available_bytes": 512_000}));
        assert_eq!(found["uptime_s"], 86_400);
        assert_eq!(found["load"], json!([0.5, 0.25, 0.1]));
        assert_eq!(found["temperatures"], json!({"cpu-thermal": 48.25}));
        write("proc/uptime", "soon");
        found = facts(root.path());
        assert!(!found.contains_key("uptime_s") && found.contains_key("load"));
    }

    /// Without any of the files only the kernel is known, and that is no failure.
    #[test]
    fn a_device_may_tell_nothing() {
        let root = tempfile::tempdir().unwrap();
        let keys: Vec<String> = facts(root.path()).keys().cloned().collect();
        assert_eq!(keys, ["kernel", "machine"]);
    }
}
