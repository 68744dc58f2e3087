//! Lists of resources: their order, their pages, what they cost.

use std::collections::BTreeSet;

use lazuli_meta::model::{Expect, Resource, ResourceQuery};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::harness::{Bench, put, resource, write};

const VERSIONS: &str = "microsoft.compute/galleries/images/versions";

fn keys(resources: &[Resource]) -> Vec<&str> {
    resources.iter().map(|resource| resource.key.as_str()).collect()
}

pub async fn in_byte_order_and_bounded(bench: Bench) {
    // Linguistic orders put é before f, _ before letters, and look at punctuation last.
    let mut names = ["/a-b", "/a/b", "/a0", "/ab", "/a_b", "/f", "/é", "/e", "/1.0.10", "/1.0.9", "/~"];
    bench.db.write(write(names.map(|name| put(resource(name), Expect::Absent)))).await.unwrap();
    names.sort_unstable();
    let all = bench.db.resources(&ResourceQuery::default()).await.unwrap();
    assert_eq!(keys(&all), names);
    let below = ResourceQuery { under: Some("/a".to_owned()), ..ResourceQuery::default() };
    assert_eq!(keys(&bench.db.resources(&below).await.unwrap()), ["/a/b"]);
    // The bound holds for those who ask for more.
    let many = (0..1100).map(|n| put(resource(&format!("/many/{n:04}")), Expect::Absent));
    bench.db.write(write(many)).await.unwrap();
    for limit in [None, Some(5000)] {
        let query = ResourceQuery { under: Some("/many".to_owned()), limit, ..ResourceQuery::default() };
        assert_eq!(bench.db.resources(&query).await.unwrap().len(), 1000);
    }
    let none = ResourceQuery { limit: Some(0), ..ResourceQuery::default() };
    assert_eq!(bench.db.resources(&none).await.unwrap(), []);
}

pub async fn filtered(bench: Bench) {
    let one = |key: &str, kind: &str| put(Resource { kind: kind.to_owned(), ..resource(key) }, Expect::Absent);
    let changes = [one("/g1/a", "disks"), one("/g1/b", "images"), one("/g1/b/c", "disks"), one("/g2/a", "disks")];
    bench.db.write(write(changes)).await.unwrap();
    let list = async |query: ResourceQuery| {
        let found = bench.db.resources(&query).await.unwrap();
        found.into_iter().map(|resource| resource.key).collect::<Vec<_>>().join(" ")
    };
    let any = ResourceQuery::default;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(list(ResourceQuery { kind: some("disks"), ..any() }).await, "/g1/a /g1/b/c /g2/a");
    assert_eq!(list(ResourceQuery { under: some("/g1"), ..any() }).await, "/g1/a /g1/b /g1/b/c");
    assert_eq!(list(ResourceQuery { parent: some("/g1"), ..any() }).await, "/g1/a /g1/b");
    let all = ResourceQuery {
        kind: some("disks"),
        parent: some("/g1"),
        under: some("/g1"),
        descending: false,
        after: some("/g1"),
        limit: Some(7),
    };
    assert_eq!(list(all.clone()).await, "/g1/a");
    assert_eq!(list(ResourceQuery { after: some("/g1/a"), ..all.clone() }).await, "");
    assert_eq!(list(ResourceQuery { descending: true, after: some("/g1/a0"), ..all }).await, "/g1/a");
    assert_eq!(list(ResourceQuery { kind: some("' OR 1=1 --"), ..any() }).await, "");
}

/// Versions below three definitions, some of them with others' names as prefixes, by number; disks by name.
fn rows() -> impl Strategy<Value = BTreeSet<(String, String, &'static str)>> {
    let number = || prop_oneof![0..12_u32, 95..105_u32, any::<u32>().prop_map(|n| n >> 1)];
    let definition = prop::sample::select(&["/g/d", "/g/d-1", "/g/d1", "/h/d"][..]);
    let version = (definition, number(), number(), number()).prop_map(|(definition, a, b, c)| {
        let name = format!("{a}.{b}.{c}");
        (format!("{definition}/{a:010}.{b:010}.{c:010}/{name}"), format!("{definition}/{name}"), VERSIONS)
    });
    let disk = "[a-z0-9._~é-]{1,6}".prop_map(|name| {
        let key = format!("/g/{name}");
        (key.clone(), key, "disks")
    });
    prop::collection::btree_set(prop_oneof![3 => version, 1 => disk], 0..60)
}

/// Whatever is in the database: the pages of a list, put together, are what it holds, in order.
pub async fn pages_hold_everything_once_and_in_order(bench: Bench) {
    let mut runner = TestRunner::default();
    for _ in 0..24 {
        let rows = rows().new_tree(&mut runner).unwrap().current();
        let limit = (1..20_i64).new_tree(&mut runner).unwrap().current();
        let put_all = rows.iter().map(|(sort_key, key, kind)| {
            put(Resource { sort_key: sort_key.clone(), kind: (*kind).to_owned(), ..resource(key) }, Expect::Absent)
        });
        bench.db.write(write(put_all)).await.unwrap();
        let some = |text: &str| Some(text.to_owned());
        let any = ResourceQuery::default;
        for query in [
            any(),
            ResourceQuery { kind: some(VERSIONS), under: some("/g/d"), ..any() },
            ResourceQuery { kind: some(VERSIONS), under: some("/g"), ..any() },
            ResourceQuery { kind: some("disks"), ..any() },
            ResourceQuery { parent: some("/g/d"), ..any() },
        ] {
            let below = query.under.as_ref().map(|under| format!("{under}/"));
            let parent = |key: &str| key.rsplit_once('/').map(|(parent, _)| parent.to_owned());
            let held = rows.iter().filter(|(_, key, kind)| {
                query.kind.as_deref().is_none_or(|wanted| wanted == *kind)
                    && below.as_ref().is_none_or(|below| key.starts_with(below))
                    && query.parent.as_ref().is_none_or(|wanted| parent(key).as_ref() == Some(wanted))
            });
            let mut expected: Vec<&str> = held.map(|(_, key, _)| key.as_str()).collect();
            for descending in [false, true] {
                let query = ResourceQuery { descending, limit: Some(limit), ..query.clone() };
                assert_eq!(all_pages(&bench, query.clone()).await, expected, "{query:?} of {rows:?}");
                expected.reverse();
            }
        }
        let gone = rows.iter().map(|(_, key, _)| crate::resources::delete(key, Expect::Present));
        bench.db.write(write(gone)).await.unwrap();
    }
}

/// The keys of all pages of a list.
async fn all_pages(bench: &Bench, mut query: ResourceQuery) -> Vec<String> {
    let limit = usize::try_from(query.limit.unwrap()).unwrap();
    let mut found = Vec::new();
    loop {
        let page = bench.db.resources(&query).await.unwrap();
        assert!(page.len() <= limit);
        query.after = page.last().map(|row| row.sort_key.clone());
        found.extend(page.iter().map(|row| row.key.clone()));
        if page.len() < limit {
            return found;
        }
    }
}

/// A page is read from an index from where it begins, never sorted, never found by reading everything.
pub async fn an_index_finds_every_page(bench: Bench) {
    for definition in 0..40 {
        let rows = (0..100).map(|n| {
            let key = format!("/subscriptions/s/resourcegroups/r/g/{definition:02}/versions/{n:03}");
            put(Resource { kind: VERSIONS.to_owned(), ..resource(&key) }, Expect::Absent)
        });
        bench.db.write(write(rows)).await.unwrap();
    }
    // What the database knows of its tables, as a server that has run for a while has it.
    crate::schema::execute(&bench, "ANALYZE").await;
    let definition = || Some("/subscriptions/s/resourcegroups/r/g/07".to_owned());
    let kind = || Some(VERSIONS.to_owned());
    let page = || ResourceQuery { limit: Some(50), ..ResourceQuery::default() };
    let after = || Some("/subscriptions/s/resourcegroups/r/g/07/versions/050".to_owned());
    for query in [
        ResourceQuery { kind: kind(), under: definition(), ..page() },
        ResourceQuery { kind: kind(), under: definition(), after: after(), ..page() },
        ResourceQuery { kind: kind(), under: definition(), descending: true, ..page() },
        ResourceQuery { kind: kind(), under: Some("/subscriptions/s".to_owned()), ..page() },
        ResourceQuery { kind: kind(), under: Some("/subscriptions/s/resourcegroups/r".to_owned()), ..page() },
        ResourceQuery { under: Some("/subscriptions/s".to_owned()), after: after(), ..page() },
        ResourceQuery { parent: Some("/subscriptions/s/resourcegroups/r/g/07/versions".to_owned()), ..page() },
        ResourceQuery { kind: kind(), ..page() },
        page(),
    ] {
        let plan = bench.db.explain_resources(&query).await.unwrap();
        let index = plan.contains("USING INDEX resources_") || plan.contains("Index Scan using resources_");
        let sorts = plan.contains("TEMP B-TREE") || plan.contains("Sort");
        let index = index || plan.contains("Index Scan Backward using resources_");
        assert!(index && !sorts, "{query:?}:\n{plan}");
    }
}
