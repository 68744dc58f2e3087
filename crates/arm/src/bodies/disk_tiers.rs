//! What a disk of a SKU and a size is said to deliver. Facts as recorded (Premium 1–16 GiB 120/25, Standard 500/60) and
//! as Azure's size tables list them; nothing here limits real I/O.

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

const STANDARD_SSD: [Tier; 4] = [
    tier("E50", 4096, 500, 100),
    tier("E60", 8192, 2000, 400),
    tier("E70", 16384, 4000, 600),
    tier("E80", 32767, 6000, 750),
];

const STANDARD: [Tier; 4] = [
    tier("S50", 4096, 500, 60),
    tier("S60", 8192, 1300, 300),
    tier("S70", 16384, 2000, 500),
    tier("S80", 32767, 2000, 500),
];

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

/// Of a size in GiB. A `wanted` tier raises a Premium disk above the tier of its size, and never lowers it.
pub(super) fn performance(sku: &str, gib: i64, wanted: Option<&str>) -> Performance {
    let (table, shows_tier): (&[Tier], bool) = match sku {
        "UltraSSD_LRS" => return Performance { iops: 500, mbps: 8, tier: None },
        "PremiumV2_LRS" => return Performance { iops: 3000, mbps: 125, tier: None },
        _ if sku.starts_with("Premium") => (&PREMIUM, true),
        _ if sku.starts_with("StandardSSD") => (&STANDARD_SSD, false),
        _ => (&STANDARD, false),
    };
    let own = table.iter().position(|t| gib <= t.gib).unwrap_or(table.len() - 1);
    let wanted = wanted.filter(|_| shows_tier).and_then(|w| table.iter().position(|t| t.name.eq_ignore_ascii_case(w)));
    let tier = &table[own.max(wanted.unwrap_or(0))];
    Performance { iops: tier.iops, mbps: tier.mbps, tier: shows_tier.then_some(tier.name) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let p = performance(sku, gib, wanted);
            assert_eq!((p.iops, p.mbps, p.tier), expected, "{sku} {gib}");
        }
        assert_eq!(["Premium_LRS", "StandardSSD_LRS", "UltraSSD_LRS"].map(sku_tier), ["Premium", "Standard", "Ultra"]);
    }
}
