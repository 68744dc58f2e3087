//! Zones of a region: which there are, and what they are called.

use super::{Args, Function, invalid, pure};
use crate::eval::{Eval, Evaluator, all};
use lazuli_arm::locations::{self, Location};
use serde_json::Value;

pub(super) const TABLE: &[Function] = &[
    pure("pickZones", 3, 5, pick_zones),
    pure("toLogicalZone", 3, 3, |f, v, _| one(f, &v, Name::Logical)),
    pure("toLogicalZones", 3, 3, |f, v, _| several(f, &v, Name::Logical)),
    pure("toPhysicalZone", 3, 3, |f, v, _| one(f, &v, Name::Physical)),
    pure("toPhysicalZones", 3, 3, |f, v, _| several(f, &v, Name::Physical)),
];

/// What is wanted of a zone that is told by the other.
#[derive(Clone, Copy)]
enum Name {
    Logical,
    Physical,
}

fn region(f: &str, name: &str) -> Eval<&'static Location> {
    match locations::normalize(name) {
        Some(location) => Ok(location),
        None => invalid(f, &format!("'{name}' is not the name of a known region.")),
    }
}

/// Zones that a region has, whatever the type.
fn pick_zones(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let count = if a.has(3) { a.int(3)? } else { 1 };
    let offset = if a.has(4) { a.int(4)? } else { 0 };
    let location = region(f, a.str(2)?)?;
    let zones = &["1", "2", "3"][..usize::from(location.zones.min(3))];
    let (Ok(offset), Ok(count)) = (usize::try_from(offset), usize::try_from(count)) else {
        return invalid(f, "The number of zones and the offset must not be negative.");
    };
    if zones.is_empty() {
        return Ok(Value::Array(vec![]));
    }
    if offset.saturating_add(count) > zones.len() {
        return invalid(f, "The region does not have as many zones.");
    }
    Ok(zones[offset..offset + count].to_vec().into())
}

/// `subscription, region, zone`: every subscription numbers them alike here.
fn one(f: &'static str, values: &[Value], wanted: Name) -> Eval<Value> {
    let a = Args { function: f, values };
    a.str(0)?;
    named(f, region(f, a.str(1)?)?, a.str(2)?, wanted)
}

fn several(f: &'static str, values: &[Value], wanted: Name) -> Eval<Value> {
    let a = Args { function: f, values };
    a.str(0)?;
    let location = region(f, a.str(1)?)?;
    let zones = a.array(2)?.iter().map(|zone| match zone {
        Value::String(zone) => named(f, location, zone, wanted),
        _ => a.wrong(2, "an array of strings"),
    });
    all(zones).map(Value::Array)
}

fn named(f: &str, location: &Location, zone: &str, wanted: Name) -> Eval<Value> {
    let found = location.zone_names().into_iter().find_map(|(logical, physical)| match wanted {
        Name::Logical => physical.eq_ignore_ascii_case(zone).then(|| logical.to_owned()),
        Name::Physical => (logical == zone).then_some(physical),
    });
    match found {
        Some(name) => Ok(name.into()),
        None => invalid(f, &format!("The region '{}' has no zone '{zone}'.", location.name)),
    }
}
