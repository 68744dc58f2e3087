//! The built-in catalogue of regions: Azure's public cloud and Azure China.
//!
//! Clients write a region as short name, display name or any mix of case and spaces (mission RP-6); [`normalize`] finds
//! it, [`Location::name`] is what is stored, [`Location::display_name`] what target regions show. Availability zones
//! decide whether zone-redundant storage may be asked for (RP-5). Source: Azure's published region lists.

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
    pub zones: bool,
    pub cloud: Cloud,
}

const fn row(
    name: &'static str,
    display_name: &'static str,
    geography: (&'static str, &'static str),
    paired: &'static str,
    physical: &'static str,
    place: (f64, f64),
    zones: bool,
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
    row("eastus", "East US", US, "westus", "Virginia", (37.37, -79.82), true),
    row("eastus2", "East US 2", US, "centralus", "Virginia", (36.67, -78.39), true),
    row("southcentralus", "South Central US", US, "northcentralus", "Texas", (29.42, -98.50), true),
    row("westus2", "West US 2", US, "westcentralus", "Washington", (47.23, -119.85), true),
    row("westus3", "West US 3", US, "eastus", "Phoenix", (33.45, -112.07), true),
    row("australiaeast", "Australia East", AUSTRALIA, "australiasoutheast", "New South Wales", (-33.86, 151.21), true),
    row("southeastasia", "Southeast Asia", ASIA, "eastasia", "Singapore", (1.28, 103.83), true),
    row("northeurope", "North Europe", EUROPE, "westeurope", "Ireland", (53.35, -6.26), true),
    row("swedencentral", "Sweden Central", SWEDEN, "swedensouth", "Gävle", (60.67, 17.14), true),
    row("uksouth", "UK South", UK, "ukwest", "London", (50.94, -0.80), true),
    row("westeurope", "West Europe", EUROPE, "northeurope", "Netherlands", (52.37, 4.90), true),
    row("centralus", "Central US", US, "eastus2", "Iowa", (41.59, -93.62), true),
    row("southafricanorth", "South Africa North", SOUTH_AFRICA, "southafricawest", "Johannesburg", (-25.73, 28.22), true),
    row("centralindia", "Central India", INDIA, "southindia", "Pune", (18.58, 73.92), true),
    row("eastasia", "East Asia", ASIA, "southeastasia", "Hong Kong", (22.27, 114.19), true),
    row("indonesiacentral", "Indonesia Central", INDONESIA, "", "Jakarta", (-6.19, 106.82), true),
    row("japaneast", "Japan East", JAPAN, "japanwest", "Tokyo, Saitama", (35.68, 139.77), true),
    row("japanwest", "Japan West", JAPAN, "japaneast", "Osaka", (34.69, 135.50), true),
    row("koreacentral", "Korea Central", KOREA, "koreasouth", "Seoul", (37.57, 126.98), true),
    row("malaysiawest", "Malaysia West", MALAYSIA, "", "Kuala Lumpur", (3.16, 101.69), true),
    row("newzealandnorth", "New Zealand North", NEW_ZEALAND, "", "Auckland", (-36.85, 174.76), true),
    row("canadacentral", "Canada Central", CANADA, "canadaeast", "Toronto", (43.65, -79.38), true),
    row("austriaeast", "Austria East", AUSTRIA, "", "Vienna", (48.21, 16.37), true),
    row("francecentral", "France Central", FRANCE, "francesouth", "Paris", (46.38, 2.37), true),
    row("germanywestcentral", "Germany West Central", GERMANY, "germanynorth", "Frankfurt", (50.11, 8.68), true),
    row("italynorth", "Italy North", ITALY, "", "Milan", (45.47, 9.18), true),
    row("norwayeast", "Norway East", NORWAY, "norwaywest", "Norway", (59.91, 10.75), true),
    row("polandcentral", "Poland Central", POLAND, "", "Warsaw", (52.23, 21.01), true),
    row("spaincentral", "Spain Central", SPAIN, "", "Madrid", (40.42, -3.70), true),
    row("switzerlandnorth", "Switzerland North", SWITZERLAND, "switzerlandwest", "Zurich", (47.45, 8.56), true),
    row("mexicocentral", "Mexico Central", MEXICO, "", "Querétaro", (20.59, -100.39), true),
    row("uaenorth", "UAE North", UAE, "uaecentral", "Dubai", (25.27, 55.32), true),
    row("brazilsouth", "Brazil South", BRAZIL, "southcentralus", "Sao Paulo State", (-23.55, -46.63), true),
    row("chilecentral", "Chile Central", CHILE, "", "Santiago", (-33.45, -70.67), true),
    row("israelcentral", "Israel Central", ISRAEL, "", "Israel", (31.27, 33.44), true),
    row("qatarcentral", "Qatar Central", QATAR, "", "Doha", (25.55, 51.44), true),
    row("northcentralus", "North Central US", US, "southcentralus", "Illinois", (41.88, -87.63), false),
    row("westus", "West US", US, "eastus", "California", (37.78, -122.42), false),
    row("westcentralus", "West Central US", US, "westus2", "Wyoming", (40.89, -110.23), false),
    row("southafricawest", "South Africa West", SOUTH_AFRICA, "southafricanorth", "Cape Town", (-34.08, 18.84), false),
    row("australiacentral", "Australia Central", AUSTRALIA, "australiacentral2", "Canberra", (-35.31, 149.12), false),
    row("australiacentral2", "Australia Central 2", AUSTRALIA, "australiacentral", "Canberra", (-35.31, 149.12), false),
    row("australiasoutheast", "Australia Southeast", AUSTRALIA, "australiaeast", "Victoria", (-37.81, 144.96), false),
    row("koreasouth", "Korea South", KOREA, "koreacentral", "Busan", (35.18, 129.08), false),
    row("southindia", "South India", INDIA, "centralindia", "Chennai", (12.98, 80.16), false),
    row("westindia", "West India", INDIA, "southindia", "Mumbai", (19.09, 72.87), false),
    row("canadaeast", "Canada East", CANADA, "canadacentral", "Quebec", (46.82, -71.22), false),
    row("francesouth", "France South", FRANCE, "francecentral", "Marseille", (43.83, 2.19), false),
    row("germanynorth", "Germany North", GERMANY, "germanywestcentral", "Berlin", (53.07, 8.81), false),
    row("norwaywest", "Norway West", NORWAY, "norwayeast", "Norway", (58.97, 5.73), false),
    row("switzerlandwest", "Switzerland West", SWITZERLAND, "switzerlandnorth", "Geneva", (46.20, 6.14), false),
    row("ukwest", "UK West", UK, "uksouth", "Cardiff", (53.43, -3.08), false),
    row("uaecentral", "UAE Central", UAE, "uaenorth", "Abu Dhabi", (24.47, 54.37), false),
    row("brazilsoutheast", "Brazil Southeast", BRAZIL, "brazilsouth", "Rio", (-22.91, -43.21), false),
    row("chinanorth", "China North", CHINA, "chinaeast", "Beijing", (39.93, 116.39), false),
    row("chinaeast", "China East", CHINA, "chinanorth", "Shanghai", (31.23, 121.47), false),
    row("chinanorth2", "China North 2", CHINA, "chinaeast2", "Beijing", (39.93, 116.39), false),
    row("chinaeast2", "China East 2", CHINA, "chinanorth2", "Shanghai", (31.23, 121.47), false),
    row("chinanorth3", "China North 3", CHINA, "chinaeast3", "Hebei", (40.80, 115.10), true),
    row("chinaeast3", "China East 3", CHINA, "chinanorth3", "Jiangsu", (32.06, 118.80), false),
];

/// Every region, in the order they are listed to clients.
pub fn all() -> &'static [Location] {
    LOCATIONS
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
    /// An item of `GET /subscriptions/{id}/locations`.
    pub fn to_value(&self, subscription: &str) -> Value {
        let mut metadata = json!({
            "regionType": "Physical",
            "regionCategory": if self.zones { "Recommended" } else { "Other" },
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
        if self.zones {
            let zones =
                ["1", "2", "3"].map(|z| json!({"logicalZone": z, "physicalZone": format!("{}-az{z}", self.name)}));
            item["availabilityZoneMappings"] = Value::from(zones.to_vec());
        }
        item
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
                let zones = if l.zones { "zones" } else { "-" };
                format!("{} | {} | {} | {} | {zones}", l.name, l.display_name, l.geography, l.paired.unwrap_or("-"))
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn listed_shape() {
        insta::assert_json_snapshot!(normalize("westus").unwrap().to_value("S"));
        assert_eq!(normalize("eastus").unwrap().to_value("S")["availabilityZoneMappings"].as_array().unwrap().len(), 3);
    }
}
