//! Management requests: paths, statuses, long-running operations, bodies (az-cli.md §2, §3).

use super::fake::SUBSCRIPTION;
use super::{Server, body, error, header};
use reqwest::Method;
use serde_json::{Value, json};

fn group() -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/rg")
}

fn compute(rest: &str) -> String {
    format!("{}/providers/Microsoft.Compute/{rest}?api-version=2024-03-03", group())
}

const EASTUS: &str = r#"{"location": "East US", "tags": {}}"#;

/// The path and query of an absolute URL that the server gave out.
fn path_of(server: &Server, url: &str) -> String {
    url.strip_prefix(&server.running.base_url).unwrap_or_else(|| panic!("{url}")).to_owned()
}

#[tokio::test]
async fn a_group_lives_and_dies_as_az_expects() {
    let server = Server::start().await;
    let path = format!("{}?api-version=2024-11-01", group().replace("resourceGroups", "resourcegroups"));
    assert_eq!(server.arm(Method::HEAD, &path, None).await.status(), 404);
    assert_eq!(server.arm(Method::PUT, &path, Some(EASTUS)).await.status(), 201);
    assert_eq!(server.arm(Method::PUT, &path, Some(EASTUS)).await.status(), 200);
    assert_eq!(server.arm(Method::HEAD, &path, None).await.status(), 204);
    let patched = server.arm(Method::PATCH, &path, Some(r#"{"tags": {"a": "b"}}"#)).await;
    assert_eq!((patched.status().as_u16(), body(patched).await["tags"].clone()), (200, json!({"a": "b"})));

    let deleted = server.arm(Method::DELETE, &path, None).await;
    assert_eq!(deleted.status(), 202);
    assert!(!deleted.headers().contains_key("azure-asyncoperation"));
    let location = path_of(&server, &header(&deleted, "location"));
    assert!(location.starts_with(&format!("/subscriptions/{SUBSCRIPTION}/operationresults/")), "{location}");
    assert_eq!(header(&deleted, "retry-after"), "1", "0 would mean 30 s to az");

    let running = server.get(&location).await;
    assert_eq!((running.status().as_u16(), header(&running, "retry-after")), (202, "1".to_owned()));
    assert_eq!(path_of(&server, &header(&running, "location")), location);
    let done = server.get(&location).await;
    assert_eq!((done.status().as_u16(), done.text().await.unwrap()), (200, String::new()));

    let (status, code, message) = error(server.arm(Method::DELETE, &path, None).await).await;
    assert_eq!((status, code.as_str()), (404, "ResourceGroupNotFound"));
    assert_eq!(message, "Resource group 'rg' could not be found.");
}

#[tokio::test]
async fn a_gallery_is_polled_at_caps_operations() {
    let server = Server::start().await;
    let path = compute("galleries/g");
    let created = server.arm(Method::PUT, &path, Some(EASTUS)).await;
    assert_eq!(created.status(), 201);
    assert!(!created.headers().contains_key("location"));
    let poll = path_of(&server, &header(&created, "azure-asyncoperation"));
    assert!(poll.contains("/providers/Microsoft.Compute/locations/eastus/capsOperations/"), "{poll}");
    assert!(poll.ends_with("?api-version=2024-03-03"), "{poll}");
    assert_eq!(body(created).await["properties"]["provisioningState"], "Creating");

    let first = body(server.get(&poll).await).await;
    assert_eq!(first["status"], "InProgress");
    let second = body(server.get(&poll).await).await;
    insta::assert_json_snapshot!(second);

    assert_eq!(server.arm(Method::PUT, &path, Some(EASTUS)).await.status(), 200);
    let deleted = server.arm(Method::DELETE, &path, None).await;
    assert_eq!((deleted.status().as_u16(), header(&deleted, "location").contains("monitor=true")), (202, true));
    assert_eq!(server.arm(Method::DELETE, &path, None).await.status(), 204, "absent");
}

#[tokio::test]
async fn a_disk_shows_its_result_in_the_operation_and_at_its_location() {
    let server = Server::start().await;
    let created = server.arm(Method::PUT, &compute("disks/d"), Some(EASTUS)).await;
    assert_eq!(created.status(), 202, "az refuses 201 for disks");
    let status = path_of(&server, &header(&created, "azure-asyncoperation"));
    let result = path_of(&server, &header(&created, "location"));
    assert_eq!(server.get(&result).await.status(), 202);
    let done = body(server.get(&status).await).await;
    assert_eq!(done["properties"]["output"]["name"], "d");
    assert_eq!(body(server.get(&result).await).await["name"], "d");

    let granted = server.arm(Method::POST, &compute("disks/d/beginGetAccess"), Some(r#"{"access":"Write"}"#)).await;
    assert_eq!(granted.status(), 202);
    let (status, result) = (header(&granted, "azure-asyncoperation"), header(&granted, "location"));
    assert_eq!(granted.text().await.unwrap(), "");
    server.get(&path_of(&server, &status)).await;
    let done = body(server.get(&path_of(&server, &status)).await).await;
    let sas = done["properties"]["output"]["accessSAS"].clone();
    assert!(sas.as_str().unwrap().contains("sig="));
    assert_eq!(body(server.get(&path_of(&server, &result)).await).await, json!({"accessSAS": sas}));
}

#[tokio::test]
async fn a_failed_operation_says_so_in_both_places() {
    let server = Server::start().await;
    let text = r#"{"location": "eastus", "properties": {"fail": true}}"#;
    let created = server.arm(Method::PUT, &compute("disks/d"), Some(text)).await;
    let status = path_of(&server, &header(&created, "azure-asyncoperation"));
    let result = path_of(&server, &header(&created, "location"));
    server.get(&status).await;
    let failed = body(server.get(&status).await).await;
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("Failed"), &json!("ImageBroken")));
    assert!(failed["properties"].is_null());
    let (status, code, message) = error(server.get(&result).await).await;
    assert_eq!((status, code.as_str(), message.as_str()), (409, "ImageBroken", "The image cannot be read."));
}

#[tokio::test]
async fn actions_answer_as_recorded() {
    let server = Server::start().await;
    let post = async |path: &str| server.arm(Method::POST, path, None).await;
    assert_eq!(post(&compute("virtualMachines/v/generalize")).await.status(), 200);
    let builder =
        format!("{}/providers/Microsoft.VirtualMachineImages/imageTemplates/t/cancel?api-version=2024-02-01", group());
    assert_eq!(post(&builder).await.status(), 204);
    let deallocated = post(&compute("virtualMachines/v/deallocate")).await;
    assert_eq!(deallocated.status(), 202);
    assert!(header(&deallocated, "azure-asyncoperation").contains("/operations/"));
    let check = format!(
        "/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Storage/checkNameAvailability?api-version=2024-01-01"
    );
    assert_eq!(body(post(&check).await).await, json!({"nameAvailable": true}));
}

/// az-cli.md §2.1, §2.2: case, doubled slashes, percent-encoding.
#[tokio::test]
async fn paths_are_taken_however_they_are_written() {
    let server = Server::start().await;
    assert_eq!(server.arm(Method::PUT, &compute("galleries/g"), Some(EASTUS)).await.status(), 201);
    for path in [
        compute("/galleries/g"),
        compute("galleries/g").to_lowercase(),
        compute("galleries/g").to_uppercase().replace("API-VERSION", "api-version"),
        compute("galleries%2Fg"),
        compute("galleries/g").replace("/providers", "/%70roviders"),
    ] {
        let found = server.get(&path).await;
        assert_eq!(found.status(), 200, "{path}");
    }
    let (status, code, message) = error(server.get(&compute("virtualMachines/https%3A")).await).await;
    assert_eq!((status, code.as_str()), (404, "ResourceNotFound"));
    assert!(message.starts_with("The Resource 'Microsoft.Compute/virtualMachines/https:' under resource group 'rg'"));
}

#[tokio::test]
async fn etags_are_shown_and_conditions_passed_on() {
    let server = Server::start().await;
    let path = compute("galleries/g");
    let created = server.arm(Method::PUT, &path, Some(EASTUS)).await;
    let etag = header(&created, "etag");
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    assert_eq!(header(&server.get(&path).await, "etag"), etag);
    let put = async |condition: &str| {
        let request = server.request(Method::PUT, &path).await.header("if-match", condition).body(EASTUS);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put(&etag).await, 200);
    assert_eq!(put(&etag).await, 412, "changed meanwhile");
    assert_eq!(put("*").await, 200);
}

#[tokio::test]
async fn lists_are_paged_by_next_link() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.arm(Method::PUT, &compute(&format!("galleries/{name}")), Some(EASTUS)).await;
    }
    let first = body(server.get(&compute("galleries")).await).await;
    assert_eq!(first["value"].as_array().unwrap().len(), 2);
    let next = path_of(&server, first["nextLink"].as_str().unwrap());
    let second = body(server.get(&next).await).await;
    assert_eq!((second["value"].as_array().unwrap().len(), second["nextLink"].clone()), (1, Value::Null));
    let all = format!("{}/resources?api-version=2024-11-01", group());
    assert_eq!(body(server.get(&all).await).await["value"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn views_below_a_resource_are_no_lists() {
    let server = Server::start().await;
    let view = server.get(&compute("virtualMachines/v/instanceView")).await;
    assert_eq!(body(view).await, json!({"of": "v"}));
    let list = server.get(&compute("galleries/g/images")).await;
    assert_eq!(body(list).await, json!({"value": []}));
}

#[tokio::test]
async fn broken_bodies_are_told_where() {
    let server = Server::start().await;
    let put = async |text: &str| error(server.arm(Method::PUT, &compute("galleries/g"), Some(text)).await).await;
    let (status, code, message) = put("{\"location\": \"eastus\",\n \"properties\": {\"a\": tru}}").await;
    assert_eq!((status, code.as_str()), (400, "InvalidRequestContent"));
    assert!(message.contains("could not be deserialized") && message.contains("'properties.a', line 2"), "{message}");
    assert_eq!(put("").await.1, "InvalidRequestContent");
    // CL-5, T5
    let lenient =
        server.arm(Method::PUT, &compute("galleries/g"), Some("{\"location\": \"eastus\", \"tags\": null,}")).await;
    assert_eq!(lenient.status(), 201);
}

#[tokio::test]
async fn a_huge_body_is_refused_and_the_server_goes_on() {
    let server = Server::start().await;
    let request = server.request(Method::PUT, &compute("galleries/g")).await;
    let declared = request.body(vec![b' '; 50 * 1024 * 1024]).send().await.unwrap();
    let (status, code, message) = error(declared).await;
    assert_eq!((status, code.as_str()), (413, "RequestContentTooLarge"));
    assert!(message.contains("4194304 bytes"), "{message}");

    let chunk = bytes::Bytes::from(vec![b' '; 1024 * 1024]);
    let stream = futures::stream::iter((0..50).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = server.request(Method::PUT, &compute("galleries/g")).await;
    let chunked = request.body(reqwest::Body::wrap_stream(stream)).send().await.unwrap();
    assert_eq!(chunked.status(), 413);
    assert_eq!(server.get("/subscriptions?api-version=2022-12-01").await.status(), 200);
}

#[tokio::test]
async fn a_panic_is_one_requests_500() {
    let server = Server::start().await;
    let text = r#"{"properties": {"panic": true}}"#;
    let (status, code, message) = error(server.arm(Method::PUT, &compute("galleries/g"), Some(text)).await).await;
    assert_eq!((status, code.as_str()), (500, "InternalServerError"));
    assert!(!message.contains("as asked"), "internals stay inside");
    assert_eq!(server.get(&compute("galleries/g")).await.status(), 404);
}

#[tokio::test]
async fn ids_and_allowances_come_with_every_answer() {
    let server = Server::start().await;
    let request = server.request(Method::GET, "/subscriptions?api-version=2022-12-01").await;
    let request = request.header("x-ms-client-request-id", "c-1").header("x-ms-correlation-request-id", "k-1");
    let answer = request.send().await.unwrap();
    assert_eq!(header(&answer, "x-ms-client-request-id"), "c-1");
    assert_eq!(header(&answer, "x-ms-correlation-request-id"), "k-1");
    assert_eq!(header(&answer, "x-ms-request-id").len(), 36);
    assert!(header(&answer, "x-ms-routing-request-id").starts_with("LAZULI:"));
    assert_eq!(header(&answer, "x-ms-ratelimit-remaining-subscription-reads"), "11999");
    assert_eq!(header(&answer, "cache-control"), "no-cache");
    assert_eq!(header(&answer, "content-type"), "application/json; charset=utf-8");
    assert_eq!(header(&answer, "strict-transport-security"), "", "would lock a browser out of http://localhost");
}

#[tokio::test]
async fn wrong_requests_get_azures_errors() {
    let server = Server::start().await;
    let none = group() + "/providers/Microsoft.Compute/galleries/g";
    let cases = [
        (Method::GET, none.clone(), 400, "MissingApiVersionParameter"),
        (Method::GET, format!("{none}?api-version=latest"), 400, "InvalidApiVersionParameter"),
        (Method::POST, format!("{none}?api-version=2024-03-03"), 405, "HttpMethodNotAllowed"),
        (Method::GET, format!("/subscriptions/{SUBSCRIPTION}/nonsense/x?api-version=2024-03-03"), 404, "NotFound"),
        (
            Method::GET,
            "/subscriptions/unknown/locations?api-version=2022-12-01".to_owned(),
            404,
            "SubscriptionNotFound",
        ),
        (Method::GET, "/subscriptions/unknown?api-version=2022-12-01".to_owned(), 404, "SubscriptionNotFound"),
    ];
    for (method, path, status, code) in cases {
        let got = error(server.arm(method, &path, None).await).await;
        assert_eq!((got.0, got.1.as_str()), (status, code), "{path}: {}", got.2);
    }
}

#[tokio::test]
async fn providers_are_registered_and_show_their_types() {
    let server = Server::start().await;
    let providers = format!("/subscriptions/{SUBSCRIPTION}/providers");
    let shown = body(server.get(&format!("{providers}/microsoft.compute?api-version=2024-11-01")).await).await;
    assert_eq!((&shown["namespace"], &shown["registrationState"]), (&json!("Microsoft.Compute"), &json!("Registered")));
    assert_eq!(shown["resourceTypes"][1]["resourceType"], "galleries/images");
    assert!(shown["resourceTypes"][0]["locations"].as_array().unwrap().contains(&json!("East US")));
    let register = format!("{providers}/Microsoft.Compute/register?api-version=2024-11-01");
    assert_eq!(body(server.arm(Method::POST, &register, None).await).await["registrationState"], "Registered");
    let unregister = register.replace("/register", "/unregister");
    assert_eq!(server.arm(Method::POST, &unregister, None).await.status(), 409, "nothing is pretended");
    let unknown = server.get(&format!("{providers}/Microsoft.Nothing?api-version=2024-11-01")).await;
    assert_eq!(error(unknown).await.1, "InvalidResourceNamespace");
}

/// What `az sig list-community` sends.
#[tokio::test]
async fn queries_go_to_resource_graph() {
    let server = Server::start().await;
    let path = "/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01";
    let answer = server.arm(Method::POST, path, Some(r#"{"query": "t", "options": {"$top": 30}}"#)).await;
    assert_eq!((answer.status().as_u16(), body(answer).await), (200, json!({"asked": "t"})));
    assert_eq!(server.get(path).await.status(), 405);
}
