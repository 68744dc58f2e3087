//! A run as a JUnit report, as pipelines show it: the run itself, each validator, each output.
//!
//! The server tells of a run how it ended and why; a validator is told to have failed where the message names it. Those before it
//! were passed, those after it were not asked.

use serde_json::Value;

struct Case {
    name: String,
    class: &'static str,
    verdict: Verdict,
}

enum Verdict {
    Passed(String),
    Failed(String),
    Skipped(String),
}

/// `template` as a GET shows it after the run.
pub fn report(template: &Value, outputs: &[Value]) -> String {
    let properties = &template["properties"];
    let last = &properties["lastRunStatus"];
    let (state, message) = (text(&last["runState"]), text(&last["message"]));
    let mut cases = vec![Case {
        name: "run".to_owned(),
        class: "run",
        verdict: if state == "Succeeded" {
            Verdict::Passed(String::new())
        } else {
            Verdict::Failed(format!("{state}: {message}"))
        },
    }];
    let validators = properties["validate"]["inVMValidations"].as_array().map_or(&[][..], Vec::as_slice);
    let found = validators.iter().enumerate().position(|(index, v)| is_named(index, v, message));
    for (index, validator) in validators.iter().enumerate() {
        cases.push(validated(index, validator, found, state, message));
    }
    for distributor in properties["distribute"].as_array().into_iter().flatten() {
        cases.push(distributed(text(&distributor["runOutputName"]), outputs, state, message));
    }
    suite(text(&template["name"]), seconds(last), &cases)
}

/// Whether the server's message is about this validator, by its name, or by its type and place.
fn is_named(index: usize, validator: &Value, message: &str) -> bool {
    let by_name = validator["name"].as_str().is_some_and(|own| message.contains(&format!("'{own}'")));
    by_name || message.contains(&format!("'{} validate/{index}'", text(&validator["type"])))
}

/// `found`: the validator that the message is about.
fn validated(index: usize, validator: &Value, found: Option<usize>, state: &str, message: &str) -> Case {
    let own = validator["name"].as_str().unwrap_or(text(&validator["type"]));
    let verdict = match (state, found) {
        ("Succeeded" | "PartiallySucceeded", _) => Verdict::Passed(String::new()),
        (_, Some(found)) if index < found => Verdict::Passed(String::new()),
        (_, Some(found)) if index == found => Verdict::Failed(message.to_owned()),
        _ => Verdict::Skipped(format!("The run ended as {state}.")),
    };
    Case { name: format!("{index} {own}"), class: "validator", verdict }
}

fn distributed(name: &str, outputs: &[Value], state: &str, message: &str) -> Case {
    let made = outputs.iter().find(|o| text(&o["name"]).eq_ignore_ascii_case(name));
    let artifact = made.map(|o| o["properties"]["artifactId"].as_str().or(o["properties"]["artifactUri"].as_str()));
    let verdict = match (state, artifact.flatten()) {
        ("Succeeded", Some(artifact)) => Verdict::Passed(artifact.to_owned()),
        ("PartiallySucceeded", Some(artifact)) if !message.contains(&format!("'{name}'")) => {
            Verdict::Passed(artifact.to_owned())
        }
        ("PartiallySucceeded", _) => Verdict::Failed(message.to_owned()),
        _ => Verdict::Skipped(format!("The run ended as {state}.")),
    };
    Case { name: name.to_owned(), class: "output", verdict }
}

fn suite(name: &str, seconds: f64, cases: &[Case]) -> String {
    let count = |wanted: fn(&Verdict) -> bool| cases.iter().filter(|c| wanted(&c.verdict)).count();
    let failures = count(|v| matches!(v, Verdict::Failed(_)));
    let skipped = count(|v| matches!(v, Verdict::Skipped(_)));
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" \
         skipped=\"{skipped}\" time=\"{seconds:.3}\">\n",
        escaped(name),
        cases.len()
    );
    for Case { name, class, verdict } in cases {
        let head = format!("    <testcase classname=\"{class}\" name=\"{}\"", escaped(name));
        xml.push_str(&match verdict {
            Verdict::Passed(out) if out.is_empty() => format!("{head}/>\n"),
            Verdict::Passed(out) => format!("{head}><system-out>{}</system-out></testcase>\n", escaped(out)),
            Verdict::Failed(why) => format!("{head}><failure message=\"{0}\">{0}</failure></testcase>\n", escaped(why)),
            Verdict::Skipped(why) => format!("{head}><skipped message=\"{}\"/></testcase>\n", escaped(why)),
        });
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

fn seconds(last: &Value) -> f64 {
    let time = |name: &str| text(&last[name]).parse::<jiff::Timestamp>().ok();
    let passed = time("endTime").zip(time("startTime")).map(|(end, start)| end.duration_since(start));
    passed.map_or(0.0, |passed| passed.as_secs_f64().max(0.0))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// For attributes and text; what XML cannot have is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(state: &str, message: &str) -> Value {
        json!({"name": "t1", "properties": {
            "validate": {"inVMValidations": [{"type": "Shell", "name": "nginx answers"}, {"type": "Shell"}]},
            "distribute": [{"type": "SharedImage", "runOutputName": "gallery"}, {"type": "VHD", "runOutputName": "vhd"}],
            "lastRunStatus": {"startTime": "2026-01-01T00:00:00.500000Z", "endTime": "2026-01-01T00:01:00.750000Z",
                "runState": state, "message": message}}})
    }

    #[test]
    fn runs_as_pipelines_see_them() {
        let gallery = json!({"name": "gallery", "properties": {"artifactId": "/subscriptions/s/…/versions/1.0.0"}});
        let vhd = json!({"name": "vhd", "properties": {"artifactUri": "https://acct/vhds/a.vhd?a=1&b=2"}});
        let all = [
            report(&template("Succeeded", ""), &[gallery.clone(), vhd]),
            report(&template("Failed", "The validator 'nginx answers' ended with 1: <html>\u{1b}"), &[]),
            report(&template("PartiallySucceeded", "Distribution 'vhd' failed."), &[gallery]),
            report(&template("Failed", "'Shell validate/1' ended with exit code 1."), &[]),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }
}
