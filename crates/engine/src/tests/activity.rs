//! The activity log is what was committed, for who may read it.

use super::Server;
use super::authorization::{as_caller, assign, stranger};
use crate::call::{Call, Extension, Method};
use lazuli_arm::ResourceId;
use lazuli_authz::rbac::READER;
use serde_json::{Value, json};

pub(super) async fn events(server: &Server, call: &Call, filter: &str) -> Result<Vec<Value>, lazuli_arm::ArmError> {
    let mut call = call.clone();
    call.query.insert("$filter".into(), filter.into());
    let asked = Extension {
        scope: ResourceId::subscription(&server.group.subscription).to_string(),
        namespace: "microsoft.insights".into(),
        path: ["eventtypes", "management", "values"].map(str::to_owned).to_vec(),
        method: Method::Get,
        body: Value::Null,
    };
    let reply = server.engine.extension(&call, &asked).await?.unwrap().body.unwrap();
    Ok(reply["value"].as_array().unwrap().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_told_with_caller_and_correlation() {
    let server = Server::start_without_worker().await;
    let other = ResourceId::group(&server.group.subscription, "rg2");
    server.engine.put(&server.call, &other, json!({"location": "eastus"})).await.unwrap();
    let all = events(&server, &server.call, "eventTimestamp ge '2020-01-01T00:00:00Z'").await.unwrap();
    assert_eq!(all.len(), 2);
    let one = &events(&server, &server.call, "resourceGroupName eq 'RG2'").await.unwrap()[..];
    let [event] = one else { panic!("{one:?}") };
    assert_eq!(event["operationName"]["value"], "Microsoft.Resources/subscriptions/resourceGroups/write");
    assert_eq!(event["correlationId"], *server.call.correlation_id);
    assert_eq!(event["caller"], *server.call.caller.app_id);
    assert_eq!(event["resourceId"], *other.key());
    assert!(events(&server, &server.call, "nonsense").await.is_err());

    // Who reads one group reads its lines alone; who reads none reads none.
    let reader = stranger(&server, &server.call.caller.tenant).await;
    assert_eq!(events(&server, &as_caller(&server, &reader), "").await.unwrap_err().status, 403);
    assign(&server, &other.to_string(), READER, &reader.principal).await.unwrap();
    let seen = events(&server, &as_caller(&server, &reader), "").await.unwrap();
    assert!(seen.len() == 2 && seen.iter().all(|e| e["resourceGroupName"] == "rg2"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_after_its_request_has_an_end() {
    let server = Server::start().await;
    let empty = json!({"location": "eastus", "sku": {"name": "Standard_LRS"},
        "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    server.put("disks/d1", empty).await.unwrap();
    let of = async |what: &str| {
        let filter = format!("resourceUri eq '{}'", server.id(what));
        let found = events(&server, &server.call, &filter).await.unwrap();
        let mut statuses: Vec<_> = found.iter().map(|e| e["status"]["value"].as_str().unwrap().to_owned()).collect();
        statuses.sort();
        (found, statuses)
    };
    assert_eq!(of("disks/d1").await.1, ["Succeeded"], "what is done when it is answered has one line");
    // What was uploaded is no VHD.
    let data = super::disk_bytes(1);
    server.begin_upload("d2", data.len() as u64).await;
    server.write_vhd("d2", &data, false).await;
    server.action("disks/d2", "endGetAccess", json!({})).await.unwrap_err();
    let (lines, statuses) = of("disks/d2").await;
    assert_eq!(statuses, ["Accepted", "Accepted", "Failed", "Succeeded", "Succeeded"]);
    let granted = |e: &&Value| e["operationName"]["value"].as_str().unwrap().contains("beginGetAccess");
    let [end, begin] = lines.iter().filter(granted).collect::<Vec<_>>()[..] else { panic!("{lines:?}") };
    assert_eq!((&end["status"]["value"], &begin["status"]["value"]), (&json!("Succeeded"), &json!("Accepted")));
    for name in ["caller", "correlationId", "operationId", "operationName", "claims"] {
        assert_eq!(end[name], begin[name], "{name}");
    }
    let failed = lines.iter().find(|e| e["status"]["value"] == "Failed").unwrap();
    assert_eq!(failed["level"], "Error");
    let message: Value = serde_json::from_str(failed["properties"]["statusMessage"].as_str().unwrap()).unwrap();
    assert!(message["error"]["code"].is_string() && failed["properties"]["operation"].is_null(), "{failed}");
}

#[tokio::test]
async fn lines_are_linked_if_the_operator_wants() {
    let server = Server::configured(|c| c.activity_log_chain = Some(true)).await;
    let other = ResourceId::group(&server.group.subscription, "rg2");
    server.engine.put(&server.call, &other, json!({"location": "eastus"})).await.unwrap();
    let found = server.engine.verify_activity_log(&[]).await.unwrap();
    let of = format!("/subscriptions/{}", server.group.subscription.to_ascii_lowercase());
    let chain = found.iter().find(|c| c.chain == of).unwrap();
    assert!(chain.n >= 2 && found.iter().all(|c| c.broken.is_none()), "{found:?}");
    // Once begun, also who says nothing about it goes on with it.
    let config = crate::EngineConfig { activity_log_chain: None, ..server.engine.config().clone() };
    let again = crate::Engine::open(config).await.unwrap();
    again.delete(&server.call, &other).await.unwrap();
    let longer = again.verify_activity_log(&[]).await.unwrap();
    assert_eq!(longer.iter().find(|c| c.chain == of).unwrap().n, chain.n + 1);
    let plain = Server::start_without_worker().await;
    assert!(plain.engine.verify_activity_log(&[]).await.unwrap().is_empty(), "off by default");
}

#[tokio::test]
async fn operations_are_kept_for_a_while() {
    let server = Server::start_without_worker().await;
    let now = crate::now_ms();
    let day = 24 * 3600 * 1000;
    let count = async || server.engine.db().operations(&Default::default()).await.unwrap().len();
    assert_eq!(count().await, 1);
    let forget = async |at| crate::reconcilers::operations::reconcile(&server.engine, at).await.unwrap();
    assert_eq!((forget(now + 6 * day).await, count().await), (0, 1));
    assert_eq!((forget(now + 8 * day).await, count().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_kept_for_so_many_days() {
    let server = Server::start_without_worker().await;
    let now = crate::now_ms();
    let day = 24 * 3600 * 1000;
    let forget = async |at| crate::reconcilers::activity_log::reconcile(&server.engine, at).await.unwrap();
    assert_eq!(forget(now + 89 * day).await, 0);
    assert_eq!(events(&server, &server.call, "").await.unwrap().len(), 1);
    assert!(forget(now + 91 * day).await >= 1);
    assert_eq!(events(&server, &server.call, "").await.unwrap().len(), 0);
}
