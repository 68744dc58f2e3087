//! WireServer (168.63.129.16:80) and the host agent's plugin (168.63.129.16:32526): what cloud-init and waagent ask
//! while they provision, and where they report. Pure: a request in, an answer and a report out.
//!
//! cloud-init needs the goal state (only its ids) and the health report. waagent needs the versions, a goal state with
//! the URIs of its three configurations, those, and a place for its status; a `StatusUploadBlob` in the extensions'
//! configuration keeps it from reading the whole goal state again every six seconds. There are no certificates and no
//! fast-track settings (`/vmSettings`): both agents take 404 for "none".

use base64::Engine as _;
use http::{Method, StatusCode};
use quick_xml::escape::escape;
use quick_xml::events::Event;
use uuid::Uuid;

use super::latch::Report;
use super::{Answer, Ask};
use crate::net::WIRE_SERVER;
use crate::spec::{AgentStatus, VmSpec};

/// Goal states never change here: extensions and certificates are not supported.
const INCARNATION: u32 = 1;

/// What a request told us about the guest.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    Health(Report),
    Agent(AgentStatus),
}

/// The ids a goal state names; derived from the VM's id, so that they survive restarts of the host.
#[derive(Debug, Clone)]
struct Ids {
    container: String,
    instance: String,
    name: String,
    address: String,
}

impl Ids {
    fn of(spec: &VmSpec) -> Self {
        let derived = |mark: u8| {
            let mut bytes = *spec.id.as_bytes();
            bytes[15] ^= mark;
            Uuid::from_bytes(bytes)
        };
        let name = escape(spec.name.as_str()).into_owned();
        Self {
            container: derived(0xc1).to_string(),
            instance: format!("{}._{name}", derived(0xa1)),
            name,
            address: spec.nics.first().map_or_else(String::new, |nic| nic.address.to_string()),
        }
    }
}

/// Answers a request to 168.63.129.16:80.
pub fn wire_server(spec: &VmSpec, ask: &Ask) -> (Answer, Option<News>) {
    let ids = Ids::of(spec);
    let comp = ask.query("comp").unwrap_or_default().to_ascii_lowercase();
    let kind = ask.query("type").unwrap_or_default().to_ascii_lowercase();
    match (comp.as_str(), kind.as_str()) {
        ("versions", _) => (Answer::xml(VERSIONS), None),
        ("goalstate", _) => (Answer::xml(goal_state(&ids)), None),
        ("config", "hostingenvironmentconfig") => (Answer::xml(hosting_environment(&ids)), None),
        ("config", "sharedconfig") => (Answer::xml(shared_config(&ids)), None),
        ("config", "extensionsconfig") => (Answer::xml(extensions_config(&ids)), None),
        ("health", _) if ask.method == Method::POST => match parse_health(&ask.body) {
            Some(report) => (Answer::empty(StatusCode::OK), Some(News::Health(report))),
            None => (Answer::empty(StatusCode::BAD_REQUEST), None),
        },
        ("telemetrydata" | "roleproperties", _) => (Answer::empty(StatusCode::OK), None),
        _ if ask.path == "/HealthService" => (Answer::empty(StatusCode::OK), None),
        // The status blob, when an agent uploads it without the plugin's help.
        _ if ask.path.starts_with("/status/") && ask.method == Method::PUT => {
            let news = parse_report(&ask.body).map(News::Agent);
            (Answer::empty(StatusCode::CREATED), news)
        }
        _ => (Answer::empty(StatusCode::NOT_FOUND), None),
    }
}

/// Answers a request to 168.63.129.16:32526.
pub fn host_plugin(ask: &Ask) -> (Answer, Option<News>) {
    match ask.path.as_str() {
        "/versions" => (Answer::json(r#"["2015-09-01"]"#), None),
        "/health" | "/vmAgentLog" => (Answer::empty(StatusCode::OK), None),
        "/status" if ask.method == Method::PUT => {
            let news = parse_status_envelope(&ask.body).map(News::Agent);
            (Answer::empty(StatusCode::OK), news)
        }
        _ => (Answer::empty(StatusCode::NOT_FOUND), None),
    }
}

/// Reads the state out of a health report: the texts of its `State`, `SubStatus` and `Description` elements.
fn parse_health(body: &[u8]) -> Option<Report> {
    let mut reader = quick_xml::Reader::from_str(std::str::from_utf8(body).ok()?);
    let (mut element, mut state, mut sub_status, mut description) =
        (String::new(), String::new(), String::new(), String::new());
    loop {
        let text = match reader.read_event().ok()? {
            Event::Start(start) => {
                element = start.local_name().as_ref().to_owned();
                continue;
            }
            Event::End(_) => {
                element.clear();
                continue;
            }
            Event::Text(text) => text.into_inner().into_owned(),
            Event::CData(data) => data.into_inner().into_owned(),
            Event::GeneralRef(entity) => resolve(&entity)?,
            Event::Eof => break,
            _ => continue,
        };
        match element.as_str() {
            "State" => state += &text,
            "SubStatus" => sub_status += &text,
            "Description" => description += &text,
            _ => {}
        }
    }
    match state.trim() {
        "Ready" => Some(Report::Ready),
        "NotReady" => Some(Report::NotReady {
            sub_status: sub_status.trim().to_owned(),
            description: description.trim().chars().take(4096).collect(),
        }),
        _ => None,
    }
}

fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Option<String> {
    if let Some(c) = entity.resolve_char_ref().ok()? {
        return Some(c.to_string());
    }
    quick_xml::escape::resolve_xml_entity(entity).map(str::to_owned)
}

/// `{"content": base64 of the report, "headers": [...], "requestUri": ...}`.
fn parse_status_envelope(body: &[u8]) -> Option<AgentStatus> {
    let envelope: serde_json::Value = serde_json::from_slice(body).ok()?;
    let content = envelope.get("content")?.as_str()?;
    parse_report(&base64::engine::general_purpose::STANDARD.decode(content).ok()?)
}

/// The agent's report of itself; `received_ms` is left 0 for the caller to set.
fn parse_report(body: &[u8]) -> Option<AgentStatus> {
    let report: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |pointer: &str| report.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let agent = "/aggregateStatus/guestAgentStatus";
    report.pointer(agent)?;
    Some(AgentStatus {
        received_ms: 0,
        version: text(&format!("{agent}/version")),
        status: text(&format!("{agent}/status")),
        message: text(&format!("{agent}/formattedMessage/message")),
        os_name: text("/guestOSInfo/osName"),
        os_version: text("/guestOSInfo/osVersion"),
        computer_name: text("/guestOSInfo/computerName"),
        report,
    })
}

const VERSIONS: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<Versions>
  <Preferred><Version>2015-04-05</Version></Preferred>
  <Supported>
    <Version>2015-04-05</Version>
    <Version>2012-11-30</Version>
    <Version>2012-09-15</Version>
    <Version>2012-05-15</Version>
    <Version>2011-12-31</Version>
    <Version>2011-10-15</Version>
    <Version>2011-08-31</Version>
    <Version>2011-04-07</Version>
    <Version>2010-12-15</Version>
    <Version>2010-28-10</Version>
  </Supported>
</Versions>
"#;

fn goal_state(ids: &Ids) -> String {
    let Ids { container, instance, .. } = ids;
    let uri = |kind: &str| {
        format!(
            "http://{WIRE_SERVER}/machine/{container}/{instance}?comp=config&amp;type={kind}&amp;incarnation={INCARNATION}"
        )
    };
    let (hosting, shared, extensions, full) =
        (uri("hostingEnvironmentConfig"), uri("sharedConfig"), uri("extensionsConfig"), uri("fullConfig"));
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xsi:noNamespaceSchemaLocation="goalstate10.xsd">
  <Version>2012-11-30</Version>
  <Incarnation>{INCARNATION}</Incarnation>
  <Machine>
    <ExpectedState>Started</ExpectedState>
    <StopRolesDeadlineHint>300000</StopRolesDeadlineHint>
    <LBProbePorts>
      <Port>16001</Port>
    </LBProbePorts>
    <ExpectHealthReport>FALSE</ExpectHealthReport>
  </Machine>
  <Container>
    <ContainerId>{container}</ContainerId>
    <RoleInstanceList>
      <RoleInstance>
        <InstanceId>{instance}</InstanceId>
        <State>Started</State>
        <Configuration>
          <HostingEnvironmentConfig>{hosting}</HostingEnvironmentConfig>
          <SharedConfig>{shared}</SharedConfig>
          <ExtensionsConfig>{extensions}</ExtensionsConfig>
          <FullConfig>{full}</FullConfig>
          <ConfigName>{instance}.{INCARNATION}.xml</ConfigName>
        </Configuration>
      </RoleInstance>
    </RoleInstanceList>
  </Container>
</GoalState>
"#
    )
}

/// The opening that both machine configurations share.
fn deployment(ids: &Ids) -> String {
    let Ids { container, instance, name, .. } = ids;
    format!(
        r#"  <Deployment name="{container}" guid="{{{container}}}" incarnation="0" isNonCancellableTopologyChangeEnabled="false">
    <Service name="{name}" guid="{{00000000-0000-0000-0000-000000000000}}" />
    <ServiceInstance name="{container}.0" guid="{{{container}}}" />
  </Deployment>
  <Incarnation number="{INCARNATION}" instance="{instance}" guid="{{{container}}}" />
  <Role guid="{{{container}}}" name="{name}" settleTimeSeconds="0" />"#
    )
}

fn hosting_environment(ids: &Ids) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<HostingEnvironmentConfig version="1.0.0.0" goalStateIncarnation="{INCARNATION}">
  <StoredCertificates />
{}
  <HostingEnvironmentSettings name="full" Runtime="rd_fabric_stable" />
  <ApplicationSettings />
  <ResourceReferences />
</HostingEnvironmentConfig>
"#,
        deployment(ids)
    )
}

fn shared_config(ids: &Ids) -> String {
    let Ids { instance, address, .. } = ids;
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<SharedConfig version="1.0.0.0" goalStateIncarnation="{INCARNATION}">
{}
  <Instances>
    <Instance id="{instance}" address="{address}">
      <FaultDomains randomId="0" updateId="0" updateCount="0" />
      <InputEndpoints />
    </Instance>
  </Instances>
</SharedConfig>
"#,
        deployment(ids)
    )
}

fn extensions_config(ids: &Ids) -> String {
    let Ids { container, instance, .. } = ids;
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<Extensions version="1.0.0.0" goalStateIncarnation="{INCARNATION}">
  <GuestAgentExtension xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
    <GAFamilies>
      <GAFamily>
        <Name>Prod</Name>
        <Uris />
      </GAFamily>
    </GAFamilies>
  </GuestAgentExtension>
  <Plugins />
  <PluginSettings />
  <StatusUploadBlob statusBlobType="BlockBlob">http://{WIRE_SERVER}/status/{container}.{instance}.status</StatusUploadBlob>
</Extensions>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioning::tests::{ask, example};

    fn get(path: &str) -> String {
        let (answer, news) = wire_server(&example(), &ask("GET", path, ""));
        assert_eq!(news, None);
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        String::from_utf8(answer.body).unwrap()
    }

    #[test]
    fn goal_state_and_configurations() {
        insta::assert_snapshot!("goal_state", get("/machine/?comp=goalstate"));
        insta::assert_snapshot!("hosting", get("/machine/a/b?comp=config&type=hostingEnvironmentConfig&incarnation=1"));
        insta::assert_snapshot!("shared", get("/machine/a/b?comp=config&type=sharedConfig&incarnation=1"));
        insta::assert_snapshot!("extensions", get("/machine/a/b?comp=config&type=extensionsConfig&incarnation=1"));
    }

    /// Every URI the goal state names answers.
    #[test]
    fn the_goal_state_names_only_what_is_there() {
        let text = get("/machine/?comp=goalstate");
        for tag in ["HostingEnvironmentConfig", "SharedConfig", "ExtensionsConfig"] {
            let uri = text.split(&format!("<{tag}>")).nth(1).unwrap().split('<').next().unwrap();
            let path = uri.replace("&amp;", "&").replace("http://168.63.129.16", "");
            assert!(get(&path).contains(tag.trim_end_matches("Config")), "{path}");
        }
    }

    #[test]
    fn a_name_with_markup_stays_text() {
        let mut spec = example();
        spec.name = "a<b>&\"c".into();
        for comp in ["goalstate", "config&type=sharedConfig", "config&type=hostingEnvironmentConfig"] {
            let (answer, _) = wire_server(&spec, &ask("GET", &format!("/machine/?comp={comp}"), ""));
            let mut reader = quick_xml::Reader::from_str(std::str::from_utf8(&answer.body).unwrap());
            loop {
                match reader.read_event().expect("well-formed") {
                    Event::Start(e) | Event::Empty(e) => assert_ne!(e.name().as_ref(), "b"),
                    Event::Eof => break,
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn what_is_not_offered_is_not_found() {
        for path in ["/machine/a/b?comp=certificates", "/", "/machine/a/b?comp=config&type=fullConfig"] {
            assert_eq!(wire_server(&example(), &ask("GET", path, "")).0.status, StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(host_plugin(&ask("GET", "/vmSettings", "")).0.status, StatusCode::NOT_FOUND);
    }

    fn health(inner: &str) -> Option<News> {
        let body = format!(
            r#"<?xml version="1.0" encoding="utf-8"?><Health xmlns:xsd="x"><GoalStateIncarnation>1</GoalStateIncarnation><Container><RoleInstanceList><Role><Health>{inner}</Health></Role></RoleInstanceList></Container></Health>"#
        );
        wire_server(&example(), &ask("POST", "/machine?comp=health", &body)).1
    }

    #[test]
    fn health_reports_are_understood() {
        assert_eq!(health("<State>Ready</State>"), Some(News::Health(Report::Ready)));
        assert_eq!(
            health(
                "<State>NotReady</State><Details><SubStatus>ProvisioningFailed</SubStatus><Description>a &amp; b &#60;c&#62;</Description></Details>"
            ),
            Some(News::Health(Report::NotReady {
                sub_status: "ProvisioningFailed".into(),
                description: "a & b <c>".into()
            }))
        );
    }

    #[test]
    fn nonsense_is_refused_and_changes_nothing() {
        for body in ["", "<Health>", "<State>Ready</Stat>", "<State>Perhaps</State>", "\u{0}"] {
            let (answer, news) = wire_server(&example(), &ask("POST", "/machine?comp=health", body));
            assert_eq!((answer.status, news), (StatusCode::BAD_REQUEST, None), "{body}");
        }
        assert_eq!(host_plugin(&ask("PUT", "/status", "{\"content\": 7}")).1, None);
    }

    #[test]
    fn the_agents_status_is_read() {
        let report = serde_json::json!({
            "version": "1.1",
            "aggregateStatus": {"guestAgentStatus": {"version": "2.12.0.2", "status": "Ready",
                "formattedMessage": {"lang": "en-US", "message": "Guest Agent is running"}}},
            "guestOSInfo": {"computerName": "web01", "osName": "debian", "osVersion": "13", "version": "2.12.0.2"}
        });
        let content = base64::engine::general_purpose::STANDARD.encode(report.to_string());
        let body =
            serde_json::json!({"content": content, "headers": [], "requestUri": "http://168.63.129.16/status/x"});
        let (answer, news) = host_plugin(&ask("PUT", "/status", &body.to_string()));
        assert_eq!(answer.status, StatusCode::OK);
        let Some(News::Agent(status)) = news else { panic!("{news:?}") };
        assert_eq!((status.version.as_str(), status.status.as_str()), ("2.12.0.2", "Ready"));
        assert_eq!((status.os_name.as_str(), status.os_version.as_str()), ("debian", "13"));
    }
}
