//! Opening, migrating, and that both databases hold the same tables.

use lazuli_meta::model::{Expect, Principal, Resource, ResourceQuery, Tenant};
use lazuli_meta::{Db, MetaError};
use lazuli_testkit::postgres::Postgres;
use sqlx::{Connection as _, Row as _};
use tokio::task::JoinSet;

use crate::harness::{Bench, put, resource, write};

/// Runs a statement past [`Db`].
pub async fn execute(bench: &Bench, statement: &'static str) {
    if let Some(path) = bench.url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    } else {
        let mut connection = sqlx::PgConnection::connect(&bench.url).await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
}

pub async fn opening_again_and_at_once(bench: Bench) {
    let mut opening = JoinSet::new();
    let fresh = match bench.url.strip_prefix("sqlite:") {
        Some(path) => format!("sqlite:{path}.fresh"),
        None => Postgres::shared().database().unwrap(),
    };
    for n in 0..6 {
        let url = fresh.clone();
        opening.spawn(async move {
            let db = Db::open(&url).await.unwrap();
            db.put_setting("first", &n.to_string(), true).await.unwrap()
        });
    }
    let stored = opening.join_all().await.into_iter().filter(|stored| *stored).count();
    assert_eq!(stored, 1);
    Db::open(&fresh).await.unwrap().ping().await.unwrap();
}

pub async fn a_newer_database_is_refused(bench: Bench) {
    execute(
        &bench,
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
         SELECT 999999, 'of the future', installed_on, success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
    )
    .await;
    match Db::open(&bench.url).await {
        Err(MetaError::Migrate { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// A database of before lists had a column of their own for their order.
pub async fn rows_of_before_are_put_in_order(bench: Bench) {
    let versions = |definition: &str, name: &str| Resource {
        kind: "microsoft.compute/galleries/images/versions".to_owned(),
        name: name.to_owned(),
        ..resource(&format!("/galleries/g/images/{definition}/versions/{name}"))
    };
    let names = ["1.0.9", "1.0.10", "1.0.2147483647", "1.1.1", "02.0.0", "2.0.0", "10.0.0", "2147483647.0.1"];
    let rows = names.iter().map(|name| versions("größe", name));
    let disks = ["/disks/1.0.10", "/disks/1.0.9", "/disks/a"].map(resource);
    bench.db.write(write(rows.chain(disks).map(|row| put(row, Expect::Absent)))).await.unwrap();
    bench.db.close().await;
    for statement in [
        "DROP INDEX resources_in_order",
        "DROP INDEX resources_by_parent",
        "DROP INDEX resources_by_kind",
        "ALTER TABLE resources DROP COLUMN sort_key",
        "CREATE INDEX resources_by_parent ON resources (parent, key)",
        "CREATE INDEX resources_by_kind ON resources (kind, subscription, resource_group, key)",
        "CREATE INDEX resources_by_group ON resources (subscription, resource_group, key)",
        "DELETE FROM _sqlx_migrations WHERE version = 3",
    ] {
        execute(&bench, statement).await;
    }

    let db = bench.another().await;
    let all = db.resources(&ResourceQuery::default()).await.unwrap();
    let shown: Vec<&str> = all.iter().map(|row| row.key.rsplit('/').next().unwrap()).collect();
    let mut expected = vec!["1.0.10", "1.0.9", "a"];
    expected.extend(names);
    assert_eq!(shown, expected);
    assert_eq!(all[0].sort_key, all[0].key);
    let tenth = "/galleries/g/images/größe/versions/0000000001.0000000000.0000000010/1.0.10";
    assert_eq!(all[4].sort_key, tenth);
}

/// A database of before clients had applications: each gets one, and its secret a row of its own.
pub async fn clients_of_before_get_applications(bench: Bench) {
    let db = &bench.db;
    for id in ["t1", "t2", "t3"] {
        db.put_tenant(&Tenant { id: id.to_owned(), display_name: id.to_owned() }).await.unwrap();
    }
    db.put_setting("bootstrapped", "t2", true).await.unwrap();
    let rows = [
        ("o1", "t1", "a", "ServicePrincipal", "both", "h"),
        ("o2", "t2", "a", "ServicePrincipal", "lazuli-owner", "h"),
        ("o3", "t1", "b", "ServicePrincipal", "own \"name\"", ""),
        ("o4", "t1", "c", "ServicePrincipal", "foreign", ""),
        ("o5", "t3", "c", "ServicePrincipal", "foreign", ""),
        ("u1", "t1", "", "User", "lazuli-owner", "argon"),
    ];
    for (id, tenant, app, kind, name, hash) in rows {
        let principal = Principal {
            id: id.to_owned(),
            tenant: tenant.to_owned(),
            app_id: app.to_owned(),
            display_name: name.to_owned(),
            kind: kind.to_owned(),
            secret_hash: hash.to_owned(),
            login: String::new(),
            body: serde_json::json!({"x": 1}),
        };
        db.put_principal(&principal).await.unwrap();
    }
    db.close().await;
    execute(&bench, "DELETE FROM _sqlx_migrations WHERE version = 6").await;

    let db = bench.another().await;
    let mut made: Vec<(String, String, String)> = Vec::new();
    for application in db.applications().await.unwrap() {
        assert_eq!(application.id.len(), 36, "{}", application.id);
        made.push((application.app_id, application.tenant, application.body["displayName"].to_string()));
    }
    made.sort();
    let made: Vec<(&str, &str, &str)> = made.iter().map(|(a, t, n)| (a.as_str(), t.as_str(), n.as_str())).collect();
    assert_eq!(made, [("a", "t2", "\"lazuli-owner\""), ("b", "t1", "\"own \\\"name\\\"\"")]);
    let secrets = db.credentials("a").await.unwrap();
    let secrets: Vec<(&str, &str)> = secrets.iter().map(|c| (c.kind.as_str(), c.verifier.as_str())).collect();
    assert_eq!(secrets, [("Secret", "h")]);
    let all = db.principals().await.unwrap();
    let hashes: Vec<&str> = all.iter().map(|p| p.secret_hash.as_str()).collect();
    assert_eq!(hashes, ["", "", "", "", "", "argon"]);
    let administrators: Vec<&str> =
        all.iter().filter(|p| p.body["directoryRoles"].is_array()).map(|p| p.id.as_str()).collect();
    assert_eq!((administrators, &all[1].body["x"]), (vec!["o2"], &serde_json::json!(1)));
}

/// (table, column, type, may be null), with the types' names made the same.
type Columns = Vec<(String, String, &'static str, bool)>;

async fn sqlite_columns(url: &str) -> Columns {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(url.strip_prefix("sqlite:").unwrap());
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let rows = sqlx::query(
        "SELECT t.name, c.name, c.type, c.\"notnull\" FROM sqlite_schema t, pragma_table_info(t.name) c \
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> '_sqlx_migrations' \
         ORDER BY t.name, c.cid",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let column = |row: &sqlx::sqlite::SqliteRow| {
        let kind: String = row.get(2);
        (row.get(0), row.get(1), kind_of(&kind), row.get::<i64, _>(3) == 0)
    };
    rows.iter().map(column).collect()
}

async fn postgres_columns(url: &str) -> Columns {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query(
        "SELECT table_name::text, column_name::text, data_type::text, is_nullable::text, collation_name::text \
         FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations' \
         ORDER BY table_name COLLATE \"C\", ordinal_position",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let column = |row: &sqlx::postgres::PgRow| {
        let kind = kind_of(row.get(2));
        if kind == "text" {
            assert_eq!(row.get::<Option<&str>, _>(4), Some("C"), "{}.{}", row.get::<&str, _>(0), row.get::<&str, _>(1));
        }
        (row.get(0), row.get(1), kind, row.get::<&str, _>(3) == "YES")
    };
    rows.iter().map(column).collect()
}

fn kind_of(kind: &str) -> &'static str {
    match kind {
        "TEXT" | "text" => "text",
        "INTEGER" | "bigint" => "integer",
        other => panic!("a column of type {other}"),
    }
}

#[tokio::test]
async fn both_databases_hold_the_same_columns() {
    let sqlite = Bench::sqlite().await;
    let template = crate::harness::postgres_template().await;
    let columns = sqlite_columns(&sqlite.url).await;
    assert!(columns.len() > 50, "{columns:?}");
    assert_eq!(columns, postgres_columns(&template).await);
}

#[test]
fn both_migration_folders_have_the_same_names() {
    let names = |folder: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert!(!names("sqlite").is_empty());
    assert_eq!(names("sqlite"), names("postgres"));
}

#[tokio::test]
async fn the_sqlite_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;

    let bench = Bench::sqlite().await;
    bench.put(crate::harness::resource("/a")).await;
    let path = bench.url.strip_prefix("sqlite:").unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mode = std::fs::metadata(format!("{path}{suffix}")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let missing = format!("sqlite:{}/no/meta.db", directory.path().display());
    assert!(matches!(Db::open(&missing).await, Err(MetaError::File { .. })));
    let text = directory.path().join("text.db");
    std::fs::write(&text, "this is not a database, but long enough to look at".repeat(40)).unwrap();
    assert!(matches!(Db::open(&format!("sqlite:{}", text.display())).await, Err(MetaError::Open { .. })));
    for url in ["", "meta.db", "sqlite:", "sqlite::memory:", "mysql://u:p@h/d"] {
        assert!(matches!(Db::open(url).await, Err(MetaError::Url { .. })), "{url}");
    }
}

#[tokio::test]
async fn a_broken_connection_is_made_anew() {
    let server = Postgres::start().unwrap();
    let url = server.database().unwrap();
    let (db, other) = (Db::open(&url).await.unwrap(), Db::open(&url).await.unwrap());
    db.put_setting("a", "1", true).await.unwrap();
    server.disconnect_everybody().unwrap();
    // Connections are tried before they are used, so nobody notices.
    assert_eq!(db.setting("a").await.unwrap().as_deref(), Some("1"));
    db.put_setting("b", "2", true).await.unwrap();
    // The listener comes back and wakes everybody, because it may have missed something.
    let mut work = other.watch_work();
    let mut heard = false;
    for n in 0..60 {
        db.write(crate::harness::write([lazuli_meta::model::Change::StartOperation(crate::harness::operation(
            &n.to_string(),
            "k",
        ))]))
        .await
        .unwrap();
        heard = work.wait(std::time::Duration::from_secs(1)).await;
        if heard {
            break;
        }
    }
    assert!(heard);
}
