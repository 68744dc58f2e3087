//! Address ranges.

use super::{Args, Function, invalid, pure};
use crate::eval::{Eval, Evaluator};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const TABLE: &[Function] =
    &[pure("cidrHost", 2, 2, host), pure("cidrSubnet", 3, 3, subnet), pure("parseCidr", 1, 1, parse_cidr)];

/// The first address of a range, as a number, and how long its prefix is. `bits`: 32 or 128.
#[derive(Clone, Copy)]
struct Range {
    first: u128,
    prefix: u32,
    bits: u32,
}

impl Range {
    fn parse(f: &str, text: &str) -> Eval<Self> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let (value, bits) = match address.parse::<IpAddr>().ok()? {
                IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
                IpAddr::V6(a) => (a.to_bits(), 128),
            };
            let prefix = prefix.parse::<u32>().ok().filter(|p| *p <= bits)?;
            Some(Self { first: value & !Self::host_mask(bits, prefix), prefix, bits })
        });
        parsed.map_or_else(|| invalid(f, &format!("'{text}' is not an address range such as '10.0.0.0/16'.")), Ok)
    }

    fn host_mask(bits: u32, prefix: u32) -> u128 {
        match bits - prefix {
            128 => u128::MAX,
            n => (1 << n) - 1,
        }
    }

    fn last(self) -> u128 {
        self.first | Self::host_mask(self.bits, self.prefix)
    }

    fn address(self, value: u128) -> String {
        match u32::try_from(value) {
            Ok(value) if self.bits == 32 => Ipv4Addr::from_bits(value).to_string(),
            _ => Ipv6Addr::from_bits(value).to_string(),
        }
    }
}

fn parse_cidr(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let range = Range::parse(f, Args { function: f, values: &v }.str(0)?)?;
    let netmask = !Range::host_mask(range.bits, range.prefix) & Range::host_mask(range.bits, 0);
    let mut shown = json!({
        "network": range.address(range.first), "netmask": range.address(netmask), "cidr": range.prefix,
    });
    if range.bits == 32 {
        let (mut first, mut last) = (range.first, range.last());
        shown["broadcast"] = range.address(last).into();
        if range.prefix < 31 {
            (first, last) = (first + 1, last - 1);
        }
        shown["firstUsable"] = range.address(first).into();
        shown["lastUsable"] = range.address(last).into();
    } else {
        shown["firstUsable"] = range.address(range.first).into();
        shown["lastUsable"] = range.address(range.last()).into();
    }
    Ok(shown)
}

/// The range of the given prefix length at an index within a larger one.
fn subnet(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let range = Range::parse(f, a.str(0)?)?;
    let prefix = u32::try_from(a.int(1)?).ok().filter(|p| (range.prefix..=range.bits).contains(p));
    let Some(prefix) = prefix else {
        return invalid(f, &format!("The prefix length must be between {} and {}.", range.prefix, range.bits));
    };
    let index = u128::try_from(a.int(2)?).ok();
    let room = prefix - range.prefix;
    match index.filter(|i| room == 128 || *i < 1 << room) {
        Some(index) => {
            let step = Range::host_mask(range.bits, prefix).wrapping_add(1);
            Ok(format!("{}/{prefix}", range.address(range.first.wrapping_add(index.wrapping_mul(step)))).into())
        }
        None => invalid(f, "The range has no subnet of that index."),
    }
}

/// The usable address at an index.
fn host(f: &'static str, v: Vec<Value>, _: &Evaluator<'_>) -> Eval<Value> {
    let a = Args { function: f, values: &v };
    let range = Range::parse(f, a.str(0)?)?;
    let address = u128::try_from(a.int(1)?).ok().and_then(|i| range.first.checked_add(i)?.checked_add(1));
    match address.filter(|a| *a <= range.last()) {
        Some(address) => Ok(range.address(address).into()),
        None => invalid(f, "The range has no address of that index."),
    }
}
