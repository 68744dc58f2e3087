//! The activity log is what was committed, for who may read it.

use super::Server;
use super::authorization::{as_caller, assign, stranger};
use crate::call::{Call, Extension, Method};
use lazuli_arm::ResourceId;
use lazuli_authz::rbac::READER;
use serde_json::{Value, json};

async fn events(server: &Server, call: &Call, filter: &str) -> Result<Vec<Value>, lazuli_arm::ArmError> {
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
