use super::{Server, disk_bytes};
use crate::{now_ms, reconcilers::grants::reconcile};
use lazuli_meta::model::AuditQuery;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_read_that_ran_out_frees_the_disk() {
    let server = Server::start().await;
    server.uploaded("d1", &disk_bytes(3)).await;
    server.begin_access("disks/d1", "Read").await.unwrap();
    let key = server.id("disks/d1").key();
    let grants = async || server.engine.db().grants_of(&key).await.unwrap().len();
    let state =
        async || server.engine.db().resource(&key).await.unwrap().unwrap().body["properties"]["diskState"].clone();
    assert_eq!((grants().await, state().await), (1, json!("ActiveSAS")));
    let hour = 3600 * 1000;
    assert_eq!(reconcile(&server.engine, now_ms() + hour - 60_000).await.unwrap(), 0);
    assert_eq!((grants().await, state().await), (1, json!("ActiveSAS")));
    assert_eq!(reconcile(&server.engine, now_ms() + hour).await.unwrap(), 1);
    assert_eq!((grants().await, state().await), (0, json!("Unattached")));
    assert_eq!(reconcile(&server.engine, now_ms() + hour).await.unwrap(), 0);
    server.delete("disks/d1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_right_ran_out_stays_open() {
    let server = Server::start().await;
    let data = disk_bytes(4);
    server.begin_upload("d1", data.len() as u64).await;
    assert_eq!(reconcile(&server.engine, now_ms() + 2 * 3600 * 1000).await.unwrap(), 1);
    assert_eq!(server.get("disks/d1").await.unwrap()["properties"]["diskState"], "ActiveUpload");
    server.begin_access("disks/d1", "Write").await.unwrap();
    server.write_vhd("d1", &data, true).await;
    server.action("disks/d1", "endGetAccess", json!({})).await.unwrap();
    assert_eq!(server.get("disks/d1").await.unwrap()["properties"]["diskState"], "Unattached");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_leaves_an_audit_record() {
    let server = Server::start().await;
    server.uploaded("d1", &disk_bytes(5)).await;
    server.delete("disks/d1").await.unwrap();
    let query = AuditQuery { resource_key: Some(server.id("disks/d1").key()), ..AuditQuery::default() };
    let records = server.engine.db().audit(&query).await.unwrap();
    let mut actions: Vec<&str> = records.iter().map(|r| r.action.as_str()).collect();
    actions.sort_unstable();
    // What is accepted, and its end.
    actions.dedup();
    let disk = |what: &str| format!("Microsoft.Compute/disks/{what}");
    let expected = [disk("beginGetAccess/action"), disk("delete"), disk("endGetAccess/action"), disk("write")];
    assert_eq!(actions, expected);
    for record in &records {
        assert_eq!(record.principal, server.call.caller.principal);
        assert_eq!(record.tenant, server.call.caller.tenant);
        assert_eq!(record.correlation_id, server.call.correlation_id);
    }
    // What was refused did not happen.
    server.put("disks/d2", json!({"location": "nowhere"})).await.unwrap_err();
    let query = AuditQuery { resource_key: Some(server.id("disks/d2").key()), ..AuditQuery::default() };
    assert!(server.engine.db().audit(&query).await.unwrap().is_empty());
}
