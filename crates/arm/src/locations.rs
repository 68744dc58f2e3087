//! The built-in catalogue of regions: Azure's public cloud and Azure China.
//!
//! Clients write a region as short name, display name or any mix of case and spaces (mission RP-6); [`normalize`] finds
//! it, [`Location::name`] is what is stored, [`Location::display_name`] what target regions show. Availability zones
//! decide whether zone-redundant storage may be asked for (RP-5). Source: `GET /subscriptions/{id}/locations` of Azure as recorded,
//! and Azure's published region lists for what is newer. Canary and stage regions are there as Azure lists them: clients' own tests
//! use them.

use serde_json::{Value, json};

/// Which Azure a region belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    Public,
    China,
}

/// A region.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Location {
    /// `eastus`
    pub name: &'static str,
    /// `East US`
    pub display_name: &'static str,
    /// `United States`
    pub geography: &'static str,
    /// `US`
    pub geography_group: &'static str,
    pub paired: Option<&'static str>,
    /// Where it lies, in words.
    pub physical: &'static str,
    pub latitude: f64,
    pub longitude: f64,
    /// How many availability zones there are; 0: none.
    pub zones: u8,
    pub cloud: Cloud,
}

const fn row(
    name: &'static str,
    display_name: &'static str,
    geography: (&'static str, &'static str),
    paired: &'static str,
    physical: &'static str,
    place: (f64, f64),
    zones: u8,
) -> Location {
    let cloud = match geography.1.as_bytes() {
        b"China" => Cloud::China,
        _ => Cloud::Public,
    };
    Location {
        name,
        display_name,
        geography: geography.0,
        geography_group: geography.1,
        paired: if paired.is_empty() { None } else { Some(paired) },
        physical,
        latitude: place.0,
        longitude: place.1,
        zones,
        cloud,
    }
}

type Geography = (&'static str, &'static str);
const US: Geography = ("United States", "US");
const CANARY: Geography = ("Canary (US)", "US");
const STAGE: Geography = ("Stage (US)", "US");
const CANADA: Geography = ("Canada", "Canada");
const BRAZIL: Geography = ("Brazil", "South America");
const MEXICO: Geography = ("Mexico", "Mexico");
const CHILE: Geography = ("Chile", "South America");
const EUROPE: Geography = ("Europe", "Europe");
const UK: Geography = ("United Kingdom", "Europe");
const FRANCE: Geography = ("France", "Europe");
const GERMANY: Geography = ("Germany", "Europe");
const SWITZERLAND: Geography = ("Switzerland", "Europe");
const NORWAY: Geography = ("Norway", "Europe");
const SWEDEN: Geography = ("Sweden", "Europe");
const ITALY: Geography = ("Italy", "Europe");
const POLAND: Geography = ("Poland", "Europe");
const SPAIN: Geography = ("Spain", "Europe");
const AUSTRIA: Geography = ("Austria", "Europe");
const ISRAEL: Geography = ("Israel", "Middle East");
const QATAR: Geography = ("Qatar", "Middle East");
const UAE: Geography = ("UAE", "Middle East");
const SOUTH_AFRICA: Geography = ("South Africa", "Africa");
const ASIA: Geography = ("Asia Pacific", "Asia Pacific");
const AUSTRALIA: Geography = ("Australia", "Asia Pacific");
const JAPAN: Geography = ("Japan", "Asia Pacific");
const KOREA: Geography = ("Korea", "Asia Pacific");
const INDIA: Geography = ("India", "Asia Pacific");
const INDONESIA: Geography = ("Indonesia", "Asia Pacific");
const MALAYSIA: Geography = ("Malaysia", "Asia Pacific");
const NEW_ZEALAND: Geography = ("New Zealand", "Asia Pacific");
const CHINA: Geography = ("China", "China");

#[rustfmt::skip]
static LOCATIONS: &[Location] = &[
    row("eastus", "East US", US, "westus", "Virginia", (37.3719, -79.8164), 3),
    row("eastus2", "East US 2", US, "centralus", "Virginia", (36.6681, -78.3889), 3),
    row("southcentralus", "South Central US", US, "northcentralus", "Texas", (29.4167, -98.5), 3),
    row("westus2", "West US 2", US, "westcentralus", "Washington", (47.233, -119.852), 3),
    row("westus3", "West US 3", US, "eastus", "Phoenix", (33.448376, -112.074036), 3),
    row("australiaeast", "Australia East", AUSTRALIA, "australiasoutheast", "New South Wales", (-33.86, 151.2094), 3),
    row("southeastasia", "Southeast Asia", ASIA, "eastasia", "Singapore", (1.283, 103.833), 3),
    row("northeurope", "North Europe", EUROPE, "westeurope", "Ireland", (53.3478, -6.2597), 3),
    row("swedencentral", "Sweden Central", SWEDEN, "swedensouth", "Gävle", (60.67488, 17.14127), 3),
    row("uksouth", "UK South", UK, "ukwest", "London", (50.941, -0.799), 3),
    row("westeurope", "West Europe", EUROPE, "northeurope", "Netherlands", (52.3667, 4.9), 3),
    row("centralus", "Central US", US, "eastus2", "Iowa", (41.5908, -93.6208), 3),
    row("southafricanorth", "South Africa North", SOUTH_AFRICA, "southafricawest", "Johannesburg", (-25.73134, 28.21837), 3),
    row("centralindia", "Central India", INDIA, "southindia", "Pune", (18.5822, 73.9197), 3),
    row("eastasia", "East Asia", ASIA, "southeastasia", "Hong Kong", (22.267, 114.188), 3),
    row("indonesiacentral", "Indonesia Central", INDONESIA, "", "Jakarta", (-6.19, 106.82), 3),
    row("japaneast", "Japan East", JAPAN, "japanwest", "Tokyo, Saitama", (35.68, 139.77), 3),
    row("japanwest", "Japan West", JAPAN, "japaneast", "Osaka", (34.6939, 135.5022), 3),
    row("koreacentral", "Korea Central", KOREA, "koreasouth", "Seoul", (37.5665, 126.978), 3),
    row("malaysiawest", "Malaysia West", MALAYSIA, "", "Kuala Lumpur", (3.16, 101.69), 3),
    row("newzealandnorth", "New Zealand North", NEW_ZEALAND, "", "Auckland", (-36.85, 174.76), 3),
    row("canadacentral", "Canada Central", CANADA, "canadaeast", "Toronto", (43.653, -79.383), 3),
    row("austriaeast", "Austria East", AUSTRIA, "", "Vienna", (48.21, 16.37), 3),
    row("francecentral", "France Central", FRANCE, "francesouth", "Paris", (46.3772, 2.373), 3),
    row("germanywestcentral", "Germany West Central", GERMANY, "germanynorth", "Frankfurt", (50.110924, 8.682127), 3),
    row("italynorth", "Italy North", ITALY, "", "Milan", (45.46888, 9.18109), 3),
    row("norwayeast", "Norway East", NORWAY, "norwaywest", "Norway", (59.913868, 10.752245), 3),
    row("polandcentral", "Poland Central", POLAND, "", "Warsaw", (52.23334, 21.01666), 3),
    row("spaincentral", "Spain Central", SPAIN, "", "Madrid", (40.42, -3.70), 3),
    row("switzerlandnorth", "Switzerland North", SWITZERLAND, "switzerlandwest", "Zurich", (47.451542, 8.564572), 3),
    row("mexicocentral", "Mexico Central", MEXICO, "", "Querétaro State", (20.588818, -100.389888), 3),
    row("uaenorth", "UAE North", UAE, "uaecentral", "Dubai", (25.266666, 55.316666), 3),
    row("brazilsouth", "Brazil South", BRAZIL, "southcentralus", "Sao Paulo State", (-23.55, -46.633), 3),
    row("chilecentral", "Chile Central", CHILE, "", "Santiago", (-33.45, -70.67), 3),
    row("israelcentral", "Israel Central", ISRAEL, "", "Israel", (31.2655698, 33.4506633), 3),
    row("qatarcentral", "Qatar Central", QATAR, "", "Doha", (25.551462, 51.439327), 3),
    row("brazilus", "Brazil US", BRAZIL, "brazilsoutheast", "", (0.0, 0.0), 0),
    row("eastusstg", "East US STG", STAGE, "southcentralusstg", "Virginia", (37.3719, -79.8164), 0),
    row("northcentralus", "North Central US", US, "southcentralus", "Illinois", (41.8819, -87.6278), 0),
    row("westus", "West US", US, "eastus", "California", (37.783, -122.417), 0),
    row("jioindiawest", "Jio India West", INDIA, "jioindiacentral", "Jamnagar", (22.470701, 70.05773), 0),
    row("centraluseuap", "Central US EUAP", CANARY, "eastus2euap", "", (41.5908, -93.6208), 2),
    row("eastus2euap", "East US 2 EUAP", CANARY, "centraluseuap", "", (36.6681, -78.3889), 3),
    row("southcentralusstg", "South Central US STG", STAGE, "eastusstg", "Texas", (29.4167, -98.5), 0),
    row("westcentralus", "West Central US", US, "westus2", "Wyoming", (40.89, -110.234), 0),
    row("southafricawest", "South Africa West", SOUTH_AFRICA, "southafricanorth", "Cape Town", (-34.075691, 18.843266), 0),
    row("australiacentral", "Australia Central", AUSTRALIA, "australiacentral2", "Canberra", (-35.3075, 149.1244), 0),
    row("australiacentral2", "Australia Central 2", AUSTRALIA, "australiacentral", "Canberra", (-35.3075, 149.1244), 0),
    row("australiasoutheast", "Australia Southeast", AUSTRALIA, "australiaeast", "Victoria", (-37.8136, 144.9631), 0),
    row("jioindiacentral", "Jio India Central", INDIA, "jioindiawest", "Nagpur", (21.146633, 79.08886), 0),
    row("koreasouth", "Korea South", KOREA, "koreacentral", "Busan", (35.1796, 129.0756), 0),
    row("southindia", "South India", INDIA, "centralindia", "Chennai", (12.9822, 80.1636), 0),
    row("westindia", "West India", INDIA, "southindia", "Mumbai", (19.088, 72.868), 0),
    row("canadaeast", "Canada East", CANADA, "canadacentral", "Quebec", (46.817, -71.217), 0),
    row("francesouth", "France South", FRANCE, "francecentral", "Marseille", (43.8345, 2.1972), 0),
    row("germanynorth", "Germany North", GERMANY, "germanywestcentral", "Berlin", (53.073635, 8.806422), 0),
    row("norwaywest", "Norway West", NORWAY, "norwayeast", "Norway", (58.969975, 5.733107), 0),
    row("switzerlandwest", "Switzerland West", SWITZERLAND, "switzerlandnorth", "Geneva", (46.204391, 6.143158), 0),
    row("ukwest", "UK West", UK, "uksouth", "Cardiff", (53.427, -3.084), 0),
    row("uaecentral", "UAE Central", UAE, "uaenorth", "Abu Dhabi", (24.466667, 54.366669), 0),
    row("brazilsoutheast", "Brazil Southeast", BRAZIL, "brazilsouth", "Rio", (-22.90278, -43.2075), 0),
    row("chinanorth", "China North", CHINA, "chinaeast", "Beijing", (39.93, 116.39), 0),
    row("chinaeast", "China East", CHINA, "chinanorth", "Shanghai", (31.23, 121.47), 0),
    row("chinanorth2", "China North 2", CHINA, "chinaeast2", "Beijing", (39.93, 116.39), 0),
    row("chinaeast2", "China East 2", CHINA, "chinanorth2", "Shanghai", (31.23, 121.47), 0),
    row("chinanorth3", "China North 3", CHINA, "chinaeast3", "Hebei", (40.80, 115.10), 3),
    row("chinaeast3", "China East 3", CHINA, "chinanorth3", "Jiangsu", (32.06, 118.80), 0),
];

/// What Azure lists as "logical" regions, where nothing can be made: name, display name, and the geography that Azure shows of
/// some. (Recorded.)
const LOGICAL: [(&str, &str, &str); 35] = [
    ("centralusstage", "Central US (Stage)", "usa"),
    ("eastusstage", "East US (Stage)", "usa"),
    ("eastus2stage", "East US 2 (Stage)", "usa"),
    ("northcentralusstage", "North Central US (Stage)", "usa"),
    ("southcentralusstage", "South Central US (Stage)", "usa"),
    ("westusstage", "West US (Stage)", "usa"),
    ("westus2stage", "West US 2 (Stage)", "usa"),
    ("asia", "Asia", ""),
    ("asiapacific", "Asia Pacific", ""),
    ("australia", "Australia", ""),
    ("brazil", "Brazil", ""),
    ("canada", "Canada", ""),
    ("europe", "Europe", ""),
    ("france", "France", ""),
    ("germany", "Germany", ""),
    ("global", "Global", ""),
    ("india", "India", ""),
    ("israel", "Israel", ""),
    ("italy", "Italy", ""),
    ("japan", "Japan", ""),
    ("korea", "Korea", ""),
    ("newzealand", "New Zealand", ""),
    ("norway", "Norway", ""),
    ("poland", "Poland", ""),
    ("qatar", "Qatar", ""),
    ("singapore", "Singapore", ""),
    ("southafrica", "South Africa", ""),
    ("sweden", "Sweden", ""),
    ("switzerland", "Switzerland", ""),
    ("uae", "United Arab Emirates", ""),
    ("uk", "United Kingdom", ""),
    ("unitedstates", "United States", ""),
    ("unitedstateseuap", "United States EUAP", ""),
    ("eastasiastage", "East Asia (Stage)", "asia"),
    ("southeastasiastage", "Southeast Asia (Stage)", "asia"),
];

/// Every region where resources can be.
pub fn all() -> &'static [Location] {
    LOCATIONS
}

/// The names of all regions, as errors list them.
pub fn names() -> String {
    LOCATIONS.iter().map(|l| l.name).collect::<Vec<_>>().join(",")
}

/// The items of `GET /subscriptions/{id}/locations`: those of one cloud, or of both. As in Azure, the recommended regions are
/// first, and the logical ones before all others.
pub fn list(cloud: Option<Cloud>, subscription: &str) -> Vec<Value> {
    let of = |recommended: bool| {
        let wanted = move |l: &&Location| cloud.is_none_or(|c| c == l.cloud) && l.recommended() == recommended;
        LOCATIONS.iter().filter(wanted).map(|l| l.to_value(subscription))
    };
    let logical = LOGICAL.iter().filter(|_| cloud != Some(Cloud::China)).map(|l| logical_value(l, subscription));
    of(true).chain(logical).chain(of(false)).collect()
}

fn logical_value((name, display_name, geography): &(&str, &str, &str), subscription: &str) -> Value {
    let mut metadata = json!({"regionType": "Logical", "regionCategory": "Other"});
    let mut regional = (*display_name).to_owned();
    let group = match *geography {
        "usa" => US.1,
        "asia" => ASIA.1,
        _ => "",
    };
    if !group.is_empty() {
        metadata["geography"] = (*geography).into();
        metadata["geographyGroup"] = group.into();
        regional = format!("({group}) {display_name}");
    }
    json!({
        "id": format!("/subscriptions/{subscription}/locations/{name}"),
        "name": name,
        "type": "Region",
        "displayName": display_name,
        "regionalDisplayName": regional,
        "metadata": metadata,
    })
}

/// The region that a client means: spaces and case do not count.
pub fn normalize(text: &str) -> Option<&'static Location> {
    let same = |name: &str| {
        let mut given = text.bytes().filter(|b| *b != b' ').map(|b| b.to_ascii_lowercase());
        let mut known = name.bytes();
        std::iter::from_fn(|| match (given.next(), known.next()) {
            (None, None) => None,
            pair => Some(pair),
        })
        .all(|(a, b)| a == b)
    };
    LOCATIONS.iter().find(|l| same(l.name))
}

impl Location {
    /// With zones, and for everybody.
    fn recommended(&self) -> bool {
        self.zones > 0 && self.geography != CANARY.0
    }

    /// An item of `GET /subscriptions/{id}/locations`.
    fn to_value(self, subscription: &str) -> Value {
        let mut metadata = json!({
            "regionType": "Physical",
            "regionCategory": if self.recommended() { "Recommended" } else { "Other" },
            "geography": self.geography,
            "geographyGroup": self.geography_group,
            "longitude": self.longitude.to_string(),
            "latitude": self.latitude.to_string(),
            "physicalLocation": self.physical,
        });
        metadata["pairedRegion"] = self
            .paired
            .iter()
            .map(|p| json!({"name": p, "id": format!("/subscriptions/{subscription}/locations/{p}")}))
            .collect();
        let mut item = json!({
            "id": format!("/subscriptions/{subscription}/locations/{}", self.name),
            "name": self.name,
            "type": "Region",
            "displayName": self.display_name,
            "regionalDisplayName": format!("({}) {}", self.geography_group, self.display_name),
            "metadata": metadata,
        });
        let zones = self.zone_names();
        if !zones.is_empty() {
            let mapping =
                |(logical, physical): &(&str, String)| json!({"logicalZone": logical, "physicalZone": physical});
            item["availabilityZoneMappings"] = zones.iter().map(mapping).collect();
        }
        item
    }

    /// Its zones as a subscription numbers them, and their own names. Which one a subscription calls its first is Azure's secret: here
    /// as in the recordings, the same for all.
    pub fn zone_names(&self) -> Vec<(&'static str, String)> {
        let zones: &[(&'static str, u8)] = match self.zones {
            0 => &[],
            3 if self.recommended() => &[("1", 3), ("2", 1), ("3", 2)],
            n => &[("1", 1), ("2", 2), ("3", 3)][..usize::from(n.min(3))],
        };
        zones.iter().map(|(logical, zone)| (*logical, format!("{}-az{zone}", self.name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RP-6.
    #[test]
    fn finds_regions_however_they_are_written() {
        for text in ["eastus2", "East US 2", "EASTUS2", "east us2", " East  US 2 "] {
            assert_eq!(normalize(text).unwrap().name, "eastus2", "{text}");
        }
        assert_eq!(normalize("China North 2").unwrap().cloud, Cloud::China);
        for text in ["", " ", "eastus22", "eastu", "mars", "East-US"] {
            assert!(normalize(text).is_none(), "{text}");
        }
    }

    #[test]
    fn every_region_is_found_by_both_of_its_names() {
        for l in all() {
            assert_eq!(normalize(l.name), Some(l));
            assert_eq!(normalize(l.display_name), Some(l));
        }
    }

    #[test]
    fn catalogue() {
        let table: Vec<String> = all()
            .iter()
            .map(|l| {
                let paired = l.paired.unwrap_or("-");
                format!("{} | {} | {} | {paired} | {} zones", l.name, l.display_name, l.geography, l.zones)
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn listed_shape() {
        insta::assert_json_snapshot!(normalize("westus").unwrap().to_value("S"));
        insta::assert_json_snapshot!("listed_with_zones", normalize("centraluseuap").unwrap().to_value("S"));
        insta::assert_json_snapshot!("listed_logical", &LOGICAL.map(|l| logical_value(&l, "S"))[..8]);
    }

    /// Both clouds have their own regions, and nothing can be made where no region is.
    #[test]
    fn lists_of_the_clouds() {
        let names = |cloud| -> Vec<String> {
            list(cloud, "S").iter().map(|l| l["name"].as_str().unwrap().to_owned()).collect()
        };
        let (public, china) = (names(Some(Cloud::Public)), names(Some(Cloud::China)));
        assert!(china.iter().all(|n| n.starts_with("china")), "{china:?}");
        assert!(!public.iter().any(|n| n.starts_with("china")), "{public:?}");
        assert_eq!(names(None).len(), public.len() + china.len());
        assert_eq!(public.len(), LOGICAL.len() + all().iter().filter(|l| l.cloud == Cloud::Public).count());
        for (name, ..) in LOGICAL {
            assert!(normalize(name).is_none(), "{name}");
        }
    }
}
