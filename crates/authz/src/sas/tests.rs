//! What azure-storage-blob signs is believed, and nothing else.

use super::fields::{of_pairs, to_query};
use super::*;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;

/// Kind, container, blob, snapshot, query: from the `generate_*_sas` of several releases. Account key: the bytes 0 to 63; user
/// delegation key: the bytes 100 to 131.
const SIGNED: &[(&str, &str, &str, &str, &str)] = &[
    // azure-storage-blob 1.3.1
    (
        "account",
        "",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rwdl&sip=10.0.0.1-10.0.0.9&spr=https&sv=2018-03-28&ss=bq&srt=sco&sig=C1GtmQviOZpO7z/32jtDubN4Px6Iei0QyZfGBaEaMTY%3D",
    ),
    (
        "service",
        "vhds",
        "dir/a b.vhd",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2018-03-28&sr=b&rscd=attachment%3B%20filename%3Dx&sig=gl90V9bGTt0P%2BPazvkt5EnGbyZbo5KYPd4IdE7XmvZE%3D",
    ),
    (
        "service",
        "vhds",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2018-03-28&sr=c&sig=iu35PpSGz/ym1SsqdQVnFZal73S4EbAb8b5Kl%2Bkcudk%3D",
    ),
    ("service", "vhds", "", "", "sv=2018-03-28&si=pol1&sr=c&sig=rRRDToDq14vKil8ii4uw5zwurxUVpEK86nFL1Mr6UT4%3D"),
    // azure-storage-blob 12.8.1
    (
        "account",
        "",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rwdl&sip=10.0.0.1-10.0.0.9&spr=https&sv=2020-06-12&ss=b&srt=sco&sig=9SRsXtIXENwavSxL%2BF8HvgOESDm4Y%2BYtyiS3v0JtmAk%3D",
    ),
    (
        "service",
        "vhds",
        "dir/a b+é.vhd",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2020-06-12&sr=b&rscd=attachment%3B%20filename%3Dx&sig=ib0i0rb%2Bu5oXQwxp%2BNo2QwjJt180jGqEd6UQeP2WcGU%3D",
    ),
    (
        "service",
        "vhds",
        "a",
        "2026-01-01T00:00:00.0000000Z",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2020-06-12&sr=bs&sig=XCBk0%2B7pEg3zl4HTN4dFVobbgJ7fomQRrs58dd06/vU%3D",
    ),
    (
        "service",
        "vhds",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2020-06-12&sr=c&sig=uGpMnVqXlY8rfgX9u1ZAv3lJhc3LN6nbOdBuv/2vsrA%3D",
    ),
    ("service", "vhds", "", "", "sv=2020-06-12&si=pol1&sr=c&sig=3D3wtFyJgXLOljG1YWbl7KLDx0CDWTh6%2Bq4bc%2B%2BD0zA%3D"),
    (
        "delegation",
        "vhds",
        "a/b",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rw&spr=https&sv=2020-06-12&sr=b&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=z1sXAJRSEE80/MdPK9rOAUHDraqJ6Srl22tnezWChKw%3D",
    ),
    (
        "delegation",
        "vhds",
        "",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2020-06-12&sr=c&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=flWYsElHUb5cX8/4gTBMZkMYqedxRRzfMoVdAMp0AI0%3D",
    ),
    // azure-storage-blob 12.9.0
    (
        "account",
        "",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rwdl&sip=10.0.0.1-10.0.0.9&spr=https&sv=2020-10-02&ss=b&srt=sco&sig=soz9H3EVzztdDi69ragDeNY/P5JKiYEED9L01RAaRao%3D",
    ),
    (
        "service",
        "vhds",
        "dir/a b+é.vhd",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2020-10-02&sr=b&rscd=attachment%3B%20filename%3Dx&sig=NVYq5brokYNl4l7noKupI8WdmmY4OtnXB3icc/sj8UQ%3D",
    ),
    (
        "service",
        "vhds",
        "a",
        "2026-01-01T00:00:00.0000000Z",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2020-10-02&sr=bs&sig=vkIhqYHLLe4JmXRmFLtvNuuzTJksQBY3EXrrUtgCPsQ%3D",
    ),
    (
        "service",
        "vhds",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2020-10-02&sr=c&sig=vP7loGeUQ8CEb%2BdnUptY18tudYUY6BwtUBjV2dG1Y3A%3D",
    ),
    ("service", "vhds", "", "", "sv=2020-10-02&si=pol1&sr=c&sig=1nlMB/AwD4olOUEv51LhiBrtcWjZNi9MtnhXBy3R5sM%3D"),
    (
        "delegation",
        "vhds",
        "a/b",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rw&spr=https&sv=2020-10-02&sr=b&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=l40VUZs10FLGJasrBAMtX%2BS8ljs6l3zzpGSQUyRGQg4%3D",
    ),
    (
        "delegation",
        "vhds",
        "",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2020-10-02&sr=c&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=3%2BNdxa0wheQ5XpWlPIK1rf6YkTep8bjSZwEt67L4A1I%3D",
    ),
    // azure-storage-blob 12.19.1
    (
        "account",
        "",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rwdl&sip=10.0.0.1-10.0.0.9&spr=https&sv=2023-11-03&ss=b&srt=sco&sig=D3S5ELw58fZEcBBNpMCbZv5hFQMBHg%2BwA8krZoMBV/o%3D",
    ),
    (
        "service",
        "vhds",
        "dir/a b+é.vhd",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2023-11-03&sr=b&rscd=attachment%3B%20filename%3Dx&sig=ISdB7r2oTe4U9/8Fv2PKtYdvy7AqukOHm3NjHOmufW0%3D",
    ),
    (
        "service",
        "vhds",
        "a",
        "2026-01-01T00:00:00.0000000Z",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2023-11-03&sr=bs&sig=zZviUU4J8i4ulRQ2UeVhdQ8/fND5TEsUKz3vuPkOaSg%3D",
    ),
    (
        "service",
        "vhds",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2023-11-03&sr=c&sig=k1CvqlpdjwkR1KcGw7wIXTzMbbt607x1066ReF10tSI%3D",
    ),
    ("service", "vhds", "", "", "sv=2023-11-03&si=pol1&sr=c&sig=6Yw92Xdp2gRreVR8gre9O1t9Bav5pCtWzwaN%2BiXSNr8%3D"),
    (
        "delegation",
        "vhds",
        "a/b",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rw&spr=https&sv=2023-11-03&sr=b&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=mtW8TSZWuavyc505YIKf0ClRAd%2BRUDyail9O137jiLY%3D",
    ),
    (
        "delegation",
        "vhds",
        "",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2023-11-03&sr=c&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=wxcnJ/qZnWE49mpfFCvyYNet0W8W49R7zEZDH5SdjMM%3D",
    ),
    // azure-storage-blob 12.27.0
    (
        "account",
        "",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rwdl&sip=10.0.0.1-10.0.0.9&spr=https&sv=2025-11-05&ss=bq&srt=sco&sig=ClAm8nxtyjng8HLC0pDAOzPA/cGhhlZBH9xaxY6Y5aw%3D",
    ),
    (
        "service",
        "vhds",
        "dir/a b+é.vhd",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2025-11-05&sr=b&rscd=attachment%3B%20filename%3Dx&sig=skshP1wFR18//gcVAjgExSIHEOEB0hYkuCoRl1eTnd0%3D",
    ),
    (
        "service",
        "vhds",
        "a",
        "2026-01-01T00:00:00.0000000Z",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2025-11-05&sr=bs&sig=NK1GPBtt8Z1oHUaEJ72PWVXXFjUKzJB3AIc/bZ073rk%3D",
    ),
    (
        "service",
        "vhds",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2025-11-05&sr=c&sig=OiYep6nJCOneIYgzW%2BXJFj7Sqg28nEjCMEHNf/sR/WY%3D",
    ),
    ("service", "vhds", "", "", "sv=2025-11-05&si=pol1&sr=c&sig=ZOqqdS/jViPtsn7%2BJBJdq/1YWb%2B8kiJgyUwgrfQLOPY%3D"),
    (
        "delegation",
        "vhds",
        "a/b",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rw&spr=https&sv=2025-11-05&sr=b&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=Y9CiDp5dWDdoBEoN20qMAh/NPmrODLSf1GoQy0Z/5A0%3D",
    ),
    (
        "delegation",
        "vhds",
        "",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2025-11-05&sr=c&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=azy9U/24nEBRX9VEAzL2SE24fSps/UxXhOyhUCoBHlk%3D",
    ),
    // azure-storage-blob now
    (
        "account",
        "",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rwdl&sip=10.0.0.1-10.0.0.9&spr=https&sv=2026-10-06&ss=bq&srt=sco&sig=pQhll4fceVZDkzM3q45bh/nFDlynjvLE8TUFlSvuLjk%3D",
    ),
    (
        "service",
        "vhds",
        "dir/a b+é.vhd",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2026-10-06&sr=b&rscd=attachment%3B%20filename%3Dx&sig=/52CK/MWBL2MC3EBwqXfPH3llyzGJ2tc1DlprZHL5q0%3D",
    ),
    (
        "service",
        "vhds",
        "a",
        "2026-01-01T00:00:00.0000000Z",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2026-10-06&sr=bs&sig=vnmn09AcaFhr0oSyPGslqHJoyQDN%2B/pTxQftHrLqyX8%3D",
    ),
    (
        "service",
        "vhds",
        "",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2026-10-06&sr=c&sig=06Im4L9Q9RgL8zWlQCYX5ec%2B%2BsZScnZ0Jj0UfjImUNU%3D",
    ),
    ("service", "vhds", "", "", "sv=2026-10-06&si=pol1&sr=c&sig=aQMGMF3UsjXJLqjjse3BnnQNSHRNHLgLZFGDlni8%2BE0%3D"),
    (
        "delegation",
        "vhds",
        "a/b",
        "",
        "st=2020-01-02T03%3A04%3A05Z&se=2030-01-02T03%3A04%3A05Z&sp=rw&spr=https&sv=2026-10-06&sr=b&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=JgOZVwiL4uaiyfkP9%2BeI/KZ5ASDxlAZOL/P2rkagMN4%3D",
    ),
    (
        "delegation",
        "vhds",
        "",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=rl&sv=2026-10-06&sr=c&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&sig=ZBIbOaqj96zPkbnAYZ89N1NWXsn5mTwFAGibNNFZmEs%3D",
    ),
    (
        "delegation",
        "vhds",
        "a/b",
        "",
        "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2026-10-06&sduoid=33333333-3333-3333-3333-333333333333&sr=b&skoid=11111111-1111-1111-1111-111111111111&sktid=22222222-2222-2222-2222-222222222222&skt=2026-01-01T00%3A00%3A00Z&ske=2029-01-07T00%3A00%3A00Z&sks=b&skv=2020-02-10&srh=x-ms-meta-a&srq=comp&sig=fl3cjfodiAf0BnPJT/sDloGGsDgOe06hGjaONgAqeTE%3D",
    ),
];

const ACCOUNT: &str = "lazuliacct";

fn key() -> Vec<u8> {
    (0..64).collect()
}

fn delegation() -> Vec<u8> {
    (100..132).collect()
}

fn origin() -> Origin<'static> {
    Origin {
        now: "2026-11-22T03:20:00Z".parse().unwrap(),
        ip: Some("10.0.0.5".parse().unwrap()),
        https: true,
        bearer: Some("33333333-3333-3333-3333-333333333333"),
        headers: &[("x-ms-meta-a", "1")],
        query: &[("comp", "metadata")],
    }
}

fn policies() -> Vec<AccessPolicy> {
    let pol1 = AccessPolicy {
        id: "pol1".into(),
        start: None,
        expiry: Some("2030-01-01".into()),
        permission: Some("rl".into()),
    };
    vec![AccessPolicy::default(), pol1]
}

fn target<'a>(container: &'a str, blob: &'a str, snapshot: &'a str) -> Target<'a> {
    let some = |text: &'a str| Some(text).filter(|t| !t.is_empty());
    Target { account: ACCOUNT, container, blob: some(blob), snapshot: some(snapshot) }
}

fn check(
    query: &str,
    target: &Target<'_>,
    key: &[u8],
    delegation: &[u8],
    origin: &Origin<'_>,
) -> Result<Rights, SasError> {
    let sas = parse(query)?.ok_or_else(|| SasError::malformed("sig"))?;
    match sas.kind() {
        Kind::Account => verify_account(&sas, target.account, &[vec![9; 64], key.to_vec()], origin),
        Kind::Service => verify_service(&sas, target, &[vec![9; 64], key.to_vec()], &policies(), origin),
        Kind::UserDelegation => verify_user_delegation(&sas, target, delegation, origin),
    }
}

fn believed(query: &str, target: &Target<'_>, origin: &Origin<'_>) -> Result<Rights, SasError> {
    check(query, target, &key(), &delegation(), origin)
}

#[test]
fn what_clients_sign_is_believed() {
    for (kind, container, blob, snapshot, query) in SIGNED {
        let sas = parse(query).unwrap().unwrap();
        let expected = match *kind {
            "account" => Kind::Account,
            "service" => Kind::Service,
            _ => Kind::UserDelegation,
        };
        assert_eq!(sas.kind(), expected);
        let rights = believed(query, &target(container, blob, snapshot), &origin());
        let rights = rights.unwrap_or_else(|e| panic!("{} {kind} {blob}: {e}", sas.version()));
        rights.require(Level::Object, "r").unwrap();
    }
}

/// The signature of a container opens its blobs; that of a blob opens no other, and no list.
#[test]
fn reach() {
    for (kind, container, blob, snapshot, query) in SIGNED.iter().filter(|(kind, ..)| *kind != "account") {
        let of = |blob| believed(query, &target(container, blob, snapshot), &origin());
        if blob.is_empty() {
            let rights = of("any").unwrap();
            rights.require(Level::Object, "r").unwrap();
            rights.require(Level::Container, "l").unwrap();
            assert_eq!(rights.require(Level::Container, "r"), Err(SasError::ResourceType), "{kind}");
            assert_eq!(rights.require(Level::Service, "l"), Err(SasError::ResourceType), "{kind}");
            assert_eq!(rights.require(Level::Object, "d"), Err(SasError::Permission), "{kind}");
        } else {
            assert!(of("any").is_err() && of("").is_err(), "{kind}");
            let rights = of(blob).unwrap();
            assert_eq!(rights.require(Level::Container, "lr"), Err(SasError::ResourceType), "{kind}");
        }
        assert!(believed(query, &target("other", blob, snapshot), &origin()).is_err(), "{kind}");
        let elsewhere = Target { account: "other", ..target(container, blob, snapshot) };
        assert!(believed(query, &elsewhere, &origin()).is_err(), "{kind}");
    }
    // A snapshot's own signature opens that snapshot; the blob's opens the blob and its snapshots.
    let (_, _, blob, snapshot, query) = SIGNED.iter().find(|(.., snapshot, _)| !snapshot.is_empty()).unwrap();
    assert!(believed(query, &target("vhds", blob, ""), &origin()).is_err());
    assert!(believed(query, &target("vhds", blob, "2026-01-01T00:00:00.0000001Z"), &origin()).is_err());
    assert!(believed(query, &target("vhds", blob, snapshot), &origin()).is_ok());
}

#[test]
fn account_rights() {
    let (.., query) = SIGNED[0];
    let rights = believed(query, &target("c", "", ""), &origin()).unwrap();
    for level in [Level::Service, Level::Container, Level::Object] {
        rights.require(level, "l").unwrap();
        assert_eq!(rights.require(level, "ca"), Err(SasError::Permission));
    }
    assert_eq!(rights.permissions(), "rwdl");
    let objects = [("sv", "2021-12-02"), ("ss", "b"), ("srt", "o"), ("sp", "r"), ("se", "2030-01-01")];
    let rights = believed(&sign_account(&objects, ACCOUNT, &key()).unwrap(), &target("c", "b", ""), &origin()).unwrap();
    rights.require(Level::Object, "r").unwrap();
    assert_eq!(rights.require(Level::Container, "r"), Err(SasError::ResourceType));
}

#[test]
fn times_addresses_and_protocol() {
    let (.., query) = SIGNED[0];
    let at = |origin: Origin<'_>| believed(query, &target("c", "", ""), &origin).map_err(|e| e.code());
    let time = |text: &str| Origin { now: text.parse().unwrap(), ..origin() };
    assert!(at(time("2020-01-02T03:04:05Z")).is_ok() && at(time("2030-01-02T03:04:04Z")).is_ok());
    assert_eq!(at(time("2020-01-02T03:04:04Z")), Err("AuthenticationFailed"));
    assert_eq!(at(time("2030-01-02T03:04:05Z")), Err("AuthenticationFailed"));
    assert_eq!(at(Origin { https: false, ..origin() }), Err("AuthorizationProtocolMismatch"));
    for (ip, inside) in
        [("10.0.0.1", true), ("10.0.0.9", true), ("::ffff:10.0.0.2", true), ("10.0.0.10", false), ("::1", false)]
    {
        let found = at(Origin { ip: Some(ip.parse().unwrap()), ..origin() });
        assert_eq!(found.is_ok(), inside, "{ip}");
    }
    assert_eq!(at(Origin { ip: None, ..origin() }), Err("AuthorizationSourceIPMismatch"));
    // The key of a user delegation SAS ends before the SAS does.
    let (_, c, b, s, query) = SIGNED.iter().find(|(kind, ..)| *kind == "delegation").unwrap();
    let late = Origin { now: "2029-01-07T00:00:00Z".parse().unwrap(), ..origin() };
    assert!(matches!(believed(query, &target(c, b, s), &late), Err(SasError::Time { .. })));
}

#[test]
fn what_a_policy_gives() {
    let fields = [("sv", "2021-12-02"), ("sr", "c"), ("si", "pol1")];
    let signed = |more: &[(&str, &str)]| {
        sign_service(&[fields.as_slice(), more].concat(), &target("c", "", ""), &key()).unwrap()
    };
    let at = |query: &str, policies: &[AccessPolicy]| {
        let sas = parse(query).unwrap().unwrap();
        verify_service(&sas, &target("c", "", ""), &[key()], policies, &origin())
    };
    assert_eq!(at(&signed(&[]), &policies()).unwrap().permissions(), "rl");
    assert_eq!(at(&signed(&[]), &[]), Err(SasError::NoPolicy));
    assert_eq!(at(&signed(&[("sp", "w")]), &policies()), Err(SasError::malformed("sp")), "both may not say it");
    let open = AccessPolicy { id: "pol1".into(), ..AccessPolicy::default() };
    assert_eq!(at(&signed(&[]), std::slice::from_ref(&open)), Err(SasError::malformed("se")));
    assert_eq!(at(&signed(&[("sp", "w"), ("se", "2030-01-01")]), &[open]).unwrap().permissions(), "w");
}

#[test]
fn a_delegated_user_comes_with_its_token() {
    let (_, container, blob, snapshot, query) = SIGNED.iter().find(|s| s.4.contains("sduoid")).unwrap();
    let target = target(container, blob, snapshot);
    assert!(believed(query, &target, &origin()).is_ok());
    let other = Origin { bearer: Some("44444444-3333-3333-3333-333333333333"), ..origin() };
    assert_eq!(believed(query, &target, &other), Err(SasError::DelegatedUser));
    assert_eq!(believed(query, &target, &Origin { bearer: None, ..origin() }), Err(SasError::DelegatedUser));
    for missing in [Origin { headers: &[], ..origin() }, Origin { query: &[("comp", "other")], ..origin() }] {
        assert!(
            matches!(believed(query, &target, &missing), Err(SasError::Signature { .. })),
            "srh and srq are signed"
        );
    }
}

#[test]
fn delegation_keys_differ_in_all_that_they_are_for() {
    let sas = parse(SIGNED.iter().find(|(kind, ..)| *kind == "delegation").unwrap().4).unwrap().unwrap();
    let fields = sas.delegation_key().unwrap();
    let own = fields.derive(b"secret", ACCOUNT);
    assert_eq!(own, fields.derive(b"secret", ACCOUNT));
    let others = [
        fields.derive(b"other", ACCOUNT),
        fields.derive(b"secret", "other"),
        DelegationKey { object_id: "x".into(), ..fields.clone() }.derive(b"secret", ACCOUNT),
        DelegationKey { tenant_id: "x".into(), ..fields.clone() }.derive(b"secret", ACCOUNT),
        DelegationKey { expiry: "2030-01-01".into(), ..fields.clone() }.derive(b"secret", ACCOUNT),
    ];
    assert!(others.iter().all(|other| *other != own));
}

#[test]
fn what_is_no_sas() {
    assert_eq!(parse("comp=list&prefix=a"), Ok(None));
    let good = SIGNED[0].4;
    for (change, field) in [
        (good.replace("srt=sco", "srt=scx"), "srt"),
        (good.replace("ss=bq", "ss="), "ss"),
        (good.replace("&sp=rwdl", ""), "sp"),
        (format!("{good}&sp=r"), "sp"),
        (format!("{good}&sig=x"), "sig"),
        (format!("{good}&sr=b"), "sr"),
        (format!("{good}&skoid=x"), "ss, skoid"),
        (good.replace("sp=rwdl", "sp=r%0A"), "sp"),
        (format!("sig=&{}", good.replace("sig=", "x=")), "sig"),
    ] {
        assert_eq!(parse(&change), Err(SasError::malformed(field)), "{change}");
    }
    for version in ["2014-02-14", "2015-04-04", "tomorrow", "2026-13-01", "20210101"] {
        let old = good.replace("2018-03-28", version);
        assert_eq!(parse(&old), Err(SasError::Version { version: version.to_owned() }));
    }
    let directory = [("sv", "2021-12-02"), ("sr", "d"), ("sdd", "1"), ("sp", "r"), ("se", "2030-01-01")];
    let query = sign_service(&directory, &target("c", "b", ""), &key()).unwrap();
    assert_eq!(believed(&query, &target("c", "b", ""), &origin()), Err(SasError::malformed("sr")));
}

/// A plus sign in base64 that a client did not encode.
#[test]
fn careless_signatures() {
    for (_, c, b, s, query) in SIGNED.iter().filter(|s| s.4.contains("%2B")) {
        believed(&query.replace("%2B", "+"), &target(c, b, s), &origin()).unwrap();
    }
}

#[test]
fn the_headers_of_the_answer() {
    let sas = parse(SIGNED[1].4).unwrap().unwrap();
    assert_eq!(sas.response_headers(), [("content-disposition", "attachment; filename=x")]);
}

/// The fields that the signature covers, decoded.
fn fields_of(query: &str) -> Vec<(&'static str, String)> {
    parse(query).unwrap().unwrap().fields.into_iter().collect()
}

proptest! {
    /// Whatever letter of whatever field is changed, under the same signature.
    #[test]
    fn a_changed_field_is_noticed(i in 0..SIGNED.len(), field: prop::sample::Index, at: prop::sample::Index, with in "[a-zA-Z0-9]") {
        let (_, container, blob, snapshot, query) = SIGNED[i];
        let mut fields = fields_of(query);
        let place = field.index(fields.len());
        let (_, value) = &mut fields[place];
        let at = at.index(value.len());
        prop_assume!(value.is_ascii() && value[at..=at] != with);
        value.replace_range(at..=at, &with);
        let pairs: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let signature = parse(query).unwrap().unwrap().signature;
        if let Ok(sas) = of_pairs(&pairs) {
            let changed = to_query(&sas, &signature);
            prop_assert!(believed(&changed, &target(container, blob, snapshot), &origin()).is_err(), "{}", changed);
        }
    }

    /// A field more or less.
    #[test]
    fn an_added_field_is_noticed(i in 0..SIGNED.len(), name in "st|sip|spr|ses|rscc|rscd|rsct|saoid|scid|si") {
        let (kind, container, blob, snapshot, query) = SIGNED[i];
        let sas = parse(query).unwrap().unwrap();
        prop_assume!(sas.given(&name).is_none());
        // What a version or a kind does not know is not signed, and has no effect.
        prop_assume!(name != "ses" || sas.version() >= "2020-12-06");
        prop_assume!(kind == "delegation" || !matches!(name.as_str(), "saoid" | "scid"));
        prop_assume!(kind != "account" || !name.starts_with("rs"));
        let value = match name.as_str() {
            "st" => "2020-01-01",
            "sip" => "10.0.0.5",
            "spr" => "https",
            _ => "x",
        };
        let more = format!("{query}&{name}={value}");
        prop_assert!(believed(&more, &target(container, blob, snapshot), &origin()).is_err(), "{}", more);
    }

    #[test]
    fn a_changed_key_or_signature_is_noticed(i in 0..SIGNED.len(), bit in 0_usize..256) {
        let (_, container, blob, snapshot, query) = SIGNED[i];
        let (mut account, mut user) = (key(), delegation());
        account[bit / 8] ^= 1 << (bit % 8);
        user[bit / 8] ^= 1 << (bit % 8);
        let target = target(container, blob, snapshot);
        prop_assert!(check(query, &target, &account, &user, &origin()).is_err());
        let sas = parse(query).unwrap().unwrap();
        let mut signature = BASE64_STANDARD.decode(&sas.signature).unwrap();
        signature[bit / 8] ^= 1 << (bit % 8);
        let changed = to_query(&sas, &BASE64_STANDARD.encode(signature));
        prop_assert!(believed(&changed, &target, &origin()).is_err());
    }

    /// One blob's signature never opens another.
    #[test]
    fn another_name_is_noticed(blob in "\\PC{1,12}", other in "\\PC{1,12}") {
        prop_assume!(blob != other);
        let fields = [("sv", "2021-12-02"), ("sr", "b"), ("sp", "r"), ("se", "2030-01-01")];
        let query = sign_service(&fields, &target("c", &blob, ""), &key()).unwrap();
        prop_assert!(believed(&query, &target("c", &blob, ""), &origin()).is_ok());
        prop_assert!(believed(&query, &target("c", &other, ""), &origin()).is_err());
    }

    #[test]
    fn never_panics(query in "((sv|ss|srt|sp|st|se|sip|spr|sr|si|skoid|sktid|ske|sks|skv|sig)=[ -~é]{0,12}&){0,12}") {
        if let Ok(Some(sas)) = parse(&query) {
            let target = target("c", "b", "");
            let _ = verify_account(&sas, "a", &[key()], &origin());
            let _ = verify_service(&sas, &target, &[key()], &policies(), &origin());
            let _ = verify_user_delegation(&sas, &target, &key(), &origin());
        }
    }
}
