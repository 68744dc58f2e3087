//! The texts that are signed. Which lines they have depends on the version; all of them end up in one HMAC.

use super::{Origin, Sas, Target};

/// `sr` and the snapshot's time were added, and user delegation with them.
const WITH_RESOURCE: &str = "2018-11-09";
/// `saoid`, `suoid`, `scid`.
const WITH_AGENTS: &str = "2020-02-10";
/// `ses`.
const WITH_ENCRYPTION_SCOPE: &str = "2020-12-06";
/// `skdutid`, `sduoid`.
const WITH_DELEGATED_USER: &str = "2025-07-05";
/// `srh`, `srq`.
const WITH_REQUEST: &str = "2026-04-06";

const OVERRIDES: [&str; 5] = ["rscc", "rscd", "rsce", "rscl", "rsct"];

/// Account, `sp`, `ss`, `srt`, `st`, `se`, `sip`, `spr`, `sv`, `ses`; a line end behind the last.
pub(super) fn account(sas: &Sas, account: &str) -> String {
    let mut lines = vec![account];
    lines.extend(["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"].map(|name| sas.field(name)));
    if sas.version() >= WITH_ENCRYPTION_SCOPE {
        lines.push(sas.field("ses"));
    }
    lines.join("\n") + "\n"
}

/// `sp`, `st`, `se`, resource, `si`, `sip`, `spr`, `sv`, `sr`, snapshot, `ses`, the five headers of the answer.
pub(super) fn service(sas: &Sas, target: &Target<'_>) -> String {
    let resource = resource(sas, target);
    let mut lines = ["sp", "st", "se"].map(|name| sas.field(name)).to_vec();
    lines.push(&resource);
    lines.extend(["si", "sip", "spr", "sv"].map(|name| sas.field(name)));
    if sas.version() >= WITH_RESOURCE {
        lines.extend([sas.field("sr"), snapshot(sas, target)]);
    }
    if sas.version() >= WITH_ENCRYPTION_SCOPE {
        lines.push(sas.field("ses"));
    }
    lines.extend(OVERRIDES.map(|name| sas.field(name)));
    lines.join("\n")
}

/// As [`service`], but with the key's own fields in place of `si`, and with named parts of the request.
pub(super) fn user_delegation(sas: &Sas, target: &Target<'_>, origin: &Origin<'_>) -> String {
    let (resource, version) = (resource(sas, target), sas.version());
    let mut lines = ["sp", "st", "se"].map(|name| sas.field(name)).to_vec();
    lines.push(&resource);
    lines.extend(["skoid", "sktid", "skt", "ske", "sks", "skv"].map(|name| sas.field(name)));
    if version >= WITH_AGENTS {
        lines.extend(["saoid", "suoid", "scid"].map(|name| sas.field(name)));
    }
    if version >= WITH_DELEGATED_USER {
        lines.extend(["skdutid", "sduoid"].map(|name| sas.field(name)));
    }
    lines.extend(["sip", "spr", "sv", "sr"].map(|name| sas.field(name)));
    lines.push(snapshot(sas, target));
    if version >= WITH_ENCRYPTION_SCOPE {
        lines.push(sas.field("ses"));
    }
    let (headers, query) = (named(sas.field("srh"), origin.headers), named(sas.field("srq"), origin.query));
    let (headers, query) = (
        headers.iter().map(|line| format!("{line}\n")).collect::<String>(),
        query.iter().map(|line| format!("\n{line}")).collect::<String>(),
    );
    if version >= WITH_REQUEST {
        lines.extend([headers.as_str(), query.as_str()]);
    }
    lines.extend(OVERRIDES.map(|name| sas.field(name)));
    lines.join("\n")
}

/// `name:value` of each name in a list, with the request's value; nothing for one that the request has not, or whose value could
/// be read as other lines, so that the signature does not match.
fn named(list: &str, given: &[(&str, &str)]) -> Vec<String> {
    let value = |name: &str| {
        given.iter().find(|(n, v)| n.eq_ignore_ascii_case(name) && !v.contains(char::is_control)).map(|(_, v)| *v)
    };
    list.split(',')
        .filter(|name| !name.is_empty())
        .filter_map(|name| value(name).map(|v| format!("{name}:{v}")))
        .collect()
}

/// `/blob/account/container[/blob]`, decoded.
fn resource(sas: &Sas, target: &Target<'_>) -> String {
    let Target { account, container, blob, .. } = target;
    match blob {
        Some(blob) if sas.field("sr") != "c" => format!("/blob/{account}/{container}/{blob}"),
        _ => format!("/blob/{account}/{container}"),
    }
}

fn snapshot<'a>(sas: &Sas, target: &Target<'a>) -> &'a str {
    match sas.field("sr") {
        "bs" => target.snapshot.unwrap_or_default(),
        _ => "",
    }
}
