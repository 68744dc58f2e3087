//! `Microsoft.Compute/galleries/images`: image definitions.

mod features;

use super::gallery::trailing_character;
use super::{Context, Fields, Head, format_time, merge_patch, parse_time, unchanged};
use crate::{ApiVersion, ArmError, ResourceId};
use features::features;
pub use features::security_type_of;
use serde_json::{Map, Value, json};

const ROOT: &str = "galleryImage";
/// As the error quotes it (wire.md §3).
const NAME_RULE: &str = r"^[^_\W][\w-._]{0,79}(?<![-.])$";
const DISK_TYPES: [&str; 7] = [
    "Standard_LRS",
    "Premium_LRS",
    "StandardSSD_LRS",
    "UltraSSD_LRS",
    "Premium_ZRS",
    "StandardSSD_ZRS",
    "PremiumV2_LRS",
];
/// From here on the generation defaults to V2 and the security type to `TrustedLaunchSupported` (trap T8).
const GEN2_DEFAULT: &str = "2025-03-03";

/// [`NAME_RULE`] (ID-3); Azure Resource Manager has its own words for a trailing period.
pub fn check_name(name: &str) -> Result<(), ArmError> {
    let ok = name.len() <= 80
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.ends_with(['-', '.']);
    if ok {
        return Ok(());
    }
    if name.ends_with('.') {
        return Err(trailing_character(name, '.'));
    }
    Err(ArmError::invalid_parameter(
        "galleryImageName",
        format!("The entity name 'galleryImageName' is invalid according to its validation rule: {NAME_RULE}."),
    ))
}

/// Publisher, offer and SKU.
pub type Identifier = (String, String, String);

/// The triple that must be unique in a gallery, in lower case to compare by. `body` is a stored one.
pub fn identifier_key(body: &Value) -> Identifier {
    let part = |name: &str| body["properties"]["identifier"][name].as_str().unwrap_or_default().to_lowercase();
    (part("publisher"), part("offer"), part("sku"))
}

/// The error when another definition of the gallery has the triple of `body`.
pub fn identifier_taken(taken_by: &str, body: &Value) -> ArmError {
    let part = |name: &str| body["properties"]["identifier"][name].as_str().unwrap_or_default().to_owned();
    ArmError::conflict(
        "Conflict",
        format!(
            "Gallery image: {taken_by} identified by (publisher:{}, offer:{}, sku:{}) already exists. \
             Choose a different publisher, offer, sku combination.",
            part("publisher"),
            part("offer"),
            part("sku")
        ),
    )
}

/// Errors: `InvalidParameter` for what is missing or out of range; 409 `PropertyChangeNotAllowed` for `osType`,
/// `osState`, `hyperVGeneration`, `architecture`, `identifier`, `purchasePlan`, `eula`, `privacyStatementUri`, and for
/// `features` unless `allowUpdateImage` is true (which is a word of the request alone, and not stored).
pub fn put(id: &ResourceId, new: &Value, old: Option<&Value>, ctx: &Context<'_>) -> Result<Value, ArmError> {
    check_name(id.name())?;
    let new = Fields::root(ROOT, new)?;
    let head = Head::read(id, &new, old, ctx)?;
    let given = new.object("properties")?;
    let old = old.map(|o| &o["properties"]);

    let generation = immutable_choice(&given, old, "hyperVGeneration", &["V1", "V2"])?;
    let default_generation = if ctx.api_version.at_least(GEN2_DEFAULT) { "V2" } else { "V1" };
    let generation = generation.unwrap_or_else(|| default_generation.into());
    let architecture = immutable_choice(&given, old, "architecture", &["x64", "Arm64"])?;

    let mut properties = Map::new();
    properties.insert("hyperVGeneration".into(), generation.clone().into());
    properties.insert("architecture".into(), architecture.unwrap_or_else(|| "x64".into()).into());
    for (name, choices) in [("osType", ["Linux", "Windows"]), ("osState", ["Generalized", "Specialized"])] {
        let value = immutable_choice(&given, old, name, &choices)?.ok_or_else(|| given.missing(name))?;
        properties.insert(name.into(), value.into());
    }
    properties.insert("identifier".into(), identifier(&given, old)?);
    let features = features(&given, old, &generation, ctx)?;
    let optional = [
        ("recommended", recommended(&given)?),
        ("disallowed", disallowed(&given)?),
        ("purchasePlan", purchase_plan(&given, old)?),
        ("features", features),
        ("description", given.str("description")?.map(Value::from)),
        ("eula", immutable_text(&given, old, "eula")?),
        ("privacyStatementUri", immutable_text(&given, old, "privacyStatementUri")?),
        ("releaseNoteUri", given.str("releaseNoteUri")?.map(Value::from)),
        ("endOfLifeDate", end_of_life(&given, old, ctx)?.map(Value::from)),
    ];
    properties.extend(optional.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))));
    Ok(head.body(vec![], properties))
}

/// RFC 7396, then the checks of [`put`].
pub fn patch(id: &ResourceId, patch: &Value, old: &Value, ctx: &Context<'_>) -> Result<Value, ArmError> {
    put(id, &merge_patch(old, patch), Some(old), ctx)
}

/// The stored body as an api-version shows it: `architecture` is new with 2021-10-01 (recorded: 2020-09-30 shows none).
pub fn show(body: &Value, api_version: &ApiVersion) -> Value {
    let mut shown = body.clone();
    if !api_version.at_least("2021-10-01")
        && let Some(properties) = shown["properties"].as_object_mut()
    {
        properties.shift_remove("architecture");
    }
    shown
}

/// A choice that cannot change; an update without it keeps it.
fn immutable_choice(
    given: &Fields<'_>,
    old: Option<&Value>,
    name: &str,
    choices: &[&'static str],
) -> Result<Option<String>, ArmError> {
    let chosen = given.one_of(name, choices)?;
    let stored = old.and_then(|o| o[name].as_str());
    match (chosen, stored) {
        (Some(chosen), Some(stored)) if chosen != stored => {
            Err(ArmError::property_change_not_allowed(&given.path(name)))
        }
        (Some(chosen), _) => Ok(Some(chosen.to_owned())),
        (None, stored) => Ok(stored.map(str::to_owned)),
    }
}

fn immutable_text(given: &Fields<'_>, old: Option<&Value>, name: &str) -> Result<Option<Value>, ArmError> {
    let value = given.str(name)?.map(Value::from);
    let stored = old.and_then(|o| o.get(name));
    if old.is_some() {
        unchanged(&given.path(name), value.as_ref(), stored)?;
    }
    Ok(stored.cloned().or(value))
}

fn identifier(given: &Fields<'_>, old: Option<&Value>) -> Result<Value, ArmError> {
    let fields = given.object("identifier")?;
    let stored = old.map(|o| &o["identifier"]);
    if fields.is_empty() {
        return stored.cloned().ok_or_else(|| given.missing("identifier"));
    }
    let mut identifier = Map::new();
    for (name, max) in [("publisher", 128), ("offer", 64), ("sku", 64)] {
        let value = fields.required_str(name)?;
        let ok = value.len() <= max
            && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            && !value.ends_with('.');
        if !ok {
            let path = fields.path(name);
            return Err(ArmError::invalid_parameter(
                &path,
                format!(
                    "Asset name {path} is not valid. It cannot be empty. Allowed characters are uppercase or lowercase \
                     letters, digits, hyphen(-), period (.), underscore (_). Names are not allowed to end with \
                     period(.). The length of the name cannot exceed {max} characters."
                ),
            ));
        }
        identifier.insert(name.into(), value.into());
    }
    let identifier = Value::Object(identifier);
    if stored.is_some() {
        unchanged(&given.path("identifier"), Some(&identifier), stored)?;
    }
    Ok(stored.cloned().unwrap_or(identifier))
}

fn recommended(given: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let fields = given.object("recommended")?;
    let mut shown = Map::new();
    // Bounds: no virtual machine has more, and they keep numbers sane.
    for (name, most) in [("vCPUs", 10_000), ("memory", 1_000_000)] {
        let range = fields.object(name)?;
        let (min, max) = (range.int_within("min", 1, most)?, range.int_within("max", 1, most)?);
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            let path = fields.path(name);
            return Err(ArmError::invalid_parameter(
                &path,
                format!("The minimum value of {path} must not be greater than the maximum value of {path}."),
            ));
        }
        let pair: Map<String, Value> =
            [("min", min), ("max", max)].into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.into()))).collect();
        if !pair.is_empty() {
            shown.insert(name.into(), Value::Object(pair));
        }
    }
    Ok((!shown.is_empty()).then_some(Value::Object(shown)))
}

/// az sends `{}`, which is not shown again (recorded).
fn disallowed(given: &Fields<'_>) -> Result<Option<Value>, ArmError> {
    let fields = given.object("disallowed")?;
    let mut types: Vec<&str> = Vec::new();
    for text in fields.strings("diskTypes")?.unwrap_or_default() {
        let Some(known) = DISK_TYPES.into_iter().find(|t| t.eq_ignore_ascii_case(text.trim())) else {
            let path = fields.path("diskTypes");
            let message = format!(
                "The value '{text}' of parameter {path} is invalid. It must be one of: {}.",
                DISK_TYPES.join(", ")
            );
            return Err(ArmError::invalid_parameter(&path, message));
        };
        if !types.contains(&known) {
            types.push(known);
        }
    }
    Ok((!types.is_empty()).then(|| json!({"diskTypes": types})))
}

fn purchase_plan(given: &Fields<'_>, old: Option<&Value>) -> Result<Option<Value>, ArmError> {
    let fields = given.object("purchasePlan")?;
    let stored = old.and_then(|o| o.get("purchasePlan"));
    if fields.is_empty() {
        return Ok(stored.cloned());
    }
    let mut plan = Map::new();
    for name in ["name", "publisher", "product"] {
        if let Some(value) = fields.str(name)? {
            plan.insert(name.into(), value.into());
        }
    }
    if !plan.contains_key("name") {
        return Err(fields.missing("name"));
    }
    let plan = Value::Object(plan);
    if old.is_some() {
        unchanged(&given.path("purchasePlan"), Some(&plan), stored)?;
    }
    Ok(Some(plan))
}

/// Must lie ahead when written (T4), but a stored date may be sent back after it has passed.
pub(super) fn end_of_life(
    given: &Fields<'_>,
    old: Option<&Value>,
    ctx: &Context<'_>,
) -> Result<Option<String>, ArmError> {
    let Some(text) = given.str("endOfLifeDate")? else { return Ok(None) };
    let path = given.path("endOfLifeDate");
    let below_root = path.split_once('.').map_or(path.as_str(), |(_, rest)| rest);
    let time = parse_time(&text, below_root)?;
    let shown = format_time(time);
    let kept = old.is_some_and(|o| o["endOfLifeDate"] == shown.as_str());
    if time <= ctx.now && !kept && !ctx.allow_past_end_of_life {
        return Err(ArmError::invalid_parameter(&path, "EndOfLifeDate must be set to a future date."));
    }
    Ok(Some(shown))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, id, version};
    use super::*;
    use proptest::prelude::*;

    fn base() -> Value {
        json!({"location": "eastus2", "tags": {}, "properties": {"osType": "linux", "osState": "Generalized",
            "hyperVGeneration": "V1", "disallowed": {},
            "identifier": {"publisher": "publisher1", "offer": "offer1", "sku": "sku1"}}})
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut body = base();
        body["properties"][pointer] = value;
        body
    }

    #[test]
    fn as_recorded() {
        let api = version("2021-10-01");
        let body = put(&id("galleries/g/images/image1"), &base(), None, &context(&api)).unwrap();
        insta::assert_json_snapshot!(body, @r#"
        {
          "location": "eastus2",
          "tags": {},
          "properties": {
            "hyperVGeneration": "V1",
            "architecture": "x64",
            "osType": "Linux",
            "osState": "Generalized",
            "identifier": {
              "publisher": "publisher1",
              "offer": "offer1",
              "sku": "sku1"
            }
          }
        }
        "#);
    }

    #[test]
    fn t8_defaults_by_api_version() {
        let mut body = base();
        body["properties"]["hyperVGeneration"] = Value::Null;
        let id = id("galleries/g/images/i");
        for (api, generation, features) in [
            ("2019-12-01", "V1", Value::Null),
            ("2024-03-03", "V1", Value::Null),
            ("2025-03-03", "V2", json!([{"name": "SecurityType", "value": "TrustedLaunchSupported"}])),
        ] {
            let api = version(api);
            let stored = put(&id, &body, None, &context(&api)).unwrap();
            assert_eq!(stored["properties"]["hyperVGeneration"], generation, "{api}");
            assert_eq!(stored["properties"]["features"], features, "{api}");
        }
    }

    #[test]
    fn immutable_properties() {
        let api = version("2024-03-03");
        let ctx = context(&api);
        let id = id("galleries/g/images/i");
        let mut first = base();
        first["properties"]["eula"] = json!("e");
        let old = put(&id, &first, None, &ctx).unwrap();
        for (name, value) in [
            ("osType", json!("Windows")),
            ("osState", json!("Specialized")),
            ("hyperVGeneration", json!("V2")),
            ("architecture", json!("Arm64")),
            ("identifier", json!({"publisher": "p", "offer": "o", "sku": "s"})),
            ("eula", json!("other")),
            ("privacyStatementUri", json!("https://x")),
            ("purchasePlan", json!({"name": "n", "publisher": "p", "product": "q"})),
            ("features", json!([{"name": "IsHibernateSupported", "value": "True"}])),
        ] {
            let error = put(&id, &with(name, value), Some(&old), &ctx).unwrap_err();
            assert_eq!(
                (error.status, error.message),
                (409, format!("Changing property 'galleryImage.properties.{name}' is not allowed."))
            );
        }
        let same = put(&id, &old, Some(&old), &ctx).unwrap();
        assert_eq!(same, old);
        let patched = patch(&id, &json!({"properties": {"description": "d"}}), &old, &ctx).unwrap();
        assert_eq!((&patched["properties"]["description"], &patched["properties"]["eula"]), (&json!("d"), &json!("e")));
    }

    #[test]
    fn refuses_bad_values() {
        let api = version("2024-03-03");
        let ctx = context(&api);
        let id = id("galleries/g/images/i");
        let identifier = |p: &str| json!({"publisher": p, "offer": "o", "sku": "s"});
        for (name, value, text) in [
            ("osType", Value::Null, "Required parameter 'galleryImage.properties.osType' is missing (null)."),
            ("osState", Value::Null, "Required parameter 'galleryImage.properties.osState' is missing (null)."),
            ("osType", json!("BeOS"), "The value 'BeOS' of parameter galleryImage.properties.osType is invalid."),
            ("identifier", json!({}), "Required parameter 'galleryImage.properties.identifier' is missing (null)."),
            ("identifier", identifier("p."), "Asset name galleryImage.properties.identifier.publisher is not valid."),
            ("identifier", identifier("a b"), "Asset name galleryImage.properties.identifier.publisher is not valid."),
            ("identifier", identifier(&"p".repeat(129)), "Asset name galleryImage.properties.identifier.publisher"),
            (
                "recommended",
                json!({"memory": {"min": 8, "max": 4}}),
                "The minimum value of galleryImage.properties.recommended.memory must not",
            ),
            ("endOfLifeDate", json!("2020-12-01"), "EndOfLifeDate must be set to a future date."),
            (
                "endOfLifeDate",
                json!("soon"),
                "Could not convert string to DateTimeOffset: soon. Path 'properties.endOfLifeDate'.",
            ),
            (
                "disallowed",
                json!({"diskTypes": ["Floppy"]}),
                "The value 'Floppy' of parameter galleryImage.properties.disallowed.diskTypes is invalid.",
            ),
            (
                "purchasePlan",
                json!({"product": "p"}),
                "Required parameter 'galleryImage.properties.purchasePlan.name' is missing (null).",
            ),
            (
                "recommended",
                json!({"vCPUs": {"min": 0}}),
                "The value 0 of parameter galleryImage.properties.recommended.vCPUs.min is out of range. The value must be",
            ),
        ] {
            let error = put(&id, &with(name, value), None, &ctx).unwrap_err();
            assert!(error.message.starts_with(text), "{}", error.message);
        }
        let error = check_name("a-").unwrap_err();
        assert_eq!(
            error.message,
            r"The entity name 'galleryImageName' is invalid according to its validation rule: ^[^_\W][\w-._]{0,79}(?<![-.])$."
        );
        assert!(check_name("a.").unwrap_err().message.starts_with("The provided resource name 'a.' has these invalid"));
        check_name("ubuntu_22-04.lts_").unwrap();
    }

    #[test]
    fn everything_that_may_change_changes() {
        let api = version("2024-03-03");
        let ctx = context(&api);
        let id = id("galleries/g/images/i");
        let mut first = base();
        first["properties"]["recommended"] = json!({"vCPUs": {"min": 1, "max": 4}, "memory": {"min": 2}});
        first["properties"]["disallowed"] = json!({"diskTypes": ["standard_lrs", "Standard_LRS"]});
        let old = put(&id, &first, None, &ctx).unwrap();
        assert_eq!(old["properties"]["disallowed"], json!({"diskTypes": ["Standard_LRS"]}));
        let mut new = old.clone();
        for (name, value) in [
            ("description", json!("d")),
            ("releaseNoteUri", json!("https://notes")),
            ("recommended", json!({"vCPUs": {"min": 2, "max": 8}})),
            ("endOfLifeDate", json!("2030-01-01T00:00:00+00:00")),
        ] {
            new["properties"][name] = value;
        }
        new["tags"] = json!({"k": "v"});
        assert_eq!(put(&id, &new, Some(&old), &ctx).unwrap(), new);
    }

    proptest! {
        /// The rule that the error quotes, in other words.
        #[test]
        fn names_follow_their_rule(name in "[a-zA-Z0-9_.-]{0,82}|\\PC{0,12}") {
            let bytes = name.as_bytes();
            let good = (1..=80).contains(&bytes.len())
                && bytes[0].is_ascii_alphanumeric()
                && !b"-.".contains(&bytes[bytes.len() - 1])
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b));
            prop_assert_eq!(check_name(&name).is_ok(), good);
        }
    }

    #[test]
    fn t4_a_passed_date_may_be_sent_back_and_a_switch_allows_it() {
        let api = version("2024-03-03");
        let id = id("galleries/g/images/i");
        let mut lenient = context(&api);
        lenient.allow_past_end_of_life = true;
        let old = put(&id, &with("endOfLifeDate", json!("2020-12-01")), None, &lenient).unwrap();
        assert_eq!(old["properties"]["endOfLifeDate"], "2020-12-01T00:00:00+00:00");
        put(&id, &old, Some(&old), &context(&api)).unwrap();
    }

    #[test]
    fn old_clients_see_no_architecture() {
        let api = version("2024-03-03");
        let stored = put(&id("galleries/g/images/i"), &base(), None, &context(&api)).unwrap();
        assert_eq!(show(&stored, &api), stored);
        assert_eq!(show(&stored, &version("2020-09-30"))["properties"].get("architecture"), None, "recorded");
    }

    #[test]
    fn the_triple_ignores_case() {
        let api = version("2024-03-03");
        let body = put(&id("galleries/g/images/i"), &base(), None, &context(&api)).unwrap();
        assert_eq!(identifier_key(&body), ("publisher1".into(), "offer1".into(), "sku1".into()));
        assert!(
            identifier_taken("i", &body)
                .message
                .contains("(publisher:publisher1, offer:offer1, sku:sku1) already exists")
        );
    }
}
