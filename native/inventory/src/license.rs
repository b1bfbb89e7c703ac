//! Names of licences as models have them, and what SPDX calls them.

/// As model hubs write them, in lower case, where that is no SPDX identifier in another case.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("apache 2.0", "Apache-2.0"),
    ("apache license 2.0", "Apache-2.0"),
    ("apache2", "Apache-2.0"),
    ("apache2.0", "Apache-2.0"),
    ("mit license", "MIT"),
];
/// Identifiers of SPDX that models are published under.
const IDS: &[&str] = &[
    "AFL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSL-1.0",
    "CC-BY-2.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-NC-2.0",
    "CC-BY-NC-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-ND-3.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-2.0",
    "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
    "CDLA-Sharing-1.0",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.1",
    "EUPL-1.2",
    "GFDL-1.3-only",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-2.1-only",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "LPPL-1.3c",
    "MIT",
    "MPL-2.0",
    "MS-PL",
    "MulanPSL-2.0",
    "NCSA",
    "ODbL-1.0",
    "OFL-1.1",
    "OSL-3.0",
    "PDDL-1.0",
    "PostgreSQL",
    "Unlicense",
    "WTFPL",
    "Zlib",
];
/// What a hub writes without saying whether later versions count, as SPDX did once.
const OLD_IDS: &[&str] = &["AGPL-3.0", "GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "GFDL-1.3"];

/// The SPDX identifier of a licence; `None` where it is none that SPDX lists.
#[must_use]
pub fn spdx(name: &str) -> Option<&'static str> {
    let name = name.trim();
    let alike = |known: &&&str| known.eq_ignore_ascii_case(name);
    if let Some(id) = IDS.iter().chain(OLD_IDS).find(alike) {
        return Some(id);
    }
    let other = OTHER_NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    other.map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::spdx;

    #[test]
    fn hubs_and_spdx_spell_differently() {
        assert_eq!(spdx("apache-2.0"), Some("Apache-2.0"));
        assert_eq!(spdx("MIT License"), Some("MIT"));
        assert_eq!(spdx("gpl-3.0"), Some("GPL-3.0"));
        assert_eq!(spdx("llama3.1"), None);
        assert_eq!(spdx("lfm1.0"), None);
        assert_eq!(spdx("apache-2.0 OR evil"), None);
    }
}
