//! The fields of a SAS in a query: reading, writing, and what each may look like.

use super::{Kind, Sas, SasError};
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// In the order in which they are written.
const NAMES: [&str; 31] = [
    "sv", "ss", "srt", "sp", "st", "se", "sip", "spr", "sr", "si", "ses", "skoid", "sktid", "skt", "ske", "sks", "skv",
    "skdutid", "saoid", "suoid", "scid", "sduoid", "sdd", "srh", "srq", "rscc", "rscd", "rsce", "rscl", "rsct",
    "snapshot",
];
const FIRST_VERSION: &str = "2015-04-05";
const FIRST_DELEGATION_VERSION: &str = "2018-11-09";
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The SAS of a query as it was sent (without `?`); `None` where there is no signature in it.
///
/// # Errors
/// [`SasError::Malformed`] where a field is missing, given twice or not what it must be, [`SasError::Version`].
pub fn parse(query: &str) -> Result<Option<Sas>, SasError> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().map(String::from).map_err(|_| SasError::malformed("the query"))
    };
    let mut pairs = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        pairs.push((decode(name)?, decode(value)?));
    }
    if !pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case("sig")) {
        return Ok(None);
    }
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let sas = of_pairs(&pairs)?;
    if sas.signature.is_empty() { Err(SasError::malformed("sig")) } else { Ok(Some(sas)) }
}

/// Decoded names and values; others than those of a SAS are passed over.
pub(super) fn of_pairs(pairs: &[(&str, &str)]) -> Result<Sas, SasError> {
    let mut fields = BTreeMap::new();
    let mut signature: Option<String> = None;
    for (name, value) in pairs {
        // A plus sign that was not encoded arrives as a space; there are no spaces in base64.
        if name.eq_ignore_ascii_case("sig") {
            if signature.replace(value.replace(' ', "+")).is_some() {
                return Err(SasError::malformed("sig"));
            }
        } else if let Some(known) = NAMES.iter().find(|n| n.eq_ignore_ascii_case(name)) {
            // Line ends would let one text be read as other fields.
            let twice = fields.insert(*known, (*value).to_owned()).is_some();
            if twice || value.contains(char::is_control) {
                return Err(SasError::malformed(known));
            }
        }
    }
    let has = |name: &str| fields.get(name).is_some_and(|v: &String| !v.is_empty());
    let kind = match (has("skoid"), has("ss") || has("srt")) {
        (false, false) => Kind::Service,
        (true, false) => Kind::UserDelegation,
        (false, true) => Kind::Account,
        (true, true) => return Err(SasError::malformed("ss, skoid")),
    };
    let sas = Sas { kind, fields, signature: signature.unwrap_or_default() };
    check(&sas)?;
    Ok(sas)
}

/// Everything that can be said of the fields by looking at them.
fn check(sas: &Sas) -> Result<(), SasError> {
    let required: &[&str] = match sas.kind {
        Kind::Account => &["sv", "ss", "srt", "sp", "se"],
        Kind::Service => &["sv", "sr"],
        Kind::UserDelegation => &["sv", "sr", "sp", "se", "sktid", "ske", "sks", "skv"],
    };
    if let Some(missing) = required.iter().find(|name| sas.given(name).is_none()) {
        return Err(SasError::malformed(missing));
    }
    let version = sas.version();
    let is_date = version.len() == 10 && version.parse::<civil::Date>().is_ok();
    let first = if sas.kind == Kind::UserDelegation { FIRST_DELEGATION_VERSION } else { FIRST_VERSION };
    if !is_date || version < first {
        return Err(SasError::Version { version: version.to_owned() });
    }
    let of_letters = |name: &str, letters: &str| match sas.field(name).chars().all(|c| letters.contains(c)) {
        true => Ok(()),
        false => Err(SasError::malformed(name)),
    };
    of_letters("ss", "bqtf")?;
    of_letters("srt", "sco")?;
    of_letters("sp", "racwdxyltmeopiuf")?;
    let foreign = match sas.kind {
        Kind::Account => ["sr", "si"].as_slice(),
        Kind::Service => &[],
        Kind::UserDelegation => &["si"],
    };
    match foreign.iter().find(|name| sas.given(name).is_some()) {
        Some(name) => Err(SasError::malformed(name)),
        None => Ok(()),
    }
}

/// The query, in the order in which Azure's clients write it.
pub(super) fn to_query(sas: &Sas, signature: &str) -> String {
    let mut query = String::new();
    for name in NAMES {
        if let Some(value) = sas.given(name) {
            query.push_str(&format!("{name}={}&", utf8_percent_encode(value, UNRESERVED)));
        }
    }
    format!("{query}sig={}", utf8_percent_encode(signature, UNRESERVED))
}

/// `2026-01-02`, `2026-01-02T03:04Z`, `2026-01-02T03:04:05[.1234567]Z`; offsets other than `Z` too.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let civil = |date: civil::DateTime| date.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
    text.parse::<Timestamp>().ok().or_else(|| text.parse::<civil::DateTime>().ok().and_then(civil))
}

/// `168.1.5.65` or `168.1.5.60-168.1.5.70`.
pub(super) fn check_address(range: &str, ip: Option<IpAddr>) -> Result<(), SasError> {
    let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| SasError::malformed("sip"));
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    let (low, high) = (address(low)?, address(high)?);
    let own = match ip.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => Some(ip),
        Some(IpAddr::V6(_)) | None => None,
    };
    match own {
        Some(own) if (low..=high).contains(&own) => Ok(()),
        _ => Err(SasError::Address { ip }),
    }
}
