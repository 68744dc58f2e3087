//! `lazuli image show`: the build that an image came from, by the statements that are bound to it.

use crate::client::Client;
use anyhow::{Context, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

pub async fn run(client: &Client, id: &str, as_json: bool) -> anyhow::Result<()> {
    let build = client.get(&format!("{id}/build")).await;
    let build = build
        .with_context(|| format!("nothing is known of a build of {id}: it was not built here, or is not there"))?;
    if as_json {
        println!("{build:#}");
    } else {
        println!("{}", text(&build)?);
    }
    if build["verified"] != true {
        bail!("the signatures do not hold: this is not what the server wrote when the image was built");
    }
    Ok(())
}

/// What a signed document says.
fn statement(envelope: &Value) -> anyhow::Result<Value> {
    let payload = BASE64_STANDARD.decode(envelope["payload"].as_str().unwrap_or_default()).context("no payload")?;
    serde_json::from_slice(&payload).context("the payload is no JSON")
}

fn text(build: &Value) -> anyhow::Result<String> {
    let (provenance, sbom) = (statement(&build["provenance"])?, statement(&build["sbom"])?);
    let predicate = &provenance["predicate"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let digest = |artifact: &Value| {
        let all = artifact["digest"].as_object().into_iter().flatten();
        all.map(|(kind, value)| format!("{kind}:{}", word(value))).collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![
        format!("image      {}", word(&provenance["subject"][0]["name"])),
        format!("template   {}", word(&predicate["buildDefinition"]["externalParameters"]["template"]["name"])),
        format!("built      {}", word(&predicate["runDetails"]["metadata"]["finishedOn"])),
        format!("log        {}", word(&predicate["runDetails"]["byproducts"][0]["name"])),
    ];
    for material in predicate["buildDefinition"]["resolvedDependencies"].as_array().into_iter().flatten() {
        lines.push(format!("made of    {}  {}", word(&material["name"]), digest(material)));
    }
    if let Some(bytes) = build["bootTrace"]["fetchedAheadBytes"].as_u64() {
        lines.push(format!("starts     fetch {} MiB ahead", bytes >> 20));
    }
    let parts = sbom["predicate"]["components"].as_array().map_or(&[][..], Vec::as_slice);
    lines.push(format!("packages   {}", parts.len()));
    lines.extend(parts.iter().map(|part| format!("           {}", word(&part["purl"]))));
    lines.push(format!(
        "signed     {} ({})",
        word(&build["keyId"]),
        if build["verified"] == true { "good" } else { "BAD" }
    ));
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_build_in_lines() {
        let envelope = |statement: Value| json!({"payload": BASE64_STANDARD.encode(statement.to_string())});
        let provenance = json!({"subject": [{"name": "/v/1.0.1"}], "predicate": {
            "buildDefinition": {"externalParameters": {"template": {"name": "/t/web"}},
                "resolvedDependencies": [{"name": "/v/1.0.0", "digest": {"lazuliManifest": "ab"}}]},
            "runDetails": {"metadata": {"finishedOn": "2026-03-01T12:00:00Z"}, "byproducts": [{"name": "packerlogs/1"}]}}});
        let sbom = json!({"predicate": {"components": [{"purl": "pkg:deb/debian/nginx@1"}]}});
        let build = json!({"provenance": envelope(provenance), "sbom": envelope(sbom), "verified": true, "keyId": "cd",
            "bootTrace": {"sizeBytes": 8192, "fetchedAheadBytes": 31_457_280}});
        insta::assert_snapshot!(text(&build).unwrap());
    }
}
