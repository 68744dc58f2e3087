//! What a disk of a SKU and a size is said to deliver. Facts as recorded (Premium 1–16 GiB 120/25, Standard 500/60) and
//! as Azure's size tables list them; nothing here limits real I/O.

use crate::ArmError;

/// Performance tier, e.g. `P4`, with the largest size in GiB it covers.
struct Tier {
    name: &'static str,
    gib: i64,
    iops: i64,
    mbps: i64,
}

const fn tier(name: &'static str, gib: i64, iops: i64, mbps: i64) -> Tier {
    Tier { name, gib, iops, mbps }
}

const PREMIUM: [Tier; 14] = [
    tier("P1", 4, 120, 25),
    tier("P2", 8, 120, 25),
    tier("P3", 16, 120, 25),
    tier("P4", 32, 120, 25),
    tier("P6", 64, 240, 50),
    tier("P10", 128, 500, 100),
    tier("P15", 256, 1100, 125),
    tier("P20", 512, 2300, 150),
    tier("P30", 1024, 5000, 200),
    tier("P40", 2048, 7500, 250),
    tier("P50", 4096, 7500, 250),
    tier("P60", 8192, 16000, 500),
    tier("P70", 16384, 18000, 750),
    tier("P80", 32767, 20000, 900),
];

const STANDARD_SSD: [Tier; 14] = [
    tier("E1", 4, 500, 100),
    tier("E2", 8, 500, 100),
    tier("E3", 16, 500, 100),
    tier("E4", 32, 500, 100),
    tier("E6", 64, 500, 100),
    tier("E10", 128, 500, 100),
    tier("E15", 256, 500, 100),
    tier("E20", 512, 500, 100),
    tier("E30", 1024, 500, 100),
    tier("E40", 2048, 500, 100),
    tier("E50", 4096, 500, 100),
    tier("E60", 8192, 2000, 400),
    tier("E70", 16384, 4000, 600),
    tier("E80", 32767, 6000, 750),
];

const STANDARD: [Tier; 11] = [
    tier("S4", 32, 500, 60),
    tier("S6", 64, 500, 60),
    tier("S10", 128, 500, 60),
    tier("S15", 256, 500, 60),
    tier("S20", 512, 500, 60),
    tier("S30", 1024, 500, 60),
    tier("S40", 2048, 500, 60),
    tier("S50", 4096, 500, 60),
    tier("S60", 8192, 1300, 300),
    tier("S70", 16384, 2000, 500),
    tier("S80", 32767, 2000, 500),
];

/// `creationData.performancePlus`: `(smallest size in GiB, IOPS, MBps)`, the last row that fits.
type Plus = (i64, i64, i64);

const PREMIUM_PLUS: [Plus; 3] = [(513, 8000, 300), (1025, 16000, 600), (2049, 20000, 900)];
const STANDARD_SSD_PLUS: [Plus; 4] = [(513, 1500, 150), (1025, 3000, 300), (2049, 6000, 600), (4097, 6000, 750)];
const STANDARD_PLUS: [Plus; 3] = [(513, 1500, 150), (1025, 3000, 300), (8193, 3000, 500)];
/// Below this size in GiB there is no performance plus.
const PLUS_FROM: i64 = 513;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Performance {
    pub iops: i64,
    pub mbps: i64,
    /// Shown for Premium SSDs only.
    pub tier: Option<&'static str>,
}

/// `sku.tier`.
pub(super) fn sku_tier(sku: &str) -> &'static str {
    match sku {
        "UltraSSD_LRS" => "Ultra",
        _ if sku.starts_with("Premium") => "Premium",
        _ => "Standard",
    }
}

/// SKUs whose performance is chosen and not derived from the size; they are data disks only.
pub(super) fn is_provisioned(sku: &str) -> bool {
    matches!(sku, "UltraSSD_LRS" | "PremiumV2_LRS")
}

/// `(largest IOPS, largest MBps)` that may be chosen for a SKU that [`is_provisioned`].
pub(super) fn provisioned_limits(sku: &str) -> (i64, i64) {
    if sku == "UltraSSD_LRS" { (400_000, 10_000) } else { (80_000, 3_000) }
}

/// Of a size in GiB. A `wanted` tier raises a Premium disk above the tier of its size, and never lowers it.
pub(super) fn performance(sku: &str, gib: i64, wanted: Option<&str>, plus: bool) -> Performance {
    let (table, more, shows_tier): (&[Tier], &[Plus], bool) = match sku {
        "UltraSSD_LRS" => return Performance { iops: 500, mbps: 8, tier: None },
        "PremiumV2_LRS" => return Performance { iops: 3000, mbps: 125, tier: None },
        _ if sku.starts_with("Premium") => (&PREMIUM, &PREMIUM_PLUS, true),
        _ if sku.starts_with("StandardSSD") => (&STANDARD_SSD, &STANDARD_SSD_PLUS, false),
        _ => (&STANDARD, &STANDARD_PLUS, false),
    };
    let own = table.iter().position(|t| gib <= t.gib).unwrap_or(table.len() - 1);
    let wanted = wanted.filter(|_| shows_tier).and_then(|w| table.iter().position(|t| t.name.eq_ignore_ascii_case(w)));
    let tier = &table[own.max(wanted.unwrap_or(0))];
    let (_, iops, mbps) = more.iter().rfind(|(from, _, _)| plus && *from <= gib).copied().unwrap_or((0, 0, 0));
    Performance { iops: tier.iops.max(iops), mbps: tier.mbps.max(mbps), tier: shows_tier.then_some(tier.name) }
}

/// A tier that was asked for: it must exist, and the three largest are for disks larger than 4 TiB only. Other SKUs than
/// Premium SSD have no tier to choose; what a client sends back to them is dropped (recorded).
pub(super) fn check_tier(path: &str, sku: &str, gib: i64, wanted: &str) -> Result<(), ArmError> {
    if !matches!(sku, "Premium_LRS" | "Premium_ZRS") {
        return Ok(());
    }
    let Some(tier) = PREMIUM.iter().find(|t| t.name.eq_ignore_ascii_case(wanted)) else {
        let names: Vec<&str> = PREMIUM.iter().map(|t| t.name).collect();
        return Err(ArmError::invalid_parameter(
            path,
            format!("The value '{wanted}' of parameter {path} is invalid. It must be one of: {}.", names.join(", ")),
        ));
    };
    if tier.gib > 4096 && gib <= 4096 {
        return Err(ArmError::invalid_parameter(
            path,
            format!(
                "The performance tier {} can only be used by disks that are larger than 4096 GiB; this one has {gib} GiB.",
                tier.name
            ),
        ));
    }
    Ok(())
}

/// The largest `maxShares` of a SKU and size.
pub(super) fn max_shares(sku: &str, gib: i64) -> i64 {
    match sku {
        _ if is_provisioned(sku) => 15,
        "Standard_LRS" => 1,
        _ if gib <= 512 => 3,
        _ if gib <= 4096 => 5,
        _ => 10,
    }
}

/// Whether a disk may burst on demand: Premium SSDs larger than 512 GiB.
pub(super) fn can_burst(sku: &str, gib: i64) -> bool {
    matches!(sku, "Premium_LRS" | "Premium_ZRS") && gib > 512
}

/// Whether a new disk may have performance plus.
pub(super) fn can_plus(sku: &str, gib: i64) -> bool {
    !is_provisioned(sku) && gib >= PLUS_FROM
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_recorded() {
        for (sku, gib, wanted, expected) in [
            ("Premium_LRS", 1, None, (120, 25, Some("P1"))),
            ("Premium_LRS", 10, None, (120, 25, Some("P3"))),
            ("Premium_LRS", 20, None, (120, 25, Some("P4"))),
            ("Premium_LRS", 10, Some("p10"), (500, 100, Some("P10"))),
            ("Premium_LRS", 1024, Some("P4"), (5000, 200, Some("P30"))),
            ("Standard_LRS", 10, Some("P1"), (500, 60, None)),
            ("StandardSSD_ZRS", 8192, None, (2000, 400, None)),
            ("Premium_ZRS", 99_999, None, (20000, 900, Some("P80"))),
        ] {
            let p = performance(sku, gib, wanted, false);
            assert_eq!((p.iops, p.mbps, p.tier), expected, "{sku} {gib}");
        }
        assert_eq!(["Premium_LRS", "StandardSSD_LRS", "UltraSSD_LRS"].map(sku_tier), ["Premium", "Standard", "Ultra"]);
    }

    #[test]
    fn tiers_that_cannot_be_had() {
        let refused = |sku, gib, tier| check_tier("t", sku, gib, tier).is_err();
        assert!(refused("Premium_LRS", 64, "P5") && refused("Premium_LRS", 4096, "P60"));
        assert!(!refused("Premium_LRS", 64, "p50") && !refused("Premium_ZRS", 4097, "P60"));
        assert!(!refused("Standard_LRS", 64, "P1"), "sent back, dropped");
    }

    fn sku() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["Premium_LRS", "Premium_ZRS", "StandardSSD_LRS", "StandardSSD_ZRS", "Standard_LRS"])
    }

    proptest! {
        /// More space, a higher tier or performance plus never give less; the tier shown covers the size.
        #[test]
        fn more_never_gives_less(sku in sku(), gib in 1i64..=32_767, more in 0i64..4096, wanted in 0usize..14, plus: bool) {
            let own = performance(sku, gib, None, false);
            let name = PREMIUM[wanted].name;
            for other in [
                performance(sku, (gib + more).min(32_767), None, false),
                performance(sku, gib, Some(name), false),
                performance(sku, gib, None, plus),
            ] {
                prop_assert!(other.iops >= own.iops && other.mbps >= own.mbps);
                prop_assert_eq!(other.tier.is_some(), sku.starts_with("Premium"));
            }
            if let Some(tier) = own.tier {
                let at = PREMIUM.iter().position(|t| t.name == tier).unwrap();
                prop_assert!(gib <= PREMIUM[at].gib && (at == 0 || gib > PREMIUM[at - 1].gib));
            }
            prop_assert!(max_shares(sku, gib) <= max_shares(sku, 32_767));
        }
    }
}
